using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Android's own files: counts as its index says, and a merge in our order gives its target.</summary>
public sealed class GoldenTests
{
    public static IEnumerable<object[]> Names => Golden.CowNames;

    public static IEnumerable<object[]> Halves => Golden.HalfNames;

    [Theory]
    [MemberData(nameof(Names))]
    public void Counts_are_those_of_the_index(string name)
    {
        GoldenCow row = Golden.Row(name);
        using CowFile cow = CowFile.Read(new MemorySource(Golden.Cow(name), name));
        Assert.Equal(row.Version, cow.Header.Major);
        Assert.Equal(row.Compression.Split(',')[0], cow.Compression.ToString().ToLowerInvariant());
        Assert.Equal(row.Copy, cow.CopyCount);
        Assert.Equal(row.Xor, cow.XorCount);
        Assert.Equal(row.ReplaceBlocks, cow.ReplaceBlocks);
        Assert.Equal(row.Zero, cow.ZeroCount);
        Assert.Equal(row.MergeOps, cow.Order.Count);
        Assert.Equal(row.OrderedOps, Enumerable.Range(0, cow.OpCount).Count(i => cow[i].IsOrdered));
        Assert.Equal(row.Scratch ? 2u * 1024 * 1024 : 0u, cow.Header.ScratchBytes);
        Assert.Equal((uint)(row.Version == 2 ? row.ClusterOps : 0), cow.Header.ClusterOps);
        Assert.Equal(row.Sequence && row.OrderedOps > 0, cow.SequenceCount > 0);
        Assert.True(cow.MaxUnitBytes <= row.Factor);
        Assert.True(cow.Order.AndroidCanMerge(out string why), why);
        cow.Order.Check(true, new int[cow.Order.Count]);
        cow.CheckDevices(1152 * 4096, 1152 * 4096);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Ops_done_in_merge_order_on_one_image_give_the_target(string name)
    {
        using CowFile cow = CowFile.Read(new MemorySource(Golden.Cow(name), name));
        byte[] image = Golden.Old;
        PlainReplay.Run(cow, Golden.Cow(name), image, 0);
        Assert.True(Golden.New.AsSpan().SequenceEqual(image));
    }

    [Theory]
    [MemberData(nameof(Halves))]
    public void Half_done_merge_has_the_listed_count(string name)
    {
        using CowFile cow = CowFile.Read(new MemorySource(Golden.HalfCow(name), name));
        Assert.Equal((ulong)Golden.Half(name).NumMergeOps, cow.Header.NumMergeOps);
        Assert.Equal(Golden.Half(name).ScratchState, Golden.HalfCow(name)[(int)cow.Header.ScratchOffset]);
    }
}

/// <summary>Merges in place, one op after the other in merge order, with the real order and decoder.</summary>
internal static class PlainReplay
{
    public static void Run(CowFile cow, byte[] file, byte[] image, int from)
    {
        using var decoder = new UnitDecoder(cow.Compression);
        byte[] unit = new byte[cow.MaxUnitBytes];
        for (int position = from; position < cow.Order.Count; position++)
        {
            CowOp op = cow[cow.Order.OpIndex(position)];
            Span<byte> bytes = unit.AsSpan(0, op.UnitBytes);
            bytes.Clear();
            if (op.HasData) Assert.Equal(0, decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), bytes));
            if (op.IsOrdered)
                for (int i = 0; i < 4096; i++) bytes[i] ^= image[op.SourceByte + i];
            bytes.CopyTo(image.AsSpan((int)op.NewBlock * 4096));
        }
    }
}
