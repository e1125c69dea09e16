using System;
using System.IO;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests reads with equivalents of Android's own tests, and failures of single reads.</summary>
public sealed class ViewCaseTests(ITestOutputHelper output)
{
    private const int Block = CowOp.BlockSize;

    private static byte[] Patterned(int seed, int blocks)
    {
        byte[] bytes = new byte[blocks * Block];
        for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)(i % 50 == 0 ? seed : i / 700);
        return bytes;
    }

    /// <summary>Reads one range and compares it with the target.</summary>
    private static void Check(ViewFixture fixture, ReadContext context, byte[] target, long offset, int length)
    {
        Slice buffer = context.Buffer(0).Part(0, length);
        context[buffer].Fill(0x77);
        Assert.Equal(length, context.Reader.Read(offset, buffer));
        Assert.True(target.AsSpan((int)offset, length).SequenceEqual(context[buffer]), $"{length} bytes at {offset}: {fixture.Failure}");
    }

    private static void CheckAll(ViewFixture fixture, byte[] target)
    {
        using ReadContext context = fixture.Reader();
        for (int at = 0; at < target.Length; at += 1 << 20) Check(fixture, context, target, at, Math.Min(1 << 20, target.Length - at));
    }

    [Fact]
    public void Blocks_without_op_show_the_base_before_and_after_the_merge()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new CowBuilder().Replace(1, SmallCases.Random(2, 1)).Zero(3);
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        CheckAll(fixture, target);
        fixture.Engine.Run();
        CheckAll(fixture, target);
        Assert.Equal(target, fixture.Base);
    }

    /// <summary>
    /// Five regions: copies from the next region, compressible data, zeros, random data, and Xors whose source begins half a block before
    /// their own block. Copies and Xors are in descending order.
    /// </summary>
    [Theory]
    [InlineData(2, CowCompression.Gz)]
    [InlineData(3, CowCompression.Lz4)]
    public void Five_regions_are_read_correctly_before_and_after_the_merge(int version, CowCompression compression)
    {
        const int Region = 64;
        byte[] old = SmallCases.Random(5, 5 * Region);
        CowBuilder cow =
            new() { Version = version, Compression = compression, ClusterOps = version == 2 ? 20 : 0, MaxUnitBytes = 16 << 10 };
        uint[] sequence = new uint[2 * Region];
        for (uint i = 0; i < Region; i++) sequence[i] = Region - 1 - i;
        for (uint i = 0; i < Region; i++) sequence[Region + i] = (5 * Region) - 1 - i;
        cow.Sequence(sequence);
        for (int i = Region - 1; i >= 0; i--) cow.Copy((uint)i, (ulong)(i + Region));
        for (uint i = 0; i < Region; i++) cow.Replace(Region + i, Patterned((int)i, 1));
        for (uint i = 0; i < Region; i++) cow.Zero((2 * Region) + i);
        for (uint i = 0; i < Region; i++) cow.Replace((3 * Region) + i, SmallCases.Random(i, 1));
        // Each Xor reads the block that it overwrites and the one before, so it is safe to merge only with the scratch area.
        for (int i = Region - 1; i >= 0; i--)
            cow.Xor((uint)((4 * Region) + i), (ulong)((((4 * Region) + i) * Block) - 2048), Patterned(i, 1));
        byte[] target = NaiveMerger.Merge(cow, old);
        byte[] file = cow.Build();
        using ViewFixture fixture = new(file, old);
        using ReadContext context = fixture.Reader();
        foreach (bool merged in new[] { false, true })
        {
            CheckAll(fixture, target);
            for (int region = 0; region < 5; region++)
            {
                Check(fixture, context, target, (region * Region * Block) - (region == 0 ? 0 : 1000), 2019);
                Check(fixture, context, target, (region * Region * Block) + 512, 512);
                Check(fixture, context, target, (region * Region * Block) + (15 * 512), Block);
            }
            if (!merged) fixture.Engine.Run();
        }
        Assert.Equal(target, fixture.Base);
    }

    [Theory]
    [InlineData(4, CowCompression.Lz4)]
    [InlineData(8, CowCompression.Gz)]
    [InlineData(16, CowCompression.Zstd)]
    [InlineData(32, CowCompression.None)]
    [InlineData(64, CowCompression.Brotli)]
    [InlineData(128, CowCompression.Lz4)]
    [InlineData(256, CowCompression.Zstd)]
    [InlineData(256, CowCompression.Gz)]
    public void Units_of_every_size_are_read_correctly_in_pieces_before_and_after_the_merge(int factorKib, CowCompression compression)
    {
        const int Quarter = 128;
        int unit = factorKib / 4;
        byte[] old = SmallCases.Random(7, (4 * Quarter) + 10);
        CowBuilder cow = new() { Compression = compression, MaxUnitBytes = factorKib << 10 };
        uint[] sequence = new uint[Quarter];
        for (uint i = 0; i < Quarter; i++) sequence[i] = (3 * Quarter) + i;
        cow.Sequence(sequence);
        for (int i = 0; i < Quarter; i += unit) cow.Replace((uint)i, Patterned(i, unit));
        for (int i = 0; i < Quarter; i++) cow.Zero((uint)(Quarter + i));
        for (int i = 0; i < Quarter; i += unit) cow.Replace((uint)((2 * Quarter) + i), SmallCases.Random(i, unit));
        for (int i = 0; i < Quarter; i++) cow.Xor((uint)((3 * Quarter) + i), (ulong)((((3 * Quarter) + i) * Block) + 21), Patterned(i, 1));
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        foreach (bool merged in new[] { false, true })
        {
            using ReadContext context = fixture.Reader(1, 4 << 20);
            for (long at = 0; at < target.Length; at += factorKib << 10)
                Check(fixture, context, target, at, (int)Math.Min(factorKib << 10, target.Length - at));
            // If units are read block by block, each is decoded only once.
            using (ReadContext single = fixture.Reader())
            {
                for (long at = 0; at < Quarter * Block; at += Block) Check(fixture, single, target, at, Block);
                int units = merged || compression == CowCompression.None ? 0 : Quarter / unit;
                Assert.True(single.Reader.Decodes <= units, $"{single.Reader.Decodes} decodes of {units} units");
            }
            Check(fixture, context, target, 0, target.Length);
            Check(fixture, context, target, (Quarter * Block) - 500, 1019);
            Check(fixture, context, target, (3 * Quarter * Block) - 4000, 8111);
            Check(fixture, context, target, 19, 1);
            Check(fixture, context, target, (4 * Quarter * Block) + 77, 30);
            Check(fixture, context, target, 512, 512);
            Check(fixture, context, target, 15 * 512, Block);
            Check(fixture, context, target, (Quarter * Block) - 1024, 24 << 10);
            Check(fixture, context, target, (4 * Quarter * Block) - (16 << 10), 32 << 10);
            Check(fixture, context, target, (4 * Quarter * Block) + 100, 12 << 10);
            if (!merged) fixture.Engine.Run();
        }
        Assert.Equal(0, fixture.View.Failures);
    }

    [Fact]
    public void Reads_beyond_the_end_are_refused_and_the_last_bytes_of_an_odd_length_are_read()
    {
        byte[] old = SmallCases.Random(1, 11).AsSpan(0, (10 * Block) + 1000).ToArray();
        CowBuilder cow = new CowBuilder().Copy(9, 2).Zero(0);
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        using ReadContext context = fixture.Reader();
        foreach (bool merged in new[] { false, true })
        {
            Check(fixture, context, target, (9 * Block) + 100, Block + 900);
            Check(fixture, context, target, old.Length - 1, 1);
            Assert.Equal(0, context.Reader.Read(old.Length, context.Buffer(0).Part(0, 0)));
            Assert.Equal(-Errno.EINVAL, context.Reader.Read(old.Length, context.Buffer(0).Part(0, 1)));
            Assert.Equal(-Errno.EINVAL, context.Reader.Read(old.Length - 10, context.Buffer(0).Part(0, 11)));
            Assert.Equal(-Errno.EINVAL, context.Reader.Read(-1, context.Buffer(0).Part(0, 1)));
            Assert.Equal(-Errno.EINVAL, context.Reader.Read(long.MaxValue, context.Buffer(0).Part(0, 4096)));
            if (!merged) fixture.Engine.Run();
        }
    }

    [Fact]
    public void An_empty_COW_shows_the_base()
    {
        byte[] old = SmallCases.Random(4, 6);
        using ViewFixture fixture = new(new CowBuilder().Build(), old);
        CheckAll(fixture, old);
        fixture.Engine.Run();
        CheckAll(fixture, old);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_separate_source_and_the_base_by_another_path_are_read_correctly(bool separate)
    {
        byte[] old = SmallCases.Random(1, 20), source = separate ? SmallCases.Random(2, 30) : old;
        CowBuilder cow = new CowBuilder().Copy(3, 4).Copy(4, 12).Xor(5, (ulong)(13 * Block) + 37, SmallCases.Random(8, 1)).Copy(7, 7)
            .Replace(9, SmallCases.Random(9, 2)).Zero(0);
        byte[] target = NaiveMerger.Merge(cow.Ops, source, old);
        using ViewFixture fixture = new(cow.Build(), old, source: separate ? source : null, anotherPath: !separate);
        CheckAll(fixture, target);
        fixture.Engine.Run();
        CheckAll(fixture, target);
        Assert.Equal(target, fixture.Base);
    }

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void Merge_that_Android_has_begun_is_read_correctly_before_and_after_it_is_completed(string name)
    {
        byte[] target = Golden.New;
        using ViewFixture fixture = new(Golden.HalfCow(name), Golden.HalfBase(name));
        CheckAll(fixture, target);
        fixture.Engine.Run();
        CheckAll(fixture, target);
        Assert.Equal(target, fixture.Base);
    }

    [Fact]
    public void One_damaged_payload_fails_the_reads_that_touch_it_and_no_others()
    {
        byte[] old = SmallCases.Random(1, 64);
        CowBuilder cow = new() { Compression = CowCompression.Zstd, MaxUnitBytes = 16 << 10 };
        for (uint i = 0; i < 16; i++) cow.Replace(i * 4, Patterned((int)i, 4));
        byte[] target = NaiveMerger.Merge(cow, old), file = cow.Build();
        int damaged = (int)cow.DataOffsets[5];
        file.AsSpan(damaged, 8).Fill(0xff);
        using ViewFixture fixture = new(file, old);
        using ReadContext context = fixture.Reader();
        int failed = 0;
        for (int block = 0; block < 64; block++)
        {
            if (block / 4 != 5)
            {
                Check(fixture, context, target, block * Block, Block);
                continue;
            }
            Assert.Equal(-Errno.EIO, context.Reader.Read((block * Block) + 10, context.Buffer(0).Part(0, 100)));
            Assert.Contains("op 5 (Replace of block 20)", fixture.Failure);
            Assert.Contains($"at {damaged}", fixture.Failure);
            Assert.Contains($"100 bytes at {(block * Block) + 10}", fixture.Failure);
            failed++;
        }
        Assert.Equal(-Errno.EIO, context.Reader.Read(0, context.Buffer(0).Part(0, 64 * Block)));
        Check(fixture, context, target, 0, 20 * Block);
        Assert.Equal(failed + 1, fixture.View.Failures);
        // A read that failed has left the gate.
        fixture.Gate.Publish(fixture.Gate.Locations);
        Assert.True(fixture.Gate.IsDone);
    }

    [Fact]
    public void Truncated_COW_fails_only_the_reads_that_need_the_missing_part()
    {
        byte[] old = SmallCases.Random(1, 32);
        CowBuilder cow = new();
        for (uint i = 0; i < 8; i++) cow.Copy(i, i + 16);
        for (uint i = 8; i < 16; i++) cow.Replace(i, SmallCases.Random(i, 1));
        byte[] target = NaiveMerger.Merge(cow, old), file = cow.Build();
        using ViewFixture fixture = new(file, old);
        using ReadContext context = fixture.Reader();
        CheckAll(fixture, target);
        using (FileStream stream = new(fixture.Devices[0].Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            stream.SetLength(cow.DataOffsets[12]);
        for (int block = 0; block < 32; block++)
        {
            if (block is < 12 or >= 16) Check(fixture, context, target, block * Block, Block);
            else Assert.Equal(-Errno.EIO, context.Reader.Read(block * Block, context.Buffer(0).Part(0, Block)));
        }
        Assert.Contains(fixture.Devices[0].Path, fixture.Failure);
        Assert.Contains("4096 bytes at ", fixture.Failure);
    }

    /// <summary>
    /// Uses real threads, whose interleavings the simulator cannot produce, a merge that reuses its windows, and a checkpoint every few
    /// blocks.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Readers_see_only_the_target_while_windows_and_chains_are_merged(bool ring)
    {
        const int Blocks = 900;
        long reads = 0;
        for (int round = 0; round < 2; round++)
        {
            byte[] old = SmallCases.Random(round, Blocks + 40);
            CowBuilder cow = new()
            {
                ScratchBytes = SmallCases.ScratchFor(round % 2 == 0 ? 40 : 12),
                MaxUnitBytes = 16 << 10,
                Compression = CowCompression.Lz4,
            };
            for (uint i = 0; i < Blocks / 3; i++) cow.Copy(i, i + 1);
            for (uint i = (Blocks / 3) + 1; i < 2 * Blocks / 3; i++)
                cow.Xor(i, ((ulong)i * Block) + (i % 3 == 0 ? 512ul : 0), Patterned((int)i, 1));
            for (uint i = 2 * Blocks / 3; i < Blocks; i += 4) cow.Replace(i, Patterned((int)i, 4));
            byte[] target = NaiveMerger.Merge(cow, old);
            using ViewFixture fixture = new(cow.Build(), old, ring: ring);
            bool stop = false;
            Exception? failure = null;
            Thread[] readers = new Thread[4];
            using Barrier begin = new(readers.Length + 1);
            for (int i = 0; i < readers.Length; i++)
            {
                int seed = (round * 10) + i;
                readers[i] = new Thread(() =>
                {
                    Random random = new(seed);
                    try
                    {
                        using ReadContext context = fixture.Reader(1, 64 << 10);
                        begin.SignalAndWait();
                        while (!Volatile.Read(ref stop))
                        {
                            int length = random.Next(3) == 0 ? random.Next(1, 64 << 10) : random.Next(1, 5000);
                            Check(fixture, context, target, random.Next(0, target.Length - length + 1), length);
                            Interlocked.Increment(ref reads);
                        }
                    }
                    catch (Exception e)
                    {
                        failure = new InvalidOperationException($"seed {seed}", e);
                    }
                });
                readers[i].Start();
            }
            try
            {
                begin.SignalAndWait();
                fixture.Engine.Run();
            }
            finally
            {
                Volatile.Write(ref stop, true);
                foreach (Thread reader in readers) reader.Join();
            }
            Assert.Null(failure);
            CheckAll(fixture, target);
            Assert.True(target.AsSpan().SequenceEqual(fixture.Base));
        }
        output.WriteLine($"{reads} reads");
    }
}
