using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Numerics;
using System.Text;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// The storage of a source, as a string of pieces in sectors: "p3" is three private sectors, "b8+16" is sixteen sectors of the base,
/// beginning with sector 8. "p3,b0+29" is a source as long as a base of four blocks that begins 3 sectors before it.
/// </summary>
public sealed record Geometry(string Word)
{
    /// <summary>For each sector of the source its sector of the base, or −1 for private storage.</summary>
    public int[] Sectors { get; } = [.. Word.Split(',').SelectMany(piece =>
    {
        string[] numbers = piece[1..].Split('+');
        int first = int.Parse(numbers[0], CultureInfo.InvariantCulture);
        return piece[0] == 'p' ? Enumerable.Repeat(-1, first) : Enumerable.Range(first,
            int.Parse(numbers[1], CultureInfo.InvariantCulture));
    })];

    /// <summary>
    /// A source of <paramref name="length"/> sectors that begins <paramref name="start"/> sectors after the beginning of a base of
    /// <paramref name="baseLength"/>, or before it if negative; null if the two do not overlap.
    /// </summary>
    public static Geometry? Shifted(int start, int length, int baseLength)
    {
        int before = Math.Max(0, -start), from = Math.Max(0, start), shared = Math.Min(length - before, baseLength - from),
            after = length - before - shared;
        return shared <= 0 ? null : new Geometry($"{(before > 0 ? $"p{before}," : "")}b{from}+{shared}{(after > 0 ? $",p{after}" : "")}");
    }

    /// <summary>One to five pieces of the base or of private storage, some of them repeated, in any order.</summary>
    public static Geometry Random(Chance chance, int baseLength, int most)
    {
        StringBuilder word = new();
        int pieces = 1 + chance.Below(5);
        for (int i = 0; i < pieces; i++)
        {
            int from = chance.Below(baseLength), length = 1 + chance.Below(chance.Percent(50) ? 9 : most);
            if (chance.Percent(30)) from &= -Page.Sectors;
            if (i > 0) word.Append(',');
            if (chance.Percent(25)) word.Append(CultureInfo.InvariantCulture, $"p{length}");
            else word.Append(CultureInfo.InvariantCulture, $"b{from}+{Math.Min(length, baseLength - from)}");
        }
        return new Geometry(word.ToString());
    }

    /// <summary>The ranges passed to the product: in any order, some of them split in two.</summary>
    public SharedRange[] Ranges(Chance chance)
    {
        List<SharedRange> ranges = [];
        for (int at = 0; at < Sectors.Length; at++)
        {
            if (Sectors[at] < 0) continue;
            bool continues = at > 0 && Sectors[at - 1] >= 0 && Sectors[at] == Sectors[at - 1] + 1 && !chance.Percent(5);
            if (continues) ranges[^1] = ranges[^1] with { Length = ranges[^1].Length + Page.Sector };
            else ranges.Add(new SharedRange((long)at * Page.Sector, (long)Sectors[at] * Page.Sector, Page.Sector));
        }
        return [.. ranges.OrderBy(_ => chance.Next())];
    }

    /// <summary>The source's contents before the merge: parts of the base, and private bytes.</summary>
    public byte[] Contents(byte[] target, byte[] own)
    {
        byte[] bytes = own.AsSpan(0, Sectors.Length * Page.Sector).ToArray();
        for (int at = 0; at < Sectors.Length; at++)
            if (Sectors[at] >= 0) target.AsSpan(Sectors[at] * Page.Sector, Page.Sector).CopyTo(bytes.AsSpan(at * Page.Sector));
        return bytes;
    }

    public override string ToString() => Word;
}

/// <summary>A small program over a base and a source that overlap.</summary>
public sealed record OverlapProgram(SmallOp[] Ops, Geometry Source)
{
    /// <summary>Ops per window of scratch; 0 for no scratch.</summary>
    public int Window { get; init; } = 2;
    public int Grain { get; init; } = Page.Size;
    public int Version { get; init; } = 3;

    /// <summary>As a command line argument: w2:g4096:v3:p3,b0+29:C01X11.</summary>
    public override string ToString() => $"w{Window}:g{Grain}:v{Version}:{Source}:{string.Concat(Ops)}";

