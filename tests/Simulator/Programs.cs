using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Numerics;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// One op of a small program: its kind, the block that it writes, and the block that it reads (the first of two, if it reads bytes of two).
/// </summary>
public readonly record struct SmallOp(char Kind, int Block, int From)
{
    // C copy, X xor, Y xor of a source that lies across two blocks, R and S replace of one and of two blocks, Z zero.
    public const string Kinds = "CXYRSZ";

    public bool Reads => Kind is 'C' or 'X' or 'Y';

    /// <summary>The op depends on which block is the next one.</summary>
    public bool IsWide => Kind is 'Y' or 'S';

    public override string ToString() => Reads ? $"{Kind}{Block}{From}" : $"{Kind}{Block}";
}

/// <summary>A small program and the settings chosen for it.</summary>
public sealed record SmallProgram(SmallOp[] Ops)
{
    public int Version { get; init; } = 3;
    /// <summary>Ops per window of scratch; 0 for no scratch.</summary>
    public int Window { get; init; } = 2;
    public int Grain { get; init; } = Page.Size;
    /// <summary>v3: the file has a sequence list with the blocks in this order, which replaces the file's. Empty for no list.</summary>
    public string Sequence { get; init; } = "";

    /// <summary>The source is the base by another path.</summary>
    public bool AnotherPath { get; init; }

    /// <summary>As a command line argument: v3.w2.g4096.q.p0:C01X11.</summary>
    public override string ToString() => $"v{Version}.w{Window}.g{Grain}.q{Sequence}.p{(AnotherPath ? 1 : 0)}:{string.Concat(Ops)}";

    public static SmallProgram Parse(string word)
    {
        string[] parts = word.Split(':');
        string[] settings = parts[0].Split('.');
        List<SmallOp> ops = [];
        for (int at = 0; at < parts[1].Length;)
        {
            char kind = parts[1][at];
            bool reads = new SmallOp(kind, 0, 0).Reads;
            ops.Add(new SmallOp(kind, parts[1][at + 1] - '0', reads ? parts[1][at + 2] - '0' : 0));
            at += reads ? 3 : 2;
        }
        int Number(int index) => int.Parse(settings[index][1..], CultureInfo.InvariantCulture);
        return new SmallProgram([.. ops])
        {
            Version = Number(0),
            Window = Number(1),
            Grain = Number(2),
            Sequence = settings[3][1..],
            AnotherPath = Number(4) == 1,
        };
    }
}

/// <summary>
/// All programs of two and three ops over four blocks, and a sample of those of four. Invalid ones must be refused before the first write.
/// Valid ones are merged, and crashed at every step and again at every step of the recovery (<see cref="Explorer"/>).
/// <see cref="NaiveOrder"/> decides which programs are valid, and <see cref="NaiveMerger"/> computes the result; neither depends on the
/// engine.
/// <para>
/// Symmetry: two programs are equivalent if a renaming of the four blocks turns one into the other and keeps neighbours together. An op
/// that reads or writes two blocks needs blocks b and b + 1, and so must the renamed op. Apart from that the format only compares block
/// numbers for equality, because these programs are merged in file order. The engine may use block numbers in other ways (it could join
/// neighbours into one request), so the seed chooses the representative of a class instead of the smallest member.
/// </para>
/// </summary>
public static class Programs
{
    public const int Blocks = 4;

    // The offset of an unaligned source in its first block: within the first sector, and not at its start.
    internal const int Unaligned = 37;

    private static readonly SmallOp[] _ops = AllOps();
    private static readonly int[][] _renamings = Permutations();
    private static readonly int[][] _renamed = Array.ConvertAll(_renamings, renaming => Array.ConvertAll(_ops, op => Rename(op, renaming)));
    private static readonly byte[] _old = SmallCases.Random(41, Blocks);
    private static readonly byte[][] _payloads = [.. Enumerable.Range(0, 8).Select(i => SmallCases.Random(50 + i, 2))];

    /// <summary>The number of lists of <paramref name="length"/> ops, invalid ones included.</summary>
    public static long Lists(int length) => (long)BigInteger.Pow(_ops.Length, length);

