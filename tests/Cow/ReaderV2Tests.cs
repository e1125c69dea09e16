using System;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Reading v1 and v2 files (cow-format §4, §6.1–6.5, §8.1; test-catalog §1).</summary>
public sealed class ReaderV2Tests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;

    private static CowFile Read(CowBuilder builder) => CowFile.Read(new MemorySource(builder.Build(), Refusal.Name));

    /// <summary>Copy, Replace, Xor and Zero with gz, in clusters of 8, without scratch: ops 0 to 3 are records 0 to 3.</summary>
    private static CowBuilder Four(CowCompression compression = CowCompression.Gz) =>
        new CowBuilder { Version = 2, Compression = compression, ClusterOps = 8, ScratchBytes = 0 }
            .Copy(10, 20).Replace(50, s_t).Xor(51, 98314, s_m).Zero(7);

    [Fact]
    public void Androids_file_is_read_op_by_op()
    {
        byte[] file = AndroidFiles.V2;
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(new CowOp(CowOpType.Copy, 10, 1, 20, 0, 0), cow[0]);
        Assert.Equal(new CowOp(CowOpType.Replace, 50, 1, 0, 98, 56), cow[1]);
        Assert.Equal(new CowOp(CowOpType.Xor, 51, 1, 98314, 214, 41), cow[2]);
        Assert.Equal(new CowOp(CowOpType.Zero, 7, 1, 0, 0, 0), cow[3]);
        Assert.Equal((4, 2, 1, 9ul), (cow.OpCount, cow.ClusterCount, cow.LabelCount, cow.LastLabel));
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, 1));
        Assert.Equal(s_m, AndroidFiles.Unit(cow, file, 2));
    }

    [Fact]
    public void Xor_data_is_found_by_adding_up_lengths_across_clusters()
    {
        // The example of cow-format §6.5.
        CowBuilder builder = new CowBuilder { Version = 2, ClusterOps = 5, NumMergeOps = 1 }
            .Copy(0, 5).Replace(2, s_t).Label(1).Xor(50, (24 * 4096) + 10, s_m)
            .Zero(5).Zero(6).Zero(7).Zero(8).Zero(9).Zero(10).Zero(11).Zero(12).Zero(13).Zero(14).Label(2);
        using CowFile cow = Read(builder);
        Assert.Equal(new CowOp(CowOpType.Xor, 50, 1, 98314, 2101386, 4096), cow[2]);
        Assert.Equal(2097290, cow[1].DataOffset);
        Assert.Equal((13, 2, 3, 2ul), (cow.OpCount, cow.LabelCount, cow.ClusterCount, cow.LastLabel));
        Assert.Equal((1ul, 13), (cow.Header.NumMergeOps, cow.Order.Count));
    }

    [Theory]
    [InlineData(0, 2)]
    [InlineData(2, 2)]
    [InlineData(3, 2)]
    [InlineData(7, 2)]
    [InlineData(1024, 2)]
    [InlineData(0, 1)]
    [InlineData(4, 1)]
    public void Payloads_are_found_at_any_cluster_size(int clusterOps, int version)
    {
        foreach (CowCompression compression in Enum.GetValues<CowCompression>())
        {
            var random = new Random(42);
            var builder = new CowBuilder
            {
                Version = version,
                Compression = compression,
                ClusterOps = clusterOps,
                ScratchBytes = 8192,
                Level = compression == CowCompression.Brotli ? 3 : null,
            };
            for (uint i = 0; i < 40; i++)
            {
                byte[] block = new byte[4096];
                random.NextBytes(block.AsSpan(0, random.Next(3) == 0 ? 4096 : 100));
                switch (random.Next(5))
                {
                    case 0: builder.Copy(i, i + 100); break;
                    case 1: builder.Zero(i); break;
                    case 2: builder.Label(i).Zero(i); break;
                    case 3: builder.Xor(i, (100 * 4096) + i, block); break;
                    default: builder.Replace(i, block); break;
                }
            }
            byte[] file = builder.Build();
            using CowFile cow = CowFile.Read(new MemorySource(file));
            BuiltOp[] expected = builder.Ops.Where(op => op.Type != CowOpType.Label).ToArray();
            Assert.Equal(expected.Length, cow.OpCount);
            for (int i = 0; i < expected.Length; i++)
            {
                Assert.Equal((expected[i].Type, expected[i].NewBlock, (long)expected[i].Source),
                    (cow[i].Type, cow[i].NewBlock, cow[i].Source));
                if (cow[i].HasData) Assert.Equal(expected[i].Plain, AndroidFiles.Unit(cow, file, i));
            }
        }
    }

    [Fact]
    public void Hundred_copies_are_a_hundred_ops()
    {
        var builder = new CowBuilder { Version = 2 };
        for (uint i = 0; i < 100; i++) builder.Copy(10 + i, 1000 + i);
        using CowFile cow = Read(builder);
        Assert.Equal(100, cow.CopyCount);
        for (int i = 0; i < 100; i++) Assert.Equal(new CowOp(CowOpType.Copy, (uint)(10 + i), 1, 1000 + i, 0, 0), cow[i]);
    }

    [Fact]
    public void Block_device_longer_than_its_content_is_read_up_to_the_footer()
    {
        byte[] file = Four().Build();
        byte[] device = new byte[file.Length + 100_000];
        device.AsSpan().Fill(0xee);
        file.CopyTo(device, 0);
        using CowFile cow = CowFile.Read(new MemorySource(device));
        Assert.Equal(4, cow.OpCount);
    }

    [Fact]
    public void Gz_stream_of_exactly_one_block_is_not_taken_for_raw()
    {
        byte[] plain = Incompressible(4096);
        CowBuilder builder = new CowBuilder { Version = 2, Compression = CowCompression.Gz }.Replace(1, plain);
        byte[] file = builder.Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(4096, cow[0].DataLength);
        Assert.False(cow.IsRaw(cow[0]));
        Assert.Equal(plain, AndroidFiles.Unit(cow, file, 0));
    }

    [Fact]
    public void Gz_stream_longer_than_its_block_is_read()
    {
        byte[] plain = new byte[4096];
        new Random(3).NextBytes(plain);
        CowBuilder builder = new CowBuilder { Version = 2, Compression = CowCompression.Gz }.Replace(1, plain);
        byte[] file = builder.Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.InRange(cow[0].DataLength, 4097, 4200);
        Assert.Equal(cow[0].DataLength, cow.MaxStoredBytes);
        Assert.Equal(plain, AndroidFiles.Unit(cow, file, 0));
    }

    [Theory]
    [InlineData(CowCompression.Lz4)]
    [InlineData(CowCompression.Zstd)]
    public void Lz4_and_zstd_block_of_full_length_is_raw(CowCompression compression)
    {
        byte[] plain = new byte[4096];
        new Random(3).NextBytes(plain);
        byte[] file = new CowBuilder { Version = 2, Compression = compression }.Replace(1, plain).Replace(2, s_t).Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.True(cow.IsRaw(cow[0]));
        Assert.False(cow.IsRaw(cow[1]));
        Assert.Equal(plain, AndroidFiles.Unit(cow, file, 0));
        Assert.Equal(compression, cow.Compression);
    }

    [Theory]
    [InlineData(0, 4, 8, 1ul << 32, "op 0 (Copy of block 4294967296): new_block is 4294967296")]
    [InlineData(0, 12, 8, 1ul << 48, "op 0 (Copy of block 10): source is 281474976710656, must fit 48 bits")]
    [InlineData(2, 12, 8, ulong.MaxValue, "op 2 (Xor of block 51): source is 18446744073709551615")]
    [InlineData(1, 1, 1, 9, "op 1 (Replace of block 50): compression is 9, which is unknown")]
    [InlineData(2, 1, 1, 3, "op 2 (Xor of block 51): compression is 3, but earlier ops have 1")]
    [InlineData(2, 1, 1, 0, "op 2 (Xor of block 51): compression is 0, but earlier ops have 1")]
    [InlineData(1, 1, 1, 0, "op 1 (Replace of block 50): data_length is 56, must be 4096 without compression")]
    [InlineData(0, 1, 1, 9, "the Copy op at byte 38: compression is 9, which is unknown")]
    [InlineData(0, 1, 1, 2, "op 1 (Replace of block 50): compression is 1, but earlier ops have 2")]
    [InlineData(3, 1, 1, 4, "the Zero op at byte 98: compression is 4, but earlier ops have 1")]
    [InlineData(4, 1, 1, 4, "the Cluster op at byte 118: compression is 4, but earlier ops have 1")]
    [InlineData(1, 2, 2, 0, "op 1 (Replace of block 50): data_length is 0")]
    [InlineData(1, 2, 2, 65535, "op 1 (Replace of block 50): source is 198, so 65535 bytes")]
    [InlineData(1, 12, 8, 0, "op 1 (Replace of block 50): source is 0, but data begins")]
    [InlineData(1, 12, 8, 37, "op 1 (Replace of block 50): source is 37, but data begins at byte 38")]
    [InlineData(1, 12, 8, 1ul << 62, "op 1 (Replace of block 50): source is 4611686018427387904, so 56 bytes")]
    [InlineData(1, 12, 8, ulong.MaxValue, "op 1 (Replace of block 50): source is 18446744073709551615, so 56 bytes")]
    [InlineData(2, 2, 2, 60000, "op 2 (Xor of block 51): data position is 254, so 60000 bytes")]
    [InlineData(3, 0, 1, 0, "op 3 at byte 98: type is 0, which is unknown")]
    [InlineData(3, 0, 1, 8, "op 3 at byte 98: type is 8")]
    [InlineData(4, 12, 8, 1ul << 40, "the Cluster op at byte 118: source is 1099511627776, but only")]
    [InlineData(4, 12, 8, ulong.MaxValue, "the Cluster op at byte 118: source is 18446744073709551615")]
    [InlineData(5, 4, 8, 99, "footer: ops_size is 99, must be 100")]
    [InlineData(5, 12, 8, 6, "footer: num_ops is 6, but there are 5")]
    public void Invalid_field_is_named_with_its_op_and_value(int record, int offset, int size, ulong value, string expected)
    {
        CowBuilder builder = Four();
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[record] + offset, size, value);
        Assert.Contains(expected, Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Raw_payload_in_a_compressed_file_is_refused()
    {
        // Android would decode the raw block as a compressed stream (cow-format §7.1).
        byte[] raw = new byte[4096];
        new Random(1).NextBytes(raw);
        CowBuilder builder =
            new CowBuilder { Version = 2, Compression = CowCompression.Lz4, ScratchBytes = 0 }.Replace(1, raw).Replace(2, s_t);
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[0] + 1, 1, 0);
        Assert.Contains("op 1 (Replace of block 2): compression is 3, but earlier ops have 0", Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void File_without_footer_is_refused() =>
        Assert.Contains("the footer is missing",
            Refusal.Of(new CowBuilder { Version = 2, Footer = false, ScratchBytes = 0 }.Copy(1, 2).Zero(5).Build()),
            StringComparison.Ordinal);

    [Fact]
    public void Footer_that_is_cut_off_is_refused()
    {
        byte[] file = Four().Build();
        Assert.Contains("the footer at byte", Refusal.Of(file[..^1]), StringComparison.Ordinal);
        Assert.Contains("is cut off: 83 of 84", Refusal.Of(file[..^1]), StringComparison.Ordinal);
    }

    [Fact]
    public void Cluster_without_its_cluster_op_is_refused()
    {
        CowBuilder builder = Four();
        byte[] file = builder.Build();
        // With clusters of 4, the four ops fill all slots.
        Refusal.Put(file, 22, 4, 4);
        Assert.Contains("has no Cluster op", Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Cluster_op_without_clusters_is_refused()
    {
        CowBuilder builder = new CowBuilder { Version = 2, ScratchBytes = 0 }.Zero(1).Zero(2);
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[1], 1, 5);
        Assert.Contains("a Cluster op at byte 58", Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Sequence_op_without_clusters_is_refused() =>
        Assert.Contains(
            "a Sequence op at byte 38 of a file without clusters",
            Refusal.Of(new CowBuilder { Version = 2, ScratchBytes = 0 }.Sequence(1).Copy(1, 2).Build()),
            StringComparison.Ordinal);

    [Fact]
    public void Sequence_op_after_data_ops_is_refused() =>
        Assert.Contains(
            "follows 1 data ops, but must come before",
            Refusal.Of(new CowBuilder { Version = 2, ClusterOps = 8, ScratchBytes = 0 }.Copy(1, 2).Sequence(1).Build()),
            StringComparison.Ordinal);

    [Theory]
    [InlineData(2, 2, 3, "data_length is 3, must be a multiple of 4")]
    [InlineData(12, 8, 0, "source is 0")]
    [InlineData(12, 8, 1ul << 63, "source is 9223372036854775808")]
    public void Invalid_sequence_op_is_named_with_its_field_and_value(int offset, int size, ulong value, string expected)
    {
        CowBuilder builder = new CowBuilder { Version = 2, ClusterOps = 8, ScratchBytes = 0 }.Sequence(1).Copy(1, 2);
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[0] + offset, size, value);
        Assert.Contains("the Sequence op at byte 38: " + expected, Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Sequence_of_more_blocks_than_ops_is_refused() =>
        Assert.Contains(
            "the sequence list has 10 entries, but there are only 9 data ops",
            Refusal.Of(Enumerable.Range(1, 9).Aggregate(
                new CowBuilder { Version = 2, ClusterOps = 16 }.Sequence(Enumerable.Range(1, 10).Select(i => (uint)i).ToArray()),
                (cow, i) => cow.Zero((uint)i)).Build()),
            StringComparison.Ordinal);

    [Fact]
    public void Listed_block_without_an_op_is_refused() =>
        Assert.Contains(
            "sequence entry 1 is block 9, which no op writes",
            Refusal.Of(new CowBuilder { Version = 2, ClusterOps = 16 }.Sequence(1, 9).Zero(1).Zero(2).Build()),
            StringComparison.Ordinal);

    [Fact]
    public void Long_sequence_spans_several_ops_and_lies_in_several_clusters()
    {
        const int Count = 16384;
        var builder = new CowBuilder { Version = 2, ClusterOps = 5 };
        builder.Sequence(Enumerable.Range(1, Count).Select(i => (uint)i).ToArray());
        for (uint i = Count; i >= 1; i--) builder.Zero(i);
        using CowFile cow = Read(builder);
        Assert.Equal((8, Count), (cow.SequenceOpCount, cow.SequenceCount));
        for (int i = 0; i < Count; i++) Assert.Equal((uint)(i + 1), cow[cow.Order.OpIndex(i)].NewBlock);
    }

    /// <summary>A block whose zlib stream is exactly <paramref name="length"/> bytes long.</summary>
    internal static byte[] Incompressible(int length)
    {
        // Noise over fewer than 256 values is compressed by Huffman codes alone, so the size changes in small steps.
        for (int values = 200; values < 250; values++)
        {
            byte[] noise = new byte[4096];
            var random = new Random(values);
            for (int i = 0; i < noise.Length; i++) noise[i] = (byte)random.Next(values);
            for (int zeros = 0; zeros < 64; zeros++)
            {
                noise.AsSpan(4096 - zeros).Clear();
                if (Compressors.Compress(CowCompression.Gz, noise, 4096).Length == length) return noise;
            }
        }
        throw new InvalidOperationException($"no block packs to {length} bytes");
    }

    [Theory]
    [InlineData(int.MaxValue, "the sequence list has 2147483647 entries, but there are only 0 data ops")]
    [InlineData(1L << 31, "the sequence list has more than 2^31 entries")]
    public void Sequence_list_with_2_to_the_31_entries_is_refused(long entries, string sentence)
    {
        // All Sequence ops refer to the same bytes, so that the file can be short.
        const int Longest = 65532 / 4;
        int records = (int)((entries + Longest - 1) / Longest), slots = records + 10, list = 38 + (slots * 20);
        byte[] file = new byte[list + 65536];
        new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = 4 }.Build().AsSpan(0, 38).CopyTo(file);
        Refusal.Put(file, 22, 4, (ulong)slots);
        for (int i = 0; i < records; i++)
        {
            int at = 38 + (i * 20);
            file[at] = (byte)CowOpType.Sequence;
            Refusal.Put(file, at + 2, 2, (ulong)(i < records - 1 ? 65532 : 4 * (entries - ((records - 1L) * Longest))));
            Refusal.Put(file, at + 12, 8, (ulong)list);
        }
        int footer = 38 + (records * 20);
        file[footer] = (byte)CowOpType.Footer;
        Refusal.Put(file, footer + 4, 8, 20 * (ulong)records);
        Refusal.Put(file, footer + 12, 8, (ulong)records);
        Assert.EndsWith(sentence, Refusal.Of(file), StringComparison.Ordinal);
    }
}