    public static OverlapProgram Parse(string word)
    {
        string[] parts = word.Split(':');
        int Number(int index) => int.Parse(parts[index][1..], CultureInfo.InvariantCulture);
        SmallOp[] ops = SmallProgram.Parse($"v3.w0.g0.q.p0:{parts[4]}").Ops;
        return new OverlapProgram(ops, new Geometry(parts[3])) { Window = Number(0), Grain = Number(1), Version = Number(2) };
    }
}

/// <summary>
/// Programs whose source overlaps the base. A source is as long as the base, longer or shorter, and begins any number of sectors, up to
/// almost four blocks, before or after the start of the base. Other sources are made of several pieces. There are two valid outcomes. One
/// is a refusal before the first write; then <see cref="NaiveOverlap"/> must not find a safe order either. The other is the result of
/// <see cref="NaiveMerger"/>, with power cuts, deaths and readers as in <see cref="Programs"/>. The merged image can be read in both cases.
/// The same holds for every count at which another or an older engine could have stopped the merge.
/// <para>
/// Two programs are equivalent if the same parts of their reads and writes overlap, with the same windows; one of each class is tried.
/// </para>
/// </summary>
public static class Overlaps
{
    private const int Blocks = Programs.Blocks;
    private const int BaseSectors = Blocks * Page.Sectors;

    // The furthest start of a source before or after the start of the base, in sectors: less than four blocks.
    private const int FurthestShift = 31;

    private static readonly byte[] _base = SmallCases.Random(141, Blocks);
    private static readonly byte[] _own = SmallCases.Random(142, 64);
    private static readonly byte[][] _payloads = [.. Enumerable.Range(0, 8).Select(i => SmallCases.Random(150 + i, 2))];
    private static readonly int[] _lengths = [BaseSectors, BaseSectors / 2, BaseSectors * 3 / 2, BaseSectors + 3];

    private static readonly long[] _verdicts = new long[4];

    /// <summary>The number of starts and counts with each verdict, over all cases.</summary>
    public static string Verdicts => $"{Of(OverlapVerdict.Mergeable)} merged, {Of(OverlapVerdict.WithUnsafeOps)} merged on the user's "
        + $"word, {Of(OverlapVerdict.NoWay)} refused, {Of(OverlapVerdict.SourceGone)} too late";

    /// <summary>The number of cases with this verdict.</summary>
    public static long Of(OverlapVerdict verdict) => Interlocked.Read(ref _verdicts[(int)verdict]);

    /// <summary>Every shift with every length.</summary>
    public static IReadOnlyList<Geometry> Shifts { get; } =
    [
        .. _lengths.SelectMany(length => Enumerable.Range(-FurthestShift, (2 * FurthestShift) + 1)
            .Select(start => Geometry.Shifted(start, length, BaseSectors))).OfType<Geometry>(),
    ];

    /// <summary>
    /// All lists of <paramref name="length"/> ops over every shift, one of each equivalence class, in an order that the seed chooses, with
    /// windows and formats.
    /// </summary>
    public static IEnumerable<OverlapProgram> All(int length, ulong seed)
    {
        HashSet<string> met = [];
        SmallOp[][] opsOf = [.. Shifts.Select(OpsOn)];
        int most = opsOf.Max(ops => ops.Length);
        long lists = (long)BigInteger.Pow(most, length) * Shifts.Count;
        long stride = (long)(Chance.Mix(seed) % (ulong)lists) | 1;
        while (BigInteger.GreatestCommonDivisor(stride, lists) != 1) stride += 2;
        long number = (long)(Chance.Mix(seed + 1) % (ulong)lists);
        for (long i = 0; i < lists; i++, number = (long)(((BigInteger)number + stride) % lists))
        {
            int shift = (int)(number % Shifts.Count);
            SmallOp[] ops = new SmallOp[length];
            bool fits = true;
            long rest = number / Shifts.Count;
            for (int at = 0; at < length && fits; at++, rest /= most)
            {
                fits = rest % most < opsOf[shift].Length;
                if (fits) ops[at] = opsOf[shift][rest % most];
            }
            if (!fits) continue;
            OverlapProgram program = new(ops, Shifts[shift]);
            if (Signature(program) is not { } signature || !met.Add(signature)) continue;
            foreach (OverlapProgram variant in Variants(program, seed + (ulong)i)) yield return variant;
        }
    }

