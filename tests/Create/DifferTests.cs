using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

/// <summary>Comparing two images: the plan, its size, memory, threads, errors, stop and progress.</summary>
public sealed class DifferTests(ITestOutputHelper output)
{
    private const int Size = 4096;

    private static DiffPlan Compare(byte[] old, byte[] now, DiffOptions? options = null) =>
        Differ.Compare(new MemoryImage(old, "old.img"), new MemoryImage(now, "new.img"), options ?? new DiffOptions());

    private static byte[] Noise(int seed, int blocks)
    {
        byte[] image = new byte[blocks * Size];
        new Random(seed).NextBytes(image);
        return image;
    }

    private static Span<byte> Block(byte[] image, int block, int count = 1) => image.AsSpan(block * Size, count * Size);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Plan_for_two_random_images_merges_in_place_to_the_new_one(bool xor)
    {
        long[] seen = new long[6];
        for (int seed = 0; seed < 150; seed++)
        {
            ImagePair pair = ImagePair.Random(seed);
            try
            {
                using DiffPlan plan = Compare(pair.Old, pair.New, new DiffOptions { Xor = xor, Threads = 1 + (seed % 2) });
                NaivePlan.Check(plan, pair.Old, pair.New);
                if (!xor) Assert.Equal(0, plan.XorBlocks);
                long[] counts =
                [
                    plan.UnchangedBlocks, plan.CopyBlocks, plan.XorBlocks, plan.ReplaceBlocks, plan.ZeroBlocks, plan.CyclesBroken,
                ];
                for (int i = 0; i < counts.Length; i++) seen[i] += counts[i];
            }
            catch
            {
                output.WriteLine($"seed {seed}");
                throw;
            }
        }
        output.WriteLine($"unchanged, copy, xor, replace, zero, cycles: {string.Join(", ", seen)}");
        Assert.All(seen.Where((_, i) => i != 2 || xor), count => Assert.True(count > 50, "the random pairs give too few ops of some kind"));
    }

    [Fact]
    public void Equal_images_and_empty_images_need_no_op()
    {
        byte[] image = Noise(1, 20);
        using (DiffPlan plan = Compare(image, (byte[])image.Clone())) Assert.Equal((0, 20L), (plan.RunCount, plan.UnchangedBlocks));
        using (DiffPlan plan = Compare([], [])) Assert.Equal(0, plan.RunCount);
        using (DiffPlan plan = Compare(image, [])) Assert.Equal(0, plan.RunCount);
        using (DiffPlan plan = Compare([], image))
        {
            NaivePlan.Check(plan, [], image);
            Assert.Equal(new DiffRun(CowOpType.Replace, 0, 0, 20), plan[0]);
        }
    }

    [Fact]
    public void Zeros_after_the_end_of_the_old_image_are_written_as_one_run()
    {
        byte[] old = Noise(2, 3), now = new byte[300 * Size];
        old.CopyTo(now, 0);
        using DiffPlan plan = Compare(old, now);
        Assert.Equal(1, plan.RunCount);
        Assert.Equal(new DiffRun(CowOpType.Zero, 3, 0, 297), plan[0]);
    }

