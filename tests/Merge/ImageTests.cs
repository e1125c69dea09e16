using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The merged image, read without merging.</summary>
public sealed class ImageTests
{
    private const int Block = CowOp.BlockSize;

    private static CowBuilder Mixed(ulong count = 0, int scratch = 2)
    {
        CowBuilder cow = new()
        {
            ScratchBytes = scratch == 0 ? 0 : SmallCases.ScratchFor(scratch),
            MaxUnitBytes = 4 * Block,
            Compression = CowCompression.Lz4,
            NumMergeOps = count,
        };
        for (uint i = 0; i < 5; i++) cow.Copy(i, i + 1);
        cow.Xor(7, 30 * Block, new byte[Block]).Replace(8, new byte[4 * Block]).Zero(13).Replace(14, SmallCases.Random(3, 1))
            .Replace(20, new byte[2 * Block]);
        for (uint i = 22; i < 30; i++) cow.Zero(i);
        return cow;
    }

    /// <summary>Chunks of every length, which begin and end inside units, windows and ranges without ops.</summary>
    [Theory]
    [InlineData(80, 1)]
    [InlineData(96, 1)]
    [InlineData(160, 3)]
    [InlineData(2048, 31)]
    public void Image_equals_the_target_when_read_from_any_block(int kib, int leastBlocks)
    {
        CowBuilder cow = Mixed();
        byte[] old = SmallCases.Random(7, 32), target = NaiveMerger.Merge(cow, old);
        // The last block is partial.
        const int Short = 1000;
        using RecordedMerge merge = new(cow, 32) { Only = ["marker", "write", "flush"] };
        using Arena arena = new(kib << 10);
        MergeSetup setup = merge.Setup(arena);
        setup = setup with { Base = setup.Base with { Length = (31 * Block) + Short }, Source = setup.Base with { Length = 32 * Block } };
        using MergedImage image = MergedImage.Open(setup);
        Assert.Equal((31 * Block) + Short, image.Length);
        for (long offset = 0; offset < image.Length; offset += Block)
        {
            ReadOnlySpan<byte> chunk = image.Read(offset);
            Assert.InRange(chunk.Length, Math.Min(leastBlocks * Block, image.Length - offset), image.Length - offset);
            Assert.True(chunk.SequenceEqual(target.AsSpan((int)offset, chunk.Length)), $"{chunk.Length} bytes at {offset}");
        }
        Assert.True(image.Read(32 * Block).IsEmpty);
        merge.AssertLines("marker checked");
    }

