using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>All requests and notifications of a merge, one per line, in order (<see cref="RecordedMerge"/>).</summary>
public sealed class TrafficTests
{
    private static readonly MergeOptions s_plain =
        new() { VerifyFirst = false, WriteBackBytes = 0, CheckpointMilliseconds = long.MaxValue };

    private static CowBuilder Cow(int window = 2, int unit = 4096, CowCompression compression = CowCompression.None) =>
        new() { ScratchBytes = window == 0 ? 0 : SmallCases.ScratchFor(window), MaxUnitBytes = unit, Compression = compression };

    private static CowBuilder Chain(int window, uint length)
    {
        CowBuilder cow = Cow(window);
        for (uint i = 0; i < length; i++) cow.Copy(i, i + 1);
        return cow;
    }

    private static CowBuilder Zeros(uint from, uint count)
    {
        CowBuilder cow = Cow(0);
        for (uint i = 0; i < count; i++) cow.Zero(from + i);
        return cow;
    }

    /// <summary>Arena size in bytes for four buffers of this many blocks, for a COW without scratch and without payloads.</summary>
    private static int BuffersOf(int blocks) => ((4 * blocks) + 5) * CowOp.BlockSize;

    [Fact]
    public void Windows_are_saved_claimed_written_and_counted_before_plain_ops_follow()
    {
        using RecordedMerge merge = new(Chain(2, 3).Zero(5), 8) { Options = s_plain };
        merge.Expect("""
            marker checked
            progress: 0 of 4 ops, 0 of 16384 bytes
            reserve: cow 0+12288 bytes
            reserve: base 0+3 base 5+1
            read cow 0+12288 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 1+2
            read base 3+1
            marker begins at 0
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 0+2
            write base 0+2
            progress: 2 of 4 ops, 8192 of 16384 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 2+0
            write base 2+1
            write base 5+1
            progress: 4 of 4 ops, 16384 of 16384 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 4 ops, 0 before, 0 replayed, 2 journaled; 4 blocks, 16384 + 28672 bytes, 8 flushes, 2 checkpoints
            """);
    }

