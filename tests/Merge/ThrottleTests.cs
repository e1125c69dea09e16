using System;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

public sealed class ThrottleTests
{
    [Fact]
    public void Rate_is_kept_over_a_second_and_credit_is_not_saved_up()
    {
        MergeThrottle throttle = new() { BytesPerSecond = 1 << 20 };
        long written = 0;
        // First a minute in which credit could build up, then one check per millisecond.
        Assert.True(throttle.MayWrite(1_000_000));
        for (long now = 1_060_000; now < 1_070_000; now++)
        {
            if (!throttle.MayWrite(now)) continue;
            throttle.Take(65536);
            written += 65536;
        }
        Assert.InRange(written, 10 << 20, (10 << 20) + (1 << 20) / 5 + 65536);
    }

    [Fact]
    public void Slow_rate_lets_a_long_batch_through_and_waits_for_it_afterwards()
    {
        MergeThrottle throttle = new() { BytesPerSecond = 1000 };
        Assert.True(throttle.MayWrite(5000));
        throttle.Take(1_000_000);
        Assert.False(throttle.MayWrite(5000 + 900_000));
        Assert.True(throttle.MayWrite(5000 + 1_000_000));
    }

    [Fact]
    public void Neither_huge_rates_nor_huge_clock_values_overflow()
    {
        MergeThrottle throttle = new() { BytesPerSecond = long.MaxValue };
        Assert.True(throttle.MayWrite(long.MaxValue / 2));
        throttle.Take(1L << 40);
        Assert.True(throttle.MayWrite((long.MaxValue / 2) + 10_000));
        throttle.Pause();
        Assert.False(throttle.MayWrite((long.MaxValue / 2) + 20_000));
        throttle.Resume();
        throttle.BytesPerSecond = 0;
        Assert.True(throttle.MayWrite(0));
    }

    [Fact]
    public void Paused_merge_counts_what_it_wrote_and_writes_nothing_until_it_is_resumed()
    {
        using HeldMerge merge = new(Copies(256), 512);
        Pauser pauser = new(merge.Throttle);
        merge.Run(() =>
        {
            // Nothing is in flight, because the merge is paused. All earlier writes are durable, and another wake-up changes nothing.
            int count = merge.DurableCount;
            Assert.Equal(pauser.Written, count);
            Assert.InRange(count, 1, 255);
            Assert.Empty(merge.Base.Pending);
            if (++pauser.Looks == 3) merge.Throttle.Resume();
        }, pauser);
        Assert.Equal(3, pauser.Looks);
    }

    [Fact]
    public void Merge_that_is_paused_before_its_first_write_writes_nothing_to_either_device()
    {
        CowBuilder cow = new();
        for (uint i = 0; i < 32; i++) cow.Replace(i, SmallCases.Random(i, 1));
        using HeldMerge merge = new(cow, 64, new MergeOptions(), arenaBytes: 4 << 20);
        merge.Throttle.Pause();
        int looks = 0;
        merge.Run(() =>
        {
            Assert.Equal(-1, merge.Cow.Cache.FirstDifference(merge.Case.Cow));
            Assert.Equal(-1, merge.Base.Cache.FirstDifference(merge.Case.Base));
            if (++looks == 3) merge.Throttle.Resume();
        });
        Assert.Equal(3, looks);
    }