    [Theory]
    [InlineData(2, 0, 2, false)]
    [InlineData(2, 2, 2, false)]
    [InlineData(2, 2, 1, false)]
    [InlineData(2, 2, 2, true)]
    [InlineData(1, 0, 1, false)]
    [InlineData(1, 2, 1, false)]
    [InlineData(1, 2, 1, true)]
    [InlineData(2, 5, 0, false)]
    [InlineData(2, 10, 0, false)]
    [InlineData(2, 18, 0, false)]
    public void Counted_ops_are_read_from_the_base_and_a_claimed_window_from_scratch(int window, int count, int entries, bool stale)
    {
        CowBuilder cow = Mixed((ulong)count, window);
        byte[] old = SmallCases.Random(7, 32), target = NaiveMerger.Merge(cow, old);
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(window));
        int first = stale ? count - entries : count;
        cow.Patch = file =>
        {
            if (entries > 0) file[layout.StateOffset] = ScratchLayout.Valid;
            for (int i = 0; i < entries; i++)
            {
                uint block = cow.Ops[first + i].NewBlock;
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i)), (ulong)block);
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i) + 8), (ulong)layout.SlotOffset(i));
                target.AsSpan((int)block * Block, Block).CopyTo(file.AsSpan((int)layout.SlotOffset(i)));
            }
        };
        using RecordedMerge merge = new(cow, 32);
        // A power cut during the window's writes: the blocks that it overwrites are lost.
        int written = stale ? count : count + entries;
        for (int op = 0; op < written; op++)
        {
            int at = (int)cow.Ops[op].NewBlock * Block, length = cow.Ops[op].Plain?.Length ?? Block;
            if (op < count) target.AsSpan(at, length).CopyTo(merge.Base.AsSpan(at));
            else merge.Base.AsSpan(at, length).Fill(0xee);
        }
        using Arena arena = new(128 << 10);
        using MergedImage image = MergedImage.Open(merge.Setup(arena));
        for (long offset = 0; offset < image.Length;)
        {
            ReadOnlySpan<byte> chunk = image.Read(offset);
            Assert.True(chunk.SequenceEqual(target.AsSpan((int)offset, chunk.Length)), $"{chunk.Length} bytes at {offset}");
            offset += chunk.Length;
        }
    }

    [Fact]
    public void Failed_read_names_device_place_and_op_and_the_next_read_succeeds()
    {
        CowBuilder cow = Mixed();
        byte[] target = NaiveMerger.Merge(cow, SmallCases.Random(7, 32));
        using RecordedMerge merge = new(cow, 32);
        using Arena arena = new(4 << 20);
        MergedImage image = MergedImage.Open(merge.Setup(arena));
        List<string> seen = [];
        int first = merge.Requests.Count;
        Assert.Equal(32 * Block, image.Read(0).Length);
        int requests = merge.Requests.Count - first;
        for (int fail = 0; fail < requests; fail++)
        {
            merge.FailAt = merge.Requests.Count + fail;
            SnapuserdException e = Assert.Throws<SnapuserdException>(() => image.Read(0).Length);
            seen.Add($"{merge.Requests[merge.FailAt]} => {(int)e.Code} {e.Message}");
            merge.FailAt = -1;
            Assert.True(image.Read(0).SequenceEqual(target));
        }
        RecordedMerge.AssertSame("""
            read base 0+32 => 74 base: reading 131072 bytes at 0 failed: input/output error (EIO)
            read base 1+5 => 74 base: reading 20480 bytes at 4096 for op 0 (Copy of block 0) failed: input/output error (EIO)
            read base 30+1 => 74 base: reading 4096 bytes at 122880 for op 5 (Xor of block 7) failed: input/output error (EIO)
            read payload 0+101 bytes => 74 cow: reading 101 bytes at 12974 for op 5 (Xor of block 7) failed: input/output error (EIO)
            read payload 101+4096 bytes => 74 cow: reading 4096 bytes at 13075 for op 8 (Replace of block 14) failed: input/output error (EIO)
            read payload 4197+43 bytes => 74 cow: reading 43 bytes at 17171 for op 9 (Replace of block 20) failed: input/output error (EIO)
            """, string.Join('\n', seen));
        image.VerifyPayloads();
        merge.Cow.AsSpan((int)cow.DataOffsets[6]).Fill(0xff);
        Assert.Contains("op 6 (Replace of block 8)", Assert.Throws<SnapuserdException>(() => image.VerifyPayloads()).Message,
            StringComparison.Ordinal);
        Assert.Contains("op 6 (Replace of block 8)", Assert.Throws<SnapuserdException>(() => image.Read(0).Length).Message,
            StringComparison.Ordinal);
        CowFile file = image.Cow;
        image.Dispose();
        // The image's memory is unmapped.
        Assert.Throws<ArgumentOutOfRangeException>(() => file[0]);
    }

    [Fact]
    public void Devices_that_are_too_small_and_too_little_memory_are_refused()
    {
        List<string> seen = [];
        using RecordedMerge merge = new(Mixed(), 32);
        using Arena arena = new(1 << 20), little = new(36 << 10);
        MergeSetup setup = merge.Setup(arena);
        MergeSetup[] bad =
        [
            setup with { Base = setup.Base with { Length = (30 * Block) - 1 } },
            setup with { Source = setup.Source with { Length = (31 * Block) - 1 } },
            merge.Setup(little),
        ];
        foreach (MergeSetup refused in bad)
        {
            foreach (Func<MergeSetup, IDisposable> open in (Func<MergeSetup, IDisposable>[])[MergedImage.Open, MergeEngine.Open])
            {
                refused.Arena.Reset();
                _ = merge.Setup(refused.Arena);
                SnapuserdException e = Assert.Throws<SnapuserdException>(() => open(refused));
                seen.Add($"{(int)e.Code} {e.Message}");
            }
        }
        RecordedMerge.AssertSame("""
            65 cow: base too small: op 17 (Zero of block 29) ends at byte 122880, but the base has only 122879; is it the right partition?
            65 cow: base too small: op 17 (Zero of block 29) ends at byte 122880, but the base has only 122879; is it the right partition?
            65 cow: source too small: op 5 (Xor of block 7) reads up to byte 126976, but the source has only 126975; is it the right partition?
            65 cow: source too small: op 5 (Xor of block 7) reads up to byte 126976, but the source has only 126975; is it the right partition?
            71 cow: 20480 bytes of buffers are needed beside its scratch, 8192 are left; try a larger --memory
            71 cow: 20480 bytes of buffers are needed beside its scratch, 12415 are left; try a larger --memory
            """, string.Join('\n', seen));
        arena.Reset();
        _ = merge.Setup(arena);
        MergedImage.Open(setup with { Base = setup.Base with { Length = 30 * Block } }).Dispose();
    }

    [Fact]
    public void Order_is_checked_if_the_source_is_the_base_under_another_device_number()
    {
        using RecordedMerge merge = new(new CowBuilder { ScratchBytes = 0 }.Copy(2, 3).Copy(4, 2), 6, SmallCases.Random(7, 6));
        using Arena arena = new(1 << 20);
        foreach (Func<MergeSetup, IDisposable> open in (Func<MergeSetup, IDisposable>[])[MergedImage.Open, MergeEngine.Open])
        {
            arena.Reset();
            open(merge.Setup(arena)).Dispose();
            arena.Reset();
            SnapuserdException e = Assert.Throws<SnapuserdException>(() => open(merge.Setup(arena) with { SharedBlocks = true }));
            Assert.Equal("cow: op 1 (Copy of block 4) reads block 2, which op 0 (Copy of block 2) overwrites before it in the merge order",
                e.Message);
        }
    }
}