    [Fact]
    public void Resumed_merge_continues_from_the_count_of_the_COW()
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 8192, NumMergeOps = 2 };
        cow.Copy(0, 1).Replace(2, SmallCases.Random(1, 2)).Replace(4, SmallCases.Random(2, 2)).Zero(7);
        using RecordedMerge merge = new(cow, 8) { Options = s_plain with { VerifyFirst = true } };
        merge.Run();
        merge.AssertLines("""
            marker checked
            progress: 2 of 4 ops, 12288 of 24576 bytes
            reserve: cow 0+4096 bytes
            reserve: base 4+2 base 7+1
            read cow 0+4096 bytes
            locations 2+0
            flush base
            write cow 0+4096 bytes
            flush cow
            read payload 8192+8192 bytes
            marker begins at 2
            write base 4+2
            write base 7+1
            progress: 4 of 4 ops, 24576 of 24576 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 4 ops, 2 before, 0 replayed, 0 journaled; 3 blocks, 12288 + 8192 bytes, 4 flushes, 1 checkpoints; resumed
            """);
    }

    [Theory]
    [InlineData(4096, "read base 10+1|read base 11+1|read base 12+1|read base 14+1",
        "write base 0+1|write base 1+1|write base 2+1|write base 5+1")]
    [InlineData(8191, "read base 10+1|read base 11+1|read base 12+1|read base 14+1",
        "write base 0+1|write base 1+1|write base 2+1|write base 5+1")]
    [InlineData(8192, "read base 10+2|read base 12+1|read base 14+1", "write base 0+2|write base 2+1|write base 5+1")]
    [InlineData(12287, "read base 10+2|read base 12+1|read base 14+1", "write base 0+2|write base 2+1|write base 5+1")]
    [InlineData(12288, "read base 10+3|read base 14+1", "write base 0+3|write base 5+1")]
    public void Contiguous_blocks_are_joined_into_requests_up_to_the_longest(int bytes, string reads, string writes)
    {
        // The ops are listed in descending order: joining of requests does not depend on the order of the ops.
        CowBuilder cow = Cow(0).Copy(5, 14).Copy(2, 12).Copy(1, 11).Copy(0, 10);
        using RecordedMerge merge = new(cow, 16) { Options = s_plain with { RequestBytes = bytes }, Only = ["read", "write"] };
        merge.Expect($"read cow 0+206 bytes|write cow 0+206 bytes|{reads}|{writes}|write cow 0+206 bytes".Replace('|', '\n'));
    }

    [Fact]
    public void Window_too_large_for_a_buffer_is_read_in_parts_and_written_from_the_metadata_image()
    {
        CowBuilder cow = Cow(6);
        foreach (uint block in (uint[])[0, 1, 2, 4, 5, 3]) cow.Copy(block, block == 3 ? 9 : block + 1);
        using RecordedMerge merge = new(cow, 10) { Options = s_plain with { RequestBytes = 8192 }, ArenaBytes = 96 << 10 };
        merge.Expect("""
            marker checked
            progress: 0 of 6 ops, 0 of 24576 bytes
            reserve: cow 0+28672 bytes
            reserve: base 0+6
            read cow 0+28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 1+2
            read base 3+1
            read base 5+2
            read base 9+1
            marker begins at 0
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            write cow 12288+8192 bytes
            write cow 20480+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 0+6
            write base 0+2
            write base 2+1
            write base 4+2
            write base 3+1
            progress: 6 of 6 ops, 24576 of 24576 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 6 ops, 0 before, 0 replayed, 6 journaled; 6 blocks, 24576 + 40960 bytes, 6 flushes, 1 checkpoints
            """);
    }

    [Fact]
    public void Unsafe_ops_are_written_while_the_magic_is_the_unsafe_one()
    {
        CowBuilder cow = Cow(0).Xor(3, 3 * 4096, SmallCases.Random(2, 1)).Xor(4, 4 * 4096, SmallCases.Random(3, 1)).Copy(0, 1).Zero(6);
        List<bool> claimed = [];
        using RecordedMerge merge = new(cow, 8) { Options = s_plain with { AllowUnsafe = true } };
        merge.Seen = line =>
        {
            if (line.StartsWith("write base", StringComparison.Ordinal))
                claimed.Add(BitConverter.ToUInt64(merge.Cow) == CowHeader.UnsafeMagic);
        };
        merge.Expect("""
            marker checked
            progress: 0 of 4 ops, 0 of 16384 bytes
            reserve: cow 0+4096 bytes
            reserve: base 0+1 base 3+2 base 6+1
            read cow 0+4096 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 3+2
            read payload 0+8192 bytes
            read base 1+1
            job
            marker begins at 0
            write cow 0+4096 bytes
            flush cow
            write base 3+2
            write base 0+1
            write base 6+1
            progress: 2 of 4 ops, 8192 of 16384 bytes
            flush base
            progress: 4 of 4 ops, 16384 of 16384 bytes
            write cow 0+4096 bytes
            flush cow
            locations 2+0
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 4 ops, 0 before, 0 replayed, 0 journaled; 4 blocks, 16384 + 16384 bytes, 7 flushes, 2 checkpoints
            """);
        // Plain ops are written together with the unsafe ones.
        Assert.Equal([true, true, true], claimed);
        Assert.Equal(CowHeader.Magic, BitConverter.ToUInt64(merge.Cow));
    }

    [Fact]
    public void Checkpoints_are_made_after_the_set_number_of_bytes()
    {
        using RecordedMerge merge =
            new(Zeros(0, 12), 12) { Options = s_plain with { CheckpointBytes = 4 * 4096 }, ArenaBytes = BuffersOf(2), EndAtATime = 1 };
        merge.Expect("""
            marker checked
            progress: 0 of 12 ops, 0 of 49152 bytes
            reserve: cow 0+334 bytes
            reserve: base 0+12
            read cow 0+334 bytes
            flush base
            write cow 0+334 bytes
            flush cow
            marker begins at 0
            write base 0+2
            write base 2+2
            write base 4+2
            write base 6+2
            progress: 2 of 12 ops, 8192 of 49152 bytes
            write base 8+2
            progress: 4 of 12 ops, 16384 of 49152 bytes
            flush base
            write base 10+2
            progress: 6 of 12 ops, 24576 of 49152 bytes
            progress: 8 of 12 ops, 32768 of 49152 bytes
            progress: 10 of 12 ops, 40960 of 49152 bytes
            write cow 0+334 bytes
            progress: 12 of 12 ops, 49152 of 49152 bytes
            flush cow
            locations 4+0
            flush base
            write cow 0+334 bytes
            flush cow
            marker ends
            result: 12 ops, 0 before, 0 replayed, 0 journaled; 12 blocks, 49152 + 1002 bytes, 6 flushes, 2 checkpoints
            """);
    }

    [Fact]
    public void Uncounted_bytes_stay_within_the_limit_during_slow_flushes()
    {
        using RecordedMerge merge = new(Zeros(0, 24), 24)
        {
            Options = s_plain with { CheckpointBytes = 4 * 4096, UncountedBytes = 8 * 4096 },
            ArenaBytes = BuffersOf(2),
            SlowFlushes = true,
        };
        merge.Expect("""
            marker checked
            progress: 0 of 24 ops, 0 of 98304 bytes
            reserve: cow 0+526 bytes
            reserve: base 0+24
            read cow 0+526 bytes
            flush base
            write cow 0+526 bytes
            flush cow
            marker begins at 0
            write base 0+2
            write base 2+2
            write base 4+2
            write base 6+2
            progress: 2 of 24 ops, 8192 of 98304 bytes
            progress: 4 of 24 ops, 16384 of 98304 bytes
            progress: 6 of 24 ops, 24576 of 98304 bytes
            progress: 8 of 24 ops, 32768 of 98304 bytes
            flush base
            write cow 0+526 bytes
            flush cow
            locations 8+0
            write base 8+2
            write base 10+2
            write base 12+2
            write base 14+2
            progress: 10 of 24 ops, 40960 of 98304 bytes
            progress: 12 of 24 ops, 49152 of 98304 bytes
            progress: 14 of 24 ops, 57344 of 98304 bytes
            progress: 16 of 24 ops, 65536 of 98304 bytes
            flush base
            write cow 0+526 bytes
            flush cow
            locations 16+0
            write base 16+2
            write base 18+2
            write base 20+2
            write base 22+2
            progress: 18 of 24 ops, 73728 of 98304 bytes
            progress: 20 of 24 ops, 81920 of 98304 bytes
            progress: 22 of 24 ops, 90112 of 98304 bytes
            progress: 24 of 24 ops, 98304 of 98304 bytes
            flush base
            write cow 0+526 bytes
            flush cow
            marker ends
            result: 24 ops, 0 before, 0 replayed, 0 journaled; 24 blocks, 98304 + 2104 bytes, 8 flushes, 3 checkpoints
            """);
    }

    [Fact]
    public void Write_back_is_requested_after_enough_bytes_once_the_last_request_has_ended()
    {
        using RecordedMerge merge = new(Zeros(0, 16), 16)
        {
            Options = s_plain with { WriteBackBytes = 4 * 4096 },
            ArenaBytes = BuffersOf(2),
            SlowWriteBack = 6,
            EndAtATime = 1,
        };
        merge.Expect("""
            marker checked
            progress: 0 of 16 ops, 0 of 65536 bytes
            reserve: cow 0+398 bytes
            reserve: base 0+16
            read cow 0+398 bytes
            flush base
            write cow 0+398 bytes
            flush cow
            marker begins at 0
            write base 0+2
            write base 2+2
            write base 4+2
            write base 6+2
            progress: 2 of 16 ops, 8192 of 65536 bytes
            write base 8+2
            progress: 4 of 16 ops, 16384 of 65536 bytes
            write-back base
            write base 10+2
            progress: 6 of 16 ops, 24576 of 65536 bytes
            write base 12+2
            progress: 8 of 16 ops, 32768 of 65536 bytes
            write base 14+2
            progress: 10 of 16 ops, 40960 of 65536 bytes
            progress: 12 of 16 ops, 49152 of 65536 bytes
            progress: 14 of 16 ops, 57344 of 65536 bytes
            progress: 16 of 16 ops, 65536 of 65536 bytes
            flush base
            write cow 0+398 bytes
            flush cow
            marker ends
            result: 16 ops, 0 before, 0 replayed, 0 journaled; 16 blocks, 65536 + 796 bytes, 4 flushes, 1 checkpoints
            """);
    }

    [Fact]
    public void Checkpoints_are_made_after_the_set_time()
    {
        using RecordedMerge merge = new(Zeros(0, 16), 16)
        {
            Options = s_plain with { CheckpointMilliseconds = 300 },
            ArenaBytes = BuffersOf(2),
            Milliseconds = 5000,
            EndAtATime = 1,
        };
        merge.Seen = line => { if (line.StartsWith("write base", StringComparison.Ordinal)) merge.Milliseconds += 75; };
        merge.Expect("""
            marker checked
            progress: 0 of 16 ops, 0 of 65536 bytes
            reserve: cow 0+398 bytes
            reserve: base 0+16
            read cow 0+398 bytes
            flush base
            write cow 0+398 bytes
            flush cow
            marker begins at 0
            write base 0+2
            write base 2+2
            write base 4+2
            write base 6+2
            progress: 2 of 16 ops, 8192 of 65536 bytes
            flush base
            write base 8+2
            progress: 4 of 16 ops, 16384 of 65536 bytes
            write base 10+2
            progress: 6 of 16 ops, 24576 of 65536 bytes
            write base 12+2
            progress: 8 of 16 ops, 32768 of 65536 bytes
            write base 14+2
            write cow 0+398 bytes
            progress: 10 of 16 ops, 40960 of 65536 bytes
            progress: 12 of 16 ops, 49152 of 65536 bytes
            progress: 14 of 16 ops, 57344 of 65536 bytes
            progress: 16 of 16 ops, 65536 of 65536 bytes
            flush cow
            locations 2+0
            flush base
            write cow 0+398 bytes
            flush cow
            marker ends
            result: 16 ops, 0 before, 0 replayed, 0 journaled; 16 blocks, 65536 + 1194 bytes, 6 flushes, 2 checkpoints
            """);
    }

    [Fact]
    public void Payloads_are_checked_from_the_first_unchecked_op_before_anything_is_written()
    {
        CowBuilder cow = Cow(2, 8192, CowCompression.Lz4).Copy(0, 1).Replace(4, new byte[8192]).Zero(6).Xor(1, 4096, new byte[4096])
            .Replace(7, SmallCases.Random(3, 1)).Replace(8, new byte[4096]);
        using RecordedMerge merge = new(cow, 12) { Options = s_plain with { VerifyFirst = true, CheckedOps = 2 } };
        merge.Expect("""
            marker checked
            checked: 2 of 6 ops, 12288 of 28672 bytes
            read payload 43+26 bytes
            read payload 69+4096 bytes
            read payload 4165+26 bytes
            job
            checked: 6 of 6 ops, 28672 of 28672 bytes
            progress: 0 of 6 ops, 0 of 28672 bytes
            reserve: cow 0+8192 bytes
            reserve: base 0+2 base 4+5
            read cow 0+8192 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 1+1
            read payload 0+43 bytes
            read base 1+1
            read payload 43+26 bytes
            read payload 69+4096 bytes
            read payload 4165+26 bytes
            job
            job
            job
            marker begins at 0
            write base 0+1
            write base 4+3
            progress: 3 of 6 ops, 16384 of 28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 3+0
            write cow 0+4096 bytes
            write cow 4096+4096 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 3+1
            write base 1+1
            write base 7+2
            progress: 4 of 6 ops, 20480 of 28672 bytes
            flush base
            progress: 6 of 6 ops, 28672 of 28672 bytes
            write cow 0+4096 bytes
            flush cow
            locations 4+0
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 6 ops, 0 before, 0 replayed, 1 journaled; 7 blocks, 28672 + 28672 bytes, 10 flushes, 3 checkpoints
            """);
    }

    [Fact]
    public void Payloads_of_a_cluster_are_read_together_with_the_ops_between_them_and_those_far_apart_are_not()
    {
        CowBuilder cow = new() { Version = 2, ScratchBytes = 0, Compression = CowCompression.Gz };
        for (uint i = 0; i < 3; i++) cow.Replace(i, new byte[4096]);
        for (uint i = 0; i < 203; i++) cow.Zero(20 + i);
        cow.Replace(3, new byte[4096]);
        for (uint i = 0; i < 204; i++) cow.Zero(300 + i);
        cow.Replace(4, new byte[4096]);
        using RecordedMerge merge = new(cow, 600) { Options = s_plain, Only = ["read", "job"], ArenaBytes = 8 << 20 };
        merge.Expect("""
            read cow 0+4096 bytes
            read payload 0+118 bytes
            read payload 4198+26 bytes
            read payload 8324+26 bytes
            job
            """);
    }

    /// <summary>
    /// A COW whose state byte, entries and slots hold <paramref name="entries"/> ops from <paramref name="first"/> on in scratch.
    /// </summary>
    private static CowBuilder InScratch(CowBuilder cow, int window, int first, int entries, byte[] target)
    {
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(window));
        cow.Patch = file =>
        {
            file[layout.StateOffset] = ScratchLayout.Valid;
            for (int i = 0; i < entries; i++)
            {
                BuiltOp op = cow.Ops[first + i];
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i)), (ulong)op.NewBlock);
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i) + 8), (ulong)layout.SlotOffset(i));
                target.AsSpan((int)op.NewBlock * CowOp.BlockSize, CowOp.BlockSize).CopyTo(file.AsSpan((int)layout.SlotOffset(i)));
            }
        };
        return cow;
    }

    private static CowBuilder ChainFrom(int window, uint length, ulong count)
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(window), MaxUnitBytes = 4096, NumMergeOps = count };
        for (uint i = 0; i < length; i++) cow.Copy(i, i + 1);
        return cow;
    }

    [Fact]
    public void Claimed_window_of_the_previous_run_is_made_durable_slots_first_and_then_written()
    {
        byte[] target = NaiveMerger.Merge(ChainFrom(3, 7, 0), SmallCases.Random(7, 8));
        CowBuilder cow = InScratch(ChainFrom(3, 7, 0), 3, 0, 3, target);
        using RecordedMerge merge = new(cow, 8) { Options = s_plain };
        merge.Expect("""
            marker checked
            progress: 0 of 7 ops, 0 of 28672 bytes
            reserve: cow 0+16384 bytes
            reserve: base 0+7
            read cow 0+16384 bytes
            locations 0+3
            flush base
            write cow 4096+12288 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            read base 4+3
            read base 7+1
            marker begins at 0
            write base 0+3
            progress: 3 of 7 ops, 12288 of 28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 3+0
            write cow 0+4096 bytes
            write cow 4096+12288 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 3+3
            write base 3+3
            progress: 6 of 7 ops, 24576 of 28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 6+0
            write base 6+1
            progress: 7 of 7 ops, 28672 of 28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 7 ops, 0 before, 3 replayed, 3 journaled; 7 blocks, 28672 + 49152 bytes, 11 flushes, 3 checkpoints; resumed
            """);
        // The final state byte and the final count.
        Assert.Equal((1, 7), (merge.Cow[78], merge.Cow[CowHeader.MergeCountOffset]));
    }

    [Fact]
    public void Bytes_after_the_entries_of_a_full_window_are_ignored()
    {
        byte[] target = NaiveMerger.Merge(ChainFrom(3, 7, 0), SmallCases.Random(7, 8));
        CowBuilder cow = InScratch(ChainFrom(3, 7, 0), 3, 0, 3, target);
        Action<byte[]> addWindow = cow.Patch!;
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(3));
        cow.Patch = file =>
        {
            addWindow(file);
            file.AsSpan((int)layout.EntryOffset(3), ScratchLayout.EntryBytes).Fill(9);
        };
        using RecordedMerge merge = new(cow, 8) { Options = s_plain };
        Assert.Equal(3, merge.Run().Replayed);
        Assert.Equal(target, merge.Base);
    }

    [Theory]
    [InlineData(1, 8 << 20, "read cow 238+53 bytes")]
    [InlineData(4096, 8 << 20, "read cow 238+4148 bytes")]
    [InlineData(4097, 8 << 20, "read cow 238+26 bytes|read cow 4361+26 bytes")]
    // Buffers of three blocks: two blocks of content, and 52 bytes of payload.
    [InlineData(4044, 17 * 4096, "read cow 238+4096 bytes")]
    [InlineData(4045, 17 * 4096, "read cow 238+26 bytes|read cow 4309+26 bytes")]
    public void Payloads_with_a_gap_of_at_most_a_block_are_read_together_if_the_buffer_has_space(int gap, int arena, string reads)
    {
        CowBuilder cow = new() { Version = 2, ScratchBytes = 0, ClusterOps = 1000, Compression = CowCompression.Gz };
        cow.Replace(0, new byte[4096]).Replace(1, new byte[4096]);
        cow.Patch = file =>
        {
            // Moves the payloads into unused slots of the cluster.
            for (int i = 0; i < 2; i++)
            {
                int at = 38 + 200 + (i * (26 + gap));
                file.AsSpan((int)cow.DataOffsets[i], 26).CopyTo(file.AsSpan(at));
                BitConverter.TryWriteBytes(file.AsSpan((int)cow.OpOffsets[i] + 12), (long)at);
            }
        };
        using RecordedMerge merge = new(cow, 4) { Options = s_plain, Only = ["read"], ArenaBytes = arena };
        merge.Expect($"read cow 0+4096 bytes|{reads}".Replace('|', '\n'));
    }

    [Fact]
    public void Claim_of_a_counted_window_is_discarded_before_the_base_is_written()
    {
        byte[] target = NaiveMerger.Merge(ChainFrom(2, 6, 0), SmallCases.Random(7, 8));
        CowBuilder cow = InScratch(ChainFrom(2, 6, 2), 2, 0, 2, target);
        using RecordedMerge merge = new(cow, 8) { Options = s_plain };
        target.AsSpan(0, 2 * CowOp.BlockSize).CopyTo(merge.Base);
        merge.Expect("""
            marker checked
            progress: 2 of 6 ops, 8192 of 24576 bytes
            reserve: cow 0+12288 bytes
            reserve: base 2+4
            read cow 0+12288 bytes
            locations 2+0
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 3+2
            read base 5+2
            marker begins at 2
            write cow 0+4096 bytes
            flush cow
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 2+2
            write base 2+2
            progress: 4 of 6 ops, 16384 of 24576 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 4+0
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 4+2
            write base 4+2
            progress: 6 of 6 ops, 24576 of 24576 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 6 ops, 2 before, 0 replayed, 4 journaled; 4 blocks, 16384 + 49152 bytes, 11 flushes, 2 checkpoints; resumed
            """);
        Assert.Equal((1, 6), (merge.Cow[78], merge.Cow[CowHeader.MergeCountOffset]));
    }

    [Fact]
    public void Ops_of_a_buffer_are_decoded_in_jobs_of_limited_size_that_wait_for_a_worker()
    {
        CowBuilder cow = Cow(0, 4096, CowCompression.Lz4);
        for (uint i = 0; i < 7; i++) cow.Replace(i, new byte[4096]);
        foreach ((int bytes, int jobs, int capacity) in new[]
        {
            (4096, 7, 4), (4097, 4, 4), (8192, 4, 1), (12288, 3, 4), (12289, 2, 4), (28672, 1, 4), (1 << 20, 1, 1),
        })
        {
            using RecordedMerge merge = new(cow, 8) { Options = s_plain with { JobBytes = bytes }, Capacity = capacity, Only = ["job"] };
            merge.Expect(string.Join('\n', Enumerable.Repeat("job", jobs)));
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Buffers_are_written_only_after_a_worker_has_decoded_their_payloads(int blocks)
    {
        CowBuilder cow = Cow(0, 4096, CowCompression.Lz4);
        for (uint i = 0; i < 12; i++) cow.Replace(i, [.. Enumerable.Repeat((byte)(i + 1), 4096)]);
        using RecordedMerge merge =
            new(cow, 12) { Options = s_plain with { JobBytes = 4096 }, Capacity = 1, ArenaBytes = BuffersOf(blocks), Only = ["job"] };
        merge.Expect(string.Join('\n', Enumerable.Repeat("job", 12)));
    }

    [Fact]
    public void Stop_ends_a_merge_whose_window_waits_for_readers()
    {
        using RecordedMerge merge = new(Chain(2, 4).Zero(6), 8) { Options = s_plain };
        int epoch = 0, idle = 0;
        merge.Seen = line => { if (line == "marker begins at 0") epoch = merge.Gate.Enter(); };
        merge.Idle = () =>
        {
            Assert.Equal(1, ++idle);
            merge.Stop.Request();
        };
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => merge.Run());
        Assert.Equal((ExitCode.Interrupted, "stopped at op 0 of 5; the same command goes on from there"), (e.Code, e.Message));
        Assert.DoesNotContain(merge.Lines, line => line.StartsWith("write base", StringComparison.Ordinal));
        merge.Gate.Leave(epoch);
    }

    [Fact]
    public void Merge_waits_for_readers_before_it_writes_a_window_and_before_it_reuses_scratch()
    {
        using RecordedMerge merge = new(Chain(2, 4).Zero(6), 8) { Options = s_plain };
        Queue<int> epochs = [];
        epochs.Enqueue(merge.Gate.Enter());
        int idle = 0;
        // A new reader enters before the previous one leaves, so every switch finds an earlier reader.
        merge.Idle = () =>
        {
            idle++;
            epochs.Enqueue(merge.Gate.Enter());
            merge.Gate.Leave(epochs.Dequeue());
        };
        merge.Expect("""
            marker checked
            progress: 0 of 5 ops, 0 of 20480 bytes
            reserve: cow 0+12288 bytes
            reserve: base 0+4 base 6+1
            read cow 0+12288 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 1+2
            read base 3+2
            marker begins at 0
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 0+2
            write base 0+2
            progress: 2 of 5 ops, 8192 of 20480 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 2+0
            write cow 0+4096 bytes
            write cow 4096+8192 bytes
            flush cow
            write cow 0+4096 bytes
            flush cow
            locations 2+2
            write base 2+2
            write base 6+1
            progress: 4 of 5 ops, 16384 of 20480 bytes
            flush base
            progress: 5 of 5 ops, 20480 of 20480 bytes
            write cow 0+4096 bytes
            flush cow
            locations 4+0
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 5 ops, 0 before, 0 replayed, 4 journaled; 5 blocks, 20480 + 49152 bytes, 12 flushes, 3 checkpoints
            """);
        Assert.Equal(3, idle);
    }

    [Fact]
    public void COW_whose_ops_are_all_counted_is_only_made_durable()
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 4096, NumMergeOps = 2 };
        using RecordedMerge merge = new(cow.Copy(0, 1).Zero(3), 4) { Options = s_plain };
        merge.Run();
        merge.AssertLines("""
            marker checked
            progress: 2 of 2 ops, 8192 of 8192 bytes
            reserve: cow 0+174 bytes
            reserve:
            read cow 0+174 bytes
            locations 2+0
            flush base
            write cow 0+174 bytes
            flush cow
            marker ends
            result: 2 ops, 2 before, 0 replayed, 0 journaled; 0 blocks, 0 + 174 bytes, 2 flushes, 0 checkpoints; already merged
            """);
    }

    [Fact]
    public void COW_without_ops_is_only_made_durable()
    {
        using RecordedMerge merge = new(Cow(2), 4) { Options = s_plain };
        merge.Expect("""
            marker checked
            progress: 0 of 0 ops, 0 of 0 bytes
            reserve: cow 0+4096 bytes
            reserve:
            read cow 0+4096 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 0 ops, 0 before, 0 replayed, 0 journaled; 0 blocks, 0 + 4096 bytes, 2 flushes, 0 checkpoints; already merged
            """);
    }

    [Fact]
    public void Queue_of_one_request_is_enough()
    {
        CowBuilder cow =
            Cow(2, 8192, CowCompression.Lz4).Copy(0, 1).Copy(1, 2).Copy(2, 9).Replace(4, new byte[8192]).Replace(6, new byte[4096]).Zero(8);
        using RecordedMerge merge = new(cow, 12) { Options = s_plain with { WriteBackBytes = 1, RequestBytes = 4096 }, Depth = 1 };
        merge.Expect("""
            marker checked
            progress: 0 of 6 ops, 0 of 28672 bytes
            reserve: cow 0+12288 bytes
            reserve: base 0+3 base 4+3 base 8+1
            read cow 0+12288 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            read base 1+1
            marker begins at 0
            read base 2+1
            read base 9+1
            write cow 0+4096 bytes
            write cow 4096+4096 bytes
            write cow 8192+4096 bytes
            read payload 0+69 bytes
            flush cow
            job
            write cow 0+4096 bytes
            flush cow
            locations 0+2
            write base 0+1
            write base 1+1
            progress: 2 of 6 ops, 8192 of 28672 bytes
            flush base
            write cow 0+4096 bytes
            flush cow
            locations 2+0
            write base 2+1
            write base 4+2
            write base 6+1
            write base 8+1
            progress: 6 of 6 ops, 28672 of 28672 bytes
            write-back base
            flush base
            write cow 0+4096 bytes
            flush cow
            marker ends
            result: 6 ops, 0 before, 0 replayed, 2 journaled; 7 blocks, 28672 + 28672 bytes, 8 flushes, 2 checkpoints
            """);
    }

    [Fact]
    public void Copies_onto_themselves_are_counted_and_written_only_in_a_window()
    {
        foreach ((int window, string lines) in new[]
        {
            (4, "reserve: cow 0+20480 bytes|reserve: base 0+5|write cow 0+4096 bytes|write cow 0+4096 bytes|write cow 4096+16384 "
                + "bytes|write cow 0+4096 bytes|"
                + "write base 1+4|progress: 4 of 5 ops, 16384 of 20480 bytes|write cow 0+4096 bytes|write base 0+1|progress: 5 of 5 ops, "
                + "20480 of 20480 bytes|"
                + "write cow 0+4096 bytes"),
            (0, "reserve: cow 0+222 bytes|reserve: base 0+4|write cow 0+222 bytes|write base 3+1|progress: 1 of 5 ops, 4096 of 20480 bytes|"
                + "write cow 0+222 bytes|write base 2+1|progress: 3 of 5 ops, 12288 of 20480 bytes|write cow 0+222 bytes|write base 1+1|"
                + "progress: 4 of 5 ops, 16384 of 20480 bytes|write cow 0+222 bytes|write base 0+1|progress: 5 of 5 ops, 20480 of 20480 "
                + "bytes|write cow 0+222 bytes"),
        })
        {
            using RecordedMerge merge = new(Cow(window).Copy(3, 2).Copy(2, 1).Copy(4, 4).Copy(1, 0).Zero(0), 8)
            {
                Options = s_plain,
                Only = ["progress", "write", "reserve"],
            };
            merge.Expect($"progress: 0 of 5 ops, 0 of 20480 bytes|{lines}".Replace('|', '\n'));
            Assert.Equal(window > 0 ? 5 : 4, merge.Result!.Blocks);
        }
    }

    /// <summary>
    /// The requests in short form: a write to the base as its first block, a flush of the base as B, a flush of the COW as C, a request for
    /// write-back as W.
    /// </summary>
    private static string Brief(RecordedMerge merge) => string.Join(' ', from request in merge.Requests
                                                                         where !request.StartsWith("write cow", StringComparison.Ordinal)
                                                                             && !request.StartsWith("read", StringComparison.Ordinal)
                                                                         select request switch
                                                                         {
                                                                             "flush base" => "B",
                                                                             "flush cow" => "C",
                                                                             "write-back base" => "W",
                                                                             _ => request.Split(' ', '+')[2],
                                                                         });

    /// <summary>
    /// Batches of two blocks that complete one at a time, with slow flushes. The limit on uncounted bytes includes written bytes and bytes
    /// in flight.
    /// </summary>
    [Theory]
    [InlineData(32767, "B C 0 2 4 6 B C B 8 C 10 12 14 B C B C")]
    [InlineData(32768, "B C 0 2 4 6 B C B 8 C 10 12 14 B C B C")]
    [InlineData(32769, "B C 0 2 4 6 8 B C B 10 12 C B 14 C B C")]
    [InlineData(40960, "B C 0 2 4 6 8 B C B 10 12 C B 14 C B C")]
    [InlineData(40961, "B C 0 2 4 6 8 B 10 C B 12 14 C B C")]
    [InlineData(49153, "B C 0 2 4 6 8 B 10 12 C B 14 C B C")]
    public void Bytes_that_are_not_counted_stay_within_the_set_limit(int bytes, string expected)
    {
        using RecordedMerge merge = new(Zeros(0, 16), 16)
        {
            Options = s_plain with { CheckpointBytes = 4 * 4096, UncountedBytes = bytes },
            ArenaBytes = BuffersOf(2),
            SlowFlushes = true,
            EndAtATime = 1,
        };
        merge.Run();
        Assert.Equal(expected, Brief(merge));
    }

    [Theory]
    [InlineData(16383, "B C 0 2 4 6 8 B 10 12 14 C B C")]
    [InlineData(16384, "B C 0 2 4 6 8 B 10 12 14 C B C")]
    [InlineData(16385, "B C 0 2 4 6 8 10 B 12 14 C B C")]
    [InlineData(24576, "B C 0 2 4 6 8 10 B 12 14 C B C")]
    [InlineData(24577, "B C 0 2 4 6 8 10 12 B 14 C B C")]
    public void Checkpoint_is_due_at_exactly_the_set_number_of_bytes(int bytes, string expected)
    {
        using RecordedMerge merge =
            new(Zeros(0, 16), 16) { Options = s_plain with { CheckpointBytes = bytes }, ArenaBytes = BuffersOf(2), EndAtATime = 1 };
        merge.Run();
        Assert.Equal(expected, Brief(merge));
    }

    [Theory]
    [InlineData(0, "B C 0 2 4 6 8 10 12 14 B C")]
    [InlineData(16383, "B C 0 2 4 6 8 W 10 12 14 W B C")]
    [InlineData(16384, "B C 0 2 4 6 8 W 10 12 14 W B C")]
    [InlineData(16385, "B C 0 2 4 6 8 10 W 12 14 W B C")]
    public void Write_back_is_due_at_exactly_the_set_number_of_bytes(int bytes, string expected)
    {
        using RecordedMerge merge =
            new(Zeros(0, 16), 16) { Options = s_plain with { WriteBackBytes = bytes }, ArenaBytes = BuffersOf(2), EndAtATime = 1 };
        merge.Run();
        Assert.Equal(expected, Brief(merge));
    }

    /// <summary>A write takes 75 ms, a flush 100 ms.</summary>
    [Theory]
    [InlineData(299, "B C 0 2 4 6 B 8 10 12 14 16 18 20 22 C B C")]
    [InlineData(300, "B C 0 2 4 6 B 8 10 12 14 16 18 20 22 C B C")]
    [InlineData(301, "B C 0 2 4 6 8 B 10 12 14 16 18 20 22 C B C")]
    [InlineData(375, "B C 0 2 4 6 8 B 10 12 14 16 18 20 22 C B C")]
    [InlineData(376, "B C 0 2 4 6 8 10 B 12 14 16 18 20 22 C B C")]
    public void Checkpoint_is_due_at_exactly_the_set_time(int milliseconds, string expected)
    {
        using RecordedMerge merge = new(Zeros(0, 24), 24)
        {
            Options = s_plain with { CheckpointMilliseconds = milliseconds },
            ArenaBytes = BuffersOf(2),
            Milliseconds = 5000,
            EndAtATime = 1,
        };
        merge.Seen = line => merge.Milliseconds += line.StartsWith("write base", StringComparison.Ordinal) ? 75
            : line.StartsWith("flush", StringComparison.Ordinal) ? 100 : 0;
        merge.Run();
        Assert.True(expected == Brief(merge), $"something else was seen:\n{Brief(merge)}\n");
    }

    private static string Fails(Func<RecordedMerge> make)
    {
        List<string> requests;
        using (RecordedMerge whole = make())
        {
            whole.Run();
            requests = whole.Requests;
        }
        List<string> lines = [];
        for (int fail = 0; fail < requests.Count; fail++)
        {
            using RecordedMerge merge = make();
            merge.FailAt = fail;
            SnapuserdException e = Assert.Throws<SnapuserdException>(() => merge.Run());
            lines.Add($"{requests[fail]} => {(int)e.Code} {e.Message}");
        }
        return string.Join('\n', lines);
    }

    [Fact]
    public void Failures_are_reported_with_device_place_and_op()
    {
        CowBuilder cow = Cow(3, 8192, CowCompression.Lz4).Copy(0, 2).Copy(1, 3).Xor(5, 5 * 4096, new byte[4096])
            .Xor(6, 6 * 4096, new byte[4096]).Replace(8, new byte[8192])
            .Replace(10, SmallCases.Random(1, 1));
        string seen = Fails(() => new RecordedMerge(cow, 12) { Options = s_plain with { RequestBytes = 4096 } });
        RecordedMerge.AssertSame("""
            read cow 0+16384 bytes => 74 cow: reading the metadata of the COW at byte 0 failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 0 of 6 is counted
            write cow 0+4096 bytes => 74 cow: writing back the metadata of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            read base 2+1 => 74 base: reading 4096 bytes at 8192 for op 0 (Copy of block 0) failed: input/output error (EIO)
            read base 3+1 => 74 base: reading 4096 bytes at 12288 for op 1 (Copy of block 1) failed: input/output error (EIO)
            read base 5+1 => 74 base: reading 4096 bytes at 20480 for op 2 (Xor of block 5) failed: input/output error (EIO)
            read base 6+1 => 74 base: reading 4096 bytes at 24576 for op 3 (Xor of block 6) failed: input/output error (EIO)
            read payload 0+52 bytes => 74 cow: reading 52 bytes at 16878 for op 2 (Xor of block 5) failed: input/output error (EIO)
            read payload 52+43 bytes => 74 cow: reading 43 bytes at 16930 for op 4 (Replace of block 8) failed: input/output error (EIO)
            read payload 95+4096 bytes => 74 cow: reading 4096 bytes at 16973 for op 5 (Replace of block 10) failed: input/output error (EIO)
            write base 0+1 => 74 base: writing 4096 bytes at 0 for op 0 (Copy of block 0) failed: input/output error (EIO)
            write base 1+1 => 74 base: writing 4096 bytes at 4096 for op 1 (Copy of block 1) failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 0 of 6 is counted
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write cow 0+4096 bytes => 74 cow: writing the scratch of the COW at byte 0 failed: input/output error (EIO)
            write cow 4096+4096 bytes => 74 cow: writing the scratch of the COW at byte 4096 failed: input/output error (EIO)
            write cow 8192+4096 bytes => 74 cow: writing the scratch of the COW at byte 8192 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write base 5+1 => 74 base: writing 4096 bytes at 20480 for op 2 (Xor of block 5) failed: input/output error (EIO)
            write base 6+1 => 74 base: writing 4096 bytes at 24576 for op 3 (Xor of block 6) failed: input/output error (EIO)
            write base 8+2 => 74 base: writing 8192 bytes at 32768 for op 4 (Replace of block 8) failed: input/output error (EIO)
            write base 10+1 => 74 base: writing 4096 bytes at 40960 for op 5 (Replace of block 10) failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 2 of 6 is counted
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 4 of 6 is counted
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            """, seen);
    }

    [Fact]
    public void Pause_holds_the_next_batch_and_makes_a_checkpoint()
    {
        using RecordedMerge merge = new(Zeros(0, 12), 12) { Options = s_plain, ArenaBytes = BuffersOf(2), EndAtATime = 1 };
        merge.Seen = line => { if (line == "progress: 2 of 12 ops, 8192 of 49152 bytes") merge.Throttle.Pause(); };
        int looks = 0;
        merge.Idle = () =>
        {
            Assert.Equal(8, merge.Cow[CowHeader.MergeCountOffset]);
            if (++looks == 3) merge.Throttle.Resume();
        };
        merge.Expect("""
            marker checked
            progress: 0 of 12 ops, 0 of 49152 bytes
            reserve: cow 0+334 bytes
            reserve: base 0+12
            read cow 0+334 bytes
            flush base
            write cow 0+334 bytes
            flush cow
            marker begins at 0
            write base 0+2
            write base 2+2
            write base 4+2
            write base 6+2
            progress: 2 of 12 ops, 8192 of 49152 bytes
            flush base
            progress: 4 of 12 ops, 16384 of 49152 bytes
            progress: 6 of 12 ops, 24576 of 49152 bytes
            progress: 8 of 12 ops, 32768 of 49152 bytes
            write cow 0+334 bytes
            flush cow
            locations 2+0
            flush base
            write cow 0+334 bytes
            flush cow
            locations 8+0
            write base 8+2
            write base 10+2
            progress: 10 of 12 ops, 40960 of 49152 bytes
            progress: 12 of 12 ops, 49152 of 49152 bytes
            flush base
            write cow 0+334 bytes
            flush cow
            marker ends
            result: 12 ops, 0 before, 0 replayed, 0 journaled; 12 blocks, 49152 + 1336 bytes, 8 flushes, 3 checkpoints
            """);
        Assert.Equal(3, looks);
    }

    [Fact]
    public void Windows_obey_the_rate_limit_and_count_towards_it()
    {
        using RecordedMerge merge = new(Chain(2, 4).Zero(6).Zero(7), 8) { Options = s_plain, Milliseconds = 1000 };
        merge.Throttle.BytesPerSecond = 8192;
        List<long> began = [];
        merge.Seen = line => { if (line.StartsWith("write base", StringComparison.Ordinal)) began.Add(merge.Milliseconds); };
        merge.Idle = () => merge.Milliseconds += 100;
        merge.Run();
        // Credit is limited to 200 ms. At this rate a window of 8192 bytes takes a second.
        Assert.Equal([1000, 1800, 2800], began);
    }

    [Theory]
    [InlineData("write base 0+2",
        "75 stopped at op 2 of 6; the same command goes on from there; B C C C 0 B C; 2 journaled, 2 blocks, 1 checkpoints")]
    [InlineData("flush base", "75 stopped at op 0 of 6; the same command goes on from there; B C; 0 journaled, 0 blocks, 0 checkpoints")]
    [InlineData("locations 0+2",
        "75 stopped at op 2 of 6; the same command goes on from there; B C C C 0 B C; 2 journaled, 2 blocks, 1 checkpoints")]
    [InlineData("marker begins at 0",
        "75 stopped at op 0 of 6; the same command goes on from there; B C; 0 journaled, 0 blocks, 0 checkpoints")]
    [InlineData("progress: 4 of 6 ops, 16384 of 24576 bytes",
        "merged; B C C C 0 B C 6 7 C C 2 B C B C; 4 journaled, 6 blocks, 3 checkpoints")]
    [InlineData("locations 4+0", "merged; B C C C 0 B C 6 7 C C 2 B C B C; 4 journaled, 6 blocks, 3 checkpoints")]
    public void Stop_finishes_begun_work_and_says_where_the_next_run_continues(string at, string expected)
    {
        using RecordedMerge merge = new(Chain(2, 4).Zero(6).Zero(7), 8) { Options = s_plain, ArenaBytes = 40 << 10 };
        merge.Seen = line => { if (line == at) merge.Stop.Request(); };
        SnapuserdException? e = Record.Exception(() => merge.Run()) as SnapuserdException;
        string seen = $"{(e is null ? "merged" : $"{(int)e.Code} {e.Message}")}; {Brief(merge)}; {merge.Result!.Journaled} journaled, "
            + $"{merge.Result.Blocks} blocks, {merge.Result.Checkpoints} checkpoints";
        Assert.True(expected == seen, $"something else was seen:\n{seen}\n");
    }

    [Theory]
    [InlineData(0, "75 stopped while checking payloads, at op 0 of 12; nothing was written; marker checked; checked: 0 of 12 ops, 0 of "
        + "49152 bytes; result: 12 ops, 0 before, 0 replayed, 0 journaled; 0 blocks, 0 + 0 bytes, 0 flushes, 0 checkpoints")]
    [InlineData(1,
        "75 stopped while checking payloads, at op 8 of 12; nothing was written; marker checked; checked: 0 of 12 ops, 0 of 49152 bytes; "
        + "read payload 0+52 bytes; read payload 52+52 bytes; read payload 104+52 bytes; read payload 156+52 bytes; job; checked: 2 of 12 "
        + "ops, 8192 of 49152 bytes; result: 12 ops, 0 before, 0 replayed, 0 journaled; 0 blocks, 0 + 0 bytes, 0 flushes, 0 checkpoints")]
    [InlineData(2, "75 stopped while checking payloads, at op 10 of 12; nothing was written; marker checked; checked: 0 of 12 ops, 0 of "
        + "49152 bytes; read payload 0+52 bytes; read payload 52+52 bytes; read payload 104+52 bytes; read payload 156+52 bytes; job; "
        + "checked: 2 of 12 ops, 8192 of 49152 bytes; read payload 208+52 bytes; job; checked: 4 of 12 ops, 16384 of 49152 bytes; result: "
        + "12 ops, 0 before, 0 replayed, 0 journaled; 0 blocks, 0 + 0 bytes, 0 flushes, 0 checkpoints")]
    public void Stop_while_payloads_are_checked_says_how_far_the_check_came(int checks, string expected)
    {
        CowBuilder cow = Cow(0, 4096, CowCompression.Lz4);
        for (uint i = 0; i < 12; i++) cow.Replace(i, new byte[4096]);
        using RecordedMerge merge =
            new(cow, 12) { Options = s_plain with { VerifyFirst = true }, ArenaBytes = BuffersOf(3), EndAtATime = 1 };
        int seenChecks = 0;
        merge.Seen = line => { if (line.StartsWith("checked", StringComparison.Ordinal) && seenChecks++ == checks) merge.Stop.Request(); };
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => merge.Run());
        string seen = $"{(int)e.Code} {e.Message}; {string.Join("; ", merge.Lines)}";
        Assert.True(expected == seen, $"something else was seen:\n{seen}\n");
    }

    [Fact]
    public void Payload_check_reports_a_batch_once_all_before_it_are_decoded()
    {
        CowBuilder cow = Cow(0, 4096, CowCompression.Lz4);
        for (uint i = 0; i < 3; i++) cow.Zero(20 + i);
        for (uint i = 0; i < 12; i++) cow.Replace(i, i % 3 == 0 ? SmallCases.Random(i, 1) : new byte[4096]);
        cow.Zero(30);
        using RecordedMerge merge = new(cow, 32)
        {
            Options = s_plain with { VerifyFirst = true, CheckedOps = 5 },
            ArenaBytes = BuffersOf(3),
            EndAtATime = 1,
            Only = ["checked", "read", "job"],
        };
        merge.Expect("""
            checked: 5 of 16 ops, 20480 of 65536 bytes
            read payload 4122+26 bytes
            read payload 4148+4096 bytes
            read payload 8244+52 bytes
            read payload 8296+4096 bytes
            read payload 12392+26 bytes
            read payload 12418+26 bytes
            read payload 12444+4096 bytes
            job
            checked: 7 of 16 ops, 28672 of 65536 bytes
            read payload 16540+52 bytes
            job
            checked: 9 of 16 ops, 36864 of 65536 bytes
            job
            checked: 11 of 16 ops, 45056 of 65536 bytes
            job
            checked: 13 of 16 ops, 53248 of 65536 bytes
            job
            checked: 16 of 16 ops, 65536 of 65536 bytes
            read cow 0+4096 bytes
            read payload 0+4096 bytes
            read payload 4096+26 bytes
            read payload 4122+26 bytes
            read payload 4148+4096 bytes
            read payload 8244+52 bytes
            job
            job
            job
            read payload 8296+4096 bytes
            read payload 12392+26 bytes
            read payload 12418+26 bytes
            read payload 12444+4096 bytes
            read payload 16540+52 bytes
            job
            job
            job
            """);
        foreach (int all in (int[])[16, 17, 1000])
        {
            using RecordedMerge none = new(cow, 32) { Options = s_plain with { VerifyFirst = true, CheckedOps = all }, Only = ["checked"] };
            none.Expect("checked: 16 of 16 ops, 65536 of 65536 bytes");
        }
    }

    /// <summary>
    /// The same window with every limit on the request length. Blocks that are contiguous in scratch and on the base are joined.
    /// </summary>
    [Theory]
    [InlineData(4096, "0 1 2 3 5")]
    [InlineData(8191, "0 1 2 3 5")]
    [InlineData(8192, "0 2 5")]
    [InlineData(12287, "0 2 5")]
    [InlineData(12288, "0 3 5")]
    [InlineData(1 << 20, "0 5")]
    public void Contiguous_slots_are_joined_into_requests_up_to_the_longest(int bytes, string writes)
    {
        byte[] old = SmallCases.Random(7, 12);
        CowBuilder Window()
        {
            CowBuilder cow = Cow(6);
            foreach (uint block in (uint[])[0, 1, 2, 3, 5]) cow.Copy(block, block + 6);
            return cow;
        }
        using RecordedMerge merge =
            new(InScratch(Window(), 6, 0, 5, NaiveMerger.Merge(Window(), old)), 12) { Options = s_plain with { RequestBytes = bytes } };
        merge.Run();
        Assert.Equal($"B C C {writes} B C", Brief(merge));
    }

    [Fact]
    public void Failures_while_a_claimed_window_is_finished_are_reported_with_device_place_and_op()
    {
        byte[] target = NaiveMerger.Merge(ChainFrom(3, 7, 2), SmallCases.Random(7, 8));
        CowBuilder cow = InScratch(ChainFrom(3, 7, 2), 3, 2, 3, target);
        string seen = Fails(() => new RecordedMerge(cow, 8) { Options = s_plain with { RequestBytes = 4096 } });
        RecordedMerge.AssertSame("""
            read cow 0+16384 bytes => 74 cow: reading the metadata of the COW at byte 0 failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 2 of 7 is counted
            write cow 4096+4096 bytes => 74 cow: writing back the metadata of the COW at byte 4096 failed: input/output error (EIO)
            write cow 8192+4096 bytes => 74 cow: writing back the metadata of the COW at byte 8192 failed: input/output error (EIO)
            write cow 12288+4096 bytes => 74 cow: writing back the metadata of the COW at byte 12288 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write cow 0+4096 bytes => 74 cow: writing back the metadata of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            read base 6+1 => 74 base: reading 4096 bytes at 24576 for op 5 (Copy of block 5) failed: input/output error (EIO)
            read base 7+1 => 74 base: reading 4096 bytes at 28672 for op 6 (Copy of block 6) failed: input/output error (EIO)
            write base 2+1 => 74 base: writing 4096 bytes at 8192 for op 2 (Copy of block 2) failed: input/output error (EIO)
            write base 3+1 => 74 base: writing 4096 bytes at 12288 for op 3 (Copy of block 3) failed: input/output error (EIO)
            write base 4+1 => 74 base: writing 4096 bytes at 16384 for op 4 (Copy of block 4) failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 2 of 7 is counted
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write cow 0+4096 bytes => 74 cow: writing the scratch of the COW at byte 0 failed: input/output error (EIO)
            write cow 4096+4096 bytes => 74 cow: writing the scratch of the COW at byte 4096 failed: input/output error (EIO)
            write cow 8192+4096 bytes => 74 cow: writing the scratch of the COW at byte 8192 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            write base 5+1 => 74 base: writing 4096 bytes at 20480 for op 5 (Copy of block 5) failed: input/output error (EIO)
            write base 6+1 => 74 base: writing 4096 bytes at 24576 for op 6 (Copy of block 6) failed: input/output error (EIO)
            flush base => 74 base: flushing failed: input/output error (EIO); nothing after op 5 of 7 is counted
            write cow 0+4096 bytes => 74 cow: writing the header of the COW at byte 0 failed: input/output error (EIO)
            flush cow => 74 cow: flushing the COW at byte 0 failed: input/output error (EIO)
            """, seen);
    }

    [Theory]
    [InlineData(0, 3, 9UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 0), but entry 2 is block 9 at offset 8335 where op 2 "
        + "(Copy of block 2) is due at offset 8335")]
    [InlineData(0, 3, 0UL, 1L, "cow: scratch is marked valid (state 2, num_merge_ops 0), but entry 2 is block 0 at offset 8336 where op 2 "
        + "(Copy of block 2) is due at offset 8335")]
    [InlineData(2, 5, 9UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 2), but entry 2 is block 9 at offset 8335 where op 4 "
        + "(Copy of block 4) is due at offset 8335")]
    [InlineData(6, 2, 8UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 6), but entry 1 is block 8 at offset 4239 where no op "
        + "at all is due at offset 4239")]
    [InlineData(5, 7, 9UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 5), but entry 1 is block 9 at offset 4239 where op 6 "
        + "(Copy of block 6) is due at offset 4239")]
    [InlineData(5, 2, 9UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 5), but entry 2 is block 9 at offset 8335 where no op "
        + "at all is due at offset 8335")]
    [InlineData(4, 0, 0UL, 0L, "cow: scratch is marked valid (state 2, num_merge_ops 4), but the list of its entries is empty where op 4 "
        + "(Copy of block 4) is due at offset 143")]
    public void Scratch_without_the_window_at_the_count_is_refused_with_the_entry_that_differs(int count, int good, ulong block,
        long shift, string expected)
    {
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(3));
        CowBuilder cow = ChainFrom(3, 7, (ulong)count);
        // The entries of the window at the count, with one wrong entry.
        cow.Patch = file =>
        {
            file[78] = ScratchLayout.Valid;
            for (int i = 0; i < Math.Min(3, 7 - count); i++)
            {
                if (count + i > good) continue;
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i)), count + i == good - 1 ? block : (ulong)(count + i));
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i) + 8),
                    layout.SlotOffset(i) + (count + i == good - 1 ? shift : 0));
            }
            if (good == 2 && count >= 5)
            {
                // One entry more than there are ops.
                for (int i = 0; i < 3; i++)
                {
                    BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i)), count + i < 7 ? (ulong)(count + i) : block);
                    BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i) + 8), layout.SlotOffset(i));
                }
            }
        };
        using RecordedMerge merge = new(cow, 8) { Options = s_plain };
        merge.Only = ["read"];
        merge.Refused(ExitCode.CowCorrupt, expected, $"read cow 0+{(int)layout.HeadBytes(Math.Min(3, 7 - count))} bytes");
    }

    [Fact]
    public void Payloads_are_read_in_file_order_whatever_the_order_of_the_ops()
    {
        CowBuilder cow = Cow(4, 4096, CowCompression.Lz4);
        for (uint i = 0; i < 4; i++) cow.Xor(i, (i + 10) * 4096, new byte[4096]);
        cow.Sequence(2, 0, 3, 1);
        using RecordedMerge merge = new(cow, 16) { Options = s_plain, Only = ["read"] };
        merge.Expect("""
            read cow 0+20480 bytes
            read base 10+4
            read payload 0+104 bytes
            """);
    }

    [Fact]
    public void Last_payload_is_checked_although_all_before_it_are_known_to_be_good()
    {
        CowBuilder cow = Cow(0, 4096, CowCompression.Lz4).Replace(0, new byte[4096]).Replace(1, new byte[4096]).Replace(2, new byte[4096]);
        cow.Patch = file => file.AsSpan((int)cow.DataOffsets[2]).Fill(0xff);
        using RecordedMerge merge = new(cow, 4) { Options = s_plain with { VerifyFirst = true, CheckedOps = 2 } };
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => merge.Run());
        Assert.Equal(ExitCode.CowCorrupt, e.Code);
        Assert.Contains("op 2 (Replace of block 2)", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(merge.Requests, request => request.StartsWith("write", StringComparison.Ordinal));
    }
}
