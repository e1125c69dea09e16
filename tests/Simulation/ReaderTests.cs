using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// Readers beside a merge. Every other simulation includes readers as well, and that is the main test; these tests cover readers alone.
/// </summary>
public sealed class ReaderTests(ITestOutputHelper output)
{
    [Fact]
    public void Location_that_a_reader_looked_up_stays_valid_wherever_the_merge_runs_between_its_steps()
    {
        int schedules = GateCases.Check();
        output.WriteLine($"{schedules} schedules");
        Assert.True(schedules > 10_000);
    }

    [Fact]
    public void Read_returns_the_target_wherever_the_merge_runs_between_two_steps_of_its_entry()
    {
        int reads = EntryCases.Check();
        output.WriteLine($"{reads} reads");
        Assert.True(reads > 100, $"{reads} reads");
    }

    [Theory]
    [InlineData("chain-up")]
    [InlineData("mixed")]
    [InlineData("two-windows-and-plain")]
    [InlineData("replace-over-source")]
    public void Simulation_checks_readers_and_the_merge_waits_for_them(string name)
    {
        (long reads, long looks, long waits) before = (SimReaders.Reads, SimReaders.Looks, SimReaders.Waits);
        MergeCase merge = SmallCases.Make(name);
        using Arena arena = new(merge.ArenaBytes);
        for (ulong seed = 1; seed <= 40; seed++) SimMerge.Run(merge, merge.Disks(), arena, seed, () => { });
        output.WriteLine(SimReaders.Counts);
        Assert.True(SimReaders.Reads > before.reads + 400);
        Assert.True(SimReaders.Looks > before.looks + 400);
        Assert.True(SimReaders.Waits > before.waits);
    }

    /// <summary>The count and the claimed window at which a merge stops because a reader inside never leaves.</summary>
    [Theory]
    // No op overwrites blocks that a reader needs: everything is merged. With more than one checkpoint, the last publication to the readers
    // waits.
    [InlineData("plain", 40, false)]
    // The copies are merged; the ops that overwrite their sources are not.
    [InlineData("replace-over-source", 3, false)]
    [InlineData("no-scratch-chain", 1, false)]
    // The first window is claimed and not written.
    [InlineData("chain-up", 0, true)]
    [InlineData("xor-in-place", 0, true)]
    public void Reader_that_never_leaves_stops_a_merge_only_where_it_would_destroy_data_that_the_reader_may_read(string name,
        int counted, bool claimed)
    {
        MergeCase merge = (name == "plain" ? Plain() : SmallCases.Make(name)) with { StuckReader = true, MayBeLost = false };
        using Arena arena = new(merge.ArenaBytes);
        for (ulong seed = 1; seed <= 10; seed++)
        {
            SimDisk[] disks = merge.Disks();
            Exception? end = Record.Exception(() => SimMerge.Run(merge, disks, arena, seed, () => { }));
            if (end is not null || name != "plain") Assert.IsType<StuckException>(end);
            Assert.Equal(counted, SimMerge.DurableCount(disks[0]));
            Assert.Equal(claimed, disks[0].Durable[0].Bytes[78] == ScratchLayout.Valid);
        }
    }

    [Theory]
    [InlineData("plain")]
    [InlineData("chain-up")]
    [InlineData("replace-over-source")]
    [InlineData("two-windows-and-plain")]
    public void Merge_that_waits_for_a_reader_that_never_leaves_stops_on_request(string name)
    {
        MergeCase merge = (name == "plain" ? Plain() : SmallCases.Make(name)) with { StuckReader = true };
        using Arena arena = new(merge.ArenaBytes);
        int interrupted = 0;
        for (int at = 1; at < 60; at++)
        {
            SimDisk[] disks = merge.Disks();
            StopFlag stop = new();
            int step = 0;
            try
            {
                SimMerge.Run(merge, disks, arena, (ulong)at, () => { if (++step == at) stop.Request(); }, stop: stop);
            }
            catch (SnapuserdException e)
            {
                Assert.Equal(ExitCode.Interrupted, e.Code);
                interrupted++;
            }
            catch (StuckException)
            {
                Assert.True(step < at, $"the stop was requested at step {at} of {step}, and the merge waited for a reader");
            }
            SimMerge.Run(merge with { StuckReader = false }, Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true)), arena,
                1, () => { });
        }
        Assert.True(interrupted > 3);
    }

    /// <summary>
    /// On Base, the blocks that the window overwrites and reads hold garbage, as after a torn write. Until the window is merged, only
    /// scratch has their contents.
    /// </summary>
    [Theory]
    [InlineData("chain-up")]
    [InlineData("chain-down")]
    [InlineData("xor-in-place")]
    [InlineData("xor-unaligned-in-place")]
    [InlineData("two-windows-and-plain")]
    public void After_a_crash_in_a_window_reads_come_from_scratch_and_not_from_the_base(string name)
    {
        MergeCase merge = SmallCases.Make(name);
        SimDisk[] claimed = FaultSweep.ClaimedWindow(merge, 1)!;
        int count = SimMerge.DurableCount(claimed[0]);
        using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
        Image garbage = claimed[1].Cache.Copy();
        for (int i = 0; i < 2; i++) garbage.Set((int)cow[cow.Order.OpIndex(count + i)].NewBlock, new Page(SmallCases.Random(900 + i, 1)));
        for (ulong seed = 1; seed <= 5; seed++)
        {
            SimDisk[] disks = [claimed[0].AfterDeath(_ => true), new SimDisk(garbage)];
            using Arena arena = new(merge.ArenaBytes);
            SimMerge.Run(merge, disks, arena, seed, () => { });
            Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
        }
    }

    /// <summary>
    /// Every request of readers fails in turn, or all of them fail: only the read fails, and the merge continues to its end.
    /// </summary>
    [Theory]
    [InlineData("mixed")]
    [InlineData("chain-up")]
    [InlineData("replace-over-source")]
    public void Device_error_of_a_reader_does_not_stop_the_merge(string name)
    {
        MergeCase merge = SmallCases.Make(name);
        using Arena arena = new(merge.ArenaBytes);
        long before = SimReaders.Failures;
        for (ulong seed = 1; seed <= 20; seed++)
        {
            ulong which = seed;
            SimDisk[] disks = merge.Disks();
            SimMerge.Run(merge with
            {
                ReaderFaults = (number, _) => which % 4 == 0 || (ulong)number % 7 == which % 7 ? new Fault(-Errno.EIO) : null,
            }, disks, arena, seed, () => { });
            Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
        }
        Assert.True(SimReaders.Failures > before + 20);
    }

    private static MergeCase Plain()
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2) };
        for (uint i = 0; i < 20; i++) cow.Replace(i, SmallCases.Random(i, 1));
        for (uint i = 20; i < 40; i++) cow.Zero(i);
        byte[] old = SmallCases.Random(3, 44);
        return new MergeCase("plain", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow.Ops, old, old)))
        {
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 3 * CowOp.BlockSize },
        };
    }
}