    /// <summary>
    /// One list of every class of lists of <paramref name="length"/> ops, with the size of the class. The seed chooses the order and the
    /// representatives.
    /// </summary>
    public static IEnumerable<(SmallOp[] Ops, int Class)> AllLists(int length, ulong seed)
    {
        long lists = Lists(length);
        // A stride that is coprime to the count visits every number once, in an order that spreads similar programs.
        long stride = (long)(Chance.Mix(seed) % (ulong)lists) | 1;
        while (BigInteger.GreatestCommonDivisor(stride, lists) != 1) stride += 2;
        long number = (long)(Chance.Mix(seed + 1) % (ulong)lists);
        for (long i = 0; i < lists; i++)
        {
            if (Canonical(number, length, out _) == number) yield return Representative(number, length, seed);
            number = (long)(((BigInteger)number + stride) % lists);
        }
    }

    /// <summary>Random lists, no class twice; of the invalid ones, which are the majority, only every eighth.</summary>
    public static IEnumerable<(SmallOp[] Ops, int Class)> SomeLists(int length, ulong seed)
    {
        HashSet<long> met = [];
        Chance chance = new(seed);
        while (true)
        {
            long number = Canonical((long)(chance.Next() % (ulong)Lists(length)), length, out _);
            if (!met.Add(number)) continue;
            (SmallOp[] Ops, int Class) list = Representative(number, length, seed);
            SmallProgram program = new(list.Ops);
            if (chance.Below(8) == 0 || Limits(program, Build(program)) is not null) yield return list;
        }
    }

    /// <summary>The programs of a list: with different windows and formats.</summary>
    public static IEnumerable<SmallProgram> Variants(SmallOp[] ops, ulong seed)
    {
        ulong chance = seed;
        foreach (SmallOp op in ops) chance = Chance.Mix(chance + op.Kind + (ulong)((op.Block * 16) + op.From));
        SmallProgram program = new(ops);
        if (ops.Length <= 3)
        {
            yield return program;
            yield return program with { Window = 0 };
            if (ops.Length == 2) yield return program with { Window = 1 };
        }
        else
        {
            yield return program with { Window = (int)(chance % 3) };
        }
        // Only a sample of the programs gets these variants, because they would multiply the work: tearing by sectors, the older format, a
        // source that is the base under another name, an order other than the file's.
        if ((chance >> 8) % 8 == 0) yield return program with { Grain = Page.Sector, Window = (int)(chance >> 4 & 1) + 1 };
        if ((chance >> 16) % 8 == 0 && Array.TrueForAll(ops, op => op.Kind != 'S'))
            yield return program with { Version = 2, Window = (int)(chance >> 4 & 1) + 1 };
        if ((chance >> 32) % 8 == 0) yield return program with { AnotherPath = true, Window = (int)(chance >> 4 & 3) % 3 };
        if ((chance >> 24) % 8 == 0)
        {
            Chance deal = new(chance);
            string order = string.Concat(ops.Select(op => op.Block).Distinct().OrderBy(_ => deal.Next()));
            yield return program with { Sequence = order };
        }
    }

    /// <summary>
    /// Merges a program with all its crashes; throws if the guarantee does not hold. <paramref name="everyState"/> is called for every
    /// distinct crash state.
    /// </summary>
    public static void Check(SmallProgram program, ulong seed, Arenas arenas, Tally tally, Action<MergeCase, SimDisk[]>? everyState = null)
    {
        CowBuilder cow = Build(program);
        int[]? limits = Limits(program, cow);
        bool inPlace = false;
        for (int i = 0; i < limits?.Length; i++) inPlace |= limits[i] > i;

        MergeOptions options = new() { VerifyFirst = false, CheckpointBytes = (1 + (int)(Chance.Mix(seed) % 3)) * (long)CowOp.BlockSize };
        MergeCase merge = new(program.ToString(), new Image(cow.Build()), new Image(_old),
            new Image(limits is null ? _old : NaiveMerger.Merge(cow, _old)))
        { Options = options, AnotherPath = program.AnotherPath };
        if (limits is null)
        {
            Refused(merge, seed, arenas, ExitCode.CowCorrupt);
            tally.Add(cases: 1, runs: 1);
            return;
        }
        if (inPlace && program.Window == 0)
        {
            Refused(merge, seed, arenas, ExitCode.Usage);
            merge = merge with { MayBeLost = true, Options = options with { AllowUnsafe = true } };
        }
        Thoroughness how = program.Grain == Page.Size
            ? new Thoroughness { Seed = seed, Crashes = 2 }
            : new Thoroughness { Seed = seed, Crashes = 1, Grain = program.Grain, ExhaustiveUpTo = 8 };
        using Explorer explorer = new(merge, how, arenas[merge]) { EveryState = everyState };
        explorer.Explore();
        tally.Add(1, explorer.Runs, explorer.States, explorer.Distinct);
    }