    [Fact]
    public void Golden_pair_needs_no_more_bytes_than_Android()
    {
        byte[] old = Golden.Old, now = Golden.New;
        static int Gz(ReadOnlySpan<byte> block) => Math.Min(Size, Compressors.Compress(CowCompression.Gz, block, Size).Length);
        GoldenCow row = Golden.Row("v3-gz-4k-xor");
        using DiffPlan plan = Compare(old, now, new DiffOptions { Estimator = () => new FixedEstimator(Gz), XorOverhead = 0 });
        NaivePlan.Check(plan, old, now);
        output.WriteLine($"copy {plan.CopyBlocks}, xor {plan.XorBlocks}, replace {plan.ReplaceBlocks}, zero {plan.ZeroBlocks}, cycles "
            + $"{plan.CyclesBroken}; {Forecast.Of(plan, old, now)}");
        Assert.Equal((row.Copy, row.Zero), (plan.CopyBlocks, plan.ZeroBlocks));
        Assert.Equal(row.Xor + row.ReplaceBlocks, plan.XorBlocks + plan.ReplaceBlocks);

        // Android uses Xor for some blocks for which a Replace is as small. This program may use Replace instead only for such blocks.
        Dictionary<uint, DiffRun> ours = NaivePlan.Ops(plan).ToDictionary(op => op.NewBlock);
        using CowFile android = CowFile.Read(new MemorySource(Golden.Cow(row.Name)));
        long stored = 0, theirs = 0;
        for (int i = 0; i < android.OpCount; i++)
        {
            CowOp op = android[i];
            theirs += op.DataLength;
            if (op.Type == CowOpType.Xor && ours[op.NewBlock].Type == CowOpType.Replace)
                Assert.InRange(Gz(Block(now, (int)op.NewBlock)), 0, op.DataLength + 1);
        }
        foreach (DiffRun op in ours.Values)
        {
            if (op.Type == CowOpType.Replace) stored += Gz(Block(now, (int)op.NewBlock));
            else if (op.Type == CowOpType.Xor) stored += Gz(NaivePlan.XorPayload(op, old, now));
        }
        output.WriteLine($"{stored} bytes of payload, Android {theirs}");
        Assert.True(stored <= theirs, $"{stored} bytes of payload, Android {theirs}");
    }

    [Fact]
    public void Golden_pair_without_xor_needs_no_more_payloads_than_Android()
    {
        GoldenCow row = Golden.Row("v2-gz-copyonly");
        using DiffPlan plan = Compare(Golden.Old, Golden.New, new DiffOptions { Xor = false });
        NaivePlan.Check(plan, Golden.Old, Golden.New);
        Assert.Equal((row.Copy, row.ReplaceBlocks, row.Zero), (plan.CopyBlocks, plan.ReplaceBlocks, plan.ZeroBlocks));
    }

    [Theory]
    [InlineData(37)]
    [InlineData(1)]
    [InlineData(4095)]
    [InlineData(-37)]
    [InlineData(10000)]
    public void Blocks_moved_by_inserted_or_removed_bytes_have_xor_payloads_of_zeros(int inserted)
    {
        byte[] old = Noise(3, 400), now = (byte[])old.Clone();
        int from = 100 * Size, to = 300 * Size;
        if (inserted > 0) old.AsSpan(from, to - from - inserted).CopyTo(now.AsSpan(from + inserted));
        else old.AsSpan(from - inserted, to - from + inserted).CopyTo(now.AsSpan(from));
        new Random(4).NextBytes(inserted > 0 ? now.AsSpan(from, inserted) : now.AsSpan(to + inserted, -inserted));
        using DiffPlan plan = Compare(old, now);
        NaivePlan.Check(plan, old, now);
        List<DiffRun> xors = NaivePlan.Ops(plan).Where(op => op.Type == CowOpType.Xor).ToList();
        Assert.True(xors.Count(op => NaivePlan.XorPayload(op, old, now).All(b => b == 0)) >= 196,
            $"only {xors.Count} of 200 blocks are xored");
        Assert.True(plan.ReplaceBlocks + plan.CyclesBroken <= 4, $"{plan.ReplaceBlocks} of 200 blocks are replaced");
    }

    [Fact]
    public void Edited_blocks_of_a_moved_run_are_xored_with_their_old_blocks()
    {
        byte[] old = Noise(5, 400), now = (byte[])old.Clone();
        old.AsSpan(0, 100 * Size).CopyTo(now.AsSpan(200 * Size));
        for (int block = 203; block < 300; block += 7) Block(now, block)[block] ^= 0x55;
        using DiffPlan plan = Compare(old, now);
        NaivePlan.Check(plan, old, now);
        List<DiffRun> xors = NaivePlan.Ops(plan).Where(op => op.Type == CowOpType.Xor).ToList();
        Assert.Equal(14, xors.Count);
        Assert.All(xors, op => Assert.Equal((op.NewBlock - 200L) * Size, op.Source));
        Assert.Equal(0, plan.ReplaceBlocks);
    }

