using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>
/// The digest that binds a marker to a COW. It is the same in every state of a merge and in every copy, and other updates have others.
/// </summary>
public sealed class DigestTests
{
    private static string Of(byte[] cow)
    {
        MemorySource source = new(cow);
        using CowFile file = CowFile.Read(source);
        return CowDigest.Of(source, file);
    }

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void Digest_is_the_same_in_every_state_of_a_merge_by_Android(string name) =>
        Assert.Equal(Of(Golden.Cow(Golden.Half(name).Cow)), Of(Golden.HalfCow(name)));

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Digest_leaves_out_num_merge_ops_scratch_and_bytes_after_the_payloads(string name)
    {
        byte[] cow = Golden.Cow(name);
        string digest = Of(cow);
        CowHeader header = CowHeader.Parse(new MemorySource(cow));
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), 1);
        cow.AsSpan((int)header.ScratchOffset, (int)header.ScratchBytes).Fill(0x5a);
        Assert.Equal(digest, Of(cow));
        int length = cow.Length;
        Array.Resize(ref cow, length + 1_234_567);
        cow.AsSpan(length).Fill(7);
        Assert.Equal(digest, Of(cow));
    }

    [Fact]
    public void Every_golden_file_has_its_own_digest()
    {
        List<string> names = [.. Golden.CowNames.Select(name => (string)name[0])];
        // Two golden files can have the same content.
        Assert.Equal(names.Select(name => Convert.ToBase64String(Golden.Cow(name))).Distinct().Count(),
            names.Select(name => Of(Golden.Cow(name))).Distinct().Count());
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Two_updates_with_equal_ops_and_lengths_have_different_digests(int version)
    {
        byte[] Build(byte fill)
        {
            CowBuilder cow = new() { Version = version, ScratchBytes = 1 << 16 };
            byte[] block = new byte[4096];
            for (uint i = 0; i < 600; i++)
            {
                // Only the last of 600 blocks differs between the two files.
                block.AsSpan().Fill(i == 599 ? fill : (byte)i);
                cow.Replace(i, block);
            }
            return cow.Build();
        }

        byte[] one = Build(1), other = Build(2);
        Assert.Equal(one.Length, other.Length);
        Assert.Equal(Of(one), Of(Build(1)));
        Assert.NotEqual(Of(one), Of(other));
    }

    /// <summary>The digest by its written definition, computed from the bytes of the file.</summary>
    private static string Plain(byte[] cow)
    {
        using MemoryStream parts = new();
        parts.Write("snapuserd COW 1\n"u8);
        using CowFile file = CowFile.Read(new MemorySource(cow));
        CowHeader header = file.Header;
        parts.Write(cow[8..26]);
        parts.Write(cow[34..header.HeaderBytes]);
        int begin = (int)header.ScratchEnd, end = (int)header.DataOffset;
        if (header.Major == 3)
        {
            parts.Write(cow[begin..((int)header.OpsOffset + (16 * file.OpCount))]);
            begin = end;
            for (int op = 0; op < file.OpCount; op++)
                if (file[op].HasData) end = (int)file[op].DataOffset + file[op].DataLength;
        }
        else
        {
            CowFile.WalkRecords(new MemorySource(cow), header, record =>
            {
                int at = (int)record.Position;
                parts.Write(cow[at..(at + 20)]);
                if (record.Type == CowOpType.Sequence) parts.Write(cow[(int)record.Source..((int)record.Source + record.DataLength)]);
                end = at + 84;
            });
        }
        int length = end - begin, samples = length <= 1 << 20 ? 1 : 64, size = samples == 1 ? length : 16384;
        for (int i = 0; i < samples; i++)
        {
            int at = i == samples - 1 ? end - size : begin + ((length - size) / 63 * i);
            parts.Write(cow[at..(at + size)]);
        }
        return Convert.ToHexStringLower(SHA256.HashData(parts.ToArray()));
    }

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Digest_matches_its_written_definition(string name) => Assert.Equal(Plain(Golden.Cow(name)), Of(Golden.Cow(name)));

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Payloads_up_to_a_mebibyte_are_hashed_whole_and_longer_ones_in_samples(int version)
    {
        // The samples include the op slots, the ops and version 2's footer.
        foreach (int extra in new[] { 0, 1, 9000 })
        {
            CowBuilder cow = new() { Version = version, Compression = CowCompression.Gz, ScratchBytes = 1 << 16, OpCountMaxSlack = 9 };
            for (uint i = 0; i < 100 + (extra / 100); i++) cow.Replace(i, Noise(i)).Zero(i + 1000);
            byte[] bytes = cow.Build();
            Assert.Equal(Plain(bytes), Of(bytes));
        }
        foreach (uint blocks in new uint[] { 255, 256, 257 })
        {
            CowBuilder cow = new() { Version = version, ScratchBytes = 1 << 16 };
            for (uint i = 0; i < blocks; i++) cow.Replace(i, Noise(i));
            byte[] bytes = cow.Build();
            Assert.Equal(Plain(bytes), Of(bytes));
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4095)]
    public void Payloads_slightly_longer_than_a_mebibyte_are_hashed_in_samples(int more)
    {
        CowBuilder cow = new() { Compression = CowCompression.Lz4, ScratchBytes = 1 << 16, MaxUnitBytes = 4096 };
        for (uint i = 0; i < 257; i++) cow.Replace(i, Noise(i));
        byte[] bytes = cow.Build();
        // Changes the length field of the last op. The digest does not decode the payload.
        CowHeader header = CowHeader.Parse(new MemorySource(bytes));
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan((int)header.OpsOffset + (256 * 16)), more);
        Assert.Equal(Plain(bytes), Of(bytes));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Digest_covers_the_first_and_the_last_byte_of_the_payloads(int version)
    {
        CowBuilder cow = new() { Version = version, ScratchBytes = 1 << 16 };
        // With 300 blocks the distance between samples is not a whole number.
        for (uint i = 0; i < 300; i++) cow.Replace(i, Noise(i));
        byte[] bytes = cow.Build();
        string digest = Of(bytes);
        foreach (long at in new[] { cow.DataOffsets[0], cow.DataOffsets[299] + 4096 - 1 })
        {
            byte[] changed = [.. bytes];
            changed[at] ^= 1;
            Assert.NotEqual(digest, Of(changed));
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    public void File_that_became_shorter_is_refused(int bytes)
    {
        byte[] file = new CowBuilder { ScratchBytes = 1 << 16 }.Replace(1, Noise(1)).Replace(2, Noise(2)).Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Refusal.With(Snapuserd.Block.ExitCode.CowCorrupt, "memory.cow: the file changed while it was read",
            () => CowDigest.Of(new MemorySource(file[..^bytes]), cow));
    }

    private static byte[] Noise(uint seed)
    {
        byte[] block = new byte[4096];
        new Random((int)seed).NextBytes(block);
        return block;
    }

    [Theory]
    [InlineData("v2-gz-xor")]
    [InlineData("v3-lz4-64k-xor")]
    [InlineData("v3-lz4-noseq")]
    public void Digest_covers_every_byte_of_header_and_ops(string name)
    {
        byte[] cow = Golden.Cow(name);
        string digest = Of(cow);
        CowHeader header = CowHeader.Parse(new MemorySource(cow));
        int changed = 0;
        // Flips one bit of every byte. Only files that are still valid COWs are compared.
        for (int at = 8; at < header.ScratchEnd + 4000; at++)
        {
            if (at == header.ScratchOffset) at = (int)header.ScratchEnd;
            if (at is >= CowHeader.MergeCountOffset and < CowHeader.MergeCountOffset + 8) continue;
            cow[at] ^= 0x04;
            try
            {
                string now = Of(cow);
                changed++;
                Assert.True(now != digest, $"byte {at}");
            }
            catch (Snapuserd.Block.SnapuserdException)
            {
                // The changed file is not a COW.
            }
            cow[at] ^= 0x04;
        }
        Assert.InRange(changed, 100, 4000);
    }
}
