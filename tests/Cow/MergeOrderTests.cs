using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Cow;

/// <summary>Merge order, blocks written twice, reads of overwritten blocks, safe-from counts (cow-format §9, design §5 rule 1).</summary>
public sealed class MergeOrderTests(ITestOutputHelper output)
{
    private static readonly byte[] s_block = AndroidFiles.T;

    private static CowFile Read(CowBuilder builder) => CowFile.Read(new MemorySource(builder.Build(), Refusal.Name));

    private static uint[] Blocks(CowFile cow) =>
        Enumerable.Range(0, cow.Order.Count).Select(p => cow[cow.Order.OpIndex(p)].NewBlock).ToArray();

    private static CowBuilder V3() => new() { ScratchBytes = 0 };

    private static CowBuilder V2(int clusterOps = 0) => new() { Version = 2, ScratchBytes = 0, ClusterOps = clusterOps };

    private static string Conflict(CowBuilder builder, bool shared = true)
    {
        using CowFile cow = Read(builder);
        return Refusal.Of(() => cow.Order.Check(shared, new int[cow.Order.Count]));
    }

    private static int[] Limits(CowBuilder builder, bool shared = true)
    {
        using CowFile cow = Read(builder);
        int[] limits = Enumerable.Repeat(99, cow.Order.Count).ToArray();
        cow.Order.Check(shared, limits);
        return limits;
    }

    [Fact]
    public void Next_written_block_is_found_inside_units_between_ops_and_beyond_all_of_them()
    {
        byte[] file = new CowBuilder { ScratchBytes = 0 }.Replace(10, new byte[4 * 4096]).Zero(20).Copy(30, 1).Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal([10, 10, 13, 20, 20, 30, 30], new long[] { 0, 10, 13, 14, 20, 21, 30 }.Select(cow.Order.NextWritten));
        Assert.Equal(long.MaxValue, cow.Order.NextWritten(31));
        Assert.Equal(long.MaxValue, cow.Order.NextWritten(1L << 40));
    }

    [Fact]
    public void Listed_blocks_come_first_and_the_others_ascend()
    {
        // AOSP's RevMergeOpItrTest. Its reader for tools iterates in descending order, the daemon's in ascending order.
        foreach (CowBuilder builder in new[] { V2(5), V3() })
        {
            builder.Sequence(2, 10, 6, 7, 3, 5)
                .Copy(6, 113).Zero(12).Zero(8).Zero(11).Copy(3, 115).Copy(2, 116).Zero(4).Zero(9).Copy(5, 117).Zero(1).Copy(10, 112)
                .Copy(7, 114);
            using CowFile cow = Read(builder);
            Assert.Equal(new uint[] { 2, 10, 6, 7, 3, 5, 1, 4, 8, 9, 11, 12 }, Blocks(cow));
            Assert.True(cow.Order.AndroidCanMerge(out _));
        }
    }

    [Fact]
    public void Version_2_without_sequence_puts_ordered_ops_in_file_order_before_the_others_by_block()
    {
        using CowFile cow =
            Read(V2().Copy(2, 116).Zero(12).Copy(10, 112).Zero(4).Xor(6, 113 * 4096, s_block).Replace(8, s_block).Copy(3, 1).Zero(1));
        Assert.Equal(new uint[] { 2, 10, 6, 3, 1, 4, 8, 12 }, Blocks(cow));
    }

    [Fact]
    public void Version_3_without_sequence_keeps_file_order()
    {
        using CowFile cow = Read(V3().Copy(2, 116).Zero(12).Copy(10, 112).Zero(4));
        Assert.Equal(new uint[] { 2, 12, 10, 4 }, Blocks(cow));
        cow.Order.Check(true, default);
        Assert.False(cow.Order.AndroidCanMerge(out string why));
        Assert.Equal("op 2 (Copy of block 10) comes after op 1 (Zero of block 12) in the merge order", why);
    }

    [Fact]
    public void Unlisted_ordered_ops_are_sorted_by_block_among_the_others()
    {
        using CowFile cow = Read(V3().Sequence(7).Copy(7, 100).Copy(5, 101).Zero(3));
        Assert.Equal(new uint[] { 7, 3, 5 }, Blocks(cow));
        Assert.False(cow.Order.AndroidCanMerge(out _));
    }

