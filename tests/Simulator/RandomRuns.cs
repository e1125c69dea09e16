using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Long random merges: images, formats, codecs, clusters, orders, windows and hundreds of ops in chains, in place, scattered and
/// duplicated. Each runs several times with different memory, queue depth and checkpoint interval. Each run continues from the point where
/// a power cut, a death or a stop request ended the previous one. The last one runs to the end.
/// </summary>
public static class RandomRuns
{
    /// <summary>A case per seed, beginning with one seed, until the seconds run out. Argument: `once` for one case.</summary>
    public static int Simulate(Budget budget)
    {
        IEnumerable<ulong> Seeds()
        {
            for (ulong seed = budget.Seed; seed == budget.Seed || budget.Words is not ["once"]; seed++) yield return seed;
        }

        try
        {
            CheckAll(Seeds(), budget.Tally, budget.Seconds);
        }
        catch (LostDataException e)
        {
            return Program.Failed("random", budget, e);
        }
        Console.WriteLine($"random, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>A case for each seed, on all processors. Throws at the first failure, with the command that repeats it.</summary>
    public static void CheckAll(IEnumerable<ulong> seeds, Tally tally, double seconds = double.PositiveInfinity) =>
        Crew.Share(seeds, (seed, arenas) =>
        {
            try
            {
                Check(seed, arenas, tally);
            }
            catch (Exception e)
            {
                throw Program.Lost("random", $"--seed {seed} once", e);
            }
        }, seconds);

    /// <summary>One case, which depends on its seed only; throws if the guarantee does not hold.</summary>
    public static void Check(ulong seed, Arenas arenas, Tally tally)
    {
        Chance chance = new(Chance.Mix(seed));
        MergeCase merge = new RandomUpdate(chance).ToCase($"random {seed}");
        string history = "start";
        try
        {
            int legs = 1 + chance.Below(12), steps = 0, count = 0;
            SimDisk[] disks = merge.Disks();
            for (int leg = 0; ; leg++)
            {
                merge = OtherWays(merge, chance);
                tally.Add(runs: 1);
                // Readers and a second merge have their own generators, so they do not change the random choices.
                ulong way = (ulong)leg + seed;
                Leg run = new(merge with
                {
                    Readers = way % 2 == 0,
                    Paced = way % 3 == 0,
                    SharesMemory = way % 5 < 3,
                    SystemPage = SimulatedPages.All[(int)(way % 7 % 3)],
                }, chance, arenas, disks, count);
                int unlike = run.FirstWrongPage();
                if (unlike >= 0) throw new LostDataException($"block {unlike} of the merged image, read without merging, is wrong");
                run.Merge(leg > 0 && chance.Percent(25) ? 1 + chance.Below(steps) : 0);
                if (leg == legs)
                {
                    if (!run.Stopped) Again(run, chance, arenas);
                    break;
                }
                steps = Math.Max(run.Steps, 1);
                disks = run.Left ?? throw new LostDataException("the run made no step");
                count = SimMerge.DurableCount(disks[0]);
                history += $", {run.How}";
                tally.Add(states: 1, distinct: 1);
            }
        }
        catch (SnapuserdException e) when (merge.MayBeLost && history != "start" && e.Code == ExitCode.CowCorrupt
            && e.Message.Contains("lost", StringComparison.Ordinal))
        {
            // An Xor in place without scratch, with the user's consent.
        }
        catch (Exception e)
        {
            throw new LostDataException($"{merge.Name}, seed {seed}, history: {history}: {e.Message}", e);
        }
        tally.Add(cases: 1);
    }

    /// <summary>A run after the end finds everything merged and writes nothing.</summary>
    private static void Again(Leg done, Chance chance, Arenas arenas)
    {
        Leg again = new(OtherWays(done.Case, chance), chance, arenas, Array.ConvertAll(done.Disks, disk => disk.AfterDeath(_ => false)),
            SimMerge.DurableCount(done.Disks[0]));
        again.Merge(0);
        if (again.Result is not { AlreadyMerged: true, Blocks: 0 }) throw new LostDataException("a finished merge is merged again");
    }

    /// <summary>The same case with different memory, queue depth and checkpoint interval.</summary>
    internal static MergeCase OtherWays(MergeCase merge, Chance chance) => merge with
    {
        // A depth of 1 is that of the synchronous queue; a deeper queue is a ring.
        QueueDepth = chance.Percent(30) ? 1 : 1 << chance.Below(7),
        ArenaBytes = (128 << 10) << chance.Below(5),
        SlowFlushes = chance.Percent(30),
        Options = merge.Options with
        {
            VerifyFirst = chance.Percent(30),
            CheckpointBytes = (long)CowOp.BlockSize << chance.Below(10),
            CheckpointMilliseconds = chance.Percent(20) ? 0 : 50L << chance.Below(12),
        },
    };

    /// <summary>One run of the engine to its end, which also captures the state that a crash at one random step would leave.</summary>
    internal sealed class Leg(MergeCase merge, Chance chance, Arenas arenas, SimDisk[] disks, int count)
    {
        private readonly int _kind = chance.Below(10);
        private readonly StopFlag _stop = new();
        private int _stopAt;
        private int _memory = merge.ArenaBytes;
        private int _count = count;

        public MergeCase Case => merge;
        public SimDisk[] Disks => disks;
        public int Steps { get; private set; }
        public bool Stopped { get; private set; }
        public MergeResult? Result { get; private set; }
        /// <summary>The devices after the crash or the stop.</summary>
        public SimDisk[]? Left { get; private set; }
        public string How { get; private set; } = "";

        public int FirstWrongPage() => WithMemory(arena => SimMerge.FirstWrongPage(merge, disks, arena, chance.Next()));

        /// <summary>Runs the merge; a stop is requested at step <paramref name="stopAt"/>, 0 for never.</summary>
        public void Merge(int stopAt)
        {
            _stopAt = stopAt;
            ulong seed = chance.Next();
            PageStore pages = new();
            try
            {
                Result = WithMemory(
                    arena => SimMerge.Run(merge with { ArenaBytes = _memory }, disks, arena, seed, Step, stop: _stop, pages: pages));
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.Interrupted && _stop.Requested)
            {
                Stopped = true;
                foreach (SimDisk disk in disks)
                    foreach (PendingPage page in disk.Pending)
                        if (page.InFlight) throw new LostDataException("the merge stopped with writes in flight");
                bool cut = chance.Percent(50);
                Left = Array.ConvertAll(disks, disk => cut ? new SimDisk(disk.Durable) : disk.AfterDeath(_ => false));
                How = $"stopped at step {Steps}{(cut ? " and cut" : "")}";
                return;
            }
            int wrong = disks[1].Durable.FirstDifference(merge.Target);
            if (wrong >= 0) throw new LostDataException($"block {wrong} of the base is wrong, or not durable, after the merge");
            if (SimMerge.DurableCount(disks[0]) != Result.OpsTotal)
                throw new LostDataException("the merge ended before its count was durable");
        }

        private void Step()
        {
            Steps++;
            int count = SimMerge.DurableCount(disks[0]);
            if (count < _count) throw new LostDataException($"the durable count decreases from {_count} to {count} at step {Steps}");
            _count = count;
            if (Steps == _stopAt) _stop.Request();
            // Reservoir sampling: the n-th step replaces the chosen one with a probability of 1/n, so all steps are equally likely.
            if (chance.Below(Steps) != 0) return;
            int percent = chance.Below(5) * 25;
            bool cut = _kind < 6;
            Left = Array.ConvertAll(disks, disk => cut ? PowerCut(disk, percent) : disk.AfterDeath(_ => chance.Percent(percent)));
            How = $"{(cut ? "power cut" : "death")} at step {Steps}";
            int left = SimMerge.DurableCount(Left[0]);
            if (left < _count) throw new LostDataException($"a {How} leaves the count {left} although {_count} was durable");
        }

        private SimDisk PowerCut(SimDisk disk, int percent)
        {
            Image left = disk.Durable.Copy();
            Span<byte> mixed = stackalloc byte[Page.Size];
            foreach (PendingPage page in disk.Pending)
            {
                bool torn = chance.Percent(20);
                if (!torn && chance.Percent(percent)) left.Set(page.Number, page.Contents);
                if (!torn) continue;
                left[page.Number].Bytes.CopyTo(mixed);
                for (int sector = 0; sector < Page.Sectors; sector++)
                    if (chance.Percent(50)) page.Contents.SectorBytes(sector).CopyTo(mixed[(sector * Page.Sector)..]);
                left.Set(page.Number, new Page(mixed));
            }
            return new SimDisk(left);
        }

        // The engine decides how much memory a COW needs: it must report insufficient memory before the first write.
        private T WithMemory<T>(Func<Arena, T> run)
        {
            while (true)
            {
                try
                {
                    return run(arenas[_memory, merge.SystemPage]);
                }
                catch (SnapuserdException e) when (e.Code == ExitCode.OutOfResources && _memory < 16 << 20)
                {
                    if (Steps > 0) throw new LostDataException($"the memory is reported as too small only at step {Steps}");
                    _memory *= 2;
                }
            }
        }
    }
}

/// <summary>A random update: images, and a valid COW that turns one into the other.</summary>
internal sealed class RandomUpdate
{
    private enum Order
    {
        File,
        SequenceOfAll,
        SequenceOfOrdered,
        Version2,
    }

    private readonly Chance _chance;
    private readonly Order _order;
    private readonly bool _v2;
    private readonly bool _shared;
    private readonly byte[] _base;
    private readonly byte[] _source;
    private readonly bool[] _owned;
    private readonly bool[] _overwritten;
    private readonly List<BuiltOp> _ops = [];
    private readonly List<uint> _again = [];
    private readonly int _unitBlocks;
    private bool _inPlace;

    /// <param name="chance">Decides everything about the update.</param>
    /// <param name="before">The image that the update starts from; a random one if null.</param>
    public RandomUpdate(Chance chance, byte[]? before = null)
    {
        _chance = chance;
        _order = (Order)chance.Below(4);
        _v2 = _order == Order.Version2 || (_order != Order.File && chance.Percent(30));
        _shared = !chance.Percent(15);
        int blocks = before is null ? 16 + chance.Below(1 << (4 + chance.Below(6))) : before.Length / CowOp.BlockSize;
        _base = before ?? SmallCases.Random((long)(chance.Next() >> 8), blocks);
        _source = _shared ? _base : SmallCases.Random((long)(chance.Next() >> 8), 8 + chance.Below(blocks * 2));
        _owned = new bool[blocks];
        _overwritten = new bool[blocks];
        _unitBlocks = _v2 ? 1 : 1 << chance.Below(5);
        int wanted = 10 + chance.Below(391);
        for (int tries = 0; _ops.Count < wanted && tries < wanted * 4; tries++) Some();
        if (_ops.Count == 0) _ = TryZero(0);
    }

    private int Blocks => _owned.Length;

    private int SourceBlocks => _source.Length / CowOp.BlockSize;

    public MergeCase ToCase(string name)
    {
        int window = _chance.Percent(25) ? 0 : _chance.Percent(5) ? 510 : 1 + _chance.Below(_chance.Percent(50) ? 4 : 40);
        CowCompression[] codecs = [CowCompression.None, CowCompression.Gz, CowCompression.Brotli, CowCompression.Lz4, CowCompression.Zstd];
        CowBuilder cow = new()
        {
            Version = _v2 ? 2 : 3,
            // The fastest level: the compression ratio does not matter here.
            Level = 1,
            Compression = codecs[_chance.Below(codecs.Length)],
            MaxUnitBytes = _unitBlocks * CowOp.BlockSize,
            // The list of a Sequence op is possible only in clusters.
            ClusterOps = _v2 && (_order != Order.Version2 || _chance.Percent(60)) ? 3 + _chance.Below(30) : 0,
            ScratchBytes = window == 0 ? 0 : window == 510 ? 2 << 20 : SmallCases.ScratchFor(window),
            OpCountMaxSlack = _chance.Below(2) * _chance.Below(50),
        };
        List<BuiltOp> ops = [.. _ops];
        if (_order is Order.SequenceOfAll or Order.SequenceOfOrdered)
        {
            IEnumerable<BuiltOp> listed = _order == Order.SequenceOfAll ? ops : ops.Where(op => op.Type is CowOpType.Copy or CowOpType.Xor);
            uint[] sequence = [.. listed.Select(op => op.NewBlock).Distinct()];
            if (sequence.Length > 0)
            {
                cow.Sequence(sequence);
                for (int i = ops.Count - 1; i > 0; i--)
                {
                    int other = _chance.Below(i + 1);
                    (ops[i], ops[other]) = (ops[other], ops[i]);
                }
            }
        }
        ulong label = 0;
        foreach (BuiltOp op in ops)
        {
            cow.Add(op);
            if (_chance.Percent(3)) cow.Label(++label);
        }
        bool mayBeLost = window == 0 && _inPlace;
        return new MergeCase($"{name}: v{cow.Version}, {cow.Compression}, {_order}, W={window}, {_ops.Count} ops, {Blocks} "
            + $"blocks{(_shared ? "" : ", separate source")}",
            new Image(cow.Build()), new Image(_base), new Image(NaiveMerger.Merge(cow.Ops, _source, _base)))
        {
            Source = _shared ? null : new Image(_source),
            AnotherPath = _shared && _chance.Percent(15),
            MayBeLost = mayBeLost,
            Options = new MergeOptions { AllowUnsafe = mayBeLost },
        };
    }

    private void Some()
    {
        int at = _chance.Below(Blocks), from = _chance.Below(SourceBlocks), length = 1 + _chance.Below(1 << _chance.Below(6)),
            shift = 1 + _chance.Below(_chance.Percent(70) ? 2 : 40);
        switch (_chance.Below(10))
        {
            case 0:
                for (int i = 0; i < length; i++) if (!TryCopy(at + i, at + i + shift)) return;
                return;
            case 1:
                for (int i = 0; i < length; i++) if (!TryCopy(at - i, at - i - shift)) return;
                return;
            case 2:
                for (int i = 0; i < length; i++) if (!TryXor(at + i, (at + i) * 4096L)) return;
                return;
            case 3:
                for (int i = 0; i < length; i++) if (!TryXor(at + i, ((at + i) * 4096L) + (shift * 100))) return;
                return;
            case 4:
                for (int i = 0; i < length; i++)
                    if (!TryXor(at + i, ((from + i) * 4096L) + (_chance.Percent(50) ? 0 : _chance.Below(4096)))) return;
                return;
            case 5:
                for (int i = 0; i < length; i++) if (!TryCopy(at + i, from + i)) return;
                return;
            case 6:
                for (int i = 0; i < length; i++) if (!TryCopy(at + i, _chance.Below(SourceBlocks))) return;
                return;
            case 7:
                for (int i = 0; i < length; i++) if (!TryZero(at + i)) return;
                return;
            case 8:
                if (_again.Count > 0 && _chance.Percent(30)) Twice(_again[_chance.Below(_again.Count)]);
                else if (_chance.Percent(20)) TryCopy(at, at);
                return;
            default:
                int unit = 1 << _chance.Below(int.Log2(_unitBlocks) + 1);
                for (int i = 0; i < length; i++) if (!TryReplace(at + (i * unit), unit)) return;
                return;
        }
    }

    private bool MayRead(long block, long blocks)
    {
        if (block < 0 || block + blocks > SourceBlocks) return false;
        for (long i = block; i < block + blocks; i++) if (_shared && _overwritten[i]) return false;
        return true;
    }

    private bool MayWrite(int block, int blocks)
    {
        if (block < 0 || block + blocks > Blocks) return false;
        for (int i = block; i < block + blocks; i++) if (_owned[i]) return false;
        return true;
    }

    private bool TryCopy(int block, int from)
    {
        if (!MayWrite(block, 1) || !MayRead(from, 1)) return false;
        return Write(new BuiltOp(CowOpType.Copy, (uint)block, (ulong)from), 1);
    }

    private bool TryXor(int block, long from)
    {
        long first = from / 4096, blocks = from % 4096 == 0 ? 1 : 2;
        if (from < 0 || !MayWrite(block, 1) || !MayRead(first, blocks)) return false;
        _inPlace |= _shared && block >= first && block < first + blocks;
        return Write(new BuiltOp(CowOpType.Xor, (uint)block, (ulong)from, Payload(1)), 1);
    }

    private bool TryReplace(int block, int blocks)
    {
        if (!MayWrite(block, blocks)) return false;
        if (blocks == 1) _again.Add((uint)block);
        return Write(new BuiltOp(CowOpType.Replace, (uint)block, 0, Payload(blocks)), blocks);
    }

    private bool TryZero(int block)
    {
        if (!MayWrite(block, 1)) return false;
        _again.Add((uint)block);
        return Write(new BuiltOp(CowOpType.Zero, (uint)block), 1);
    }

    // If two ops of the file write one block, the first is merged. This op comes last, so it has no effect; it must still lie within the
    // device.
    private void Twice(uint block)
    {
        int unit = _order == Order.File ? 1 << _chance.Below(int.Log2(_unitBlocks) + 1) : 1;
        if (block + unit > Blocks) unit = 1;
        _ops.Add(_chance.Percent(50) ? new BuiltOp(CowOpType.Zero, block) : new BuiltOp(CowOpType.Replace, block, 0, Payload(unit)));
    }

    private bool Write(BuiltOp op, int blocks)
    {
        bool ontoItself = _shared && op.Type == CowOpType.Copy && op.Source == op.NewBlock;
        for (int i = 0; i < blocks; i++)
        {
            _owned[(int)op.NewBlock + i] = true;
            _overwritten[(int)op.NewBlock + i] = !ontoItself;
        }
        _ops.Add(op);
        return true;
    }

    private byte[] Payload(int blocks)
    {
        byte[] bytes = SmallCases.Random((long)(_chance.Next() >> 8), blocks);
        // Half of the payloads compress.
        if (_chance.Percent(50)) for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)(i % 61 == 0 ? bytes[i] : i / 500);
        return bytes;
    }
}