    /// <summary>
    /// An endless sequence of programs of <paramref name="least"/> ops and up to three more, over sources of several pieces or with a
    /// shift.
    /// </summary>
    public static IEnumerable<OverlapProgram> Some(int least, ulong seed)
    {
        Chance chance = new(seed);
        while (true)
        {
            Geometry source = chance.Percent(60) ? Geometry.Random(chance, BaseSectors, 24) : Shifts[chance.Below(Shifts.Count)];
            SmallOp[] possible = OpsOn(source);
            SmallOp[] ops = [.. Enumerable.Range(0, least + chance.Below(4)).Select(_ => possible[chance.Below(possible.Length)])];
            // Most random lists write a block twice; of each block only the first write is kept.
            HashSet<int> written = [];
            ops = [.. ops.Where(op => written.Add(op.Block) && (op.Kind != 'S' || written.Add(op.Block + 1)))];
            OverlapProgram program = new(ops, source);
            if (ops.Length == 0 || Signature(program) is null) continue;
            yield return program with
            {
                Window = chance.Below(5),
                Grain = chance.Percent(10) ? Page.Sector : Page.Size,
                Version = chance.Percent(20) && Array.TrueForAll(ops, op => op.Kind != 'S') ? 2 : 3,
            };
        }
    }

    /// <summary>Checks a program; throws if the guarantee does not hold.</summary>
    public static void Check(OverlapProgram program, ulong seed, Arenas arenas, Tally tally)
    {
        Chance chance = new(Chance.Mix(seed));
        CowBuilder cow = Build(program);
        byte[] source = program.Source.Contents(_base, _own);
        MergeOptions options = new() { VerifyFirst = false, CheckpointBytes = (1 + (int)(chance.Next() % 3)) * (long)CowOp.BlockSize };
        MergeCase merge = new(program.ToString(), new Image(cow.Build()), new Image(_base),
            new Image(NaiveMerger.Merge(cow.Ops, source, _base)))
        {
            Options = options,
            Source = new Image(source),
            Overlap = program.Source.Ranges(chance),
        };
        Check(merge, new NaiveOverlap(cow, program.Window, program.Source.Sectors), program.Grain, seed, arenas, tally);
    }

    /// <summary>Checks a case against the model; <paramref name="stride"/> lets a long one be crashed at some steps only.</summary>
    public static void Check(MergeCase merge, NaiveOverlap model, int grain, ulong seed, Arenas arenas, Tally tally, int stride = 1)
    {
        tally.Add(cases: 1);
        for (int count = 0; count < model.Count; count += count > 0 ? stride : 1)
        {
            OverlapVerdict verdict = model.From(count);
            Interlocked.Increment(ref _verdicts[(int)verdict]);
            SimDisk[] Disks() => LeftAt(merge, model, count);
            CheckWindow(merge, model, count, seed, arenas, tally);
            MergeCase onTheUsersWord = merge with { MayBeLost = true, Options = merge.Options with { AllowUnsafe = true } };
            tally.Add(runs: 1);
            switch (verdict)
            {
                case OverlapVerdict.SourceGone:
                    Refused(merge, Disks(), seed, arenas, ExitCode.CowCorrupt, isReadable: false);
                    continue;
                case OverlapVerdict.NoWay:
                    Refused(merge, Disks(), seed, arenas, ExitCode.Usage);
                    Refused(onTheUsersWord with { MayBeLost = false }, Disks(), seed, arenas, ExitCode.Usage);
                    continue;
                case OverlapVerdict.WithUnsafeOps:
                    Refused(merge, Disks(), seed, arenas, ExitCode.Usage);
                    break;
            }
            MergeCase allowed = verdict == OverlapVerdict.Mergeable ? merge : onTheUsersWord;
            if (count > 0)
            {
                // The crashes of the run from the start already cover the crashes after this count.
                Merges(allowed, Disks(), count, seed, arenas);
                continue;
            }
            Thoroughness how = stride > 1 ? new Thoroughness
            {
                Seed = seed,
                Crashes = 2,
                ExhaustiveUpTo = 3,
                Samples = 2,
                Stride = 5 * stride,
                Phase = (int)(seed % (ulong)(5 * stride)),
                Grain = grain,
            }
                : grain == Page.Size ? new Thoroughness { Seed = seed, Crashes = 2, ExhaustiveUpTo = 6, Samples = 8 }
                : new Thoroughness { Seed = seed, Crashes = 1, Grain = grain, ExhaustiveUpTo = 8 };
            using Explorer explorer = new(allowed, how, arenas[allowed]);
            explorer.Explore(Disks(), "start");
            tally.Add(0, explorer.Runs, explorer.States, explorer.Distinct);
        }
    }

