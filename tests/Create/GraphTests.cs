using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Create;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

/// <summary>Breaking of cycles, and order of ops, on artificial graphs that a pair of images would rarely produce.</summary>
public sealed class GraphTests(ITestOutputHelper output)
{
    private const int Size = 4096;

    /// <summary>Breaks cycles, orders the ops, and checks each op against all earlier writers. Returns the ops' blocks in order.</summary>
    private static (uint[] Order, long Broken) Solve(PackedChange[] ops)
    {
        var image = new MemoryImage(new byte[ops.Length * Size]);
        // The estimator gives all blocks the same cost, so all Copy ops cost the same. Each Xor op has its own cost.
        using var comparison = new Comparison(image, image, new DiffOptions { Estimator = () => new FixedEstimator(_ => 2000) });
        ops.CopyTo(comparison.Changes.Slice(0, ops.Length));
        int ordered = ops.Count(op => op.IsOrdered);
        long broken = CycleBreaker.Run(comparison, ordered);
        comparison.Changes.Slice(0, ops.Length).CopyTo(ops);
        Assert.Equal(ordered - broken, ops.Count(op => op.IsOrdered));

        using NativeArray<uint> order = MergeSequence.Order(comparison.Tally, comparison.Changes, ordered - broken, new StopPoll(null));
        uint[] blocks = order.Slice(0, (int)order.Length).ToArray();
        Assert.Equal(blocks.Length, blocks.Distinct().Count());
        var written = new HashSet<long>();
        foreach (uint block in blocks)
        {
            PackedChange op = ops[block];
            Assert.True(op.IsOrdered);
            Assert.False(written.Contains(op.FirstRead) || written.Contains(op.LastRead),
                $"the op of block {block} reads a block that an earlier op writes");
            written.Add(block);
        }
        return (blocks, broken);
    }

    private static PackedChange Op(Random random, int blocks)
    {
        int source = random.Next(blocks);
        return random.Next(6) switch
        {
            0 => PackedChange.Copy(source),
            1 => PackedChange.Xor((long)source * Size, random.Next(1, 4097)),
            2 => PackedChange.Replace,
            3 => PackedChange.Zero,
            4 => PackedChange.Unchanged,
            _ => PackedChange.Xor(Math.Min(((long)source * Size) + random.Next(1, Size), (blocks - 1L) * Size), random.Next(1, 4097)),
        };
    }

    [Fact]
    public void Random_graph_gets_a_valid_order()
    {
        for (int seed = 0; seed < 2000; seed++)
        {
            var random = new Random(seed);
            int blocks = random.Next(1, 60);
            try
            {
                var ops = new PackedChange[blocks];
                for (int i = 0; i < blocks; i++)
                {
                    do ops[i] = Op(random, blocks);
                    while (ops[i].Type == CowOpType.Copy && ops[i].Source == i);
                }
                Solve(ops);
            }
            catch
            {
                output.WriteLine($"seed {seed}");
                throw;
            }
        }
    }

    [Fact]
    public void Acyclic_graph_keeps_all_ops()
    {
        for (int seed = 0; seed < 300; seed++)
        {
            var random = new Random(seed);
            int blocks = random.Next(3, 1000);
            var ops = new PackedChange[blocks];
            // Every op reads its own block or a higher one.
            for (int i = 0; i < blocks - 2; i++)
                ops[i] = PackedChange.Xor(((long)random.Next(i, blocks - 1) * Size) + random.Next(0, 2), 1);
            Assert.Equal(0, Solve(ops).Broken);
        }
    }

    [Fact]
    public void Cheapest_op_of_a_cycle_is_replaced_wherever_it_is_in_the_cycle()
    {
        for (int cheapest = 0; cheapest < 50; cheapest++)
        {
            var ops = new PackedChange[60];
            // Every op reads the block 7 positions ahead, so all 50 form one cycle. Ten more ops read blocks of the cycle.
            for (int i = 0; i < 50; i++) ops[i] = PackedChange.Xor((i + 7) % 50 * Size, i == cheapest ? 99 : 100 + i);
            for (int i = 50; i < 60; i++) ops[i] = PackedChange.Xor((i - 50) * 5 * Size, 1);
            Assert.Equal(1, Solve(ops).Broken);
            Assert.Equal(CowOpType.Replace, ops[cheapest].Type);
        }
    }

    [Fact]
    public void Long_cycles_need_no_deep_stack_and_entangled_cycles_no_quadratic_time()
    {
        const int Blocks = 200_000;
        var ring = new PackedChange[Blocks];
        for (int i = 0; i < Blocks; i++) ring[i] = PackedChange.Copy((i + 1) % Blocks);
        Assert.Equal(1, Solve(ring).Broken);

        var random = new Random(1);
        var tangle = new PackedChange[Blocks];
        for (int i = 0; i < Blocks; i++) tangle[i] = PackedChange.Xor(((long)random.Next(Blocks - 1) * Size) + 1, random.Next(1, 4096));
        (uint[] order, long broken) = Solve(tangle);
        output.WriteLine($"{broken} of {Blocks} replaced, {order.Length} left");
        Assert.InRange(broken, 1, Blocks / 2);
    }
}
