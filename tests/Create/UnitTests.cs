using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Create;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

/// <summary>The choice between Xor and Replace where neighbouring Replace blocks share a unit.</summary>
public sealed class UnitTests(ITestOutputHelper output)
{
    private const int Size = 4096, Op = 16;

    /// <summary>Total payload of a plan in bytes as the writer cuts it into units, plus 16 bytes for the op of each Xor and unit.</summary>
    private static long Total(DiffPlan plan, byte[] old, byte[] now, int unitBytes, CodecCosts costs)
    {
        long total = 0;
        for (int i = 0; i < plan.RunCount; i++)
        {
            DiffRun run = plan[i];
            if (run.Type == CowOpType.Xor)
            {
                foreach (int k in Enumerable.Range(0, run.Count))
                    total += Op + costs.Of(NaivePlan.XorPayload(
                        new DiffRun(CowOpType.Xor, run.NewBlock + (uint)k, run.Source + ((long)k * Size), 1), old, now));
            }
            if (run.Type != CowOpType.Replace) continue;
            int unit = unitBytes / Size;
            for (int at = 0; at < run.Count; at += unit)
            {
                while (unit > run.Count - at) unit /= 2;
                total += Op + costs.Of(now.AsSpan(((int)run.NewBlock + at) * Size, unit * Size));
            }
        }
        return total;
    }

    private static DiffPlan Compare(byte[] old, byte[] now, bool xor, int unitBytes, int threads, CowCompression codec) =>
        Differ.Compare(new MemoryImage(old), new MemoryImage(now), new DiffOptions
        {
            Xor = xor,
            MaxUnitBytes = unitBytes,
            XorOverhead = unitBytes == Size ? 0 : Op,
            Threads = threads,
            Estimator = () => new CodecCosts(codec, unitBytes),
        });

    /// <summary>
    /// New contents in which ranges of blocks repeat at many distances. The old contents differ from them in few bytes or in many.
    /// </summary>
    private static (byte[] Old, byte[] New) Redundant(int seed)
    {
        var random = new Random(seed);
        byte[] now = new byte[random.Next(1, 150) * Size], kinds = new byte[random.Next(1, 4) * Size];
        for (int i = 0; i < kinds.Length; i++) kinds[i] = (byte)random.Next(97, 123);
        byte[] old = new byte[now.Length];
        int dirt = 0, kind = 0, next = 0;
        for (int at = 0; at < now.Length; at += Size)
        {
            if (at == next)
            {
                next = at + (random.Next(1, 40) * Size);
                (dirt, kind) = (random.Next(2) * random.Next(1500), random.Next(kinds.Length / Size));
            }
            Span<byte> block = now.AsSpan(at, Size);
            kinds.AsSpan(kind * Size, Size).CopyTo(block);
            // Each block differs a little, so that none can be copied.
            for (int i = 0; i < 8; i++) block[random.Next(Size)] = (byte)random.Next(256);
            if (random.Next(40) == 0) random.NextBytes(block);
            block.CopyTo(old.AsSpan(at));
            for (int i = 0; i < dirt; i++) old[at + random.Next(Size)] = (byte)random.Next(256);
            if (random.Next(30) != 0) old[at + random.Next(Size)] ^= 1;
        }
        return (old, now);
    }

    [Theory]
    [InlineData(Size, CowCompression.Lz4)]
    [InlineData(16 * Size, CowCompression.Lz4)]
    [InlineData(16 * Size, CowCompression.Zstd)]
    public void Plan_with_xor_is_never_larger_than_without_xor(int unitBytes, CowCompression codec)
    {
        long xors = 0, saved = 0, taken = 0;
        using var costs = new CodecCosts(codec, unitBytes);
        for (int seed = 0; seed < 120; seed++)
        {
            ImagePair pair = ImagePair.Random(seed);
            (byte[] old, byte[] now) = seed % 2 == 0 ? (pair.Old, pair.New) : Redundant(seed);
            using DiffPlan without = Compare(old, now, false, unitBytes, 1, codec),
                with = Compare(old, now, true, unitBytes, 1 + (seed % 3), codec);
            NaivePlan.Check(with, old, now);
            long more = Total(with, old, now, unitBytes, costs), less = Total(without, old, now, unitBytes, costs);
            Assert.True(more <= less,
                $"seed {seed}: {more} bytes with Xor, {less} without; {with.CyclesBroken} and {without.CyclesBroken} cycles");
            xors += with.XorBlocks;
            saved += less - more;
            if (unitBytes > Size && with.XorBlocks == 0 && with.ReplaceBlocks > 0) taken++;
        }
        output.WriteLine($"{xors} blocks xored, {saved} bytes saved, {taken} plans without any");
        Assert.True(xors > 1000 && saved > 1_000_000, "the random pairs give too few ops of some kind");
    }