    /// <summary>
    /// Checks programs on all processors until the programs or the seconds run out. Throws at the first failure, with the command that
    /// repeats it.
    /// </summary>
    public static void CheckAll(IEnumerable<OverlapProgram> programs, ulong seed, Tally tally, double seconds = double.PositiveInfinity) =>
        Crew.Share(programs, (program, arenas) =>
        {
            try
            {
                Check(program, seed, arenas, tally);
            }
            catch (Exception e)
            {
                throw Program.Lost("overlaps", $"--seed {seed} only {program}", e);
            }
        }, seconds);

    /// <summary>Long programs of random ops, with windows of up to 40 or 510, on all processors.</summary>
    public static void CheckLong(IEnumerable<ulong> seeds, Tally tally, double seconds = double.PositiveInfinity) =>
        Crew.Share(seeds, (seed, arenas) =>
        {
            try
            {
                (MergeCase merge, NaiveOverlap model) = new LongOverlap(new Chance(Chance.Mix(seed))).ToCase($"long overlap {seed}");
                Check(merge, model, Page.Size, seed, arenas, tally, stride: 7);
            }
            catch (Exception e)
            {
                throw Program.Lost("overlaps", $"--seed {seed} long", e);
            }
        }, seconds);

    /// <summary>
    /// All programs of one and two ops, then graphs of up to six ops, some longer ones, and long programs. Arguments: `only PROGRAM`,
    /// `graph WORD`, or `long` for one long case.
    /// </summary>
    public static int Simulate(Budget budget)
    {
        static IEnumerable<ulong> Seeds(ulong from)
        {
            for (ulong seed = from; ; seed++) yield return seed;
        }

        try
        {
            if (budget.Words is ["only", string word]) CheckAll([OverlapProgram.Parse(word)], budget.Seed, budget.Tally);
            else if (budget.Words is ["graph", string graph]) OverlapGraphs.CheckAll([graph], budget.Seed, budget.Tally);
            else if (budget.Words is ["long"]) CheckLong([budget.Seed], budget.Tally);
            else
            {
                bool whole = false;
                IEnumerable<OverlapProgram> Small()
                {
                    foreach (OverlapProgram program in All(1, budget.Seed).Concat(All(2, budget.Seed))) yield return program;
                    whole = true;
                }
                CheckAll(Small(), budget.Seed, budget.Tally, budget.Seconds * 0.4);
                if (whole) budget.Tally.Covered = $"all {budget.Tally.Cases} programs of up to two ops over every shift";
                IEnumerable<string> graphs = Enumerable.Range(2, 5).SelectMany(ops => OverlapGraphs.All(ops, budget.Seed));
                OverlapGraphs.CheckAll(graphs, budget.Seed, budget.Tally, seconds: (budget.Seconds * 0.7) - budget.Tally.Seconds);
                CheckAll(Some(3, budget.Seed), budget.Seed, budget.Tally, (budget.Seconds * 0.85) - budget.Tally.Seconds);
                CheckLong(Seeds(budget.Seed), budget.Tally, budget.Seconds - budget.Tally.Seconds);
            }
        }
        catch (LostDataException e)
        {
            return Program.Failed("overlaps", budget, e);
        }
        Console.WriteLine(Verdicts);
        Console.WriteLine($"overlaps, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>
    /// The equivalence class of <paramref name="program"/>; null if it is not an image that can be merged or read.
    /// </summary>
    private static string? Signature(OverlapProgram program)
    {
        CowBuilder cow = Build(program);
        if (NaiveOrder.Limits(cow, shared: false) is null) return null;
        NaiveOverlap model = new(cow, 0, program.Source.Sectors);
        StringBuilder signature = new();
        for (int writer = 0; writer < model.Count; writer++)
        {
            IReadOnlySet<int> writes = model.At(writer).Writes;
            signature.Append(program.Ops[writer].Kind).Append(writes.Count);
            for (int reader = 0; reader < model.Count && writes.Count > 0; reader++)
            {
                int[] met = [.. model.At(reader).Reads.Where(writes.Contains)];
                if (met.Length > 0) signature.Append(CultureInfo.InvariantCulture, $" {reader}:{met.Min() - writes.Min()}+{met.Length}");
            }
            signature.Append(';');
        }
        return signature.ToString();
    }

    private static IEnumerable<OverlapProgram> Variants(OverlapProgram program, ulong seed)
    {
        ulong chance = Chance.Mix(seed);
        yield return program;
        yield return program with { Window = 0 };
        if (program.Ops.Length > 1) yield return program with { Window = 1, Grain = chance % 8 == 0 ? Page.Sector : Page.Size };
        if ((chance >> 8) % 8 == 0 && Array.TrueForAll(program.Ops, op => op.Kind != 'S'))
            yield return program with { Version = 2, Window = (int)(chance >> 4 & 1) + 1 };
    }

    /// <summary>All ops that lie within both devices.</summary>
    private static SmallOp[] OpsOn(Geometry source)
    {
        List<SmallOp> ops = [];
        int sourceBytes = source.Sectors.Length * Page.Sector;
        foreach (char kind in SmallOp.Kinds)
        {
            for (int block = 0; block + (kind == 'S' ? 2 : 1) <= Blocks; block++)
            {
                SmallOp first = new(kind, block, 0);
                for (int from =
                    0; first.Reads ? (from + 1) * Page.Size + (kind == 'Y' ? Programs.Unaligned : 0) <= sourceBytes : from == 0; from++)
                    ops.Add(first with { From = from });
            }
        }
        return [.. ops];
    }

    private static CowBuilder Build(OverlapProgram program)
    {
        CowBuilder cow = new()
        {
            Version = program.Version,
            ScratchBytes = program.Window == 0 ? 0 : SmallCases.ScratchFor(program.Window),
            MaxUnitBytes = 2 * CowOp.BlockSize,
        };
        for (int i = 0; i < program.Ops.Length; i++) Programs.Add(cow, program.Ops[i], _payloads[i]);
        return cow;
    }

    /// <summary>
    /// Checks a window of any length that another engine left at a count: claimed, half written to the base, or fully written.
    /// </summary>
    private static void CheckWindow(MergeCase merge, NaiveOverlap model, int count, ulong seed, Arenas arenas, Tally tally)
    {
        Chance chance = new(Chance.Mix(seed + (ulong)count));
        int most = model.WindowAt(count);
        if (most == 0) return;
        // Windows of Android and of this program have the maximum length.
        int entries = chance.Percent(70) ? most : 1 + chance.Below(most), written = chance.Below(3) * entries / 2;
        OverlapVerdict verdict = model.From(count) == OverlapVerdict.SourceGone ? OverlapVerdict.SourceGone : model.From(count + entries);
        Interlocked.Increment(ref _verdicts[(int)verdict]);
        tally.Add(runs: 1);
        SimDisk[] disks = LeftAt(merge, model, count, entries, written);
        if (verdict == OverlapVerdict.Mergeable) Merges(merge, disks, count, seed, arenas);
        else
            Refused(merge, disks, seed, arenas, verdict == OverlapVerdict.SourceGone ? ExitCode.CowCorrupt : ExitCode.Usage,
                isReadable: verdict == OverlapVerdict.NoWay);
    }

    /// <summary>
    /// The devices as an engine leaves them that has merged and counted the given number of ops. With <paramref name="entries"/> a window
    /// of that many ops is claimed, of which <paramref name="written"/> are also on the base.
    /// </summary>
    private static SimDisk[] LeftAt(MergeCase merge, NaiveOverlap model, int count, int entries = 0, int written = 0)
    {
        Image cow = merge.Cow.Copy(), target = merge.Base.Copy();
        if (count > 0)
        {
            byte[] head = cow[0].Bytes.ToArray();
            BinaryPrimitives.WriteUInt64LittleEndian(head.AsSpan(CowHeader.MergeCountOffset), (ulong)count);
            cow.Set(0, new Page(head));
        }
        if (entries > 0)
        {
            byte[] bytes = cow.ToArray();
            ScratchLayout layout = new(BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(12)),
                BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(34)));
            bytes[layout.StateOffset] = ScratchLayout.Valid;
            for (int i = 0; i < entries; i++)
            {
                Span<byte> entry = bytes.AsSpan((int)layout.EntryOffset(i), ScratchLayout.EntryBytes);
                BinaryPrimitives.WriteUInt64LittleEndian(entry, model.BlockAt(count + i));
                BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], (ulong)layout.SlotOffset(i));
                merge.Target[(int)model.BlockAt(count + i)].Bytes.CopyTo(bytes.AsSpan((int)layout.SlotOffset(i)));
            }
            cow = new Image(bytes);
        }
        for (int position = 0; position < count + written; position++)
            foreach (int sector in model.At(position).Writes)
                target.Set(sector / Page.Sectors, merge.Target[sector / Page.Sectors]);
        return [new SimDisk(cow), new SimDisk(target), new SimDisk(merge.Source!)];
    }

    private static void Merges(MergeCase merge, SimDisk[] disks, int count, ulong seed, Arenas arenas)
    {
        try
        {
            int unlike = SimMerge.FirstWrongPage(merge, disks, arenas[merge], seed);
            if (unlike >= 0) throw new LostDataException($"block {unlike} of the merged image, read without merging, is wrong");
            SimMerge.Run(merge, disks, arenas[merge], seed, () => { });
            int wrong = disks[1].Durable.FirstDifference(merge.Target);
            if (wrong >= 0) throw new LostDataException($"block {wrong} of the base is wrong after the merge");
        }
        catch (Exception e)
        {
            throw new LostDataException($"{merge.Name}, left at count {count}: {e.Message}", e);
        }
    }

    private static void Refused(MergeCase merge, SimDisk[] disks, ulong seed, Arenas arenas, ExitCode due, bool isReadable = true)
    {
        string what;
        try
        {
            if (isReadable && SimMerge.FirstWrongPage(merge, disks, arenas[merge], seed) is >= 0 and int wrong)
                throw new LostDataException($"block {wrong} of the merged image is wrong");
            if (!isReadable) CannotBeRead(merge, disks, seed, arenas);
            // Readers get the right image before and after the refusal.
            SimMerge.Run(merge, disks, arenas[merge], seed,
                () => throw new LostDataException("the base or the COW is written, or flushed"));
            what = "a whole merge";
        }
        catch (SnapuserdException e)
        {
            if (e.Code == due && (due == ExitCode.CowCorrupt || merge.Options.AllowUnsafe || e.Message.Contains("--allow-unsafe",
                StringComparison.Ordinal) || e.Message.Contains("a shift of", StringComparison.Ordinal)))
                return;
            what = $"{e.Code}, {e.Message}";
        }
        catch (LostDataException e)
        {
            what = e.Message;
        }
        throw new LostDataException($"{merge.Name}: at count {SimMerge.DurableCount(disks[0])} it must be refused with {due} before the "
            + $"first write; instead: {what}");
    }

    private static void CannotBeRead(MergeCase merge, SimDisk[] disks, ulong seed, Arenas arenas)
    {
        try
        {
            SimMerge.FirstWrongPage(merge, disks, arenas[merge], seed);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return;
        }
        throw new LostDataException("an image was opened although its sources are overwritten");
    }
}

