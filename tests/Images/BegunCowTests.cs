using System;
using System.Buffers.Binary;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Images;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Images;

/// <summary>Which files are COWs whose merge has begun and is not done, in whatever state the files are.</summary>
public sealed class BegunCowTests : IDisposable
{
    private const string Vector = "v3-lz4-64k-xor";

    /// <summary>Header offsets: the version, the header size, and the end of the count, where the scratch size is.</summary>
    private const int MajorAt = 8, HeaderSizeAt = 12, CountEnd = 34;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_missing_or_empty_file_and_one_that_is_not_a_cow_may_be_replaced()
    {
        BegunCow.Refuse(_folder["nothing"]);
        for (int length = 0; length < 8; length++) Free(new byte[length]);
        Free(new byte[8192]);
        Free(Golden.Old);
        Free([.. Golden.Cow(Vector)[..33]]);
    }

    [Fact]
    public void An_untouched_cow_and_one_that_is_merged_to_its_end_may_be_replaced()
    {
        int ops = Golden.Row(Vector).MergeOps;
        Free(Golden.Cow(Vector));
        Refused(Counted(1), $"1 of {ops} ops are merged");
        Refused(Counted(ops - 1), $"{ops - 1} of {ops} ops are merged");
        Free(Counted(ops));
        // A count above the number of ops means that something was merged.
        Refused(Counted(ops + 1), $"{ops + 1} ops are merged, and the file is damaged");
    }

    [Fact]
    public void A_cow_that_was_killed_in_an_unsafe_write_is_known_by_its_magic()
    {
        byte[] magic = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(magic, CowHeader.UnsafeMagic);
        Refused(magic, "it was killed while it overwrote a block without scratch");
        Refused([.. magic, .. new byte[100]], "it was killed while it overwrote a block without scratch");
        Free(magic[..7]);
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, true)]
    [InlineData(4, false)]
    public void A_truncated_cow_may_not_be_replaced_either(int major, bool refused)
    {
        byte[] cow = Counted(5);
        cow[MajorAt] = (byte)major;
        foreach (int length in (int[])[CountEnd, CountEnd + 1, CountEnd + 3, CountEnd + 4, 100])
        {
            if (refused) Refused(cow[..length], "5 ops are merged, and the file is damaged");
            else Free(cow[..length]);
        }
        Free(cow[..(CountEnd - 1)]);
    }

    [Fact]
    public void Scratch_that_was_used_is_a_begun_merge_before_the_first_count()
    {
        byte[] half = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64LittleEndian(half.AsSpan(CowHeader.MergeCountOffset)));
        Refused(half, "0 of ");
        int state = BinaryPrimitives.ReadUInt16LittleEndian(half.AsSpan(HeaderSizeAt));
        Assert.NotEqual(0, half[state]);
        // Truncated right after the state byte, and right before it.
        Refused(half[..(state + 1)], "0 ops are merged, and the file is damaged");
        Free(half[..state]);
        byte[] never = [.. half];
        never[state] = 0;
        Free(never);
        // Without scratch, that byte is not a state byte.
        byte[] none = [.. half];
        BinaryPrimitives.WriteUInt32LittleEndian(none.AsSpan(CountEnd), 0);
        Free(none);
        // Scratch of one byte has a state byte, too.
        BinaryPrimitives.WriteUInt32LittleEndian(none.AsSpan(CountEnd), 1);
        Refused(none, "ops are merged");
        // A header that ends within the count is not followed by a state byte.
        byte[] small = [.. half];
        BinaryPrimitives.WriteUInt16LittleEndian(small.AsSpan(HeaderSizeAt), CountEnd);
        small[CountEnd] = 1;
        Free(small);
    }

    [Theory]
    [InlineData(4, 0x0100_0000u, 200, 200)]
    [InlineData(4, 0x0000_0001u, 200, 200)]
    [InlineData(4, 0x0000_0100u, 35, 35)]
    [InlineData(0, 0x0001_0000u, 36, 36)]
    [InlineData(0, 0x0100_0000u, 37, 37)]
    public void Scratch_of_any_size_was_used_if_the_byte_after_the_header_says_so(int after, uint scratch, int header, int state)
    {
        byte[] cow = Golden.Cow(Vector);
        BinaryPrimitives.WriteUInt16LittleEndian(cow.AsSpan(HeaderSizeAt), (ushort)header);
        BinaryPrimitives.WriteUInt32LittleEndian(cow.AsSpan(CountEnd), scratch);
        // The first of these state bytes is after the scratch size, the others within it.
        if (state >= CountEnd + sizeof(uint)) cow[state] = 1;
        int length = Math.Max(state + 1, CountEnd + sizeof(uint)) + after;
        Refused(cow[..length], "0 ops are merged, and the file is damaged");
        if (state < CountEnd + sizeof(uint)) return;
        cow[state] = 0;
        Free(cow[..length]);
    }

    private static byte[] Counted(int count)
    {
        byte[] cow = Golden.Cow(Vector);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), (ulong)count);
        return cow;
    }

    private void Free(byte[] bytes)
    {
        File.WriteAllBytes(_folder["file"], bytes);
        BegunCow.Refuse(_folder["file"]);
    }

    private void Refused(byte[] bytes, string why)
    {
        File.WriteAllBytes(_folder["file"], bytes);
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => BegunCow.Refuse(_folder["file"]));
        Assert.Equal(ExitCode.CowCorrupt, refusal.Code);
        Assert.Contains($"{_folder["file"]} is a COW whose merge has begun (", refusal.Message, StringComparison.Ordinal);
        Assert.Contains(why, refusal.Message, StringComparison.Ordinal);
    }
}