    [Fact]
    public void Paused_merge_stops_when_it_is_asked_to()
    {
        using HeldMerge merge = new(Copies(32), 64);
        merge.Throttle.Pause();
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => merge.Run(merge.Stop.Request));
        Assert.Equal(ExitCode.Interrupted, e.Code);
        Assert.Equal(-1, merge.Base.Cache.FirstDifference(merge.Case.Base));
    }

    [Fact]
    public void Rate_limit_adds_no_checkpoints_to_those_due_by_time()
    {
        using HeldMerge merge = new(Copies(4096), 8192);
        // 16 MiB in 4 s, in batches of about 64 KiB: the merge is held about 200 times.
        merge.Throttle.BytesPerSecond = 4 << 20;
        int held = 0;
        MergeResult result = merge.Run(() =>
        {
            held++;
            merge.Clock.Milliseconds++;
        });
        Assert.InRange(held, 100, int.MaxValue);
        // One checkpoint per quarter of a second, and the last one. Even in a slow merge, writes are counted soon.
        long due = merge.Clock.Milliseconds / merge.Case.Options.CheckpointMilliseconds;
        Assert.InRange(result.Checkpoints, due / 2, due + 1);
    }

    [Fact]
    public void Slow_merge_counts_what_it_wrote_before_it_may_write_more()
    {
        using HeldMerge merge = new(Copies(256), 512);
        // At this rate a batch takes minutes.
        merge.Throttle.BytesPerSecond = 256;
        int counted = 0;
        merge.Run(() =>
        {
            // After a second without writes the count is on disk, and the merge may continue.
            if (merge.Clock.Milliseconds < 1000) merge.Clock.Milliseconds += 10;
            else
            {
                counted = merge.DurableCount;
                merge.Throttle.BytesPerSecond = 0;
            }
        });
        Assert.InRange(counted, 1, 255);
    }

    /// <summary>A COW without scratch that copies the first <paramref name="count"/> blocks to the blocks after them.</summary>
    private static CowBuilder Copies(uint count)
    {
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < count; i++) cow.Copy(i + count, i);
        return cow;
    }

    private sealed class Clock : ITimeSource
    {
        public long Milliseconds { get; set; }
    }

    /// <summary>
    /// A merge on simulated disks, into a base of a given number of random blocks. Each wait with nothing in flight calls the test.
    /// </summary>
    private sealed class HeldMerge : IDisposable
    {
        private readonly Arena _arena;
        private readonly SimQueue _queue;
        private readonly SimWorkers _workers = new(new DecodeWorker(), 1);
        private readonly SimDisk[] _disks;

        internal HeldMerge(CowBuilder cow, int blocks, MergeOptions? options = null, int arenaBytes = 256 << 10)
        {
            byte[] old = SmallCases.Random(7, blocks);
            Case = new MergeCase("held", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
            {
                Options = options ?? new MergeOptions { VerifyFirst = false },
            };
            _disks = Case.Disks();
            _arena = new Arena(arenaBytes);
            _queue = new SimQueue(_disks, _arena, 32, 1, () => { });
        }

        internal MergeCase Case { get; }

        internal MergeThrottle Throttle { get; } = new();

        internal Clock Clock { get; } = new();

        internal StopFlag Stop { get; } = new();

        internal SimDisk Cow => _disks[0];

        internal SimDisk Base => _disks[1];

        internal int DurableCount => SimMerge.DurableCount(Cow);

        /// <summary>Runs the merge to the end and compares the base with the target.</summary>
        internal MergeResult Run(Action idle, IMergeObserver? observer = null)
        {
            using MergeEngine engine = MergeEngine.Open(
                SimMerge.Setup(Case, _disks, _arena, 1, new Waiter(_queue, idle), _workers) with
                {
                    Observer = observer,
                    Time = Clock,
                    Throttle = Throttle,
                    Stop = Stop,
                });
            MergeResult result = engine.Run();
            Assert.Equal(-1, Base.Durable.FirstDifference(Case.Target));
            return result;
        }

        public void Dispose()
        {
            _workers.Dispose();
            _queue.Dispose();
            _arena.Dispose();
        }
    }

    /// <summary>Pauses the merge when half of the ops are written.</summary>
    private sealed class Pauser(MergeThrottle throttle) : IMergeObserver
    {
        internal int Written { get; private set; }

        internal int Looks { get; set; }

        public void Progress(in MergeProgress progress)
        {
            Written = progress.OpsDone;
            if (Looks == 0 && progress.OpsDone * 2 >= progress.OpsTotal) throttle.Pause();
        }
    }

    /// <summary>A queue whose wait with nothing in flight calls <paramref name="idle"/> and then returns, as after a wake-up.</summary>
    private sealed class Waiter(SimQueue queue, Action idle) : IBlockQueue
    {
        private int _inFlight;

        public int Depth => queue.Depth;

        public bool TryQueue(in BlockRequest request)
        {
            if (!queue.TryQueue(request)) return false;
            _inFlight++;
            return true;
        }

        public int Wait(Span<BlockCompletion> completions)
        {
            if (_inFlight == 0)
            {
                idle();
                return 0;
            }
            int reaped = queue.Wait(completions);
            _inFlight -= reaped;
            return reaped;
        }

        public int Perform(in BlockRequest request) => queue.Perform(request);

        public void Dispose()
        {
        }
    }
}