/// <summary>Up to sixty random ops: shifts up and down, Xors in place, scattered ops, over a source that overlaps the base.</summary>
public sealed class LongOverlap
{
    private readonly Chance _chance;
    private readonly Geometry _source;
    private readonly int _blocks;
    private readonly bool[] _written;
    private readonly CowBuilder _cow;
    private readonly int _window;

    /// <summary>Random ops over a base of random length and a random source.</summary>
    public LongOverlap(Chance chance) : this(chance, 8 + chance.Below(40), null) { }

    /// <summary>
    /// Random ops over a base of <paramref name="blocks"/> blocks and <paramref name="source"/>, or a random source if null.
    /// </summary>
    public LongOverlap(Chance chance, int blocks, Geometry? source)
    {
        _chance = chance;
        _blocks = blocks;
        int sectors = _blocks * Page.Sectors;
        int shift = chance.Below(2) == 0 ? chance.Below(33) - 16 : chance.Below(sectors) - (sectors / 2);
        _source = source ?? (chance.Percent(70) ? Geometry.Shifted(shift, sectors + chance.Below(40), sectors) : null)
            ?? Geometry.Random(chance, sectors, sectors);
        _written = new bool[_blocks];
        _window = chance.Percent(15) ? 0 : chance.Percent(10) ? 510 : 1 + chance.Below(chance.Percent(50) ? 6 : 40);
        _cow = new CowBuilder { ScratchBytes = _window == 0 ? 0 : _window == 510 ? 2 << 20 : SmallCases.ScratchFor(_window) };
        int wanted = 1 + chance.Below(60);
        for (int tries = 0; tries < wanted && _cow.Ops.Count < wanted; tries++) Some();
        if (_cow.Ops.Count == 0) _cow.Zero(0);
    }

