using System;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Reading v3 files (cow-format §5, §6.6, §6.8, §8.2; test-catalog §2).</summary>
public sealed class ReaderV3Tests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;

    /// <summary>Copy, a Replace of 16 blocks, Xor and Zero with gz, without scratch. The list names the ordered ops.</summary>
    private static CowBuilder Four(CowCompression compression = CowCompression.Gz) =>
        new CowBuilder { Compression = compression, ScratchBytes = 0 }
            .Sequence(10, 51).Copy(10, 20).Replace(16, Unit(16)).Xor(51, 98314, s_m).Zero(7);

    private static byte[] Unit(int blocks) =>
        Enumerable.Range(0, blocks).SelectMany(i => AndroidFiles.Block($"block {i} of the unit")).ToArray();

    [Fact]
    public void Androids_file_is_read_op_by_op()
    {
        byte[] file = AndroidFiles.V3;
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(new CowOp(CowOpType.Copy, 10, 1, 20, 0, 0), cow[0]);
        Assert.Equal(new CowOp(CowOpType.Replace, 48, 2, 0, 230, 66), cow[1]);
        Assert.Equal(new CowOp(CowOpType.Xor, 51, 1, 98314, 296, 41), cow[2]);
        Assert.Equal(new CowOp(CowOpType.Zero, 7, 1, 0, 0, 0), cow[3]);
        Assert.Equal(s_t.Concat(s_t), AndroidFiles.Unit(cow, file, 1));
        Assert.Equal(s_m, AndroidFiles.Unit(cow, file, 2));
        Assert.Equal(new[] { 2, 0, 3, 1 }, Enumerable.Range(0, 4).Select(cow.Order.OpIndex));
        Assert.Equal(new[] { new ResumePoint(9, 3) }, cow.ResumePoints);
        Assert.Equal((8192, 9ul, 2, 2L), (cow.MaxUnitBytes, cow.LastLabel, cow.SequenceCount, cow.ReplaceBlocks));
    }

    [Fact]
    public void Example_bytes_of_the_format_reference_are_read()
    {
        byte[] header = Convert.FromHexString(
            "2121574f63776f43030000004e000000100000100000000000000000000000000000000000000100000000000000"
            + "0000000004000000020000000000000003000000000000000000000000000100");
        byte[] file = new byte[194 + 65536];
        header.CopyTo(file, 0);
        file[78] = 10;
        Convert.FromHexString("000000000a0000001400000000000010").CopyTo(file, 146);
        Convert.FromHexString("0000010010000000c200000000000028").CopyTo(file, 162);
        new Random(5).NextBytes(file.AsSpan(194));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(new CowOp(CowOpType.Copy, 10, 1, 20, 0, 0), cow[0]);
        Assert.Equal(new CowOp(CowOpType.Replace, 16, 16, 0, 194, 65536), cow[1]);
        Assert.True(cow.IsRaw(cow[1]));
        Assert.Equal(file[194..], AndroidFiles.Unit(cow, file, 1));
    }

    [Fact]
    public void Builder_writes_the_example_op_records_of_the_format_reference()
    {
        CowBuilder builder = new CowBuilder { ScratchBytes = 0 }.Xor(50, 98314, new byte[4096]).Zero(7);
        byte[] file = builder.Build();
        Assert.Equal("00100000320000000A80010000000060", Convert.ToHexString(file, (int)builder.OpOffsets[0], 16));
        Assert.Equal("00000000070000000000000000000030", Convert.ToHexString(file, (int)builder.OpOffsets[1], 16));
    }

    [Theory]
    [InlineData(4096)]
    [InlineData(8192)]
    [InlineData(16384)]
    [InlineData(32768)]
    [InlineData(65536)]
    [InlineData(131072)]
    [InlineData(262144)]
    public void Units_of_every_size_and_algorithm_are_decoded(int maxUnit)
    {
        foreach (CowCompression compression in Enum.GetValues<CowCompression>())
        {
            var random = new Random(maxUnit);
            var builder = new CowBuilder
            {
                Compression = compression,
                MaxUnitBytes = maxUnit,
                OpCountMaxSlack = 3,
                ScratchBytes = 8192,
                Level = compression == CowCompression.Brotli ? 3 : null,
            };
            uint block = 5;
            for (int blocks = 1; blocks * 4096 <= maxUnit; blocks *= 2)
            {
                byte[] noise = new byte[blocks * 4096];
                random.NextBytes(noise);
                builder.Replace(block, noise).Replace(block + 64, Unit(blocks)).Xor(block + 128, 17, s_m);
                block += 200;
            }
            byte[] file = builder.Build();
            using CowFile cow = CowFile.Read(new MemorySource(file));
            Assert.Equal(maxUnit, cow.MaxUnitBytes);
            for (int i = 0; i < cow.OpCount; i++) Assert.Equal(builder.Ops[i].Plain, AndroidFiles.Unit(cow, file, i));
            Assert.True(cow.IsRaw(cow[0]));
            Assert.Equal(compression == CowCompression.None, cow.IsRaw(cow[1]));
        }
    }

    [Theory]
    [InlineData(0, 15, 1, 0x40, "op 0 (block 10): type is 4")]
    [InlineData(0, 15, 1, 0x00, "op 0 (block 10): type is 0")]
    [InlineData(0, 15, 1, 0xf0, "op 0 (block 10): type is 15")]
    [InlineData(0, 15, 1, 0x12, "op 0 (Copy of block 10): compression factor is 1")]
    [InlineData(1, 15, 1, 0x2a,
        "op 1 (Replace of block 16): compression factor is 5, a unit of 131072 bytes, but max_compression_size is 65536")]
    [InlineData(1, 15, 1, 0x2e, "op 1 (Replace of block 16): compression factor is 7, a unit of 524288 bytes")]
    [InlineData(2, 15, 1, 0x62, "op 2 (Xor of block 51): compression factor is 1")]
    [InlineData(3, 15, 1, 0x36, "op 3 (Zero of block 7): compression factor is 3")]
    [InlineData(1, 0, 4, 0, "op 1 (Replace of block 16): data_length is 0, must be 1 to 65536")]
    [InlineData(1, 0, 4, 65537, "op 1 (Replace of block 16): data_length is 65537")]
    [InlineData(1, 0, 4, 0xffffffff, "op 1 (Replace of block 16): data_length is 4294967295")]
    [InlineData(1, 0, 4, 60000, "op 1 (Replace of block 16): data_length is 60000, so data from byte 214 on reaches beyond")]
    [InlineData(2, 0, 4, 4097, "op 2 (Xor of block 51): data_length is 4097, must be 1 to 4096")]
    [InlineData(1, 8, 4, 215, "op 1 (Replace of block 16): source is 215, but its data must follow that of the op before at byte 214")]
    [InlineData(1, 8, 4, 0, "op 1 (Replace of block 16): source is 0")]
    [InlineData(1, 4, 4, 0xfffffff1, "op 1 (Replace of block 4294967281): new_block is 4294967281, so 16 blocks reach beyond")]
    [InlineData(0, 0, 4, 77, "op 1 (Replace of block 16): source is 214, but its data must follow that of the op before at byte 291")]
    public void Invalid_field_is_named_with_its_op_and_value(int record, int offset, int size, ulong value, string expected)
    {
        CowBuilder builder = Four();
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[record] + offset, size, value);
        Assert.Contains(expected, Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void File_without_compression_must_have_full_units()
    {
        CowBuilder builder = Four(CowCompression.None);
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[1], 4, 4096);
        Assert.Contains("op 1 (Replace of block 16): data_length is 4096, must be 65536 without compression", Refusal.Of(file),
            StringComparison.Ordinal);
    }

    [Fact]
    public void Payload_beyond_the_end_of_the_file_is_refused() =>
        Assert.Contains("op 2 (Xor of block 51): data_length is 41, so data from byte", Refusal.Of(Four().Build()[..^1]),
            StringComparison.Ordinal);

    [Fact]
    public void Last_unit_may_end_at_block_two_to_the_32()
    {
        using CowFile cow = CowFile.Read(new MemorySource(new CowBuilder { ScratchBytes = 0 }.Replace(0xfffffff0, Unit(16)).Build()));
        Assert.Equal((1L << 32) * 4096, cow.BaseBytes);
        cow.Order.Check(true, default);
        Assert.Equal(0, cow.Order.PositionWriting(0xffffffff));
        Assert.Equal(-1, cow.Order.PositionWriting(1L << 32));
        Assert.Equal(-1, cow.Order.PositionWriting(-1));
    }

    [Fact]
    public void Unused_bits_and_unused_sources_are_ignored()
    {
        CowBuilder builder = Four();
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[0] + 14, 1, 0xff); // bits 48 to 55
        Refusal.Put(file, builder.OpOffsets[3] + 8, 6, 0x0000123456789abc);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(20, cow[0].Source);
        Assert.Equal(new CowOp(CowOpType.Zero, 7, 1, 0, 0, 0), cow[3]);
    }

    [Fact]
    public void Source_has_48_bits()
    {
        using CowFile cow = CowFile.Read(
            new MemorySource(new CowBuilder { ScratchBytes = 0 }.Copy(1, 0x010203040506).Xor(2, 0xffffffffffff, s_m.AsSpan()).Build()));
        Assert.Equal(0x010203040506, cow[0].Source);
        Assert.Equal(0xffffffffffff, cow[1].Source);
        Assert.Throws<Block.SnapuserdException>(() => cow.CheckDevices(long.MaxValue, 1L << 50));
    }

    [Fact]
    public void Ops_and_data_are_found_after_a_long_sequence_list()
    {
        const int Count = 16384;
        var builder = new CowBuilder { Compression = CowCompression.Gz };
        builder.Sequence(Enumerable.Range(1, Count).Select(i => (uint)i).ToArray());
        for (uint i = Count; i >= 1; i--) builder.Zero(i);
        builder.Replace(Count + 1, s_t);
        byte[] file = builder.Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        for (int i = 0; i <= Count; i++) Assert.Equal((uint)(i + 1), cow[cow.Order.OpIndex(i)].NewBlock);
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, Count));
    }

    [Fact]
    public void Listed_block_without_an_op_is_refused() =>
        Assert.Contains("sequence entry 1 is block 9, which no op writes",
            Refusal.Of(new CowBuilder().Sequence(1, 9).Zero(1).Zero(2).Build()), StringComparison.Ordinal);

    [Fact]
    public void Sequence_list_must_name_the_first_block_of_a_unit() =>
        Assert.Contains("sequence entry 0 is block 17", Refusal.Of(new CowBuilder().Sequence(17).Replace(16, Unit(16)).Build()),
            StringComparison.Ordinal);

    [Fact]
    public void Block_listed_twice_is_refused() =>
        Assert.Contains("sequence entry 1 is block 1, which is listed twice",
            Refusal.Of(new CowBuilder().Sequence(1, 1).Zero(1).Zero(2).Build()), StringComparison.Ordinal);

    [Fact]
    public void Op_slots_may_reach_past_the_end_of_a_file_without_data()
    {
        byte[] file = new CowBuilder { ScratchBytes = 0 }.Zero(1).Zero(2).Build();
        Refusal.Put(file, 62, 8, uint.MaxValue);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(2, cow.OpCount);
        Assert.Equal(174 - 32 + (16L * uint.MaxValue), cow.Header.DataOffset);
    }

    [Fact]
    public void File_without_ops_is_valid()
    {
        using CowFile cow = CowFile.Read(new MemorySource(new CowBuilder { OpCountMaxSlack = 15 }.Build()));
        Assert.Equal((0, 0), (cow.OpCount, cow.Order.Count));
        cow.Order.Check(true, default);
        cow.CheckDevices(0, 0);
        Assert.Equal(-1, cow.Order.PositionWriting(0));
        Assert.True(cow.Order.AndroidCanMerge(out _));
    }

    [Fact]
    public void Resume_count_beyond_the_slots_is_clamped()
    {
        // Six labels in 4 slots leave the count at 6. Android then reads two ops as if they were resume points.
        CowBuilder builder = new();
        for (uint i = 0; i < 6; i++) builder.Zero(i).Label(i * 10);
        using CowFile cow = CowFile.Read(new MemorySource(builder.Build()));
        Assert.Equal((6u, 4u), (cow.Header.ResumeCount, cow.Header.ResumeMax));
        Assert.Equal(new ResumePoint[] { new(20, 3), new(30, 4), new(40, 5), new(50, 6) }, cow.ResumePoints);
        Assert.Equal((4, 50ul), (cow.LabelCount, cow.LastLabel));
    }

    [Fact]
    public void Stale_resume_slots_are_ignored()
    {
        // Label 5 occurs twice. The second one drops 5 and 8, so the slot of 8 is stale, but the count of 3 still includes it.
        CowBuilder builder = new CowBuilder().Zero(1).Label(5).Zero(2).Label(8).Zero(3).Label(5);
        using CowFile cow = CowFile.Read(new MemorySource(builder.Build()));
        Assert.Equal(3u, cow.Header.ResumeCount);
        Assert.Equal(new ResumePoint[] { new(5, 3) }, cow.ResumePoints);
    }

    [Theory]
    [InlineData(4ul, false)]
    [InlineData(5ul, false)]
    [InlineData(6ul, true)]
    public void Resume_point_whose_label_is_not_larger_ends_the_list(ulong label, bool counts)
    {
        byte[] file = new CowBuilder { ScratchBytes = 0 }.Zero(1).Label(5).Zero(2).Label(8).Build();
        // Changes the second slot's label.
        Refusal.Put(file, 78 + 16, 8, label);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        ResumePoint[] first = [new(5, 1)];
        Assert.Equal(counts ? [.. first, new(label, 2)] : first, cow.ResumePoints);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(15, 0)]
    [InlineData(16, 1)]
    [InlineData(31, 1)]
    public void Resume_points_past_the_end_of_the_file_are_ignored(int bytes, int points)
    {
        byte[] file = new CowBuilder { ScratchBytes = 0 }.Label(0).Label(1).Label(2).Build();
        using CowFile cow = CowFile.Read(new MemorySource(file[..(78 + bytes)]));
        Assert.Equal(points, cow.ResumePoints.Count);
    }

    [Fact]
    public void Resume_point_with_more_ops_than_the_file_has_ends_the_list()
    {
        byte[] file = new CowBuilder { ScratchBytes = 0 }.Zero(1).Label(5).Zero(2).Label(1ul << 48).Build();
        Refusal.Put(file, 78 + 16 + 8, 8, 3);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(new ResumePoint[] { new(5, 1) }, cow.ResumePoints);
    }

    [Fact]
    public void First_resume_point_may_be_all_zero()
    {
        using CowFile cow = CowFile.Read(new MemorySource(new CowBuilder().Label(0).Zero(1).Build()));
        Assert.Equal(new ResumePoint[] { new(0, 0) }, cow.ResumePoints);
        Assert.Equal(0ul, cow.LastLabel);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Length_of_the_longest_payload_is_exact(int version)
    {
        Random random = new(3);
        int longest = 0;
        CowBuilder builder = new() { Version = version, Compression = CowCompression.Zstd, MaxUnitBytes = 4096 };
        // The compressed size rises by a few bytes from block to block.
        for (uint i = 0; i < 200; i++)
        {
            byte[] block = new byte[4096];
            random.NextBytes(block.AsSpan(0, 100 + (int)i));
            builder.Replace(i, block);
            using CowFile cow = CowFile.Read(new MemorySource(builder.Build()));
            for (int op = 0; op < cow.OpCount; op++) longest = Math.Max(longest, cow[op].DataLength);
            Assert.Equal(longest, cow.MaxStoredBytes);
        }
    }

    [Theory]
    [InlineData(101 * 4096, 200 * 4096, null)]
    [InlineData((101 * 4096) - 1, 200 * 4096, "base too small: op 0 (Copy of block 100) ends at byte 413696, but the base has only 413695")]
    [InlineData(101 * 4096, (25 * 4096) + 9,
        "source too small: op 1 (Xor of block 51) reads up to byte 102410, but the source has only 102409")]
    [InlineData(101 * 4096, (25 * 4096) + 10, null)]
    public void Ops_beyond_the_devices_are_named(long baseBytes, long sourceBytes, string? expected)
    {
        using CowFile cow = CowFile.Read(new MemorySource(
            new CowBuilder { ScratchBytes = 0 }.Copy(100, 20).Xor(51, 98314, s_m).Replace(16, Unit(16)).Build(), Refusal.Name));
        if (expected == null) cow.CheckDevices(baseBytes, sourceBytes);
        else Assert.Contains(expected, Refusal.Of(() => cow.CheckDevices(baseBytes, sourceBytes)), StringComparison.Ordinal);
    }

    [Fact]
    public void Whole_unit_must_lie_inside_the_base()
    {
        using CowFile cow = CowFile.Read(new MemorySource(new CowBuilder().Replace(16, Unit(16)).Build(), Refusal.Name));
        cow.CheckDevices(32 * 4096, 0);
        Assert.Contains("op 0 (Replace of block 16)", Refusal.Of(() => cow.CheckDevices((32 * 4096) - 1, 0)), StringComparison.Ordinal);
    }
}