    [Fact]
    public void Xor_is_kept_only_where_it_saves_more_than_its_op()
    {
        byte[] old = Noise(6, 10), now = (byte[])old.Clone();
        now[(3 * Size) + 5] ^= 1;
        // The estimator recognizes the payload of the Xor by its zeros.
        static DiffOptions Costs(int xor, int replace) =>
            new() { Estimator = () => new FixedEstimator(block => block.Count((byte)0) > 4000 ? xor : replace) };
        using (DiffPlan plan = Compare(old, now, Costs(100, 100 + new DiffOptions().XorOverhead + 1)))
            Assert.Equal((1L, 0L), (plan.XorBlocks, plan.ReplaceBlocks));
        using (DiffPlan plan = Compare(old, now, Costs(100, 100 + new DiffOptions().XorOverhead)))
            Assert.Equal((0L, 1L), (plan.XorBlocks, plan.ReplaceBlocks));
        // The cost is at most 4096, the size of a raw block, even if the estimator returns more.
        using (DiffPlan plan = Compare(old, now, Costs(4090, 100_000))) Assert.Equal((0L, 1L), (plan.XorBlocks, plan.ReplaceBlocks));
    }

    [Fact]
    public void Copy_continues_a_run_even_where_another_source_is_nearer()
    {
        byte[] old = Noise(7, 60), now = (byte[])old.Clone();
        Block(old, 11).CopyTo(Block(old, 33));
        Block(old, 33).CopyTo(Block(now, 33));
        Block(old, 10, 2).CopyTo(Block(now, 30, 2));
        using DiffPlan plan = Compare(old, now);
        NaivePlan.Check(plan, old, now);
        Assert.Equal(1, plan.RunCount);
        Assert.Equal(new DiffRun(CowOpType.Copy, 30, 10, 2), plan[0]);
    }

    [Theory]
    [InlineData(14, 10)]
    [InlineData(16, 20)]
    [InlineData(15, 10)]
    [InlineData(29, 20)]
    [InlineData(59, 50)]
    [InlineData(0, 10)]
    public void Copy_uses_the_nearest_of_equal_sources_or_the_lower_of_two_equally_near(int at, int source)
    {
        byte[] old = Noise(8, 60), now;
        Block(old, 10).CopyTo(Block(old, 20));
        Block(old, 10).CopyTo(Block(old, 50));
        now = (byte[])old.Clone();
        Block(old, 10).CopyTo(Block(now, at));
        using DiffPlan plan = Compare(old, now);
        Assert.Equal(1, plan.RunCount);
        Assert.Equal(new DiffRun(CowOpType.Copy, (uint)at, source, 1), plan[0]);
    }

    [Theory]
    [InlineData(1UL)]
    [InlineData(3UL)]
    [InlineData(0xc000000000000003UL)]
    public void Colliding_hashes_never_give_a_wrong_copy(ulong mask)
    {
        for (int seed = 1000; seed < 1060; seed++)
        {
            ImagePair pair = ImagePair.Random(seed);
            using DiffPlan plan =
                Compare(pair.Old, pair.New, new DiffOptions { Hash = block => (BlockHash.Of(block) & mask) | 1, Xor = seed % 2 == 0 });
            NaivePlan.Check(plan, pair.Old, pair.New);
        }
    }

    [Fact]
    public void Long_images_give_the_same_plan_with_any_number_of_threads()
    {
        // The images have four tasks and a part of a fifth. They need every kind of op, moves across tasks, and moves that only anchors
        // find.
        byte[] old = Noise(9, (4 * Comparison.TaskBlocks) + 77), now = (byte[])old.Clone();
        var random = new Random(10);
        for (int i = 0; i < 60; i++)
        {
            int from = random.Next(old.Length - (900 * Size)), to = random.Next(old.Length - (900 * Size));
            if (i % 2 == 0) (from, to) = (from / Size * Size, to / Size * Size);
            old.AsSpan(from, random.Next(900) * Size).CopyTo(now.AsSpan(to));
        }
        for (int i = 0; i < 2000; i++) now[random.Next(now.Length)]++;
        for (int i = 0; i < 20; i++) now.AsSpan(random.Next(now.Length - 50000), random.Next(50000)).Clear();

        string? first = null;
        foreach (int threads in new[] { 1, 2, 5 })
        {
            using DiffPlan plan = Compare(old, now, new DiffOptions { Threads = threads });
            Assert.True(plan.CopyBlocks > 1000 && plan.XorBlocks > 1000 && plan.ReplaceBlocks > 10 && plan.ZeroBlocks > 10,
                "the images give too few ops of some kind");
            first ??= NaivePlan.Print(plan);
            Assert.True(first == NaivePlan.Print(plan), $"{threads} threads make a different plan");
            if (threads == 5) Assert.True(NaivePlan.Apply(plan, old, now).AsSpan().SequenceEqual(now));
        }
    }