    [Fact]
    public void Repeated_replace_and_zero_have_two_positions_that_give_the_first_op()
    {
        foreach (CowBuilder builder in new[] { V2(), V3(), V2(4).Sequence(1), V3().Sequence(1) })
        {
            builder.Copy(1, 100).Replace(5, s_block).Zero(4).Zero(5).Zero(4);
            using CowFile cow = Read(builder);
            Assert.Equal(5, cow.Order.Count);
            Assert.Equal(2, Enumerable.Range(0, 5).Count(p => cow.Order.OpIndex(p) == 1));
            Assert.Equal(2, Enumerable.Range(0, 5).Count(p => cow.Order.OpIndex(p) == 2));
            cow.Order.Check(true, new int[5]);
        }
    }

    [Fact]
    public void Listed_block_with_two_ops_counts_once()
    {
        using CowFile cow = Read(V3().Sequence(5).Zero(5).Zero(5).Zero(6));
        Assert.Equal(new uint[] { 5, 6 }, Blocks(cow));
        Assert.Equal(0, cow.Order.OpIndex(0));
    }

    [Fact]
    public void First_of_two_units_at_the_same_block_decides_the_length()
    {
        byte[] four = new byte[4 * 4096];
        using (CowFile cow = Read(V3().Replace(8, s_block).Replace(8, four).Zero(10)))
        {
            cow.Order.Check(true, default);
            Assert.Equal(-1, cow.Order.PositionWriting(9));
            Assert.Equal(2, cow.Order.PositionWriting(10));
        }
        Assert.Contains("op 0 (Replace of block 8) and op 2 (Zero of block 10) both write block 10",
            Conflict(V3().Replace(8, four).Replace(8, s_block).Zero(10)), StringComparison.Ordinal);
    }

