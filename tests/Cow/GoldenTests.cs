using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Android's own files: the op counts match the index, and a merge in this program's order gives the target.</summary>
public sealed class GoldenTests
{
    public static IEnumerable<object[]> Names => Golden.CowNames;

    public static IEnumerable<object[]> Halves => Golden.HalfNames;

    [Theory]
    [MemberData(nameof(Names))]
    public void Counts_match_the_index_of_the_golden_files(string name)
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
    public void Ops_applied_in_merge_order_to_one_image_give_the_target(string name)
    {
        using CowFile cow = CowFile.Read(new MemorySource(Golden.Cow(name), name));
        byte[] image = Golden.Old;
        PlainReplay.Run(cow, Golden.Cow(name), image, 0);
        Assert.True(Golden.New.AsSpan().SequenceEqual(image));
    }

    [Theory]
    [MemberData(nameof(Halves))]
    public void Unfinished_merge_has_the_listed_count_and_scratch_state(string name)
    {
        using CowFile cow = CowFile.Read(new MemorySource(Golden.HalfCow(name), name));
        Assert.Equal((ulong)Golden.Half(name).NumMergeOps, cow.Header.NumMergeOps);
        Assert.Equal(Golden.Half(name).ScratchState, Golden.HalfCow(name)[(int)cow.Header.ScratchOffset]);
    }
}

/// <summary>Small cases from Android's tests, merged op by op and by the plain model.</summary>
public sealed class ReplayTests
{
    [Fact]
    public void Androids_offline_test_case_gives_the_expected_image()
    {
        // AOSP's OfflineSnapshotTest.CompressedSnapshot: Xor block 1 from block 0 offset 2048, Copy 3 from 0, Replace 5, Zero 7 and 8.
        byte[] old = new byte[10 * 4096];
        new Random(10).NextBytes(old);
        byte[] xor = new byte[4096];
        xor.AsSpan(0, 100).Fill(0xff);
        CowBuilder builder = new CowBuilder { Version = 2, Compression = CowCompression.Gz, ScratchBytes = 0 }
            .Xor(1, 2048, xor).Copy(3, 0).Replace(5, AndroidFiles.T).Zero(7).Zero(8);
        byte[] file = builder.Build(), image = (byte[])old.Clone();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        PlainReplay.Run(cow, file, image, 0);
        Assert.Equal(NaiveMerger.Merge(builder, old), image);
        Assert.Equal(old[2048..6144].Select((b, i) => (byte)(i < 100 ? ~b : b)), image[4096..8192]);
        Assert.Equal(old[..4096], image[(3 * 4096)..(4 * 4096)]);
        Assert.Equal(new byte[8192], image[(7 * 4096)..(9 * 4096)]);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(-1)]
    public void Chain_shifts_the_image_in_either_direction(int step)
    {
        // AOSP's COPY_Overlap tests. Each block is copied from its neighbour, so a wrong order would lose data.
        byte[] old = new byte[64 * 4096];
        new Random(64).NextBytes(old);
        foreach (int version in new[] { 2, 3 })
        {
            var builder = new CowBuilder { Version = version, ScratchBytes = 0 };
            for (int i = 1; i < 63; i++)
            {
                int block = step > 0 ? i : 63 - i;
                builder.Copy((uint)block, (ulong)(block + step));
            }
            byte[] file = builder.Build(), image = (byte[])old.Clone();
            using CowFile cow = CowFile.Read(new MemorySource(file));
            int[] limits = new int[62];
            cow.Order.Check(true, limits);
            // Op p - 1 reads block p directly before op p overwrites it.
            Assert.Equal(Enumerable.Range(0, 62), limits);
            PlainReplay.Run(cow, file, image, 0);
            Assert.Equal(NaiveMerger.Merge(builder, old), image);
        }
    }
}

/// <summary>Merges in place, one op at a time in merge order, with the product's order and decoder.</summary>
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
