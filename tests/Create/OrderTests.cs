using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Merge;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

/// <summary>The order of a plan, and the merge engine's result for it.</summary>
public sealed class OrderTests(ITestOutputHelper output)
{
    private const int Size = 4096;

    private static byte[] Noise(int seed, int blocks)
    {
        byte[] image = new byte[blocks * Size];
        new Random(seed).NextBytes(image);
        return image;
    }

    private static Span<byte> Block(byte[] image, int block, int count = 1) => image.AsSpan(block * Size, count * Size);

    private (DiffPlan Plan, List<DiffRun> Ops) Compare(byte[] old, byte[] now)
    {
        DiffPlan plan = Differ.Compare(new MemoryImage(old), new MemoryImage(now), new DiffOptions());
        NaivePlan.Check(plan, old, now);
        output.WriteLine($"copy {plan.CopyBlocks}, xor {plan.XorBlocks}, replace {plan.ReplaceBlocks}, zero {plan.ZeroBlocks}, cycles "
            + $"{plan.CyclesBroken}, runs {plan.RunCount}; {Forecast.Of(plan, old, now)}");
        return (plan, NaivePlan.Ops(plan));
    }

    [Theory]
    [InlineData(300)]
    [InlineData(-300)]
    [InlineData(1000)]
    public void Shift_by_more_than_half_a_window_needs_no_journal(int by)
    {
        byte[] old = Noise(1, 4000), now = (byte[])old.Clone();
        int length = 4000 - Math.Abs(by);
        Block(old, Math.Max(0, -by), length).CopyTo(Block(now, Math.Max(0, by), length));
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan)
        {
            Assert.Equal(length, plan.CopyBlocks);
            MergeForecast forecast = Forecast.Of(plan, old, now);
            Assert.Equal(0, forecast.Journaled);
            Assert.InRange(forecast.Checkpoints, 1, (length / Math.Abs(by)) + 2);
        }
    }

    [Fact]
    public void Shift_down_by_one_is_one_ascending_run()
    {
        byte[] old = Noise(2, 1000), now = (byte[])old.Clone();
        Block(old, 1, 999).CopyTo(Block(now, 0, 999));
        (DiffPlan plan, _) = Compare(old, now);
        using (plan)
        {
            Assert.Equal(1, plan.RunCount);
            Assert.Equal(new DiffRun(CowOpType.Copy, 0, 1, 999), plan[0]);
        }
    }

    [Fact]
    public void Shift_up_by_50_blocks_consists_of_ascending_runs_of_50()
    {
        byte[] old = Noise(3, 1000), now = (byte[])old.Clone();
        Block(old, 0, 950).CopyTo(Block(now, 50, 950));
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan)
        {
            Assert.Equal(19, plan.RunCount);
            Assert.Equal(Enumerable.Range(0, 19).Select(i => 950u - ((uint)i * 50)), Enumerable.Range(0, 19).Select(i => plan[i].NewBlock));
        }
    }

    [Fact]
    public void Chains_follow_one_another_and_do_not_mix()
    {
        byte[] old = Noise(4, 3000), now = (byte[])old.Clone();
        for (int chain = 0; chain < 10; chain++) Block(old, (chain * 300) + 1, 200).CopyTo(Block(now, chain * 300, 200));
        (DiffPlan plan, _) = Compare(old, now);
        using (plan)
            Assert.Equal(Enumerable.Range(0, 10).Select(chain => new DiffRun(CowOpType.Copy, (uint)chain * 300, (chain * 300) + 1, 200)),
                Enumerable.Range(0, plan.RunCount).Select(i => plan[i]));
    }

    [Fact]
    public void Copies_of_unwritten_blocks_stream_and_chains_and_in_place_xors_share_windows()
    {
        byte[] old = Noise(5, 6000), now = (byte[])old.Clone();
        Block(old, 0, 1000).CopyTo(Block(now, 1000, 1000));
        Block(old, 3001, 500).CopyTo(Block(now, 3000, 500));
        for (int block = 2000; block < 2400; block += 2) now[(block * Size) + block] ^= 1;
        for (int block = 4000; block < 4400; block += 2) now[(block * Size) + block] ^= 1;
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan)
        {
            Assert.Equal((1500L, 400L), (plan.CopyBlocks, plan.XorBlocks));
            Assert.All(ops.TakeLast(400), op => Assert.Equal(CowOpType.Xor, op.Type));
            MergeForecast forecast = Forecast.Of(plan, old, now);
            // Journaled are the in-place Xors and all ops of the chain but one, whose block no other op reads.
            Assert.Equal(499 + 400, forecast.Journaled);
            Assert.Equal(2, forecast.Windows);
        }
    }

    [Fact]
    public void Xor_in_place_comes_after_the_copies_that_read_its_block()
    {
        // Block 10 is edited in place, and its old content is copied to 20; block 20 is copied to 30. Both copies must come before the Xor.
        byte[] old = Noise(6, 40), now = (byte[])old.Clone();
        now[(10 * Size) + 7] ^= 3;
        Block(old, 10).CopyTo(Block(now, 20));
        Block(old, 20).CopyTo(Block(now, 30));
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan) Assert.Equal(new uint[] { 30, 20, 10 }, ops.Select(op => op.NewBlock));
    }

    [Fact]
    public void Cycle_is_broken_at_the_block_that_compresses_best()
    {
        byte[] old = Noise(7, 30), now = (byte[])old.Clone();
        for (int i = 0; i < Size; i++) old[(13 * Size) + i] = (byte)(i / 2048);
        Block(old, 13).CopyTo(Block(now, 13));
        // 10 ← 11 ← 12 ← 13 ← 14 ← 10: block 12 gets the cheap content.
        Block(old, 11, 4).CopyTo(Block(now, 10, 4));
        Block(old, 10).CopyTo(Block(now, 14));
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan)
        {
            Assert.Equal((4L, 1L, 1L), (plan.CopyBlocks, plan.ReplaceBlocks, plan.CyclesBroken));
            Assert.Equal(new DiffRun(CowOpType.Replace, 12, 0, 1), ops[^1]);
        }
    }

    [Fact]
    public void Xor_is_the_cheapest_op_of_a_cycle_when_its_payload_is_most_of_its_replacement()
    {
        byte[] old = Noise(8, 4), now = (byte[])old.Clone();
        // 0 and 1 are swapped. The new content of 0 is edited in half of its bytes, so its payload costs nearly half a block.
        Block(old, 1).CopyTo(Block(now, 0));
        Block(old, 0).CopyTo(Block(now, 1));
        new Random(9).NextBytes(Block(now, 0)[..2000]);
        (DiffPlan plan, List<DiffRun> ops) = Compare(old, now);
        using (plan)
        {
            Assert.Equal((1L, 0L, 1L, 1L), (plan.CopyBlocks, plan.XorBlocks, plan.ReplaceBlocks, plan.CyclesBroken));
            Assert.Equal(new[] { new DiffRun(CowOpType.Copy, 1, 0, 1), new DiffRun(CowOpType.Replace, 0, 0, 1) }, ops);
        }
    }

    [Fact]
    public void Rotation_of_a_long_region_costs_one_block()
    {
        byte[] old = Noise(10, 5000), now = (byte[])old.Clone();
        Block(old, 101, 4000).CopyTo(Block(now, 100, 4000));
        Block(old, 100).CopyTo(Block(now, 4100));
        (DiffPlan plan, _) = Compare(old, now);
        using (plan) Assert.Equal((4000L, 1L, 1L), (plan.CopyBlocks, plan.ReplaceBlocks, plan.CyclesBroken));
    }

    [Fact]
    public void Every_cycle_of_a_permutation_costs_one_block()
    {
        byte[] old = Noise(11, 2000), now = new byte[old.Length];
        int[] from = Enumerable.Range(0, 2000).ToArray();
        new Random(12).Shuffle(from);
        for (int i = 0; i < from.Length; i++) Block(old, from[i]).CopyTo(Block(now, i));
        int cycles = 0;
        bool[] seen = new bool[from.Length];
        for (int i = 0; i < from.Length; i++)
        {
            if (seen[i] || from[i] == i) continue;
            cycles++;
            for (int at = i; !seen[at]; at = from[at]) seen[at] = true;
        }
        (DiffPlan plan, _) = Compare(old, now);
        using (plan) Assert.Equal(((long)cycles, (long)cycles), (plan.ReplaceBlocks, plan.CyclesBroken));
    }

    [Fact]
    public void Two_regions_swapped_at_unaligned_offsets_have_many_cycles_and_a_valid_order()
    {
        byte[] old = Noise(13, 2100), now = (byte[])old.Clone();
        old.AsSpan(0, 1000 * Size).CopyTo(now.AsSpan((1000 * Size) + 99));
        old.AsSpan(1001 * Size, 999 * Size).CopyTo(now.AsSpan(17));
        (DiffPlan plan, _) = Compare(old, now);
        using (plan)
        {
            Assert.True(plan.CyclesBroken > 100, "no cycles");
            Assert.True(plan.XorBlocks > 900, $"only {plan.XorBlocks} xors are left");
        }
    }
}
