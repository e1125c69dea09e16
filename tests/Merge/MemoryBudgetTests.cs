using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

public sealed class MemoryBudgetTests
{
    private const int Sure = 1 << 20;

    [Fact]
    public void Every_merge_gets_its_guarantee_and_at_most_its_fair_share()
    {
        MemoryBudget budget = new(10 * Sure, 3, Sure);
        using MemoryQuota first = budget.Join();
        Assert.Equal(8 * Sure, budget.MostBytes);
        Assert.True(first.TryTake(8 * Sure));
        Assert.False(first.TryTake(1));

        using MemoryQuota second = budget.Join();
        Assert.True(first.HasTooMuch);
        Assert.True(second.TryTake(Sure));
        Assert.False(second.TryTake(1));
        using MemoryQuota third = budget.Join();
        Assert.True(third.TryTake(Sure));
        Assert.Equal(10 * Sure, budget.Taken.Now);

        // After the first has returned memory, each gets a third of ten.
        first.Give(5 * Sure);
        Assert.False(first.HasTooMuch);
        Assert.False(second.TryTake((10 * Sure / 3) - Sure + 1));
        Assert.True(second.TryTake((10 * Sure / 3) - Sure));
        Assert.True(third.TryTake((10 * Sure / 3) - Sure));
        third.Dispose();
        // Two merges remain. Their guarantee is kept for one more.
        Assert.True(second.TryTake(Sure));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MemoryBudget(Sure, 2, Sure));
    }

    [Fact]
    public void Guaranteed_memory_is_kept_for_merges_that_have_not_taken_it_yet()
    {
        MemoryBudget budget = new(30, 3, 5);
        using MemoryQuota first = budget.Join();
        Assert.True(first.TryTake(20));
        using MemoryQuota second = budget.Join();
        Assert.True(second.TryTake(5));
        using MemoryQuota third = budget.Join();
        // The second is below its fair share, but all remaining memory is guaranteed to the third.
        Assert.False(second.TryTake(1));
        Assert.True(third.TryTake(5));
        Assert.Equal((30, 30), budget.Taken);
        first.Give(6);
        Assert.True(second.TryTake(5));
        Assert.False(second.TryTake(1));
        Assert.True(third.TryTake(1));
    }

    [Fact]
    public void A_merge_above_the_maximum_number_is_refused_until_another_leaves()
    {
        MemoryBudget budget = new(4 * Sure, 2, Sure);
        MemoryQuota first = budget.Join();
        using MemoryQuota second = budget.Join();
        Assert.Throws<InvalidOperationException>(() => budget.Join());
        first.Dispose();
        first.Dispose();
        using MemoryQuota third = budget.Join();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Quotas_together_never_exceed_the_budget(int seed)
    {
        const int merges = 4;
        Random random = new(seed);
        MemoryBudget budget = new(9 * Sure, merges, Sure);
        List<MemoryQuota> shares = [];
        for (int step = 0; step < 20_000; step++)
        {
            if (shares.Count < merges && random.Next(50) == 0) shares.Add(budget.Join());
            if (shares.Count == 0) continue;
            MemoryQuota share = shares[random.Next(shares.Count)];
            long bytes = random.Next(1, Sure);
            switch (random.Next(100))
            {
                case 0: share.Dispose(); shares.Remove(share); break;
                case < 50 when share.Taken > 0: share.Give(Math.Min(bytes, share.Taken)); break;
                // A merge gets its guaranteed memory immediately.
                default: Assert.True(share.TryTake(bytes) || share.Taken + bytes > Sure); break;
            }
            Assert.InRange(budget.Taken.Now, 0, 9 * Sure);
        }
        Assert.True(budget.Taken.Peak > 7 * Sure, $"at most {budget.Taken.Peak} bytes were taken, too few to test the limit");
    }

    public static TheoryData<int> Pages => [.. SimulatedPages.All];

    [Theory]
    [MemberData(nameof(Pages))]
    public void A_merge_runs_to_its_end_beside_a_stopped_one_that_holds_its_maximum(int page)
    {
        SimulatedPages pages = new(page), others = new(page);
        // The first merge is stopped during its writes and holds all buffers that it may have. The second gets only its guarantee.
        MemoryBudget budget = new(9 * Sure, 2, 3 * Sure);
        Held held = new();
        Exception? failure = null;
        long alone = 0, beside = 0;
        Thread first = new(() =>
        {
            try
            {
                using MemoryQuota share = budget.Join();
                held.At = () => alone = share.Taken;
                held.NearEnd = () => beside = Math.Max(beside, share.Taken);
                Merge(share, held, pages);
            }
            catch (Exception e)
            {
                failure = e;
            }
            finally
            {
                held.Stopped.Set();
            }
        });
        first.Start();
        held.Stopped.Wait();
        Assert.Null(failure);
        Assert.InRange(alone, (4 * Sure) + 1, 6 * Sure);

        long second = 0;
        MemoryQuota late = budget.Join();
        Merge(late, new Watcher(() => second = Math.Max(second, late.Taken)), others);
        Assert.InRange(second, 1, Math.Max(3 * Sure, (9 * Sure) - alone));
        // The second merge still holds memory when the first continues. The first returns memory until both shares are equal.
        held.Go.Set();
        first.Join();
        late.Dispose();
        Assert.Null(failure);
        Assert.InRange(beside, 1, (9 * Sure / 2) + (1 << 20));
        Assert.InRange(budget.Taken.Peak, 1, 9 * Sure);
        Assert.Equal(0, budget.Taken.Now);
        // The returned memory goes to the system in whole pages of any size.
        Assert.InRange(pages.Discarded, alone - beside, long.MaxValue);
        pages.Check();
        others.Check();
    }

    /// <summary>
    /// `--memory 22M --merges 2` of the daemon, and the smallest `--memory`, are enough with any page size, also for a window of Android's
    /// usual scratch.
    /// </summary>
    [Theory]
    [MemberData(nameof(Pages))]
    public void The_smallest_memory_is_enough_with_any_page_size(int page)
    {
        foreach (string name in new[] { "v2-gz-xor", "v3-lz4-64k-xor" })
        {
            foreach (int bytes in new[] { 8 << 20, 14 << 20 })
            {
                MergeCase merge = Faults.Golden(name) with { ArenaBytes = bytes, SystemPage = page };
                SimDisk[] disks = merge.Disks();
                SimulatedPages pages = new(page);
                using Arena arena = new(bytes, pages);
                using SimQueue queue = new(disks, arena, 32, 1, () => { });
                using SimWorkers workers = new(new DecodeWorker(), 1);
                using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers));
                MemoryBudget budget = new(22 << 20, 2);
                using MemoryQuota share = budget.Join(), other = budget.Join();
                // The other merge holds the maximum that leaves this one its guarantee.
                Assert.True(other.TryTake((11 << 20) - 1));
                engine.Run(share);
                Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Target));
                pages.Check();
            }
        }
    }

    /// <summary>Buffers consist of whole pages only if there are still four of them, or as many as with blocks. Sizes in KiB.</summary>
    [Theory]
    // Memory for four buffers of 80 KiB, but only for two buffers of two pages each.
    [InlineData(64, 72, 324 + 64, 4, 4)]
    [InlineData(64, 72, (4 * 128) + 64, 64, 4)]
    [InlineData(64, 72, (4 * 128) + 60, 4, 4)]
    [InlineData(16, 72, (4 * 80) + 16, 16, 4)]
    [InlineData(16, 72, (4 * 80) + 12, 4, 4)]
    // Block-sized buffers would not be more than page-sized ones.
    [InlineData(64, 128, 256 + 64, 64, 2)]
    [InlineData(64, 8, 32, 4, 3)]
    [InlineData(4, 72, (4 * 72) + 4, 4, 4)]
    [InlineData(64, 72, 72, 64, 0)]
    public void Buffers_are_whole_pages_if_that_costs_none_of_four(int page, int least, int memory, int grain, int buffers)
    {
        using Arena arena = new(memory << 10, new SimulatedPages(page << 10));
        (int Grain, int Buffer, int Buffers) found = Pipeline.Divide(arena, least << 10, 1 << 20);
        Assert.Equal((grain << 10, buffers), (found.Grain, found.Buffers));
        Assert.Equal(0, found.Buffer % found.Grain);
        if (buffers > 0) Assert.NotNull(arena.Take(found.Buffers * found.Buffer, found.Grain));
    }

    [Theory]
    [MemberData(nameof(Pages))]
    public void Page_size_never_costs_one_of_four_buffers(int page)
    {
        for (int least = 4; least <= 200; least += 12)
        {
            for (int memory = least; memory <= 1200; memory += 20)
            {
                using Arena arena = new(memory << 10, new SimulatedPages(page));
                (int grain, int buffer, int buffers) = Pipeline.Divide(arena, least << 10, 1 << 20);
                int blocks = Math.Max(0, memory - 4) / least;
                Assert.True(buffers >= Math.Min(4, blocks),
                    $"{memory} KiB: {buffers} buffers of {buffer} bytes, but {blocks} of {least} KiB would fit in whole blocks");
                Assert.True(buffers == 0 || (buffer >= least << 10 && buffer % grain == 0));
            }
        }
    }

    private static void Merge(MemoryQuota share, IMergeObserver observer, SimulatedPages pages)
    {
        const int blocks = 4096;
        byte[] old = new byte[blocks * 4096];
        new Random(5).NextBytes(old);
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < blocks / 2; i++) cow.Copy(i + (blocks / 2), i);
        MergeCase merge = new("shared", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
        {
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 1 << 20 },
        };
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(6 * Sure, pages);
        using SimQueue queue = new(disks, arena, 32, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers) with { Observer = observer });
        engine.Run(share);
        Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Target));
    }

    private sealed class Watcher(Action look) : IMergeObserver
    {
        public void Progress(in MergeProgress progress) => look();
    }

    /// <summary>Stops the merge's thread halfway until the test lets it continue.</summary>
    private sealed class Held : IMergeObserver
    {
        private bool _was;

        internal ManualResetEventSlim Stopped { get; } = new();

        internal ManualResetEventSlim Go { get; } = new();

        internal Action At { get; set; } = () => { };

        internal Action NearEnd { get; set; } = () => { };

        public void Progress(in MergeProgress progress)
        {
            if (_was && progress.OpsDone * 10 > progress.OpsTotal * 9) NearEnd();
            if (_was || progress.OpsDone * 2 < progress.OpsTotal) return;
            _was = true;
            At();
            Stopped.Set();
            Go.Wait();
        }
    }
}
