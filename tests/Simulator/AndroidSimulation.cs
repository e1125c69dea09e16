using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>Counters of a simulation with Android's model.</summary>
public sealed class AndroidCounts
{
    private readonly Lock _lock = new();

    /// <summary>States that our engine left and Android's model merged to the end.</summary>
    public long Ours { get; set; }
    /// <summary>States that our engine left and Android refuses.</summary>
    public long Refused { get; set; }
    /// <summary>States that Android's model left and our engine merged to the end.</summary>
    public long Androids { get; set; }
    /// <summary>Of these, those at which Android itself would be stuck for ever (defect 7).</summary>
    public long Torn { get; set; }
    /// <summary>States that Android's model left, including repeated ones.</summary>
    public long Left { get; set; }
    /// <summary>Blocks served by the model and compared.</summary>
    public long Reads { get; set; }
    /// <summary>Blocks that Android's defect 5 served wrongly.</summary>
    public long Defect5 { get; set; }
    /// <summary>Power cuts skipped because Android had trusted an unflushed count.</summary>
    public long LeftOut { get; set; }

    /// <summary>Adds the counters of another instance; safe for several threads.</summary>
    public void Add(AndroidCounts other)
    {
        lock (_lock)
        {
            Ours += other.Ours;
            Refused += other.Refused;
            Androids += other.Androids;
            Torn += other.Torn;
            Left += other.Left;
            Reads += other.Reads;
            Defect5 += other.Defect5;
            LeftOut += other.LeftOut;
        }
    }

    /// <summary>Resets every counter.</summary>
    public void Clear() => (Ours, Refused, Androids, Torn, Left, Reads, Defect5, LeftOut) = (0, 0, 0, 0, 0, 0, 0, 0);

    /// <summary>The counters in one line.</summary>
    public override string ToString() =>
        $"{Ours} of our states merged by Android, {Refused} refused by Android, {Androids} of Android's merged by us, "
        + $"{Torn} of them where Android itself is stuck, {Reads} reads, {Defect5} wrong by defect 5, {LeftOut} power cuts skipped";
}

/// <summary>
/// One merge between two engines: ours, and the model of Android's. Each must be able to continue from every state that the other leaves.
/// </summary>
public sealed class AndroidSimulation
{
    private readonly MergeCase _case;
    private readonly AndroidCounts _counts;
    private readonly ulong _seed;
    private readonly Chance _chance;
    private readonly Arena _arena;
    private readonly AndroidCow? _known;
    private bool _startedTorn;

    /// <summary>Our engine runs in <paramref name="arena"/>; <see cref="AndroidGoesOn"/> alone needs none.</summary>
    public AndroidSimulation(MergeCase merge, AndroidCounts counts, Arena? arena = null, ulong seed = 1)
    {
        _case = merge;
        _counts = counts;
        _seed = seed;
        _chance = new Chance(seed);
        _arena = arena!;
        _known = new AndroidModel(merge.Disks()).Cow;
    }

    /// <summary>
    /// While Base is partly written, every block is read at every n-th moment only: reading a large image at each moment takes too long.
    /// </summary>
    public int ReadStride { get; init; } = 1;

    /// <summary>The unit in which a page tears, in bytes: 512 or 4096.</summary>
    public int Grain { get; init; } = Page.Size;

    /// <summary>Ops between Android's commits in its last phase; the default of two gives even small merges several commits.</summary>
    public int CommitOps { get; init; } = 2;

    /// <summary>Beginnings of the reasons for which Android may refuse states of this case; empty if it must refuse none.</summary>
    public IReadOnlyList<string> MayRefuse { get; init; } = [];

    /// <summary>
    /// Android continues from a state that our engine left: a hook for <see cref="Explorer.EveryState"/>. Image and every served read must
    /// be right.
    /// </summary>
    public void AndroidGoesOn(MergeCase merge, SimDisk[] left)
    {
        SimDisk[] disks = CrashStates.Death(left);
        AndroidOutcome outcome = RunAndroid(disks, _ => { });
        if (outcome.End == AndroidEnd.Stuck && _startedTorn && LeftByDefect7(left)) return;
        if (outcome.End == AndroidEnd.Stuck) throw new LostDataException($"Android is stuck: {outcome.Why}");
        if (outcome.End == AndroidEnd.Merged) _counts.Ours++;
        else _counts.Refused++;
    }

