using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The digest that binds a mark to a COW: the same in every state of a merge and in every copy, another for every other update.</summary>
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
    public void No_state_of_a_merge_by_Android_s_engine_changes_it(string name) => Assert.Equal(Of(Golden.Cow(Golden.Half(name).Cow)), Of(Golden.HalfCow(name)));

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Count_scratch_and_what_follows_on_a_device_are_no_part_of_it(string name)
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
    public void Every_file_of_the_golden_set_has_its_own()
    {
        List<string> names = [.. Golden.CowNames.Select(name => (string)name[0])];
        // Two names may be of one content.
        Assert.Equal(names.Select(name => Convert.ToBase64String(Golden.Cow(name))).Distinct().Count(), names.Select(name => Of(Golden.Cow(name))).Distinct().Count());
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Two_updates_of_one_shape_and_length_differ_by_their_payloads_alone(int version)
    {
        byte[] Build(byte fill)
        {
            CowBuilder cow = new() { Version = version, ScratchBytes = 1 << 16 };
            byte[] block = new byte[4096];
            for (uint i = 0; i < 600; i++)
            {
                // The last block is what differs, and one in the middle of much that does not.
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

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void First_and_last_byte_of_the_payloads_are_a_part_of_it(int version)
    {
        CowBuilder cow = new() { Version = version, ScratchBytes = 1 << 16 };
        // 300 blocks: the distance of the samples is no whole number.
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
    public void Every_bit_of_header_and_ops_is_a_part_of_it(string name)
    {
        byte[] cow = Golden.Cow(name);
        string digest = Of(cow);
        CowHeader header = CowHeader.Parse(new MemorySource(cow));
        int changed = 0;
        // Whatever can be changed so that it is still a COW.
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
                // Refused as a COW.
            }
            cow[at] ^= 0x04;
        }
        Assert.InRange(changed, 100, 4000);
    }
}