    /// <summary>The COW with the ops.</summary>
    public CowBuilder Cow => _cow;

    /// <summary>The expected result, with the storage made of a base and of the source's private parts.</summary>
    public NaiveOverlap Model => new(_cow, _window, _source.Sectors);

    /// <summary>A case for the simulator.</summary>
    public (MergeCase Merge, NaiveOverlap Model) ToCase(string name)
    {
        byte[] old = SmallCases.Random((long)(_chance.Next() >> 8), _blocks);
        byte[] source = _source.Contents(old, SmallCases.Random((long)(_chance.Next() >> 8), (_source.Sectors.Length / Page.Sectors) + 1));
        MergeCase merge = new($"{name}: {_source}, W={_window}, {_cow.Ops.Count} ops", new Image(_cow.Build()), new Image(old),
            new Image(NaiveMerger.Merge(_cow.Ops, source, old)))
        {
            Source = new Image(source),
            Overlap = _source.Ranges(_chance),
            ArenaBytes = _window == 510 ? 4 << 20 : 512 << 10,
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = (1 + _chance.Below(8)) * (long)CowOp.BlockSize },
        };
        return (merge, Model);
    }

    private void Some()
    {
        int at = _chance.Below(_blocks), length = 1 + _chance.Below(12), from = _chance.Below(_blocks), step = _chance.Percent(50) ? 1 : -1,
            shift = _chance.Below(5) - 2;
        int kind = _chance.Below(6);
        for (int i = 0; i < length; i++)
        {
            int block = at + (i * step);
            switch (kind)
            {
                case 0: if (!TryRead(block, (block + shift) * 4096L, xor: false)) return; break;
                case 1: if (!TryRead(block, (from + (i * step)) * 4096L, xor: false)) return; break;
                case 2: if (!TryRead(block, block * 4096L, xor: true)) return; break;
                case 3: if (!TryRead(block, (block * 4096L) + (shift * 512) + _chance.Below(3), xor: true)) return; break;
                // Scattered, as in updates: successive ops do not overlap.
                case 4: if (!TryRead(_chance.Below(_blocks), _chance.Below(_blocks) * 4096L, xor: false)) return; break;
                default:
                    if (block < 0 || block >= _blocks || _written[block]) return;
                    _written[block] = true;
                    if (_chance.Percent(50)) _cow.Zero((uint)block);
                    else _cow.Replace((uint)block, SmallCases.Random(block, 1));
                    if (i > 1) return;
                    break;
            }
        }
    }

    private bool TryRead(int block, long from, bool xor)
    {
        if (block < 0 || block >= _blocks || _written[block] || from < 0 || from + 4096 > _source.Sectors.Length * 512L) return false;
        _written[block] = true;
        if (xor) _cow.Xor((uint)block, (ulong)from, SmallCases.Random(block + 100, 1));
        else _cow.Copy((uint)block, (ulong)(from / 4096));
        return true;
    }
}