    /// <summary>
    /// Android merges and is stopped at many points. After every <paramref name="stride"/>-th store, write and sync its process dies, and
    /// the power fails with up to <paramref name="most"/> combinations of the data that is not durable. Our engine continues from each
    /// distinct state. Then <paramref name="crashes"/> crashes of our engine follow, at any step; after each of them both engines must be
    /// able to continue.
    /// </summary>
    public void WeGoOn(int most, int stride = 1, int crashes = 0)
    {
        // One explorer for all states, because it remembers those that it has seen.
        using Explorer explorer =
            new(_case, new Thoroughness { Seed = _seed, Grain = Grain, Crashes = crashes, ExhaustiveUpTo = 3, Samples = 3 }, _arena)
            {
                EveryState = AndroidGoesOn,
            };
        SimDisk[] disks = _case.Disks();
        HashSet<ulong> seen = [];
        List<(SimDisk[] Disks, string History)> left = [];
        int step = 0;
        RunAndroid(disks, model =>
        {
            if (++step % stride != 0 || !model.IsCrashSafe) return;
            Add(CrashStates.Death(disks), "death");
            foreach (SimDisk[] cut in CrashStates.PowerCuts(disks, Grain, most, _chance)) Add(cut, "power cut");
            // States are processed at once to limit memory: a golden merge has thousands of steps.
            TakeUp();
        });

        void Add(SimDisk[] state, string kind)
        {
            _counts.Left++;
            if (seen.Add(Hash(state))) left.Add((state, $"Android: {kind} at step {step}"));
        }

        void TakeUp()
        {
            foreach ((SimDisk[] state, string history) in left)
            {
                if (crashes == 0)
                {
                    WeFinish(state, history);
                    continue;
                }
                _startedTorn = MayShowDefect7(state);
                explorer.Explore(state, history);
                _counts.Androids++;
            }
            _startedTorn = false;
            left.Clear();
        }
    }

    /// <summary>
    /// A window that Android has just persisted, with damage that neither engine causes. Our engine recovers it if it has only one
    /// interpretation. Otherwise it must fail with exit code 65 and leave the base alone. Returns how often it failed with exit code 65.
    /// </summary>
    public int DamagedWindows()
    {
        int refused = 0;
        SimDisk[] disks = _case.Disks();
        AndroidModel model = null!;
        model = new AndroidModel(disks, _known)
        {
            Moment = name =>
            {
                if (name is not ("window persisted" or "window partly written")) return;
                int first = model.Cow.HeaderBytes + 1;
                foreach (int at in new[] { first, first + 7, first + 8, first + 16, first + 24 })
                {
                    for (int value = 0; value < 256; value += 85)
                    {
                        byte[] cow = disks[0].Cache.ToArray();
                        cow[at] = (byte)value;
                        SimDisk[] damaged = [new SimDisk(new Image(cow)), new SimDisk(disks[1].Cache)];
                        try
                        {
                            MergeResult result = SimMerge.Run(_case, damaged, _arena, _seed, () => { });
                            CheckEnd(damaged, result.OpsTotal);
                        }
                        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
                        {
                            refused++;
                            if (damaged[1].Pending.Count > 0 || damaged[1].Durable.FirstDifference(disks[1].Cache) >= 0)
                                throw new LostDataException("the merge ended with exit code 65 after it had written the base");
                        }
                    }
                }
            },
        };
        model.Merge();
        return refused;
    }

    /// <summary>
    /// Both engines in random turns, <paramref name="legs"/> of them. Each merges to the end; then one of its steps is chosen as the point
    /// at which it was stopped, and the next engine continues from there.
    /// </summary>
    public void Relay(int legs)
    {
        SimDisk[] state = _case.Disks();
        string history = "start";
        bool tornByAndroid = false, oldCountMayReturn = false;
        for (int leg = 0; leg < legs; leg++)
        {
            bool android = _chance.Percent(50), trusted = false, begin = false;
            SimDisk[] disks = CrashStates.Death(state);
            SimDisk[]? next = null;
            string stop = "";
            // Every step is equally likely, without knowing the number of steps in advance.
            int steps = 0;
            try
            {
                if (android)
                {
                    AndroidOutcome outcome = RunAndroid(disks, model =>
                    {
                        if (model.IsCrashSafe && _chance.Below(++steps) == 0) Stop(model.TrustsUnflushedCount || StillUnflushed());
                    });
                    if (outcome.End == AndroidEnd.Merged) _counts.Ours++;
                    else if (outcome.End == AndroidEnd.Stuck && !(tornByAndroid && LeftByDefect7(state)))
                        throw new LostDataException($"Android is stuck: {outcome.Why}");
                }
                else
                {
                    bool lost = RunOurs(disks, () => { if (_chance.Below(++steps) == 0) Stop(StillUnflushed()); });
                    if (!lost) _counts.Androids++;
                    else begin = true;
                }
            }
            catch (Exception e) when (e is not LostDataException { InnerException: not null })
            {
                throw new LostDataException(
                    $"{_case.Name}: seed {_seed}, grain {Grain}: {history}; then {(android ? "Android" : "we")}: {e.Message}", e);
            }
            if (next != null)
            {
                history += $"; {(android ? "Android" : "we")} until {stop}";
                state = next;
                tornByAndroid |= android && MayShowDefect7(state);
                oldCountMayReturn = trusted;
                // After its end a merge usually starts over; before its end it does so rarely.
                begin = _chance.Percent(SimMerge.DurableCount(state[0]) == _known?.Order.Count ? 50 : 5);
            }
            if (begin) (state, history, tornByAndroid, oldCountMayReturn) = (_case.Disks(), "start", false, false);

            bool StillUnflushed() => oldCountMayReturn && disks[0].Pending.Exists(page => page.Number == 0 && page.Write <= 0);

            void Stop(bool trustsUnflushedCount)
            {
                bool death = _chance.Percent(40);
                if (!death && trustsUnflushedCount)
                {
                    _counts.LeftOut++;
                    return;
                }
                trusted = death && trustsUnflushedCount;
                stop = $"{(death ? "death" : "power cut")} at step {steps}";
                next = death
                    ? Array.ConvertAll(disks, disk => disk.AfterDeath(_ => _chance.Percent(50)))
                    : CrashStates.PowerCut(disks, Grain, _chance);
            }
        }
    }