    /// <summary>
    /// The first block could be an Xor; noise follows, and then units whose blocks are all equal. An Xor would shift all later units by a
    /// block, so that each unit would have two different contents.
    /// </summary>
    [Fact]
    public void Cost_of_an_xor_includes_its_effect_on_later_units()
    {
        const int Unit = 16;
        var random = new Random(4);
        byte[] now = new byte[8 * Unit * Size], old = new byte[now.Length];
        random.NextBytes(now);
        random.NextBytes(old);
        now.AsSpan(0, Size).CopyTo(old);
        old[100] ^= 1;
        using (DiffPlan plan = Compare(old[..(Unit * Size)], now[..(Unit * Size)], true, Unit * Size, 1, CowCompression.Lz4))
            Assert.Equal(1, plan.XorBlocks);
        for (int block = Unit; block < 8 * Unit; block++) now.AsSpan(block / Unit * Unit * Size, Size).CopyTo(now.AsSpan(block * Size));
        using (DiffPlan plan = Compare(old, now, true, Unit * Size, 1, CowCompression.Lz4))
            Assert.Equal((0L, 8L * Unit), (plan.XorBlocks, plan.ReplaceBlocks));
    }

    [Fact]
    public void Units_are_cut_greedily()
    {
        foreach (int largest in new[] { 1, 2, 16, 64 })
        {
            for (int count = 1; count < 200; count++)
            {
                var expected = new Dictionary<long, int>();
                int unit = largest;
                for (int at = 0; at < count; at += unit)
                {
                    while (unit > count - at) unit /= 2;
                    expected[at + 7] = unit;
                }
                for (long at = 7; at < count + 7; at++)
                    Assert.Equal(expected.GetValueOrDefault(at), UnitPass.UnitAt(7, count + 7, at, largest));
            }
        }
    }

    [Fact]
    public void Redundant_stretch_across_tasks_gives_the_same_plan_with_any_number_of_threads()
    {
        // Two contents alternate. The old data of the second differs in many bytes, so that no Xor is cheaper than a unit.
        byte[] now = new byte[((2 * Comparison.TaskBlocks) + 9) * Size], kinds = new byte[2 * Size];
        var random = new Random(3);
        random.NextBytes(kinds);
        for (int at = 0; at < now.Length; at += Size)
        {
            kinds.AsSpan(IsSecond(at) ? Size : 0, Size).CopyTo(now.AsSpan(at));
            now[at + (at / Size % Size)]++;
        }
        byte[] old = (byte[])now.Clone();
        for (int at = 0; at < now.Length; at += Size)
            for (int i = 0; i < (IsSecond(at) ? 900 : 1); i++) old[at + random.Next(Size)] ^= 0x5a;
        static bool IsSecond(int at) => at / Size % 100 >= 50;
        string? first = null;
        foreach (int threads in new[] { 1, 3 })
        {
            using DiffPlan plan = Compare(old, now, true, 16 * Size, threads, CowCompression.Lz4);
            Assert.True(plan.XorBlocks > 1000 && plan.ReplaceBlocks > 1000,
                $"{plan.XorBlocks} xored and {plan.ReplaceBlocks} replaced blocks are too few for this test");
            first ??= NaivePlan.Print(plan);
            Assert.True(first == NaivePlan.Print(plan), $"{threads} threads make a different plan");
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2048)]
    [InlineData(12288)]
    [InlineData(512 << 10)]
    public void Invalid_unit_size_is_refused_with_exit_code_64(int bytes)
    {
        var image = new MemoryImage(new byte[Size]);
        Assert.Equal(ExitCode.Usage,
            Assert.Throws<SnapuserdException>(() => Differ.Compare(image, image, new DiffOptions { MaxUnitBytes = bytes })).Code);
    }

    [Fact]
    public void Stop_flag_ends_the_search_for_cycles_and_the_order_with_exit_code_75()
    {
        var stop = new StopFlag();
        stop.Request();
        var image = new MemoryImage(new byte[5000 * Size]);
        using var comparison = new Comparison(image, image, new DiffOptions { Stop = stop });
        for (int block = 0; block < 4999; block++) comparison.Changes[block] = PackedChange.Copy(block + 1);
        Assert.Equal(ExitCode.Interrupted, Assert.Throws<SnapuserdException>(() => CycleBreaker.Run(comparison, 4999)).Code);
        Assert.Equal(ExitCode.Interrupted, Assert.Throws<SnapuserdException>(() =>
            MergeSequence.Order(comparison.Tally, comparison.Changes, 4999, new StopPoll(stop)).Dispose()).Code);
    }

    private sealed class CodecCosts(CowCompression codec, int unitBytes) : ICostEstimator
    {
        private readonly UnitEncoder _encoder = new(codec, null, unitBytes);
        private readonly byte[] _room = new byte[UnitEncoder.Bound(unitBytes)];

        public int Cost(ReadOnlySpan<byte> blocks) => _encoder.Encode(blocks, _room);

        public int Of(ReadOnlySpan<byte> blocks) => Math.Min(blocks.Length, Cost(blocks));

        public void Dispose() => _encoder.Dispose();
    }
}
