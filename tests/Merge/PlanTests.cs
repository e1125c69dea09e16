using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The steps of a plan, at the limits where they change.</summary>
public sealed class PlanTests
{
    /// <summary>
    /// A COW from text, in merge order. "c2&lt;3": block 3 is copied to block 2; "x4": an Xor in place; "z5": zeros; "r6": data; "R6": data
    /// of two blocks.
    /// </summary>
    private static CowBuilder Cow(string ops, ulong count = 0)
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 8192, NumMergeOps = count };
        List<uint> sequence = [];
        foreach (string op in ops.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] numbers = op[1..].Split('<');
            uint block = uint.Parse(numbers[0], System.Globalization.CultureInfo.InvariantCulture);
            _ = op[0] switch
            {
                'c' => cow.Copy(block, ulong.Parse(numbers[1], System.Globalization.CultureInfo.InvariantCulture)),
                'x' => cow.Xor(block, block * 4096ul, SmallCases.Random(block, 1)),
                'z' => cow.Zero(block),
                _ => cow.Replace(block, SmallCases.Random(block, op[0] == 'R' ? 2 : 1)),
            };
            sequence.Add(block);
        }
        return cow.Sequence([.. sequence]);
    }

    private static T With<T>(CowBuilder cow, int window, Func<MergePlan, T> use, bool shared = true, bool own = true)
    {
        using CowFile file = CowFile.Read(new MemorySource(cow.Build()));
        using MergePlan plan = new(file, window, shared, own);
        return use(plan);
    }

    /// <summary>The steps in the engine's order: P plain, J journal, U unsafe, C a checkpoint.</summary>
    private static string Steps(MergePlan plan, int from)
    {
        List<string> steps = [];
        for (int durable = from, written = from; written < plan.Count;)
        {
            MergeStep step = plan.Next(durable, written);
            steps.Add(step.Kind == StepKind.Checkpoint ? "C" : $"{step.Kind.ToString()[0]}{step.Ops}");
            written += step.Ops;
            if (step.Kind != StepKind.Plain) durable = written;
        }
        return string.Join(' ', steps);
    }

    [Theory]
    // A chain: each op waits for the previous one. Writing half a window directly costs no more than journaling it.
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 0, 0, "P1 C P1 C P1 C P1 C P1")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 2, 0, "J2 J2 P1")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 3, 0, "J3 J2")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 5, 0, "J5")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 9, 0, "J5")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 3, 1, "J3 P1")]
    [InlineData("c0<1 c1<2 c2<3 c3<4 c4<5", 1, 3, "P1 C P1")]
    // Independent ops before a chain: a run of more than half a window is written directly.
    [InlineData("c9<10 c0<1 c1<2 c2<3", 4, 0, "J4")]
    [InlineData("c8<10 c9<10 c0<1 c1<2", 4, 0, "P3 C P1")]
    [InlineData("c9<10 c0<1 c1<2 c2<3 c3<4", 5, 0, "J5")]
    [InlineData("c8<10 c9<10 c0<1 c1<2 c2<3", 5, 0, "P3 C J2")]
    // A window contains only ordered ops.
    [InlineData("c0<1 c1<2 z9 c2<3 c3<4", 4, 0, "J2 P2 C P1")]
    [InlineData("z9 c0<1 c1<2", 4, 0, "P2 C P1")]
    // An op that overwrites its own source needs a window, or the user's permission.
    [InlineData("x1 x2 x3 z5", 2, 0, "J2 J1 P1")]
    [InlineData("x1 x2 x3 z5", 0, 0, "U3 P1")]
    [InlineData("z5 x1 x2", 0, 0, "P1 C U2")]
    [InlineData("x1 c5<6 x2", 0, 0, "U1 P1 C U1")]
    [InlineData("x1", 0, 0, "U1")]
    [InlineData("x1 x2 x3", 0, 1, "U2")]
    [InlineData("z1 z2 z3", 4, 0, "P3")]
    [InlineData("z1 z2 z3", 4, 3, "")]
    public void Steps_are_as_cheap_as_the_order_allows(string ops, int window, int from, string steps) =>
        Assert.Equal(steps, With(Cow(ops), window, plan => Steps(plan, from)));

    [Theory]
    [InlineData("c0<1 c1<2 z9 c2<3 c3<4 c4<5 R6", "2 1 0 3 2 1 0", "3 3 3 3 2 1 0 0")]
    [InlineData("z1 c2<9", "0 1", "1 1 0")]
    [InlineData("c2<9 c3<9 c4<9 c5<9 c6<9", "4 4 3 2 1", "4 4 3 2 1 0")]
    [InlineData("c2<9 c3<9 c4<9 c5<9", "4 3 2 1", "4 3 2 1 0")]
    public void Windows_end_after_W_ops_at_an_unordered_op_or_at_the_last_op(string ops, string at, string longest)
    {
        With(Cow(ops), 4, plan =>
        {
            Assert.Equal(at, string.Join(' ', Enumerable.Range(0, plan.Count).Select(plan.WindowAt)));
            Assert.Equal(longest, string.Join(' ', Enumerable.Range(0, plan.Count + 1).Select(plan.LongestWindowFrom)));
            return 0;
        });
        Assert.Equal(2, With(Cow("c2<9 c3<9 c4<9"), 2, plan => plan.LongestWindowFrom(0)));
        Assert.Equal(0, With(Cow("c2<9 c3<9 c4<9"), 0, plan => plan.LongestWindowFrom(0)));
        Assert.Equal(0, With(Cow("c2<9 c3<9 c4<9"), 0, plan => plan.WindowAt(0)));
    }

    [Theory]
    [InlineData("c0<1 c1<2 x5 c7<7 c8<6 z6", true, true, "0 1 3 -1 0 5")]
    [InlineData("c0<1 c1<2 x5 c7<7 z6 c8<7", true, false, "0 1 3 0 0 0")]
    [InlineData("c0<1 c1<2 x5 c7<7 z6 c8<1", false, false, "0 0 0 0 0 0")]
    public void Safe_from_count_is_the_position_after_the_last_reader(string ops, bool shared, bool own, string limits)
    {
        With(Cow(ops), 2, plan =>
        {
            Assert.Equal(limits, string.Join(' ', Enumerable.Range(0, plan.Count).Select(plan.SafeFrom)));
            for (int position = 0; position < plan.Count; position++)
            {
                Assert.Equal(plan.SafeFrom(position) < 0, plan.IsNoOp(position));
                Assert.Equal(plan.SafeFrom(position) == position + 1, plan.IsInPlace(position));
                Assert.True(plan.IsSafe(position));
            }
            return 0;
        }, shared, own);
    }

    [Theory]
    [InlineData(0, 2, "0+4096 8192+4096 16384+16384")]
    [InlineData(0, 0, "0+4096 8192+4096 16384+4096 24576+8192")]
    [InlineData(1, 2, "0+4096 8192+4096 20480+12288")]
    [InlineData(4, 2, "8192+4096")]
    [InlineData(6, 2, "")]
    public void Ranges_are_those_that_the_remaining_ops_write(int from, int window, string ranges) =>
        // Block 5 is copied onto itself. A window writes it as well.
        Assert.Equal(ranges, With(Cow("c4<9 c5<5 R6 z0 z2"), window,
            plan => string.Join(' ', plan.WrittenFrom(Math.Min(from, plan.Count)).Select(range => $"{range.Offset}+{range.Length}"))));

    [Theory]
    [InlineData(2)]
    [InlineData(0)]
    public void Duplicate_of_a_counted_op_is_not_written_again(int window)
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 8192 };
        cow.Replace(3, SmallCases.Random(1, 2)).Zero(7).Zero(3).Zero(7).Zero(9);
        Assert.Equal(["3+2 7+1 9+1", "7+1 9+1", "9+1", "9+1", "9+1", ""], With(cow, window, plan => Enumerable.Range(0, 6).Select(from =>
            string.Join(' ', plan.WrittenFrom(from).Select(range => $"{range.Offset / 4096}+{range.Length / 4096}"))).ToArray()));
    }

    /// <summary>
    /// All ways in which four copies can read each other's targets, by storage, with windows of every length. Compares the counts from
    /// which the rest can be merged with those that a simple recursive model finds.
    /// </summary>
    [Fact]
    public void Counts_are_safe_exactly_if_steps_lead_from_them_to_the_end()
    {
        const int Ops = 4;
        int safe = 0, stuck = 0, gone = 0;
        for (int graph = 0; graph < Math.Pow(Ops + 2, Ops); graph++)
        {
            CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 4096 };
            int[] reads = new int[Ops];
            int rest = graph;
            for (int op = 0; op < Ops; op++, rest /= Ops + 2)
            {
                // The source begins one block before the base, and has further blocks of its own.
                reads[op] = rest % (Ops + 2);
                if (reads[op] == Ops + 1) cow.Zero((uint)(2 * op));
                else cow.Copy((uint)(2 * op), reads[op] == Ops ? 20ul : (ulong)((2 * reads[op]) + 1));
            }
            cow.Sequence([.. Enumerable.Range(0, Ops).Select(op => (uint)(2 * op))]);
            using CowFile file = CowFile.Read(new MemorySource(cow.Build()));
            for (int window = 0; window <= Ops; window++)
            {
                using MergePlan plan = new(file, window, true, false, new SharedRange[] { new(4096, 0, 12 * 4096) });
                for (int count = Ops; count >= 0; count--)
                {
                    bool lost = IsLost(count);
                    bool expected = Reaches(count);
                    Assert.True(expected == plan.IsSafe(count), $"graph {graph}, window {window}, count {count}");
                    if (lost) gone++;
                    else if (expected) safe++;
                    else stuck++;
                }

                // A copy onto its own storage has nothing to write.
                bool IsLost(int count) =>
                    Enumerable.Range(count, Ops - count).Any(op => reads[op] < count && reads[reads[op]] != reads[op]);

                bool Reaches(int count)
                {
                    if (count == Ops) return true;
                    if (IsLost(count)) return false;
                    // The next step is one op whose target no later op reads, or a window.
                    bool free = reads[count] == count || !Enumerable.Range(count, Ops - count).Any(op => reads[op] == count);
                    if (free && Reaches(count + 1)) return true;
                    int ordered = Enumerable.Range(count, Ops - count).TakeWhile(op => reads[op] <= Ops).Count();
                    int length = Math.Min(window, ordered);
                    return length > 0 && Reaches(count + length);
                }
            }
        }
        Assert.True(safe > 1000 && stuck > 1000 && gone > 1000, $"{safe} safe, {stuck} stuck, {gone} gone");
    }
}
