using System;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Each field of the header, with valid and invalid values (cow-format §2, §10).</summary>
public sealed class HeaderTests
{
    private static byte[] Small(int version) => new CowBuilder { Version = version, ScratchBytes = 8192, ClusterOps = version == 3 ? 0 : 4 }
        .Zero(1).Replace(2, AndroidFiles.T).Build();

    [Theory]
    [InlineData(1, 34, 84, 20)]
    [InlineData(2, 38, 84, 20)]
    [InlineData(3, 78, 0, 16)]
    public void Every_version_has_its_own_sizes_of_header_footer_and_op(int version, int header, int footer, int op)
    {
        using CowFile cow = CowFile.Read(new MemorySource(Small(version)));
        Assert.Equal((version, 0), (cow.Header.Major, cow.Header.Minor));
        Assert.Equal((header, footer, op), (cow.Header.HeaderBytes, cow.Header.FooterBytes, cow.Header.OpBytes));
        Assert.Equal(4096u, cow.Header.BlockSize);
        Assert.Equal(version == 1 ? 0u : 8192u, cow.Header.ScratchBytes);
        Assert.Equal(2, cow.OpCount);
    }

    [Fact]
    public void All_fields_of_a_version_3_header_are_read()
    {
        CowHeader header = CowHeader.Parse(new MemorySource(AndroidFiles.V3));
        Assert.Equal(2ul, header.SequenceCount);
        Assert.Equal((1u, 4u), (header.ResumeCount, header.ResumeMax));
        Assert.Equal((4ul, 5ul), (header.OpCount, header.OpCountMax));
        Assert.Equal((CowCompression.Gz, 8192u), (header.Compression, header.MaxUnitBytes));
        Assert.Equal((78L, 86L, 150L, 230L), (header.SequenceOffset, header.ResumeOffset, header.OpsOffset, header.DataOffset));
        Assert.Equal(26, CowHeader.MergeCountOffset);
    }

