using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Numerics;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Every way in which the ops of a small program can read what other ops write. Op i writes block 2i of the base. It reads storage of a
/// block that another op writes, or storage of the source alone, or is a Replace. These reads decide where windows have to begin;
/// <see cref="Overlaps"/> covers every other overlap.
/// </summary>
public static class OverlapGraphs
{
    private static readonly byte[] _base = SmallCases.Random(241, 24);
    private static readonly byte[] _own = SmallCases.Random(242, 32);
    private static readonly byte[][] _payloads = [.. Enumerable.Range(0, 12).Select(i => SmallCases.Random(250 + i, 1))];

    /// <summary>The number of graphs with the given number of ops.</summary>
    public static long Count(int ops) => (long)BigInteger.Pow(ops + 2, ops);

    /// <summary>
    /// The graphs with the given number of ops, in an order that the seed chooses, as strings. "w3:k2:c.c0x1R" is a window of 3 ops and
    /// a shift of 2 sectors; its ops are a Copy of the source's own storage, a Copy of what op 0 writes, an Xor of what op 1 writes, and a
    /// Replace.
    /// </summary>
    public static IEnumerable<string> All(int ops, ulong seed)
    {
        long count = Count(ops), number = (long)(Chance.Mix(seed) % (ulong)count), stride = (long)(Chance.Mix(seed + 1) % (ulong)count) | 1;
        while (BigInteger.GreatestCommonDivisor(stride, count) != 1) stride += 2;
        for (long i = 0; i < count; i++, number = (long)(((BigInteger)number + stride) % count))
        {
            Chance chance = new(Chance.Mix(seed + (ulong)number));
            string graph = "";
            long rest = number;
            for (int op = 0; op < ops; op++, rest /= ops + 2)
            {
                int reads = (int)(rest % (ops + 2));
                graph += reads == ops + 1 ? "R"
                    : $"{(chance.Percent(50) ? 'c' : 'x')}{(reads == ops ? "." : reads.ToString(CultureInfo.InvariantCulture))}";
            }
            yield return string.Create(CultureInfo.InvariantCulture, $"w{1 + chance.Below(ops)}:k{chance.Below(Page.Sectors)}:{graph}");
        }
    }

    /// <summary>
    /// Checks one graph; throws if the target is not reached. Every <paramref name="stride"/>-th of its steps is crashed.
    /// </summary>
    public static void Check(string word, ulong seed, Arenas arenas, Tally tally, int stride = 1)
    {
        string[] parts = word.Split(':');
        int window = int.Parse(parts[0][1..], CultureInfo.InvariantCulture), shift = int.Parse(parts[1][1..], CultureInfo.InvariantCulture);
        int ops = parts[2].Count(char.IsLetter), blocks = 2 * ops;
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(window) };
        int op = 0;
        for (int at = 0; at < parts[2].Length; op++)
        {
            char kind = parts[2][at++];
            uint block = (uint)(2 * op);
            if (kind == 'R')
            {
                cow.Replace(block, _payloads[op]);
                continue;
            }
            char reads = parts[2][at++];
            ulong from = reads == '.' ? (ulong)(blocks + 1) : (ulong)(2 * (reads - '0'));
            if (kind == 'c') cow.Copy(block, from);
            else cow.Xor(block, from * Page.Size, _payloads[op]);
        }
        Geometry geometry = new($"{(shift > 0 ? $"p{shift}," : "")}b0+{blocks * Page.Sectors},p{(2 * Page.Sectors) - shift}");
        byte[] target = _base[..(blocks * Page.Size)], source = geometry.Contents(target, _own);
        MergeCase merge = new(word, new Image(cow.Build()), new Image(target), new Image(NaiveMerger.Merge(cow.Ops, source, target)))
        {
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = (1 + (int)(seed % 4)) * (long)CowOp.BlockSize },
            Source = new Image(source),
            Overlap = geometry.Ranges(new Chance(seed)),
        };
        Overlaps.Check(merge, new NaiveOverlap(cow, window, geometry.Sectors), Page.Size, seed, arenas, tally, stride);
    }

    /// <summary>
    /// Checks graphs on all processors until the graphs or the seconds run out. Throws at the first failure, with the command that repeats
    /// it.
    /// </summary>
    public static void CheckAll(IEnumerable<string> words, ulong seed, Tally tally, int stride = 1,
        double seconds = double.PositiveInfinity) =>
            Crew.Share(words, (word, arenas) =>
            {
                try
                {
                    Check(word, seed, arenas, tally, stride);
                }
                catch (Exception e)
                {
                    throw Program.Lost("overlaps", $"--seed {seed} graph {word}", e);
                }
            }, seconds);
}