    [Theory]
    [InlineData(DiffOptions.MinimumMemoryBytes)]
    [InlineData(64 << 20)]
    public void Memory_stays_below_the_option_and_32_bytes_per_block(long memory)
    {
        // Combines two worst cases: two thirds of the blocks move separately, and the rest moves to unaligned offsets.
        byte[] old = Noise(11, 3 * Comparison.TaskBlocks), now = new byte[old.Length];
        int[] order = Enumerable.Range(0, 2 * Comparison.TaskBlocks).ToArray();
        new Random(12).Shuffle(order);
        for (int i = 0; i < order.Length; i++) Block(old, order[i]).CopyTo(Block(now, i));
        Block(old, order.Length, Comparison.TaskBlocks)[..^100].CopyTo(Block(now, order.Length, Comparison.TaskBlocks)[100..]);
        using DiffPlan plan = Compare(old, now, new DiffOptions { MemoryBytes = memory, Threads = 100 });
        Assert.True(plan.CopyBlocks > order.Length - 100 && plan.XorBlocks > Comparison.TaskBlocks - 100,
            "the images give too few ops of some kind");
        long bound = memory + (32L * (old.Length / Size));
        output.WriteLine($"{plan.PeakNativeBytes} of {bound} bytes");
        Assert.InRange(plan.PeakNativeBytes, 1, bound);
    }

    [Fact]
    public void Arrays_of_each_stage_add_up_to_less_than_32_bytes_per_block()
    {
        int change = System.Runtime.CompilerServices.Unsafe.SizeOf<PackedChange>(),
            run = System.Runtime.CompilerServices.Unsafe.SizeOf<PackedRun>();
        Assert.Equal((8, 16), (change, run));
        const int Hash = 8, Entry = 12, Bucket = 1, State = 1, Stack = 4, Readers = 4, Order = 4, Free = 4;
        Assert.InRange(change + Hash + Entry + Bucket, 1, 32);
        Assert.InRange(change + State + Stack, 1, 32);
        Assert.InRange(change + Order + Readers + Free, 1, 32);
        Assert.InRange(change + Order + run, 1, 32);
        // MemoryBytes must suffice for the anchors, which take half of it, and for the windows of at least one worker.
        Assert.InRange((DiffOptions.MinimumMemoryBytes / 2) + WorkerBuffers.Bytes, 1, DiffOptions.MinimumMemoryBytes);
    }

    [Fact]
    public void Anchors_that_do_not_fit_get_sparser_and_still_find_moved_blocks()
    {
        byte[] old = Noise(13, 2000), now = (byte[])old.Clone();
        old.AsSpan(0, (999 * Size) + 11).CopyTo(now.AsSpan((1000 * Size) + 5));
        using var comparison = new Comparison(new MemoryImage(old), new MemoryImage(now), new DiffOptions());
        for (int block = 0; block < 2000; block++)
            if (!Block(old, block).SequenceEqual(Block(now, block))) comparison.Changes[block] = PackedChange.Pending;
        using var table = new AnchorTable(comparison.Tally, 1024 * 16, 1);
        int densest = table.Shift;
        AnchorPass.Run(comparison, table);
        PlacePass.Run(comparison, table);
        SimilarPass.Run(comparison, table);
        Assert.True(table.Shift < densest - 2, "the table was never full");
        int xors = Enumerable.Range(0, 2000).Count(block => comparison.Changes[block].Type == CowOpType.Xor);
        Assert.True(xors > 990, $"{xors} of 1000 blocks were found");
    }