    /// <summary>A random merge per seed, beginning with one seed, until the seconds run out. Argument: `once` for one seed.</summary>
    public static int Simulate(Budget budget)
    {
        IEnumerable<ulong> Seeds()
        {
            for (ulong seed = budget.Seed; seed == budget.Seed || budget.Words is not ["once"]; seed++) yield return seed;
        }

        AndroidCounts counts = new();
        try
        {
            CheckAll(Seeds(), counts, budget.Tally, budget.Seconds);
        }
        catch (LostDataException e)
        {
            return Program.Failed("android", budget, e);
        }
        Console.WriteLine($"android: {counts}");
        Console.WriteLine($"android, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>
    /// A random merge for each seed, on all processors. Throws at the first failure, with the command that repeats it.
    /// </summary>
    public static void CheckAll(IEnumerable<ulong> seeds, AndroidCounts counts, Tally tally, double seconds = double.PositiveInfinity) =>
        Crew.Share(seeds, (seed, arenas) =>
        {
            try
            {
                AndroidCounts own = new();
                RunSeed(seed, own, arenas, tally);
                counts.Add(own);
            }
            catch (Exception e)
            {
                throw Program.Lost("android", $"--seed {seed} once", e);
            }
        }, seconds);

    /// <summary>
    /// A hook for explorers of many cases on several threads. In each of the states that our engine leaves, Android's model must be able to
    /// continue, unless Android cannot merge the case.
    /// </summary>
    public static Action<MergeCase, SimDisk[]> Following(AndroidCounts counts)
    {
        ThreadLocal<(MergeCase? Case, AndroidSimulation? Simulation)> current = new();
        return (merge, disks) =>
        {
            if (current.Value.Case != (object)merge)
                current.Value = (merge, new AndroidSimulation(merge, new AndroidCounts()) { MayRefuse = Refusals(merge) });
            AndroidSimulation simulation = current.Value.Simulation!;
            simulation.AndroidGoesOn(merge, disks);
            counts.Add(simulation._counts);
            simulation._counts.Clear();
        };
    }

    /// <summary>
    /// The reasons for which Android may refuse states of this case: the magic by which our engine marks an unsafe block, and a merge order
    /// that fails an assertion of Android's. The product's reader determines the order.
    /// </summary>
    public static IReadOnlyList<string> Refusals(MergeCase merge)
    {
        List<string> reasons = merge.MayBeLost ? ["the magic is not a COW's"] : [];
        using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
        bool plain = false;
        for (int position = 0; position < cow.Order.Count; position++)
        {
            bool ordered = cow[cow.Order.OpIndex(position)].IsOrdered;
            if (ordered && plain) reasons.Add("the merge thread asserts");
            plain |= !ordered;
        }
        return reasons;
    }

    /// <summary>
    /// The work of <see cref="Simulate"/> for one seed: each engine is stopped everywhere once and continued by the other, then both take
    /// turns.
    /// </summary>
    public static void RunSeed(ulong seed, AndroidCounts counts, Arenas arenas, Tally tally)
    {
        MergeCase merge = AndroidCases.Random(seed);
        Arena arena = arenas[merge];
        AndroidSimulation simulation =
            new(merge, counts, arena, seed) { Grain = seed % 2 == 0 ? Page.Size : Page.Sector, CommitOps = 1 + (int)(seed % 3) };
        using Explorer explorer =
            new(merge, new Thoroughness { Seed = seed, Grain = simulation.Grain, Crashes = 1, ExhaustiveUpTo = 4, Samples = 6 }, arena)
            {
                EveryState = simulation.AndroidGoesOn,
            };
        explorer.Explore();
        simulation.WeGoOn(most: 16);
        simulation.Relay(legs: 40);
        tally.Add(1, explorer.Runs + counts.Ours + counts.Androids, explorer.States + counts.Left, counts.Ours + counts.Androids);
    }

    private void WeFinish(SimDisk[] state, string history)
    {
        try
        {
            bool torn = LeftByDefect7(state);
            SimDisk[] disks = CrashStates.Death(state);
            RunOurs(disks, () => { });
            _counts.Androids++;
            if (torn) _counts.Torn++;
        }
        catch (Exception e)
        {
            throw new LostDataException($"{_case.Name}: seed {_seed}, grain {Grain}: {history}: {e.Message}", e);
        }
    }

    private AndroidOutcome RunAndroid(SimDisk[] disks, Action<AndroidModel> step)
    {
        AndroidModel model = null!;
        int moments = 0;
        model = new AndroidModel(disks, _known, _chance.Next())
        {
            CommitOps = CommitOps,
            Step = () => step(model),
            Moment = name =>
            {
                if ((name != "window partly written" && name != "batch written") || moments++ % ReadStride == 0) ServeAll(model, name);
            },
        };
        AndroidOutcome outcome = model.Merge();
        if (outcome.End == AndroidEnd.Refused && !MayRefuse.Any(why => outcome.Why.StartsWith(why, StringComparison.Ordinal)))
            throw new LostDataException($"Android refuses: {outcome.Why}");
        if (outcome.End != AndroidEnd.Merged) return outcome;
        ServeAll(model, "merged");
        // If no op remains, Android does not flush the last count of a process that died; this count may be in the cache only.
        if (model.Count != model.Cow.Order.Count)
            throw new LostDataException($"Android ended with {model.Count} of {model.Cow.Order.Count} ops counted");
        CheckEnd(disks, model.Committed ? model.Count : SimMerge.DurableCount(disks[0]));
        return outcome;
    }

    /// <summary>Runs our engine. True if the case allows data loss and the data is lost.</summary>
    private bool RunOurs(SimDisk[] disks, Action step)
    {
        try
        {
            int unlike = SimMerge.FirstWrongPage(_case, disks, _arena, _seed);
            if (unlike >= 0) throw new LostDataException($"block {unlike} of the merged image, read without merging, is wrong");
            MergeResult result = SimMerge.Run(_case, disks, _arena, _chance.Next(), step);
            CheckEnd(disks, result.OpsTotal);
            return false;
        }
        catch (SnapuserdException e) when (_case.MayBeLost && e.Code == ExitCode.CowCorrupt
            && e.Message.Contains("lost", StringComparison.Ordinal))
        {
            return true;
        }
    }

    private void CheckEnd(SimDisk[] disks, int total)
    {
        int wrong = disks[1].Durable.FirstDifference(_case.Target);
        if (wrong >= 0) throw new LostDataException($"block {wrong} of the base is wrong, or not durable, after the merge");
        int count = SimMerge.DurableCount(disks[0]);
        if (count != total) throw new LostDataException($"the merge ended with {count} of {total} ops counted durably");
    }

    private void ServeAll(AndroidModel model, string moment)
    {
        for (int block = 0; block < _case.Target.Pages; block++)
        {
            _counts.Reads++;
            byte[]? served = model.Read((uint)block);
            if (served != null && served.AsSpan().SequenceEqual(_case.Target[block].Bytes)) continue;
            if (served == null || !model.ReadsHalfOverwrittenSource((uint)block))
                throw new LostDataException(
                    $"Android serves block {block} {(served == null ? "with an I/O error" : "wrongly")} ({moment}, {model.Count} counted)");
            _counts.Defect5++;
        }
    }

    /// <summary>
    /// State 2 with the entries of the last ops before the count: Android stored the count and was stopped before it stored the state.
    /// </summary>
    private bool LeftByDefect7(SimDisk[] disks) => new AndroidModel(CrashStates.Death(disks), _known).IsTorn();

    /// <summary>
    /// True if the state shows defect 7 now or could after a power cut: both stores were in the cache, and each version of the page may
    /// reach the medium.
    /// </summary>
    private bool MayShowDefect7(SimDisk[] disks)
    {
        if (LeftByDefect7(disks)) return true;
        foreach (PendingPage version in disks[0].Pending)
        {
            if (version.Number != 0) continue;
            SimDisk[] cut = CrashStates.Death(disks);
            cut[0].Cache.Set(0, version.Contents);
            if (LeftByDefect7(cut)) return true;
        }
        return false;
    }

    private static ulong Hash(SimDisk[] disks)
    {
        ulong hash = 0;
        foreach (SimDisk disk in disks) hash = Chance.Mix(hash + disk.Hash);
        return hash;
    }
}
