using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>What a COW shows about its base: the result is "untouched" only where that is certain.</summary>
public sealed class CowStateTests
{
    private const int CountOffset = 26;

    private static CowState Of(byte[] cow, bool device = false, long baseBytes = long.MaxValue) =>
        CowState.Of(new MemorySource(cow), device, baseBytes, baseBytes, sourceIsBase: true);

    private static int StateOffset(byte[] cow) => BinaryPrimitives.ReadUInt16LittleEndian(cow.AsSpan(12));

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void A_finished_cow_of_Androids_writer_is_untouched_if_scratch_and_a_Copy_show_it(string name)
    {
        byte[] cow = Golden.Cow(name);
        CowState state = Of(cow, baseBytes: Golden.Old.Length);
        bool certain = Golden.Row(name).Scratch && name != "v3-zstd-nocopy";
        Assert.Equal((certain ? CowKind.Untouched : CowKind.Unknown, certain), (state.Kind, state.BaseIsUntouched));
        // A device is longer than its content.
        Array.Resize(ref cow, cow.Length + 100_000);
        Assert.Equal(state, Of(cow, device: true, Golden.Old.Length));
    }

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void A_merge_that_Android_s_engine_began_has_begun_or_has_ended(string name)
    {
        byte[] cow = Golden.HalfCow(name);
        CowState state = Of(cow, baseBytes: Golden.Old.Length);
        GoldenHalf half = Golden.Half(name);
        bool ended = half.NumMergeOps == Golden.Row(half.Cow).MergeOps;
        Assert.Equal(ended, Golden.HalfBase(name).AsSpan().SequenceEqual(Golden.New));
        Assert.Equal((ended ? CowKind.Merged : CowKind.Begun, false, ExitCode.Done), (state.Kind, state.BaseIsUntouched, state.Code));
        Array.Resize(ref cow, cow.Length + 100_000);
        Assert.Equal(state, Of(cow, device: true, Golden.Old.Length));
    }

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void A_cow_is_merged_when_all_its_ops_are_counted(string name)
    {
        byte[] cow = Golden.Cow(name);
        int ops = Golden.Row(name).MergeOps;
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CountOffset), (ulong)ops);
        Assert.Equal(CowKind.Merged, Of(cow).Kind);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CountOffset), (ulong)ops - 1);
        Assert.Equal((CowKind.Begun, false), (Of(cow).Kind, Of(cow).BaseIsUntouched));
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CountOffset), (ulong)ops + 1);
        Assert.Equal((CowKind.Corrupt, false, ExitCode.CowCorrupt), (Of(cow).Kind, Of(cow).BaseIsUntouched, Of(cow).Code));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(255)]
    public void Every_state_byte_but_zero_means_begun(byte scratch)
    {
        foreach (string name in new[] { "v2-gz-xor", "v3-lz4-64k-xor" })
        {
            byte[] cow = Golden.Cow(name);
            cow[StateOffset(cow)] = scratch;
            Assert.Equal((CowKind.Begun, false), (Of(cow).Kind, Of(cow).BaseIsUntouched));
        }
    }

    public static IEnumerable<object[]> Damages => new (string, Action<byte[]>, bool)[]
    {
        ("magic", cow => cow[0] ^= 1, false),
        ("unsafe magic", cow => BinaryPrimitives.WriteUInt64LittleEndian(cow, CowHeader.UnsafeMagic), false),
        ("version", cow => cow[8] = 9, false),
        ("block size", cow => cow[19] = 1, false),
        ("the first op", cow => Array.Fill(cow, (byte)0xff, (int)CowHeader.Parse(new MemorySource(cow)).ScratchEnd, 2000), false),
        ("an op of a merge that has begun", cow =>
        {
            cow[CountOffset] = 1;
            Array.Fill(cow, (byte)0xff, (int)CowHeader.Parse(new MemorySource(cow)).ScratchEnd, 2000);
        }, false),
    }.Select(one => new object[] { one.Item1, one.Item2, one.Item3 });

    [Theory]
    [MemberData(nameof(Damages))]
    public void Damage_is_reported_with_whether_the_base_is_untouched(string what, Action<byte[]> damage, bool untouched)
    {
        foreach (string name in new[] { "v2-gz-xor", "v3-lz4-noseq" })
        {
            byte[] cow = Golden.Cow(name);
            damage(cow);
            CowState state = Of(cow);
            Assert.True((state.Kind, state.BaseIsUntouched, state.Code) == (CowKind.Corrupt, untouched, ExitCode.CowCorrupt),
                $"{what} of {name}: {state}");
        }
    }

    [Theory]
    [InlineData("v3-lz4-noseq")]
    [InlineData("v3-lz4-64k-xor")]
    public void Damage_of_a_later_op_leaves_the_first_as_proof_that_the_base_is_the_old_image(string name)
    {
        byte[] cow = Golden.Cow(name);
        CowHeader header = CowHeader.Parse(new MemorySource(cow));
        cow[header.OpsOffset + (16 * ((long)header.OpCount - 1)) + 15] = 0xff;
        foreach (bool device in new[] { false, true })
            Assert.Equal((CowKind.Corrupt, true), (Of(cow, device).Kind, Of(cow, device).BaseIsUntouched));
    }

    [Fact]
    public void A_truncated_full_image_in_a_file_was_not_merged()
    {
        byte[] cow = Golden.Cow("v3-zstd-nocopy")[..^1];
        Assert.Equal((CowKind.Corrupt, true), (Of(cow).Kind, Of(cow).BaseIsUntouched));
        Assert.Equal((CowKind.Corrupt, false), (Of(cow, device: true).Kind, Of(cow, device: true).BaseIsUntouched));
        // A COW that does not fit the base proves nothing about a merge into that base.
        CowState small = Of(Golden.Cow("v3-zstd-nocopy"), baseBytes: 4096);
        Assert.Equal((CowKind.Corrupt, false, true), (small.Kind, small.BaseIsUntouched, small.IsNotBegunHere));
    }

    [Fact]
    public void A_file_without_its_footer_or_for_a_larger_base_leaves_the_base_alone()
    {
        byte[] cut = Golden.Cow("v2-gz-xor")[..^100];
        Assert.Equal((CowKind.Corrupt, true), (Of(cut).Kind, Of(cut).BaseIsUntouched));
        cut[CountOffset] = 1;
        Assert.Equal((CowKind.Corrupt, false), (Of(cut).Kind, Of(cut).BaseIsUntouched));
        CowState small = Of(Golden.Cow("v3-lz4-noseq"), baseBytes: 4096);
        Assert.Equal((CowKind.Corrupt, true, ExitCode.CowCorrupt), (small.Kind, small.BaseIsUntouched, small.Code));
    }

    [Fact]
    public void Format_1_proves_nothing_and_cannot_be_served()
    {
        byte[] cow = new CowBuilder { Version = 1 }.Copy(1, 5).Zero(2).Build();
        Assert.Equal((CowKind.Corrupt, false), (Of(cow).Kind, Of(cow).BaseIsUntouched));
    }

    [Fact]
    public void Scratch_too_small_for_a_window_proves_nothing()
    {
        CowState state = Of(new CowBuilder { ScratchBytes = 4096 }.Copy(1, 5).Build());
        Assert.Equal((CowKind.Unknown, false), (state.Kind, state.BaseIsUntouched));
    }

    [Fact]
    public void A_cow_without_ops_is_merged() => Assert.Equal(CowKind.Merged, Of(new CowBuilder().Build()).Kind);

    [Fact]
    public void A_device_of_zeros_is_blank_and_a_file_of_zeros_is_garbage()
    {
        Assert.Equal(CowKind.Blank, Of(new byte[100_000], device: true).Kind);
        Assert.Equal((CowKind.Corrupt, false), (Of(new byte[100_000]).Kind, Of(new byte[100_000]).BaseIsUntouched));
        // `create` was interrupted before it wrote the magic, which is its last write.
        byte[] cow = Golden.Cow("v3-lz4-noseq");
        cow.AsSpan(0, 8).Clear();
        Assert.Equal(CowKind.Blank, Of(cow, device: true).Kind);
        Assert.False(Of(cow).IsIncomplete);
        Assert.Equal(CowKind.Corrupt, Of([]).Kind);
        Assert.Equal(CowKind.Corrupt, Of([], device: true).Kind);
    }

    [Fact]
    public void Inspection_writes_nothing_and_a_truncated_cow_of_a_begun_merge_is_never_untouched()
    {
        using TempFolder folder = new();
        byte[] cow = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        foreach (int length in new[] { 0, 1, 8, 13, 14, 30, 37, 38, 77, 78, 79, 4096, 100_000, (2 << 20) + 77, (2 << 20) + 78,
            (2 << 20) + 200, cow.Length - 1, cow.Length })
        {
            File.WriteAllBytes(folder["cow"], cow[..length]);
            CowState state = CowState.Read(folder["cow"], Golden.Old.Length, Golden.Old.Length, true);
            Assert.False(state.BaseIsUntouched, $"{length}: {state}");
            Assert.Equal(length == cow.Length ? CowKind.Begun : CowKind.Corrupt, state.Kind);
            Assert.Equal(cow[..length], File.ReadAllBytes(folder["cow"]));
        }
    }

    [Theory]
    [InlineData("v2-gz-xor", 39)]
    [InlineData("v3-lz4-64k-xor", 79)]
    public void A_partial_copy_shows_that_no_merge_has_begun_only_if_it_includes_the_state_byte(string name,
        int known)
    {
        byte[] cow = Golden.Cow(name);
        foreach (int length in Enumerable.Range(0, 100)
            .Concat([4096, 100_000, (2 << 20) + 38, (2 << 20) + 78, (2 << 20) + 100, cow.Length - 1]))
        {
            CowState state = Of(cow[..length]);
            Assert.True((state.Kind, state.IsIncomplete, state.BaseIsUntouched) == (CowKind.Corrupt, length < known, length >= known),
                $"{length}: {state}");
            // A device never counts as incomplete: its length is fixed.
            Assert.False(Of(cow[..length], device: true).IsIncomplete);
            if (length < 27) continue;
            byte[] counted = cow[..length];
            counted[26] = 1;
            Assert.True(Of(counted) is { IsIncomplete: false, BaseIsUntouched: false }, $"{length}");
        }
        foreach (int length in new[] { 1, 8, 37, 78, 79, 4096, 3_000_000 })
        {
            byte[] zeros = new byte[length];
            Assert.True(Of(zeros) is { Kind: CowKind.Corrupt, IsIncomplete: true, BaseIsUntouched: false }, $"{length}");
            zeros[^1] = 1;
            Assert.False(Of(zeros).IsIncomplete);
        }
    }

    [Fact]
    public void A_beginning_without_a_cow_header_or_scratch_is_not_a_partial_copy()
    {
        Assert.False(Of("hello"u8.ToArray()).IsIncomplete);
        byte[] noScratch = Golden.Cow("v2-zstd-noscratch");
        Assert.False(Of(noScratch[..38]).IsIncomplete);
        Assert.True(Of(noScratch[..30]).IsIncomplete);
        byte[] version = Golden.Cow("v3-lz4-noseq");
        version[8] = 9;
        Assert.False(Of(version[..40]).IsIncomplete);
        byte[] unsafeMagic = Golden.Cow("v3-lz4-noseq");
        BinaryPrimitives.WriteUInt64LittleEndian(unsafeMagic, CowHeader.UnsafeMagic);
        Assert.False(Of(unsafeMagic[..40]).IsIncomplete);
    }

    [Fact]
    public void A_cow_that_cannot_be_opened_is_reported_with_its_code()
    {
        using TempFolder folder = new();
        Assert.Equal((CowKind.Corrupt, false, ExitCode.Usage),
            (CowState.Read(folder.Path, 1, 1, true) is var state ? (state.Kind, state.BaseIsUntouched, state.Code) : default));
    }
}