    /// <summary>
    /// Checks the programs of lists of ops on all processors until the lists or the seconds run out. Throws at the first failure, with the
    /// command that repeats it. Returns how many lists this covers, including those equivalent by symmetry.
    /// </summary>
    public static long CheckLists(IEnumerable<(SmallOp[] Ops, int Class)> lists, ulong seed, Tally tally,
        double seconds = double.PositiveInfinity, Action<MergeCase, SimDisk[]>? everyState = null)
    {
        long covered = 0;
        Crew.Share(lists, (list, arenas) =>
        {
            foreach (SmallProgram program in Variants(list.Ops, seed)) CheckOne(program, seed, arenas, tally, everyState);
            Interlocked.Add(ref covered, list.Class);
        }, seconds);
        return covered;
    }

    /// <summary>Checks programs on all processors.</summary>
    public static void CheckAll(IEnumerable<SmallProgram> programs, ulong seed, Tally tally) =>
        Crew.Share(programs, (program, arenas) => CheckOne(program, seed, arenas, tally));

    private static void CheckOne(SmallProgram program, ulong seed, Arenas arenas, Tally tally,
        Action<MergeCase, SimDisk[]>? everyState = null)
    {
        try
        {
            Check(program, seed, arenas, tally, everyState);
        }
        catch (Exception e)
        {
            throw Program.Lost("programs", $"--seed {seed} only {program}", e);
        }
    }

