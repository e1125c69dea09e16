using System;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

public sealed class PaceTests
{
    [Fact]
    public void Rate_is_kept_over_a_second_and_credit_is_not_saved_up()
    {
        MergePace pace = new() { BytesPerSecond = 1 << 20 };
        long written = 0;
        // Time to save up for; then a look each millisecond.
        Assert.True(pace.MayWrite(1_000_000));
        for (long now = 1_060_000; now < 1_070_000; now++)
        {
            if (!pace.MayWrite(now)) continue;
            pace.Take(65536);
            written += 65536;
        }
        Assert.InRange(written, 10 << 20, (10 << 20) + (1 << 20) / 5 + 65536);
    }

    [Fact]
    public void Slow_rate_lets_a_long_batch_through_and_waits_for_it_afterwards()
    {
        MergePace pace = new() { BytesPerSecond = 1000 };
        Assert.True(pace.MayWrite(5000));
        pace.Take(1_000_000);
        Assert.False(pace.MayWrite(5000 + 900_000));
        Assert.True(pace.MayWrite(5000 + 1_000_000));
    }

    [Fact]
    public void Neither_huge_rates_nor_a_clock_that_begins_anywhere_overflow()
    {
        MergePace pace = new() { BytesPerSecond = long.MaxValue };
        Assert.True(pace.MayWrite(long.MaxValue / 2));
        pace.Take(1L << 40);
        Assert.True(pace.MayWrite((long.MaxValue / 2) + 10_000));
        pace.Pause();
        Assert.False(pace.MayWrite((long.MaxValue / 2) + 20_000));
        pace.Resume();
        pace.BytesPerSecond = 0;
        Assert.True(pace.MayWrite(0));
    }

    [Fact]
    public void Paused_merge_counts_what_it_wrote_and_writes_nothing_until_it_is_resumed()
    {
        byte[] old = SmallCases.Random(7, 512);
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < 256; i++) cow.Copy(i + 256, i);
        MergeCase merge = new("paused", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = new MergeOptions { VerifyFirst = false } };
        SimDisk[] disks = merge.Disks();
        MergePace pace = new();
        StopFlag stop = new();
        using Arena arena = new(256 << 10);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        Pauser pauser = new(pace);
        Waiter waiter = new(queue, () =>
        {
            // Nothing is in flight any more: the merge is held. What was written before is durable, and looking again changes nothing.
            int count = SimMerge.DurableCount(disks[0]);
            Assert.Equal(pauser.Written, count);
            Assert.InRange(count, 1, 255);
            Assert.Empty(disks[1].Pending);
            if (++pauser.Looks == 3) pace.Resume();
        });
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, waiter, workers) with { Observer = pauser, Pace = pace, Stop = stop });
        engine.Run();
        Assert.Equal(3, pauser.Looks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Merge_that_is_paused_before_its_first_write_writes_nothing_to_either_device()
    {
        byte[] old = SmallCases.Random(7, 64);
        CowBuilder cow = new() { ScratchBytes = 2 << 20 };
        for (uint i = 0; i < 32; i++) cow.Replace(i, SmallCases.Random(i, 1));
        MergeCase merge = new("paused", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)));
        SimDisk[] disks = merge.Disks();
        MergePace pace = new();
        pace.Pause();
        using Arena arena = new(4 << 20);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        int looks = 0;
        Waiter waiter = new(queue, () =>
        {
            Assert.Equal(-1, disks[0].Cache.FirstDifference(merge.Cow));
            Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Base));
            if (++looks == 3) pace.Resume();
        });
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, waiter, workers) with { Pace = pace });
        engine.Run();
        Assert.Equal(3, looks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Paused_merge_stops_when_it_is_asked_to()
    {
        byte[] old = SmallCases.Random(7, 64);
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < 32; i++) cow.Copy(i + 32, i);
        MergeCase merge = new("paused", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = new MergeOptions { VerifyFirst = false } };
        SimDisk[] disks = merge.Disks();
        MergePace pace = new();
        pace.Pause();
        StopFlag stop = new();
        using Arena arena = new(256 << 10);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        Waiter waiter = new(queue, stop.Request);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, waiter, workers) with { Pace = pace, Stop = stop });
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => engine.Run());
        Assert.Equal(ExitCode.Interrupted, e.Code);
        Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Base));
    }

    [Fact]
    public void Rate_makes_no_checkpoint_that_time_does_not_make_due()
    {
        byte[] old = SmallCases.Random(7, 8192);
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < 4096; i++) cow.Copy(i + 4096, i);
        MergeCase merge = new("slow", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = new MergeOptions { VerifyFirst = false } };
        SimDisk[] disks = merge.Disks();
        // 16 MiB in 4 s, in batches of 64 KiB or so: held some 200 times.
        MergePace pace = new() { BytesPerSecond = 4 << 20 };
        using Arena arena = new(256 << 10);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        Clock clock = new();
        int held = 0;
        Waiter waiter = new(queue, () =>
        {
            held++;
            clock.Milliseconds++;
        });
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, waiter, workers) with { Time = clock, Pace = pace });
        MergeResult result = engine.Run();
        Assert.InRange(held, 100, int.MaxValue);
        // One by time in each quarter of a second, and the last; whatever is written is counted soon, however slow the merge is.
        long due = clock.Milliseconds / merge.Options.CheckpointMilliseconds;
        Assert.InRange(result.Checkpoints, due / 2, due + 1);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Slow_merge_counts_what_it_wrote_before_it_may_write_more()
    {
        byte[] old = SmallCases.Random(7, 512);
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < 256; i++) cow.Copy(i + 256, i);
        MergeCase merge = new("slow", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = new MergeOptions { VerifyFirst = false } };
        SimDisk[] disks = merge.Disks();
        // A batch takes minutes.
        MergePace pace = new() { BytesPerSecond = 256 };
        using Arena arena = new(256 << 10);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        Clock clock = new();
        int counted = 0;
        Waiter waiter = new(queue, () =>
        {
            // A second of nothing; then it has been counted, and may go on.
            if (clock.Milliseconds < 1000) clock.Milliseconds += 10;
            else
            {
                counted = SimMerge.DurableCount(disks[0]);
                pace.BytesPerSecond = 0;
            }
        });
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, waiter, workers) with { Time = clock, Pace = pace });
        engine.Run();
        Assert.InRange(counted, 1, 255);
    }

    private sealed class Clock : ITimeSource
    {
        public long Milliseconds { get; set; }
    }

    /// <summary>Pauses when half is written.</summary>
    private sealed class Pauser(MergePace pace) : IMergeObserver
    {
        internal int Written { get; private set; }

        internal int Looks { get; set; }

        public void Progress(in MergeProgress progress)
        {
            Written = progress.OpsDone;
            if (Looks == 0 && progress.OpsDone * 2 >= progress.OpsTotal) pace.Pause();
        }
    }

    /// <summary>A queue whose wait with nothing in flight is an occasion for somebody else, who wakes it.</summary>
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