    [Fact]
    public void Block_written_twice_is_refused_unless_both_are_replace_or_zero()
    {
        Assert.Contains("op 0 (Copy of block 5) and op 1 (Zero of block 5) both write block 5", Conflict(V3().Copy(5, 9).Zero(5)),
            StringComparison.Ordinal);
        Assert.Contains("op 0 (Zero of block 5) and op 1 (Xor of block 5) both write block 5",
            Conflict(V2().Zero(5).Xor(5, 0, s_block), shared: false), StringComparison.Ordinal);
        Assert.Contains("op 1 (Copy of block 5) and op 2 (Copy of block 5) both write block 5",
            Conflict(V2().Copy(6, 9).Copy(5, 9).Copy(5, 9)), StringComparison.Ordinal);
        Assert.Contains("op 1 (Zero of block 5) and op 2 (Copy of block 5)", Conflict(V2(8).Sequence(5).Copy(1, 90).Zero(5).Copy(5, 9)),
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(17u)]
    [InlineData(31u)]
    public void Op_inside_a_unit_is_refused(uint block)
    {
        byte[] unit = new byte[16 * 4096];
        Assert.Contains($"op 1 (Replace of block 16) and op 0 (Zero of block {block}) both write block {block}",
            Conflict(V3().Zero(block).Replace(16, unit), shared: false), StringComparison.Ordinal);
        Limits(V3().Zero(15).Replace(16, unit).Zero(32));
    }

    [Fact]
    public void Androids_test_cases_of_valid_and_invalid_order_give_its_results()
    {
        // AOSP's InvalidMergeOrderTest.
        Limits(V2().Copy(3, 2).Copy(2, 1));
        Assert.Contains(
            "op 2 (Copy of block 4) reads block 2, which op 1 (Copy of block 2) overwrites before it",
            Conflict(V2().Copy(3, 2).Copy(2, 1).Copy(4, 2)), StringComparison.Ordinal);
        Assert.Contains(
            "op 1 (Xor of block 3) reads block 2, which op 0 (Copy of block 2)",
            Conflict(V2().Copy(2, 1).Xor(3, 4097, s_block)), StringComparison.Ordinal);
        Limits(V2().Copy(2, 1).Xor(3, 4096, s_block));
        using CowFile cow = Read(V2().Copy(3, 2).Copy(2, 1).Copy(4, 2));
        Assert.False(cow.Order.AndroidCanMerge(out string why));
        Assert.Contains("op 2 (Copy of block 4) reads block 2", why, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_of_a_block_that_an_earlier_replace_overwrites_is_refused()
    {
        byte[] unit = new byte[16 * 4096];
        Assert.Contains("op 1 (Copy of block 90) reads block 20, which op 0 (Replace of block 16)",
            Conflict(V3().Replace(16, unit).Copy(90, 20)), StringComparison.Ordinal);
    }

    [Fact]
    public void Separate_source_allows_any_reads()
    {
        Assert.Equal(new[] { 0, 0, 0 }, Limits(V2().Copy(3, 2).Copy(2, 1).Copy(4, 2), shared: false));
    }

    [Fact]
    public void Limit_is_one_more_than_the_position_of_the_last_reader()
    {
        Assert.Equal(new[] { 0, 1, 2 }, Limits(V3().Copy(3, 2).Copy(2, 1).Copy(1, 0)));
        Assert.Equal(new[] { 0, 0, 2 }, Limits(V3().Copy(5, 9).Copy(6, 9).Replace(9, s_block)));
        Assert.Equal(new[] { 1 }, Limits(V3().Xor(5, 5 * 4096, s_block)));
        Assert.Equal(new[] { 1 }, Limits(V3().Xor(5, (5 * 4096) - 1, s_block)));
        Assert.Equal(new[] { 0, 2, 2 }, Limits(V3().Copy(80, 3).Xor(4, (4 * 4096) + 100, s_block).Zero(5)));
    }

    [Fact]
    public void Copy_onto_itself_writes_nothing_on_one_device_and_may_be_read_afterwards()
    {
        Assert.Equal(new[] { -1, 0, 0 }, Limits(V3().Copy(5, 5).Copy(6, 5).Zero(7)));
        Assert.Equal(new[] { 0, 0, 0 }, Limits(V3().Copy(5, 5).Copy(6, 5).Zero(7), shared: false));
    }

    [Fact]
    public void Copy_onto_itself_may_be_the_only_op_and_is_checked_without_limits_too()
    {
        Assert.Equal([-1], Limits(V3().Copy(7, 7)));
        using CowFile cow = Read(V3().Copy(7, 7));
        cow.Order.Check(true, default);
    }

    [Fact]
    public void Only_the_first_of_several_duplicates_writes()
    {
        Assert.Equal(new[] { 0, 1, -1, -1 }, Limits(V3().Copy(3, 9).Zero(9).Zero(9).Replace(9, s_block)));
        Assert.Equal(new[] { 0, -1 }, Limits(V3().Zero(9).Zero(9), shared: false));
    }

    [Fact]
    public void Android_cannot_merge_scratch_of_another_size_or_version_1()
    {
        using CowFile cow = Read(new CowBuilder { ScratchBytes = 65536 }.Zero(1));
        Assert.False(cow.Order.AndroidCanMerge(out string why));
        Assert.Contains("buffer_size is 65536", why, StringComparison.Ordinal);
        using CowFile old = Read(new CowBuilder { Version = 1 }.Zero(1));
        Assert.False(old.Order.AndroidCanMerge(out why));
        Assert.Contains("version 1", why, StringComparison.Ordinal);
    }

    [Fact]
    public void Random_file_has_the_order_limits_and_writers_of_the_plain_model()
    {
        int refused = 0, accepted = 0;
        for (int seed = 0; seed < 3000; seed++)
        {
            CowBuilder builder = Random(new Random(seed));
            try
            {
                using CowFile cow = Read(builder);
                int[] order = NaiveOrder.Of(builder);
                Assert.Equal(AndroidRefuses(cow, order), cow.Order.AndroidCanMerge(out string why) ? null : why);
                Assert.Equal(order, Enumerable.Range(0, cow.Order.Count).Select(cow.Order.OpIndex));
                foreach (bool shared in new[] { true, false })
                {
                    int[]? expected = NaiveOrder.Limits(builder, shared);
                    if (expected == null)
                    {
                        Refusal.Of(() => cow.Order.Check(shared, new int[order.Length]));
                        refused++;
                        continue;
                    }
                    int[] limits = new int[order.Length];
                    cow.Order.Check(shared, limits);
                    Assert.Equal(expected, limits);
                    accepted++;
                    for (int block = 0; block < 60; block++)
                    {
                        int writer = Array.FindIndex(order, i => cow[i].NewBlock <= block && block < cow[i].NewBlock + cow[i].Blocks);
                        Assert.Equal(writer, cow.Order.PositionWriting(block));
                        if (seed % 8 != 0) continue;
                        long next = Enumerable.Range(block, 60).Select(b => (long)b).FirstOrDefault(
                            b => order.Any(i => cow[i].NewBlock <= b && b < cow[i].NewBlock + cow[i].Blocks), long.MaxValue);
                        Assert.Equal(next, cow.Order.NextWritten(block));
                        // The result does not depend on the cursor's previous position.
                        int cursor = block % (order.Length + 2);
                        Assert.Equal(writer, cow.Order.PositionWriting(block, ref cursor));
                        Assert.Equal(writer, cow.Order.PositionWriting(block, ref cursor));
                    }
                    Assert.Equal(
                        Enumerable.Range(0, order.Length).OrderBy(p => cow[order[p]].NewBlock).ThenBy(p => p),
                        Enumerable.Range(0, order.Length).Select(cow.Order.PositionByBlock));
                }
            }
            catch (Exception)
            {
                output.WriteLine($"seed {seed}");
                throw;
            }
        }
        output.WriteLine($"{accepted} accepted, {refused} refused");
        Assert.True(accepted > 500 && refused > 500);
    }

    /// <summary>
    /// Android's rules for the merge order, as a plain model: the reason for a refusal, or null if Android can merge the file.
    /// </summary>
    private static string? AndroidRefuses(CowFile cow, int[] order)
    {
        if (cow.Header.Major == 1) return "its daemon aborts on version 1 headers";
        for (int position = 0; position < order.Length; position++)
        {
            CowOp op = cow[order[position]];
            if (!op.IsOrdered) continue;
            int plain = Array.FindLastIndex(order, position, i => !cow[i].IsOrdered);
            if (plain >= 0) return $"{cow.Describe(order[position])} comes after {cow.Describe(order[plain])} in the merge order";
            for (long block = op.SourceBlock; block < op.SourceBlock + op.SourceBlocks; block++)
            {
                int writer = Array.FindIndex(order, i => cow[i].NewBlock == block);
                if (writer >= 0 && writer < position)
                    return $"{cow.Describe(order[position])} reads block {block}, which {cow.Describe(order[writer])} overwrites before it";
            }
        }
        return null;
    }

    [Fact]
    public void Accepted_files_merge_in_place_to_the_image_of_the_plain_model()
    {
        int merged = 0;
        for (int seed = 0; seed < 2000; seed++)
        {
            CowBuilder builder = Random(new Random(seed));
            if (NaiveOrder.Limits(builder, shared: true) == null) continue;
            byte[] file = builder.Build();
            using CowFile cow = CowFile.Read(new MemorySource(file));
            byte[] image = new byte[64 * 4096];
            new Random(seed).NextBytes(image);
            byte[] expected = NaiveMerger.Merge(builder, image);
            PlainReplay.Run(cow, file, image, 0);
            Assert.True(expected.AsSpan().SequenceEqual(image), $"seed {seed}");
            merged++;
        }
        Assert.True(merged > 200);
    }

    [Fact]
    public void Hundreds_of_thousands_of_duplicates_that_as_many_ops_read_are_checked_in_linear_time()
    {
        // Quadratic work would take hours here.
        CowBuilder builder = V3();
        for (uint i = 0; i < 200_000; i++) builder.Copy(1000 + i, 7);
        for (uint i = 0; i < 200_000; i++) builder.Zero(7);
        int[] limits = Limits(builder);
        Assert.Equal(200_000, limits[200_000]);
        Assert.False(limits.AsSpan(200_001).ContainsAnyExcept(-1));
    }

    /// <summary>
    /// Limits of the ops when the source overlaps the base as <paramref name="map"/> describes, by a plain model. No two ranges may have
    /// the same shift. Null if a block is written twice.
    /// </summary>
    private static int[]? OverlapLimits(CowBuilder builder, CowFile cow, SharedRange[] map)
    {
        if (NaiveOrder.Limits(builder, shared: false) == null) return null;
        CowOp[] ops = [.. Enumerable.Range(0, cow.Order.Count).Select(position => cow[cow.Order.OpIndex(position)])];
        bool NothingToDo(CowOp op) => op.Type == CowOpType.Copy
            && map.Select(range => Common(range, op, 0, long.MaxValue)).Where(part => part.Length > 0).ToArray() is [{ Length: 4096 } one]
            && one.BaseOffset == op.NewBlock * 4096L;
        int[] limits = new int[ops.Length];
        for (int writer = 0; writer < ops.Length; writer++)
        {
            bool repeated = Enumerable.Range(0, writer).Any(p => cow.Order.OpIndex(p) == cow.Order.OpIndex(writer));
            limits[writer] = repeated || NothingToDo(ops[writer])
                ? -1
                : Array.FindLastIndex(ops,
                    op => op.IsOrdered && !NothingToDo(op) && map.Any(range => Common(range, op, ops[writer]).Length > 0)) + 1;
        }
        return limits;
    }

    /// <summary>The bytes that <paramref name="writer"/> writes and <paramref name="reader"/> reads through one range.</summary>
    private static SharedRange Common(SharedRange range, CowOp reader, CowOp writer) =>
        Common(range, reader, writer.NewBlock * 4096L, (writer.NewBlock + writer.Blocks) * 4096L);

    private static SharedRange Common(SharedRange range, CowOp reader, long from, long to)
    {
        long start = Math.Max(Math.Max(reader.SourceByte, range.SourceOffset) + range.Shift, from);
        long end = Math.Min(Math.Min(reader.SourceByte + 4096, range.SourceEnd) + range.Shift, to);
        return new SharedRange(start - range.Shift, start, Math.Max(0, end - start));
    }

    [Fact]
    public void Random_file_over_shared_storage_has_the_limits_of_the_plain_model()
    {
        int refused = 0, accepted = 0, ahead = 0, destroyed = 0, nothing = 0;
        for (int seed = 0; seed < 2000; seed++)
        {
            Random random = new(seed);
            CowBuilder builder = Random(random);
            // One or two ranges of whole blocks, of sectors, or of arbitrary bytes.
            int grain = new[] { 4096, 512, 1 }[random.Next(3)];
            long Bytes(int blocks) => random.Next(blocks * 4096 / grain) * (long)grain;
            SharedRange[] map =
            [
                .. Enumerable.Range(0, random.Next(1, 3))
                    .Select(i => new SharedRange((i * 15 * 4096L) + Bytes(10), Bytes(25), grain + Bytes(40))),
            ];
            if (random.Next(4) == 0) map[0] = new SharedRange(4096, 4096, grain + Bytes(40));
            if (map.Length == 2 && (map[0].Shift == map[1].Shift || map[0].SourceOffset == map[1].SourceOffset)) continue;
            Array.Sort(map, (a, b) => a.SourceOffset.CompareTo(b.SourceOffset));
            using CowFile cow = Read(builder);
            StorageMap storage = new(map);
            int[] limits = Enumerable.Repeat(99, cow.Order.Count).ToArray();
            if (OverlapLimits(builder, cow, map) is not { } expected)
            {
                Assert.Contains("both write block", Refusal.Of(() => cow.Order.CheckOverlap(storage, limits)), StringComparison.Ordinal);
                refused++;
                continue;
            }
            cow.Order.CheckOverlap(storage, limits);
            Assert.True(expected.SequenceEqual(limits), $"seed {seed}: {string.Join(' ', expected)}, not {string.Join(' ', limits)}");
            accepted++;
            ahead += limits.Where((limit, position) => limit > position + 1).Count();
            nothing += limits.Count(limit => limit < 0);
            for (int writer = 0; writer < limits.Length; writer++)
            {
                for (int reader = 0; reader < limits.Length; reader++)
                {
                    CowOp written = cow[cow.Order.OpIndex(writer)], read = cow[cow.Order.OpIndex(reader)];
                    SharedRange[] common =
                        read.IsOrdered ? [.. map.Select(range => Common(range, read, written)).Where(part => part.Length > 0)] : [];
                    SharedRange? found = cow.Order.Destroyed(storage, writer, reader);
                    Assert.True(found == (common.Length == 0 ? null : common[0]), $"seed {seed}: {found}");
                    destroyed += common.Length;
                }
            }
        }
        output.WriteLine(
            $"{accepted} accepted, {refused} refused, {ahead} limits ahead, {nothing} with nothing to do, {destroyed} stretches");
        Assert.True(accepted > 500 && refused > 100 && ahead > 100 && nothing > 50 && destroyed > 400);
    }

    [Fact]
    public void Limits_must_have_one_entry_per_position()
    {
        using CowFile cow = Read(V3().Zero(1).Zero(2));
        foreach (int length in new[] { 1, 3 })
        {
            ArgumentException refused = Assert.Throws<ArgumentException>(() => cow.Order.Check(true, new int[length]));
            Assert.Equal("limits", refused.ParamName);
            Assert.StartsWith($"{length} limits for 2 positions", refused.Message, StringComparison.Ordinal);
        }
        foreach (int length in new[] { 0, 1, 3 })
        {
            ArgumentException refused = Assert.Throws<ArgumentException>(() => cow.Order.CheckOverlap(new StorageMap([]), new int[length]));
            Assert.Equal("limits", refused.ParamName);
            Assert.StartsWith($"{length} limits for 2 positions", refused.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Copy_onto_itself_writes_where_the_source_only_shares_its_blocks()
    {
        using CowFile cow = Read(V3().Copy(5, 5).Copy(6, 5));
        int[] limits = [99, 99];
        cow.Order.Check(true, limits, sourceIsBase: false);
        Assert.Equal([0, 0], limits);
        cow.Order.Check(true, limits);
        Assert.Equal([-1, 0], limits);
    }

    /// <summary>A few ops over few blocks. All versions, sequence lists, repeated blocks and units occur.</summary>
    private static CowBuilder Random(Random random)
    {
        int version = random.Next(1, 4);
        bool sequence = random.Next(2) == 0;
        var builder = new CowBuilder
        {
            Version = version,
            ScratchBytes = 0,
            ClusterOps = version < 3 && (sequence || random.Next(2) == 0) ? random.Next(2, 6) : 0,
            MaxUnitBytes = 16384,
        };
        int span = random.Next(6, 40);
        var data = new CowBuilder();
        bool repeats = random.Next(3) == 0;
        var used = new HashSet<uint>();
        int count = random.Next(1, 12);
        for (int i = 0; i < count; i++)
        {
            uint block = (uint)random.Next(span);
            if (!used.Add(block) && !repeats) continue;
            ulong from = (ulong)random.Next(50);
            switch (random.Next(6))
            {
                case 0 or 1: data.Copy(block, from); break;
                case 2: data.Xor(block, (from * 4096) + (ulong)(random.Next(2) * random.Next(4096)), s_block); break;
                case 3: data.Replace(block, new byte[4096 << (version == 3 ? random.Next(3) : 0)]); break;
                default: data.Zero(block); break;
            }
        }
        if (sequence)
        {
            uint[] blocks =
                data.Ops.Where(op => random.Next(8) != 0 && (op.Type is CowOpType.Copy or CowOpType.Xor || random.Next(10) == 0))
                    .Select(op => op.NewBlock).Distinct().ToArray();
            random.Shuffle(blocks);
            if (blocks.Length > 0) builder.Sequence(blocks);
        }
        foreach (BuiltOp op in data.Ops) builder.Add(op);
        return builder;
    }
}