    /// <summary>
    /// All programs of two ops, then all of three, then some of four. Arguments: `only PROGRAM` for one program, `two` for those of two ops
    /// alone.
    /// </summary>
    public static int Simulate(Budget budget)
    {
        long[] covered = new long[5];
        try
        {
            if (budget.Words is ["only", string word])
            {
                CheckAll([SmallProgram.Parse(word)], budget.Seed, budget.Tally);
            }
            else
            {
                covered[2] = CheckLists(AllLists(2, budget.Seed), budget.Seed, budget.Tally, budget.Seconds);
                if (budget.Words is not ["two"])
                {
                    // Programs of four ops get an eighth of the time, plus the time that programs of three do not use.
                    covered[3] =
                        CheckLists(AllLists(3, budget.Seed), budget.Seed, budget.Tally, (budget.Seconds * 7 / 8.0) - budget.Tally.Seconds);
                    covered[4] = CheckLists(SomeLists(4, budget.Seed), budget.Seed, budget.Tally, budget.Seconds - budget.Tally.Seconds);
                }
            }
        }
        catch (LostDataException e)
        {
            return Program.Failed("programs", budget, e);
        }
        string Share(int length) =>
            string.Create(CultureInfo.InvariantCulture, $"{100.0 * covered[length] / Lists(length):0.###} % of {length}");
        if (covered[2] > 0) budget.Tally.Covered = $"{Share(2)}, {Share(3)} and {Share(4)} ops over four blocks";
        Console.WriteLine($"programs, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>The checkpoint that each position waits for (<see cref="NaiveOrder"/>), or null if the program must be refused.</summary>
    private static int[]? Limits(SmallProgram program, CowBuilder cow)
    {
        bool fits = Array.TrueForAll(program.Ops,
            op => op.Block + (op.Kind == 'S' ? 2 : 1) <= Blocks && (!op.Reads || op.From + (op.Kind == 'Y' ? 2 : 1) <= Blocks));
        return fits ? NaiveOrder.Limits(cow, shared: true) : null;
    }

    private static void Refused(MergeCase merge, ulong seed, Arenas arenas, ExitCode due)
    {
        string what = "nothing";
        try
        {
            SimMerge.Run(merge, merge.Disks(), arenas[merge], seed,
                () => throw new LostDataException("the base or the COW is written, or flushed"));
            what = "a whole merge";
        }
        catch (SnapuserdException e)
        {
            if (e.Code == due) return;
            what = $"{e.Code}, {e.Message}";
        }
        catch (LostDataException e)
        {
            what = e.Message;
        }
        throw new LostDataException($"{merge.Name}: must be refused with {due} before the first write; instead: {what}");
    }

    private static CowBuilder Build(SmallProgram program)
    {
        CowBuilder cow = new()
        {
            Version = program.Version,
            ScratchBytes = program.Window == 0 ? 0 : SmallCases.ScratchFor(program.Window),
            MaxUnitBytes = 2 * CowOp.BlockSize,
        };
        if (program.Sequence.Length > 0) cow.Sequence([.. program.Sequence.Select(block => (uint)(block - '0'))]);
        for (int i = 0; i < program.Ops.Length; i++) Add(cow, program.Ops[i], _payloads[i]);
        return cow;
    }

    /// <summary>Adds an op with the payload of two blocks, or the part of it that the op needs.</summary>
    internal static void Add(CowBuilder cow, SmallOp op, ReadOnlySpan<byte> payload)
    {
        ulong from = (ulong)op.From * CowOp.BlockSize;
        switch (op.Kind)
        {
            case 'C': cow.Copy((uint)op.Block, (ulong)op.From); break;
            case 'X': cow.Xor((uint)op.Block, from, payload[..CowOp.BlockSize]); break;
            case 'Y': cow.Xor((uint)op.Block, from + Unaligned, payload[..CowOp.BlockSize]); break;
            case 'R': cow.Replace((uint)op.Block, payload[..CowOp.BlockSize]); break;
            case 'S': cow.Replace((uint)op.Block, payload); break;
            default: cow.Zero((uint)op.Block); break;
        }
    }

    private static SmallOp[] AllOps()
    {
        List<SmallOp> ops = [];
        foreach (char kind in SmallOp.Kinds)
            for (int block = 0; block < Blocks; block++)
                for (int from = 0; from < (new SmallOp(kind, 0, 0).Reads ? Blocks : 1); from++) ops.Add(new SmallOp(kind, block, from));
        return [.. ops];
    }

    private static int[][] Permutations()
    {
        List<int[]> all = [];
        for (int code = 0; code < 256; code++)
        {
            int[] one = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
            if (one.Distinct().Count() == Blocks) all.Add(one);
        }
        return [.. all];
    }

    /// <summary>
    /// The number of the renamed op, or −1 if its two blocks would not stay neighbours. An op that reaches beyond the device stays at the
    /// device's end.
    /// </summary>
    private static int Rename(SmallOp op, int[] renaming)
    {
        bool Keeps(int block) => block + 1 < Blocks ? renaming[block + 1] == renaming[block] + 1 : renaming[block] == block;
        if (op.IsWide && !Keeps(op.Kind == 'Y' ? op.From : op.Block)) return -1;
        return Array.IndexOf(_ops, op with { Block = renaming[op.Block], From = op.Reads ? renaming[op.From] : 0 });
    }

    /// <summary>The smallest number of a list of the class; <paramref name="members"/> are the numbers of all its lists.</summary>
    private static long Canonical(long number, int length, out HashSet<long> members)
    {
        members = [];
        foreach (int[] renamed in _renamed)
        {
            long other = 0, rest = number, weight = 1;
            for (int i = 0; i < length && other >= 0; i++)
            {
                int op = renamed[rest % _ops.Length];
                other = op < 0 ? -1 : other + (op * weight);
                rest /= _ops.Length;
                weight *= _ops.Length;
            }
            if (other >= 0) members.Add(other);
        }
        return members.Min();
    }

    private static (SmallOp[] Ops, int Class) Representative(long number, int length, ulong seed)
    {
        Canonical(number, length, out HashSet<long> members);
        long[] sorted = [.. members.Order()];
        long chosen = sorted[(int)(Chance.Mix(seed + (ulong)number) % (ulong)sorted.Length)];
        SmallOp[] ops = new SmallOp[length];
        for (int i = 0; i < length; i++)
        {
            ops[i] = _ops[chosen % _ops.Length];
            chosen /= _ops.Length;
        }
        return (ops, sorted.Length);
    }
}