    [Fact]
    public void Images_that_are_not_whole_blocks_or_too_large_are_refused_with_exit_code_64()
    {
        byte[] image = Noise(14, 2);
        Refused(ExitCode.Usage, "old.img has 8191 bytes", () => Compare(image[..8191], image));
        Refused(ExitCode.Usage, "new.img has 1 bytes", () => Compare(image, image[..1]));
        Refused(ExitCode.Usage, "more than the 16 TiB",
            () => Differ.Compare(new MemoryImage(image), new FailingImage((1L << 44) + Size), new DiffOptions()));
        Refused(ExitCode.Usage, "0 threads", () => Compare(image, image, new DiffOptions { Threads = 0 }));
        Refused(ExitCode.Usage, "8388608 bytes of memory", () => Compare(image, image, new DiffOptions { MemoryBytes = (8 << 20) - 1 }));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Failed_read_ends_the_comparison_with_the_readers_own_error(int threads)
    {
        byte[] image = Noise(15, 2 * Comparison.TaskBlocks);
        Refused(ExitCode.InputOutput, "broken.img",
            () => Differ.Compare(new FailingImage(image.Length), new MemoryImage(image), new DiffOptions { Threads = threads }));
        Refused(ExitCode.InputOutput, "broken.img",
            () => Differ.Compare(new MemoryImage(image), new FailingImage(image.Length), new DiffOptions { Threads = threads }));
    }

    [Fact]
    public void Failing_estimator_ends_the_comparison()
    {
        byte[] old = Noise(16, 10), now = (byte[])old.Clone();
        now[5]++;
        var options = new DiffOptions { Estimator = () => new FixedEstimator(_ => throw new InvalidOperationException("no codec")) };
        Assert.Equal("no codec", Assert.Throws<InvalidOperationException>(() => Compare(old, now, options)).Message);
    }

    [Fact]
    public void Stop_flag_ends_the_comparison_with_exit_code_75()
    {
        byte[] old = Noise(17, 2 * Comparison.TaskBlocks), now = Noise(18, 2 * Comparison.TaskBlocks);
        var stop = new StopFlag();
        var stages = new HashSet<DiffStage>();
        var options = new DiffOptions
        {
            Stop = stop,
            Progress = progress =>
            {
                stages.Add(progress.Stage);
                if (progress.Stage == DiffStage.FindMoved) stop.Request();
            },
        };
        Refused(ExitCode.Interrupted, "stopped", () => Compare(old, now, options));
        Assert.DoesNotContain(DiffStage.FindSimilar, stages);
    }

    [Fact]
    public void Progress_rises_to_the_total_of_every_stage()
    {
        byte[] old = Noise(19, (2 * Comparison.TaskBlocks) + 5), now = (byte[])old.Clone();
        for (int i = 0; i < old.Length; i += 100_000) now[i]++;
        var last = new Dictionary<DiffStage, DiffProgress>();
        using DiffPlan plan = Compare(old, now, new DiffOptions
        {
            Threads = 2,
            Progress = progress =>
            {
                Assert.InRange(progress.Done, 0, progress.Total);
                if (last.TryGetValue(progress.Stage, out DiffProgress before) && progress.Stage != DiffStage.FindAnchors)
                    Assert.True(progress.Done >= before.Done);
                last[progress.Stage] = progress;
            },
        });
        Assert.Equal(Enum.GetValues<DiffStage>(), last.Keys.Order());
        Assert.All(last.Values, progress => Assert.Equal((progress.Total, old.LongLength), (progress.Done, progress.Total)));
    }

    private static void Refused(ExitCode code, string part, Func<DiffPlan> action)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => action().Dispose());
        Assert.Equal(code, refusal.Code);
        Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("\n", refusal.Message, StringComparison.Ordinal);
    }
}

/// <summary>An estimator whose costs the test chooses.</summary>
internal sealed class FixedEstimator(FixedEstimator.CostOf cost) : ICostEstimator
{
    internal delegate int CostOf(ReadOnlySpan<byte> blocks);

    public int Cost(ReadOnlySpan<byte> blocks) => cost(blocks);

    public void Dispose()
    {
    }
}

/// <summary>An image whose reads fail.</summary>
internal sealed class FailingImage(long length) : IImageReader
{
    public string Name => "broken.img";

    public long Length => length;

    public void Read(long offset, Span<byte> destination) => throw new SnapuserdException(ExitCode.InputOutput, $"{Name}: read failed");

    public bool TrySkipHole(long offset, out long nextData)
    {
        nextData = offset;
        return false;
    }
}
