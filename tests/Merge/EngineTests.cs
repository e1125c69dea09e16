using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

public sealed class EngineTests
{
    private static readonly MergeOptions Plain = new() { VerifyFirst = false };

    private static MergeResult Run(MergeCase merge, SimDisk[] disks, Func<int, BlockRequest, Fault?>? faults = null, StopFlag? stop = null)
    {
        using Arena arena = new(merge.ArenaBytes);
        return SimMerge.Run(merge, disks, arena, 1, () => { }, faults, stop);
    }

    private static SnapuserdException Refused(MergeCase merge, SimDisk[] disks, ExitCode code,
        Func<int, BlockRequest, Fault?>? faults = null)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => Run(merge, disks, faults));
        Assert.Equal(code, e.Code);
        return e;
    }

    private static MergeCase Case(CowBuilder cow, byte[] old, MergeOptions? options = null) =>
        new("case", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = options ?? Plain };

    private static void AssertUntouched(MergeCase merge, SimDisk[] disks)
    {
        Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Base));
        Assert.Empty(disks[1].Pending);
    }

    private static CowBuilder Chain(int window, int length)
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(window), MaxUnitBytes = 4096 };
        for (uint i = 0; i < length; i++) cow.Copy(i, i + 1);
        return cow;
    }

    /// <summary>
    /// The disks after a power cut directly after the claim: the first window is in scratch and claimed, and the base is unchanged.
    /// </summary>
    private static SimDisk[] ClaimedWindow(MergeCase merge)
    {
        SimDisk[] disks = merge.Disks();
        int flushes = 0;
        // The start makes the first two flushes. After the next two, state 2 is on disk. The following writes to the base fail.
        Fault? FailBaseWrites(int number, BlockRequest request)
        {
            if (request.Verb == BlockVerb.Flush) flushes++;
            return request.Verb == BlockVerb.Write && request.Device == 1 ? new Fault(-Errno.EIO) : null;
        }
        Refused(merge, disks, ExitCode.InputOutput, FailBaseWrites);
        Assert.Equal(4, flushes);
        Assert.Equal(2, disks[0].Durable[0].Bytes[78]);
        return [new SimDisk(disks[0].Durable), new SimDisk(merge.Base)];
    }

    private static SimDisk[] Edit(SimDisk[] disks, Action<byte[]> edit)
    {
        byte[] cow = disks[0].Durable.ToArray();
        edit(cow);
        return [new SimDisk(new Image(cow)), new SimDisk(disks[1].Durable)];
    }

    private static void SetCount(byte[] cow, ulong count) => BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(26), count);

    [Fact]
    public void Claimed_window_at_the_count_is_replayed_even_when_the_count_is_zero()
    {
        // A merge can have begun although num_merge_ops is 0: the state byte shows it.
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = ClaimedWindow(merge);
        // The base after a crash inside the first window: the window's sources are overwritten.
        byte[] torn = disks[1].Durable.ToArray();
        torn.AsSpan(0, 2 * 4096).Fill(0xee);
        disks[1] = new SimDisk(new Image(torn));
        MergeResult result = Run(merge, disks);
        Assert.Equal(2, result.Replayed);
        Assert.Equal(0, result.ResumedFrom);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Window_with_fewer_entries_than_it_could_have_is_accepted()
    {
        MergeCase merge = Case(Chain(3, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = Edit(ClaimedWindow(merge), cow => cow.AsSpan(78 + 1 + (2 * 16), 16).Clear());
        Assert.Equal(2, Run(merge, disks).Replayed);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Count_advanced_with_state_still_2_is_Android_s_torn_commit_and_the_merge_continues()
    {
        // Android's engine cannot continue from this state: it fails at every start.
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = Edit(ClaimedWindow(merge), cow => SetCount(cow, 2));
        byte[] merged = disks[1].Durable.ToArray();
        merge.Target.ToArray().AsSpan(0, 2 * 4096).CopyTo(merged);
        disks[1] = new SimDisk(new Image(merged));
        MergeResult result = Run(merge, disks);
        Assert.Equal(2, result.ResumedFrom);
        Assert.Equal(0, result.Replayed);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void State_2_is_ignored_when_no_ordered_op_is_left()
    {
        // After a torn commit Android continues to count Replace ops without checking the state byte again (cow-format §13).
        byte[] old = SmallCases.Random(1, 12);
        CowBuilder cow = Chain(2, 2).Zero(4).Zero(5).Zero(6);
        MergeCase merge = Case(cow, old);
        SimDisk[] disks = Edit(ClaimedWindow(merge), bytes => SetCount(bytes, 4));
        byte[] merged = merge.Target.ToArray();
        merged.AsSpan(6 * 4096, 4096).Fill(0x55);
        disks[1] = new SimDisk(new Image(merged));
        Assert.Equal(4, Run(merge, disks).ResumedFrom);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    public static IEnumerable<object[]> BadScratch()
    {
        yield return ["another block", (Action<byte[]>)(cow => cow[79 + 16] = 9), "entry 1 is block 9"];
        yield return ["another offset", (Action<byte[]>)(cow => cow[79 + 8]++), "entry 0 is block 0 at offset"];
        yield return ["an offset beyond 32 bits", (Action<byte[]>)(cow => cow[79 + 15] = 0xff), "entry 0 is block 0 at offset"];
        yield return ["no entry", (Action<byte[]>)(cow => cow.AsSpan(79, 16).Clear()), "the list of its entries is empty"];
        yield return ["a later window", (Action<byte[]>)(cow => cow[79] = 1), "entry 0 is block 1"];
        yield return ["a count that moved too far", (Action<byte[]>)(cow => SetCount(cow, 3)), "num_merge_ops 3"];
    }

    [Theory]
    [MemberData(nameof(BadScratch))]
    public void Scratch_that_no_engine_can_have_written_is_refused_before_any_write(string name, Action<byte[]> edit, string sentence)
    {
        Assert.NotEmpty(name);
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = Edit(ClaimedWindow(merge), edit);
        Image before = disks[0].Cache.Copy();
        SnapuserdException e = Refused(merge, disks, ExitCode.CowCorrupt);
        Assert.Contains(sentence, e.Message);
        AssertUntouched(merge, disks);
        Assert.Equal(-1, disks[0].Cache.FirstDifference(before));
    }

    [Fact]
    public void Start_that_cannot_make_the_previous_run_s_state_durable_leaves_the_base_untouched()
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        for (int fail = 0; fail < 3; fail++)
        {
            int seen = 0;
            SimDisk[] disks = merge.Disks();
            SnapuserdException e = Refused(merge, disks, ExitCode.InputOutput,
                (_, request) => request.Verb != BlockVerb.Read && seen++ == fail ? new Fault(-Errno.EIO) : null);
            Assert.Contains("EIO", e.Message);
            AssertUntouched(merge, disks);
        }
    }

    [Fact]
    public void Payload_that_does_not_decode_is_refused_before_the_first_write()
    {
        // Android treats the decoder's −1 as success and writes garbage.
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), Compression = CowCompression.Lz4, MaxUnitBytes = 4096 };
        cow.Copy(0, 1).Replace(4, new byte[4096]).Replace(5, new byte[4096]);
        byte[] bytes = cow.Build();
        MergeCase merge =
            new("bad payload", new Image(bytes), new Image(old), new Image(NaiveMerger.Merge(cow, old))) { Options = new MergeOptions() };
        bytes[cow.DataOffsets[2]] ^= 0xff;
        // No readers: a reader would fail with the same error.
        merge = merge with { Cow = new Image(bytes), Readers = false };
        SimDisk[] disks = merge.Disks();
        SnapuserdException e = Refused(merge, disks, ExitCode.CowCorrupt);
        Assert.Contains("op 2", e.Message);
        AssertUntouched(merge, disks);
        // The COW is not written either, because the check precedes the first write to it.
        Assert.Empty(disks[0].Pending);
        Assert.Equal(-1, disks[0].Cache.FirstDifference(merge.Cow));
    }

    [Fact]
    public void Bad_payload_that_the_merge_would_reach_last_is_refused_before_the_first_write()
    {
        byte[] old = SmallCases.Random(1, 12);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), Compression = CowCompression.Lz4, MaxUnitBytes = 4096 };
        for (uint i = 0; i < 6; i++) cow.Copy(i, i + 1);
        cow.Replace(10, new byte[4096]);
        byte[] bytes = cow.Build();
        bytes[cow.DataOffsets[6]] ^= 0xff;
        MergeCase merge =
            new("bad payload", new Image(bytes), new Image(old), new Image(old)) { Options = new MergeOptions(), Readers = false };
        SimDisk[] disks = merge.Disks();
        Assert.Contains("op 6", Refused(merge, disks, ExitCode.CowCorrupt).Message);
        AssertUntouched(merge, disks);
        Assert.Empty(disks[0].Pending);
        // Without the check, the same merge writes to the base before it reaches that payload.
        MergeCase hasty = merge with { Options = Plain };
        SimDisk[] written = hasty.Disks();
        Refused(hasty, written, ExitCode.CowCorrupt);
        Assert.NotEqual(-1, written[1].Cache.FirstDifference(merge.Base));
    }

    [Fact]
    public void Payload_that_does_not_decode_stops_a_merge_without_pre_check_at_the_last_checkpoint()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), Compression = CowCompression.Zstd, MaxUnitBytes = 4096 };
        cow.Copy(0, 1).Copy(1, 2).Copy(2, 3).Replace(4, new byte[4096]);
        byte[] bytes = cow.Build();
        bytes[cow.DataOffsets[3]] ^= 0xff;
        MergeCase merge = new("bad payload", new Image(bytes), new Image(old), new Image(old)) { Options = Plain, Readers = false };
        SimDisk[] disks = merge.Disks();
        SnapuserdException e = Refused(merge, disks, ExitCode.CowCorrupt);
        Assert.Contains("op 3", e.Message);
        Assert.Equal(2, SimMerge.DurableCount(disks[0]));   // The first window. The copy after it shared a batch with the bad payload.
        Assert.Equal(old.AsSpan(4 * 4096, 4096).ToArray(), disks[1].Cache.ToArray().AsSpan(4 * 4096, 4096).ToArray());
    }

    [Fact]
    public void Short_transfers_of_every_length_are_completed_and_never_taken_for_whole()
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), Compression = CowCompression.Zstd, MaxUnitBytes = 8192 };
        cow.Copy(0, 1).Xor(1, 4096, SmallCases.Random(2, 1)).Xor(2, 8200, new byte[4096]).Replace(4, SmallCases.Random(3, 2)).Zero(6);
        MergeCase merge = Case(cow, SmallCases.Random(1, 8));
        Chance chance = new(17);
        for (int round = 0; round < 50; round++)
        {
            SimDisk[] disks = merge.Disks();
            Run(merge, disks, (_, request) => request.Verb != BlockVerb.Flush && request.Buffer.Length > 1
                && chance.Percent(40) ? new Fault(1 + chance.Below(request.Buffer.Length - 1)) : null);
            Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
        }
    }

    [Fact]
    public void Transfer_of_zero_bytes_is_an_error_with_op_device_and_offset()
    {
        MergeCase merge = Case(Chain(2, 4), SmallCases.Random(1, 8));
        SimDisk[] disks = merge.Disks();
        // Whatever the read is joined with, it returns the bytes before the offset and then nothing.
        Fault? NothingAt8192(int number, BlockRequest request) =>
            request.Device == 1 && request.Verb == BlockVerb.Read && request.Offset <= 8192 && request.Offset + request.Buffer.Length > 8192
                ? new Fault((int)(8192 - request.Offset)) : null;
        SnapuserdException e = Refused(merge, disks, ExitCode.InputOutput, NothingAt8192);
        Assert.Contains("base", e.Message);
        Assert.Contains("op 1", e.Message);
        Assert.Contains("8192", e.Message);
    }

    [Fact]
    public void Interrupted_and_busy_requests_are_repeated_and_each_op_is_counted_once()
    {
        // When Android's engine falls back to synchronous I/O, it counts a window twice.
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        Chance chance = new(5);
        int[] errors = [-Errno.EINTR, -Errno.EAGAIN];
        for (int round = 0; round < 30; round++)
        {
            SimDisk[] disks = merge.Disks();
            Run(merge, disks,
                (_, request) => request.Verb != BlockVerb.Flush && chance.Percent(30) ? new Fault(errors[chance.Below(2)]) : null);
            Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
            Assert.Equal(6, SimMerge.DurableCount(disks[0]));
        }
    }

    [Fact]
    public void Every_request_is_reaped_before_a_failed_merge_returns()
    {
        // The simulated queue throws if it is disposed with requests in flight.
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        for (int fail = 0; fail < 40; fail++)
        {
            try
            {
                Run(merge, merge.Disks(), (number, _) => number == fail ? new Fault(-Errno.EIO) : null);
            }
            catch (SnapuserdException e)
            {
                Assert.Equal(ExitCode.InputOutput, e.Code);
            }
        }
    }

    [Fact]
    public void Stop_ends_at_a_checkpoint_with_exit_code_75_and_the_next_run_continues_there()
    {
        MergeCase merge = Case(Chain(2, 7).Zero(9), SmallCases.Random(1, 10));
        SimDisk[] disks = merge.Disks();
        StopFlag stop = new();
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => Run(merge, disks, (_, request) =>
        {
            if (request.Verb == BlockVerb.Write && request.Device == 1) stop.Request();
            return null;
        }, stop));
        Assert.Equal(ExitCode.Interrupted, e.Code);
        Assert.Equal(2, SimMerge.DurableCount(disks[0]));
        Assert.Contains("op 2 of 8", e.Message);
        Assert.Equal(2, Run(merge, disks).ResumedFrom);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Merged_COW_is_made_durable_and_otherwise_left_alone()
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = merge.Disks();
        Run(merge, disks);
        Image cow = disks[0].Durable.Copy();
        MergeResult again = Run(merge, disks);
        Assert.True(again.AlreadyMerged);
        Assert.Equal(0, again.BaseBytesWritten);
        Assert.Equal(2, again.Flushes);
        Assert.Equal(-1, disks[0].Durable.FirstDifference(cow));
    }

    [Fact]
    public void Count_that_is_only_in_the_cache_after_a_failed_flush_is_written_again()
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = merge.Disks();
        Run(merge, disks);
        byte[] before = disks[0].Durable.ToArray();
        SetCount(before, 4);
        // Readers see the last count, but nothing writes it back.
        SimDisk[] dropped = [SimDisk.AfterDroppedFlush(new Image(before), disks[0].Durable), new SimDisk(disks[1].Durable)];
        Open(merge, dropped, engine => engine.MakeMergedDurable());
        Assert.Equal(6, SimMerge.DurableCount(dropped[0]));
        Assert.Equal(-1, dropped[0].Durable.FirstDifference(disks[0].Durable));
        Assert.Empty(dropped[1].Pending);
    }

    [Fact]
    public void Merge_after_MakeMergedDurable_has_nothing_to_do()
    {
        // The merge was killed between the count of the last window and its state byte, as can happen to Android's engine.
        MergeCase merge = Case(Chain(2, 2), SmallCases.Random(1, 4));
        SimDisk[] disks = Edit(ClaimedWindow(merge), cow => SetCount(cow, 2));
        disks[1] = new SimDisk(merge.Target);
        Open(merge, disks, engine =>
        {
            engine.Open();
            engine.MakeMergedDurable();
            MergeResult result = engine.Run();
            Assert.True(result.AlreadyMerged);
            Assert.Equal(0, result.BaseBytesWritten);
        });
        Assert.Equal(1, disks[0].Durable[0].Bytes[78]);
        Assert.Equal(2, SimMerge.DurableCount(disks[0]));
    }

    [Fact]
    public void MakeMergedDurable_is_refused_while_ops_remain()
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = merge.Disks();
        Assert.Throws<InvalidOperationException>(() => Open(merge, disks, engine => engine.MakeMergedDurable()));
        AssertUntouched(merge, disks);
    }

    private static void Open(MergeCase merge, SimDisk[] disks, Action<MergeEngine> use)
    {
        using Arena arena = new(merge.ArenaBytes);
        using SimQueue queue = new(disks, arena, merge.QueueDepth, 1, () => { }, null);
        using SimWorkers workers = new(new DecodeWorker(), 1);
        using WakeUp wakeUp = new();
        using MergeEngine engine =
            MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers) with { Readers = new ReaderGate(wakeUp) });
        use(engine);
    }

    [Fact]
    public void Xor_in_place_without_scratch_is_refused_unless_it_is_allowed()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new CowBuilder { ScratchBytes = 0 }.Copy(0, 1).Xor(3, 3 * 4096, SmallCases.Random(2, 1));
        MergeCase merge = Case(cow, old);
        SimDisk[] disks = merge.Disks();
        SnapuserdException e = Refused(merge, disks, ExitCode.Usage);
        Assert.Contains("op 1", e.Message);
        Assert.Contains("--allow-unsafe", e.Message);
        AssertUntouched(merge, disks);
        Run(merge with { Options = Plain with { AllowUnsafe = true } }, disks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Crash_inside_an_unsafe_op_is_named_by_the_next_run()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new CowBuilder { ScratchBytes = 0 }.Xor(3, 3 * 4096, SmallCases.Random(2, 1));
        MergeCase merge = Case(cow, old, Plain with { AllowUnsafe = true });
        SimDisk[] disks = merge.Disks();
        Refused(merge, disks, ExitCode.InputOutput,
            (_, request) => request.Verb == BlockVerb.Write && request.Device == 1 ? new Fault(-Errno.EIO) : null);
        SnapuserdException e = Refused(merge, disks, ExitCode.CowCorrupt);
        Assert.Contains("lost", e.Message);
    }

    [Fact]
    public void Ordered_op_after_a_replace_merges_although_Android_cannot()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new CowBuilder { ScratchBytes = SmallCases.ScratchFor(2) }.Replace(0, SmallCases.Random(2, 1)).Copy(1, 2)
            .Xor(2, 2 * 4096, SmallCases.Random(3, 1)).Zero(4);
        MergeCase merge = Case(cow, old);
        SimDisk[] disks = merge.Disks();
        Run(merge, disks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Fact]
    public void Scratch_larger_than_the_memory_is_refused_with_the_memory_it_takes()
    {
        CowBuilder large = new() { ScratchBytes = 4 << 20, MaxUnitBytes = 4096 };
        for (uint i = 0; i < 400; i++) large.Copy(i, i + 1);
        MergeCase merge = Case(large, SmallCases.Random(1, 401)) with { ArenaBytes = 1 << 20 };
        SnapuserdException e = Refused(merge, merge.Disks(), ExitCode.OutOfResources);
        Assert.Contains("400 ops", e.Message);
        Assert.Contains("--memory", e.Message);
    }

    [Fact]
    public void Scratch_takes_no_more_memory_than_the_remaining_windows_need()
    {
        CowBuilder large =
            new CowBuilder { ScratchBytes = 4 << 20, MaxUnitBytes = 4096 }.Xor(0, 0, SmallCases.Random(2, 1)).Copy(1, 2).Zero(3);
        MergeCase merge = Case(large, SmallCases.Random(1, 4));
        SimDisk[] disks = merge.Disks();
        Run(merge, disks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));

        // No ordered ops: not even the metadata area is needed.
        MergeCase zero = Case(new CowBuilder { ScratchBytes = 40 << 20, MaxUnitBytes = 4096 }.Zero(1), SmallCases.Random(1, 4));
        disks = zero.Disks();
        Run(zero, disks);
        Assert.Equal(-1, disks[1].Durable.FirstDifference(zero.Target));
    }

    [Fact]
    public void Copy_onto_itself_from_another_path_is_written_whatever_the_windows_are()
    {
        // The user promises that both paths lead to the same blocks. If that is false, merge and extract must at least agree.
        byte[] source = SmallCases.Random(1, 8), old = SmallCases.Random(2, 8);
        for (int chain = 0; chain < 5; chain++)
        {
            CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), MaxUnitBytes = 4096 };
            cow.Copy(7, 7);
            for (uint i = 0; i < chain; i++) cow.Copy(i, i + 1);
            MergeCase merge = new("own path", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow.Ops, source, old)))
            {
                Options = Plain,
                Source = new Image(source),
            };
            SimDisk[] disks = merge.Disks();
            using Arena arena = new(merge.ArenaBytes);
            using SimQueue queue = new(disks, arena, 8, 1, () => { });
            using SimWorkers workers = new(new DecodeWorker(), 1);
            using MergeEngine engine =
                MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers) with { SharedBlocks = true });
            engine.Run();
            Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
        }
    }

    [Theory]
    [InlineData(Errno.EIO)]
    [InlineData(Errno.EAGAIN)]
    [InlineData(Errno.ECANCELED)]
    [InlineData(Errno.EINTR)]
    public void Flush_that_fails_under_any_errno_is_final(int errno)
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        for (int fail = 0; fail < 14; fail++)
        {
            SimDisk[] disks = merge.Disks();
            int flushes = 0;
            Refused(merge, disks, ExitCode.InputOutput,
                (_, request) => request.Verb == BlockVerb.Flush && flushes++ == fail ? new Fault(-errno, DropsDirty: true) : null);
        }
    }

    private sealed class ThrowingWorker : IWorker<DecodeJob>
    {
        public int Do(in DecodeJob job) => throw new InvalidOperationException("worker");

        public void Dispose()
        {
        }
    }

    [Fact]
    public void Failed_worker_ends_the_merge_with_exit_code_70()
    {
        // On Android the engine waits for a thread that ended silently until the daemon is restarted.
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new CowBuilder
        {
            ScratchBytes = SmallCases.ScratchFor(2),
            Compression = CowCompression.Zstd,
            MaxUnitBytes = 4096,
        }.Copy(0, 1).Replace(4, new byte[4096]);
        MergeCase merge = Case(cow, old);
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        using SimQueue queue = new(disks, arena, 8, 1, () => { });
        using WakeUp wakeUp = new();
        using WorkQueue<DecodeJob> workers = new(2, 4, () => new ThrowingWorker(), wakeUp);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers));
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => engine.Run());
        Assert.Equal(ExitCode.Internal, e.Code);
        AssertUntouched(merge, disks);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Real_worker_threads_merge_to_the_target(int threads)
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(3), Compression = CowCompression.Lz4, MaxUnitBytes = 8192 };
        for (uint i = 0; i < 30; i++) cow.Xor(i, i * 4096ul, SmallCases.Random(i, 1));
        for (uint i = 30; i < 60; i += 2) cow.Replace(i, new byte[8192]);
        MergeCase merge = Case(cow, SmallCases.Random(1, 64));
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        using SimQueue queue = new(disks, arena, 8, 1, () => { });
        using WakeUp wakeUp = new();
        using WorkQueue<DecodeJob> workers = new(threads, 4, () => new DecodeWorker(), wakeUp);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers));
        engine.Run();
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
    }

    [Theory]
    [InlineData("v2-gz-xor")]
    [InlineData("v3-zstd-nocopy")]
    [InlineData("v3-lz4-noseq")]
    [InlineData("v3-gz-32k")]
    public void Forecast_matches_the_merge(string name)
    {
        MergeCase merge = new(name, new Image(Golden.Cow(name)), new Image(Golden.Old), new Image(Golden.New))
        {
            ArenaBytes = 8 << 20,
            Options = Plain with { CheckpointMilliseconds = long.MaxValue },
        };
        MergeResult result = Run(merge, merge.Disks());
        using CowFile cow = CowFile.Read(new MemorySource(Golden.Cow(name)));
        MergeForecast forecast = MergeForecast.Of(cow);
        Assert.Equal(result.Journaled, forecast.Journaled);
        Assert.Equal(result.Checkpoints, forecast.Checkpoints);
        Assert.Equal(0, forecast.Unprotected);
    }

    [Theory]
    [InlineData(0, 6, false, false)]
    [InlineData(0, 6, true, false)]   // a chain without scratch: Android writes it in one batch and cannot detect the damage afterwards
    [InlineData(6, 6, true, true)]    // every op is counted
    [InlineData(0, 1, true, true)]    // a single op at a time can safely be repeated
    public void A_base_that_Android_may_have_damaged_unseen_is_suspected_only_without_scratch(int count, int length, bool noScratch,
        bool trusted)
    {
        CowBuilder cow = new() { ScratchBytes = noScratch ? 0 : SmallCases.ScratchFor(4), NumMergeOps = (ulong)count };
        for (uint i = 0; i < length; i++) cow.Copy(i, i + 1);
        MergeCase merge = Case(cow, SmallCases.Random(1, 12));
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        using SimQueue queue = new(disks, arena, merge.QueueDepth, 1, () => { });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers));
        Assert.Equal(noScratch && !trusted, engine.MayHideDamage);
    }

    [Fact]
    public void Plain_run_needs_two_flushes_and_no_scratch()
    {
        byte[] old = SmallCases.Random(1, 40);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(4) };
        for (uint i = 0; i < 16; i++) cow.Copy(i, 20 + i);
        MergeCase merge = Case(cow, old, Plain with { CheckpointMilliseconds = long.MaxValue });
        MergeResult result = Run(merge, merge.Disks());
        Assert.Equal(0, result.Journaled);
        Assert.Equal(1, result.Checkpoints);
        Assert.Equal(4, result.Flushes);      // two of the start, two of the only checkpoint
        Assert.Equal(16, result.Blocks);
        Assert.Equal(2 * 4096, result.CowBytesWritten);
    }

    private sealed class StepClock : ITimeSource
    {
        public long Milliseconds { get; set; }
    }

    [Fact]
    public void Writes_during_a_checkpoint_by_time_do_not_make_another_one_due()
    {
        CowBuilder cow = new() { MaxUnitBytes = 4096 };
        for (uint i = 0; i < 4000; i++) cow.Zero(i);
        MergeCase merge = Case(cow, SmallCases.Random(1, 4000));
        using Arena arena = new(merge.ArenaBytes);
        StepClock clock = new();
        SimDisk[] disks = merge.Disks();
        using SimQueue queue = new(disks, arena, merge.QueueDepth, 1, () => clock.Milliseconds++);
        using SimWorkers workers = new(new DecodeWorker(), 1);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, 1, queue, workers) with { Time = clock });
        MergeResult result = engine.Run();
        Assert.InRange(clock.Milliseconds, 2 * Plain.CheckpointMilliseconds, 3 * Plain.CheckpointMilliseconds);
        Assert.Equal(3, result.Checkpoints);   // two by time, and the last one
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public void Batch_that_waits_for_a_checkpoint_gets_exactly_one(ulong seed)
    {
        CowBuilder cow = new() { MaxUnitBytes = 4096 };
        cow.Copy(1000, 0);
        for (uint i = 0; i < 400; i++) cow.Zero(100 + i);
        cow.Zero(0);
        MergeCase merge = Case(cow, SmallCases.Random(1, 1001), Plain with { CheckpointMilliseconds = long.MaxValue });
        using Arena arena = new(merge.ArenaBytes);
        Assert.Equal(2, SimMerge.Run(merge, merge.Disks(), arena, seed, () => { }).Checkpoints);
    }

    [Fact]
    public void Chain_goes_through_windows_of_exactly_W_ops()
    {
        MergeCase merge = Case(Chain(4, 10), SmallCases.Random(1, 12));
        MergeResult result = Run(merge, merge.Disks());
        Assert.Equal(10, result.Journaled);
        Assert.Equal(3, result.Checkpoints);
        Assert.Equal(2 + (3 * 4), result.Flushes);
    }

    [Fact]
    public void Base_that_is_too_small_is_refused()
    {
        MergeCase merge = Case(Chain(2, 6), SmallCases.Random(1, 8));
        SimDisk[] disks = [new SimDisk(merge.Cow), new SimDisk(new Image(SmallCases.Random(1, 5)))];
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => Run(merge, disks));
        Assert.Equal(ExitCode.CowCorrupt, e.Code);
        Assert.Contains("block", e.Message);
    }
}
