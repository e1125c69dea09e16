using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

public sealed class CrashTests(ITestOutputHelper output)
{
    public static IEnumerable<object[]> Small =>
        from name in SmallCases.Names from window in new[] { 2, 3 } select new object[] { name, window };

    [Theory]
    [MemberData(nameof(Small))]
    public void Two_crashes_at_any_steps_of_a_small_merge_lose_nothing_at_page_grain(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window);
        foreach (ulong seed in new ulong[] { 1, 2 })
        {
            using Explorer explorer = new(merge, new Thoroughness { Seed = seed, Crashes = 2 });
            explorer.Explore();
            output.WriteLine($"seed {seed}: {explorer.Counts}");
            Assert.True(explorer.Runs > 10);
            Assert.Equal(merge.MayBeLost, explorer.Lost > 0);
        }
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void A_crash_at_any_step_of_a_small_merge_loses_nothing_at_sector_grain(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window);
        using Explorer explorer =
            new(merge, new Thoroughness { Seed = 7, Grain = Page.Sector, Crashes = 1, ExhaustiveUpTo = 8, Samples = 32 });
        explorer.Explore();
        output.WriteLine(explorer.Counts);
        Assert.True(explorer.Runs > 10);
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void Crash_at_any_step_of_a_small_merge_that_is_paused_and_slowed_at_times_loses_nothing(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window) with { Paced = true };
        foreach (ulong seed in new ulong[] { 4, 5 })
        {
            using Explorer explorer = new(merge, new Thoroughness { Seed = seed, Crashes = 1 });
            explorer.Explore();
            output.WriteLine($"seed {seed}: {explorer.Counts}");
            Assert.True(explorer.Runs > 10);
            Assert.Equal(merge.MayBeLost, explorer.Lost > 0);
        }
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void A_flush_that_fails_and_drops_its_data_stops_the_merge_and_the_next_run_reaches_the_target(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        int flushes = 0;
        for (int fail = 0; ; fail++)
        {
            SimDisk[] disks = merge.Disks();
            flushes = 0;
            Fault? FailOne(int number, BlockRequest request) =>
                request.Verb == BlockVerb.Flush && flushes++ == fail ? new Fault(-Errno.EIO, DropsDirty: true) : null;
            try
            {
                SimMerge.Run(merge, disks, arena, 3, () => { }, FailOne);
                break;
            }
            catch (SnapuserdException e)
            {
                Assert.Equal(ExitCode.InputOutput, e.Code);
                Assert.Contains("EIO", e.Message);
            }
            if (merge.MayBeLost) continue;
            using Explorer explorer = new(merge, new Thoroughness { Seed = 3, Crashes = 1 });
            explorer.Explore(Array.ConvertAll(disks, disk => disk.AfterDeath(_ => false)), $"flush {fail} failed");
        }
        Assert.True(flushes >= 4, $"only {flushes} flushes");
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 1)]
    [InlineData(true, 8)]
    public void Crash_undoes_at_most_two_checkpoint_intervals_even_while_a_flush_takes_long(bool slow, int blocks)
    {
        MergeCase merge = Faults.LongStream(blocks) with { SlowFlushes = slow };
        using Arena arena = new(merge.ArenaBytes);
        int steps = 0;
        for (ulong seed = 1; seed <= 4; seed++) SimMerge.Run(merge, merge.Disks(), arena, seed, () => steps++);
        Assert.True(steps > 100);
    }

    [Theory]
    [InlineData(16)]
    [InlineData(32)]
    public void Checkpoint_comes_by_bytes_even_if_more_intervals_may_be_written_uncounted(int blocks)
    {
        for (ulong seed = 1; seed <= 4; seed++)
            output.WriteLine($"a checkpoint every {blocks} blocks: {Faults.CheckpointsByBytes(blocks, seed)}");
    }

    [Theory]
    [InlineData(2)]
    [InlineData(5)]
    public void Checkpoint_comes_by_the_clock_on_a_slow_device(int stepMilliseconds)
    {
        MergeCase merge = Faults.SlowStream(stepMilliseconds);
        using Arena arena = new(merge.ArenaBytes);
        for (ulong seed = 1; seed <= 4; seed++)
        {
            long steps = 0;
            MergeResult result = SimMerge.Run(merge, merge.Disks(), arena, seed, () => steps++);
            output.WriteLine($"{result.Checkpoints} checkpoints in {steps * stepMilliseconds} ms");
            // Between two checkpoints lie at most two intervals, which the run has checked at every step. Except before the last one, there
            // is at least one interval.
            Assert.InRange(result.Checkpoints, 2, 2 + (steps * stepMilliseconds / merge.Options.CheckpointMilliseconds));
        }
    }

    [Theory]
    [InlineData("chain-up", 2)]
    [InlineData("chain-down", 3)]
    [InlineData("xor-in-place", 3)]
    public void Window_that_only_the_page_cache_holds_is_made_durable_before_the_base_is_written(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] claimed = merge.Disks();
        Assert.Throws<SnapuserdException>(() => SimMerge.Run(merge, claimed, arena, 1, () => { },
            (_, request) => request.Verb == BlockVerb.Write && request.Device == 1 && claimed[0].Durable[0].Bytes[78] == ScratchLayout.Valid
                ? new Fault(-Errno.EIO) : null));
        Assert.Equal(ScratchLayout.Valid, claimed[0].Cache[0].Bytes[78]);
        // Header, entries and slots appear written, but the COW on the medium is unchanged.
        SimDisk[] disks = [SimDisk.AfterDroppedFlush(merge.Cow, claimed[0].Cache), new SimDisk(merge.Base)];
        using Explorer explorer = new(merge, new Thoroughness { Seed = 9, Crashes = 2 });
        explorer.Explore(disks, "an earlier flush of scratch failed unnoticed");
        output.WriteLine(explorer.Counts);
    }

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void A_merge_that_Android_left_half_done_is_finished_and_survives_crashes(string name)
    {
        GoldenHalf half = Golden.Half(name);
        MergeCase merge = new(name, new Image(Golden.HalfCow(name)), new Image(Golden.HalfBase(name)), new Image(Golden.New))
        {
            ArenaBytes = 8 << 20,
            QueueDepth = 32,
        };
        // A pair that is fully merged has only the few steps of a start.
        using Explorer explorer = new(merge,
            new Thoroughness { Seed = 5, Crashes = 1, ExhaustiveUpTo = 1, Samples = 1, Stride = half.NumMergeOps >= 800 ? 1 : 101 });
        explorer.Explore();
        output.WriteLine(explorer.Counts);
        Assert.Equal(half.NumMergeOps, explorer.First!.ResumedFrom);
    }
}