    [Theory]
    [InlineData(2, 8, 2, 4, "version is 4.0")]
    [InlineData(2, 8, 2, 0, "version is 0.0")]
    [InlineData(2, 10, 2, 1, "version is 2.1")]
    [InlineData(3, 10, 2, 7, "version is 3.7")]
    [InlineData(1, 12, 2, 38, "header_size is 38, must be 34")]
    [InlineData(2, 12, 2, 34, "header_size is 34, must be 38")]
    [InlineData(2, 12, 2, 0, "header_size is 0, must be 38")]
    [InlineData(2, 12, 2, 78, "header_size is 78, must be 38")]
    [InlineData(3, 12, 2, 38, "header_size is 38, must be 78")]
    [InlineData(3, 12, 2, 79, "header_size is 79, must be 78")]
    [InlineData(3, 12, 2, 65535, "header_size is 65535, must be 78")]
    [InlineData(2, 14, 2, 0, "footer_size is 0, must be 84")]
    [InlineData(3, 14, 2, 84, "footer_size is 84, must be 0")]
    [InlineData(2, 16, 2, 16, "op_size is 16, must be 20")]
    [InlineData(3, 16, 2, 20, "op_size is 20, must be 16")]
    [InlineData(2, 18, 4, 512, "block_size is 512, must be 4096")]
    [InlineData(3, 18, 4, 0, "block_size is 0, must be 4096")]
    [InlineData(2, 22, 4, 1, "cluster_ops is 1")]
    [InlineData(3, 22, 4, 5, "cluster_ops is 5, must be 0")]
    [InlineData(2, 26, 8, 3, "num_merge_ops is 3, but the merge order has only 2")]
    [InlineData(3, 26, 8, ulong.MaxValue, "num_merge_ops is 18446744073709551615")]
    [InlineData(2, 34, 4, uint.MaxValue, "buffer_size is 4294967295, but only")]
    [InlineData(3, 34, 4, 1u << 20, "buffer_size is 1048576, but only")]
    [InlineData(3, 38, 8, 3, "sequence_data_count is 3, but there are only 2 ops")]
    [InlineData(3, 38, 8, ulong.MaxValue, "sequence_data_count is 18446744073709551615")]
    [InlineData(3, 38, 8, 1ul << 62, "sequence_data_count is 4611686018427387904")]
    [InlineData(3, 50, 4, uint.MaxValue, "op_count is 2, but the file has room for 0 ops")]
    [InlineData(3, 54, 8, 3, "op_count is 3, but op_count_max is 2")]
    [InlineData(3, 54, 8, ulong.MaxValue, "op_count is 18446744073709551615")]
    [InlineData(3, 62, 8, 1ul << 32, "op_count_max is 4294967296, must be at most 4294967295")]
    [InlineData(3, 62, 8, ulong.MaxValue, "op_count_max is 18446744073709551615")]
    [InlineData(3, 70, 4, 5, "compression_algorithm is 5")]
    [InlineData(3, 70, 4, 257, "compression_algorithm is 257")]
    [InlineData(3, 74, 4, 4095, "max_compression_size is 4095")]
    [InlineData(3, 74, 4, 524288, "max_compression_size is 524288, must be 4096 to 262144")]
    public void Invalid_field_is_named_with_its_value(int version, int offset, int size, ulong value, string expected)
    {
        byte[] file = Small(version);
        Refusal.Put(file, offset, size, value);
        Assert.Contains("header: " + expected, Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Op_count_of_two_billion_is_refused_before_memory_is_allocated()
    {
        byte[] file = Small(3);
        Refusal.Put(file, 54, 8, 2_000_000_000);
        Refusal.Put(file, 62, 8, 2_000_000_000);
        Assert.Contains("op_count is 2000000000, but the file has room for", Refusal.Of(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Empty_file_is_refused_as_empty() => Assert.Contains("is empty", Refusal.Of([]), StringComparison.Ordinal);

    [Theory]
    [InlineData(1)]
    [InlineData(13)]
    public void File_shorter_than_a_header_is_refused_as_too_short(int length) =>
        Assert.Contains($"is {length} bytes long, too short", Refusal.Of(Small(2).Take(length).ToArray()), StringComparison.Ordinal);

    [Theory]
    [InlineData(2, 37)]
    [InlineData(3, 77)]
    public void File_cut_inside_its_header_is_refused(int version, int length) =>
        Assert.Contains($"is {length} bytes long, shorter than its header of", Refusal.Of(Small(version).Take(length).ToArray()),
            StringComparison.Ordinal);

    [Fact]
    public void File_without_the_magic_is_refused_as_not_a_COW()
    {
        byte[] image = new byte[100_000];
        Assert.Contains("is not a COW file: magic is 0x0000000000000000", Refusal.Of(image), StringComparison.Ordinal);
    }

    public static TheoryData<string> ForeignNames => [.. ForeignFiles.Names];

    [Theory]
    [MemberData(nameof(ForeignNames))]
    public void File_of_another_format_is_refused_with_its_kind_and_a_remedy(string name)
    {
        (string what, string remedy) = ForeignFiles.Words(name);
        foreach (byte[] file in (byte[][])[ForeignFiles.Magic(name), ForeignFiles.Whole(name, 2_000), ForeignFiles.Whole(name, 100_000)])
        {
            string message = Refusal.Of(file);
            Assert.StartsWith($"{Refusal.Name} is not a COW file: it is ", message, StringComparison.Ordinal);
            Assert.Contains(what, message, StringComparison.Ordinal);
            Assert.Contains(remedy, message, StringComparison.Ordinal);
        }
    }

    /// <summary>Both magics are printable, so a file that is cut off within its magic could look like text.</summary>
    [Theory]
    [InlineData(CowHeader.Magic)]
    [InlineData(CowHeader.UnsafeMagic)]
    public void Beginning_of_a_magic_is_not_taken_for_text(ulong magic)
    {
        byte[] file = BitConverter.GetBytes(magic);
        for (int length = 1; length <= file.Length; length++)
            Assert.Contains($"is {length} bytes long, too short", Refusal.Of(file[..length]), StringComparison.Ordinal);
    }

    [Fact]
    public void Interrupted_unsafe_merge_is_refused_because_the_base_is_lost()
    {
        byte[] file = Small(3);
        Refusal.Put(file, 0, 8, CowHeader.UnsafeMagic);
        Assert.Contains("base is lost", Refusal.Of(file), StringComparison.Ordinal);
        Assert.Equal("unsafCOW"u8.ToArray(), file[..8]);
    }

    [Fact]
    public void Every_truncation_of_a_file_is_refused()
    {
        foreach (int version in new[] { 1, 2, 3 })
        {
            byte[] file = Small(version);
            for (int length = 0; length < file.Length; length += length > 200 && length < file.Length - 4300 ? 97 : 1)
                Refusal.Of(file.Take(length).ToArray());
        }
    }

    [Fact]
    public void Written_header_equals_the_header_that_was_read()
    {
        foreach (byte[] file in new[] { AndroidFiles.V2, AndroidFiles.V3, Small(2), Small(3) })
        {
            CowHeader header = CowHeader.Parse(new MemorySource(file));
            byte[] written = Enumerable.Repeat((byte)0xff, 80).ToArray();
            header.Write(written);
            Assert.Equal(file[..header.HeaderBytes], written[..header.HeaderBytes]);
            Assert.All(written[header.HeaderBytes..], one => Assert.Equal(0xff, one));
        }
    }

    [Theory]
    [InlineData(1, 34, true)]
    [InlineData(1, 33, false)]
    [InlineData(1, 35, false)]
    [InlineData(2, 38, true)]
    [InlineData(2, 34, false)]
    [InlineData(3, 74, true)]
    [InlineData(3, 78, true)]
    [InlineData(3, 76, false)]
    [InlineData(0, 34, false)]
    [InlineData(4, 78, false)]
    public void Versions_and_their_header_lengths_are_known(int major, int bytes, bool known) =>
        Assert.Equal(known, CowHeader.IsKnown(major, bytes));

    [Fact]
    public void File_that_ends_with_its_last_part_is_read_and_one_byte_less_is_refused()
    {
        // First a file that ends with the scratch area. Then one with a list and ops that ends with the last op.
        byte[] scratch = new CowBuilder { ScratchBytes = 100, ResumeMax = 0 }.Build();
        Assert.Equal(178, scratch.Length);
        CowFile.Read(new MemorySource(scratch)).Dispose();
        Assert.Contains("buffer_size is 100, but only 99 bytes follow the header", Refusal.Of(scratch[..^1]), StringComparison.Ordinal);
        byte[] ops = new CowBuilder { ScratchBytes = 0, ResumeMax = 0 }.Sequence(1, 2).Zero(1).Zero(2).Build();
        Assert.Equal(78 + 8 + 32, ops.Length);
        CowFile.Read(new MemorySource(ops)).Dispose();
        Assert.Contains("op_count is 2, but the file has room for 1 ops after byte 86", Refusal.Of(ops[..^1]), StringComparison.Ordinal);
        Assert.Contains("sequence_data_count is 2, but the file has room for 1 entries", Refusal.Of(ops[..(78 + 7)]),
            StringComparison.Ordinal);
        Assert.Contains("op_count is 2, but the file has room for 0 ops after byte 86", Refusal.Of(ops[..(78 + 8)]),
            StringComparison.Ordinal);
        // A file with spare slots, the largest unit size and the largest op_count_max.
        byte[] most = new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 262144 }.Zero(1).Build();
        Refusal.Put(most, 62, 8, uint.MaxValue);
        using CowFile cow = CowFile.Read(new MemorySource(most));
        Assert.Equal((262144u, (ulong)uint.MaxValue), (cow.Header.MaxUnitBytes, cow.Header.OpCountMax));
        Refusal.Put(most, 74, 4, 262145);
        Assert.Contains("max_compression_size is 262145", Refusal.Of(most), StringComparison.Ordinal);
    }

    [Fact]
    public void Count_of_merged_ops_may_equal_the_number_of_ops()
    {
        byte[] file = Small(3);
        Refusal.Put(file, CowHeader.MergeCountOffset, 8, 2);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(2ul, cow.Header.NumMergeOps);
    }

    [Fact]
    public void Version_3_header_without_max_compression_size_means_single_blocks()
    {
        // A 74-byte header: every region moves four bytes towards the start, because its position is counted from header_size.
        byte[] file = new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096 }.Zero(1).Copy(2, 3).Build();
        file = file[..74].Concat(file[78..]).ToArray();
        Refusal.Put(file, 12, 2, 74);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(4096u, cow.Header.MaxUnitBytes);
        Assert.Equal(2, cow.OpCount);
    }
}
