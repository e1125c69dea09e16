using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>One merge under test: a COW, the base it starts from, and the expected result.</summary>
public sealed record MergeCase(string Name, Image Cow, Image Base, Image Target)
{
    /// <summary>A separate device for Copy and Xor, or null when they read Base.</summary>
    public Image? Source { get; init; }
    /// <summary>Copy and Xor read Base by another path: a separate device number with the same blocks.</summary>
    public bool AnotherPath { get; init; }
    /// <summary>
    /// The storage that the source shares with Base. Those bytes of <see cref="Source"/> are only the initial contents.
    /// </summary>
    public SharedRange[]? Overlap { get; init; }
    public MergeOptions Options { get; init; } = new() { VerifyFirst = false };
    public int ArenaBytes { get; init; } = 256 << 10;
    /// <summary>Page size of the simulated kernel in bytes; the smallest unless a case sets another.</summary>
    public int SystemPage { get; init; } = SimulatedPages.All[0];
    /// <summary>
    /// A second merge starts and ends repeatedly and shares the memory: this merge gives buffers back and takes them again.
    /// </summary>
    public bool SharesMemory { get; init; }
    /// <summary>
    /// The merge must give back some memory, and all of it must reach the system. True if the memory suffices for buffers of whole pages.
    /// </summary>
    public bool GivesPagesBack { get; init; }
    public int QueueDepth { get; init; } = 8;
    /// <summary>A flush takes longer than every other request in flight.</summary>
    public bool SlowFlushes { get; init; }
    /// <summary>
    /// How many checkpoint intervals may be written before they are counted. Two is the tightest setting; the program uses six.
    /// </summary>
    public int UncountedIntervals { get; init; } = 2;
    /// <summary>Milliseconds that each step takes; 0 selects a clock that jumps at every read.</summary>
    public int StepMilliseconds { get; init; }
    /// <summary>Multiple of bytes at which short transfers continue: 1 for buffered files, otherwise the alignment of direct I/O.</summary>
    public int Granule { get; init; } = 1;
    /// <summary>An Xor in place without scratch: after a crash in the middle of it, failing with exit code 65 is correct.</summary>
    public bool MayBeLost { get; init; }
    /// <summary>The seed pauses, slows down and resumes the merge (<see cref="SimThrottle"/>).</summary>
    public bool Paced { get; init; }

    /// <summary>The merged image is read before, during and after every run (<see cref="SimReaders"/>).</summary>
    public bool Readers { get; init; } = true;
    /// <summary>
    /// A reader enters before the first step and never leaves: the merge ends with <see cref="StuckException"/> where it must wait for that
    /// reader.
    /// </summary>
    public bool StuckReader { get; init; }
    /// <summary>The faults injected into readers' requests, by request number.</summary>
    public Func<int, BlockRequest, Fault?>? ReaderFaults { get; init; }

    /// <summary>The free space of the storage below the devices, for each run; unlimited if null.</summary>
    public Func<SimStorage>? Storage { get; init; }

    /// <summary>Fresh disks: COW, base, and the source if it is a separate device.</summary>
    public SimDisk[] Disks() =>
        Source is { } source ? [new SimDisk(Cow), new SimDisk(Base), new SimDisk(source)] : [new SimDisk(Cow), new SimDisk(Base)];
}

/// <summary>How thoroughly the explorer searches.</summary>
public sealed record Thoroughness
{
    public ulong Seed { get; init; } = 1;
    /// <summary>The unit in which a power cut tears writes, in bytes: 512 or 4096.</summary>
    public int Grain { get; init; } = Page.Size;
    /// <summary>Crashes in a row; the second and later ones interrupt recoveries.</summary>
    public int Crashes { get; init; } = 2;
    /// <summary>Up to this many pending pages all subsets are tried; beyond that, a sample of <see cref="Samples"/>.</summary>
    public int ExhaustiveUpTo { get; init; } = 12;
    public int Samples { get; init; } = 16;
    /// <summary>Explores only every n-th step.</summary>
    public int Stride { get; init; } = 1;
    /// <summary>Explores only steps whose number, divided by <see cref="Stride"/>, has this remainder.</summary>
    public int Phase { get; init; }
}

/// <summary>
/// Runs the real engine on a <see cref="MergeCase"/>. After every step it computes every state in which a power cut or the death of the
/// process could leave the devices. In each distinct state the merged image must read as the target. A run of the real engine then recovers
/// the state: it must reach the target, and is itself crashed at every step. A state seen before is not run again. All states after one
/// crash are visited before those after two. So a state has the most crashes left at its first visit.
/// <para>
/// A state's hash is computed from the hashes of its parts before the state is built, so that rejecting a known state costs some
/// nanoseconds.
/// </para>
/// </summary>
public sealed class Explorer : IDisposable
{
    // The events that led to a state, as a linked list, so that states share their common past; most histories are never printed.
    private sealed record History(History? Before, string Kind, int Step)
    {
        public override string ToString() => Before is null ? Kind : $"{Before}, {Kind} at step {Step}";
    }

    // Count is the durable count at the time of the crash.
    private sealed record World(SimDisk[] Disks, int Crashes, int Count, History History);

    // One page or one sector of a page. A cut may leave its durable contents or any version written since.
    private readonly record struct Choice(int Disk, int Page, int Sector, int FirstVersion, int Versions);

    // A pending page of any disk. Flight numbers those in flight and is −1 for others; Before is the preceding write of the same page, or
    // −1.
    private readonly record struct Written(PendingPage Page, int Flight, int Before);

    private readonly record struct Version(Page Contents, ulong Gain);

    private readonly MergeCase _case;
    private readonly Thoroughness _how;
    private readonly HashSet<ulong> _seen = [];
    private readonly Queue<World> _toDo = new();
    private readonly Arena _arena;
    private readonly bool _ownArena;
    private readonly PageStore _pages = new();
    private readonly Chance _chance;
    private readonly Action _stepped;

    private readonly List<Choice> _choices = [];
    private readonly List<Version> _versions = [];
    private readonly List<Written> _written = [];
    private readonly List<int> _next = [];
    private int[] _lastOf = [];
    private int[] _picks = [];
    private bool[] _lands = [];

    private World _current = null!;
    private SimDisk[] _start = [];
    private int _step;
    private int _count;
    private long _changes;

    /// <summary>
    /// Explorers that run one after another may share <paramref name="arena"/>; without one the explorer allocates its own.
    /// </summary>
    public Explorer(MergeCase merge, Thoroughness how, Arena? arena = null)
    {
        _case = merge;
        _how = how;
        _arena = arena ?? new Arena(merge.ArenaBytes);
        _ownArena = arena is null;
        _chance = new Chance(how.Seed);
        _stepped = Step;
    }

    /// <summary>
    /// The runs in which the merged image is read: every n-th, beginning with the first. Readers more than double the cost of a run of a
    /// few ops. Tests, which have minutes, use them in some runs; `simulator`, which has hours, uses them in all.
    /// </summary>
    public static int ReadersEvery { get; set; } = 6;

    /// <summary>
    /// Called once for each distinct crash state before it is recovered, with the contents of the devices. It may read them and must not
    /// change them (<see cref="SimDisk.AfterDeath"/> makes a copy). An exception from it is reported like a loss, with seed and history.
    /// </summary>
    public Action<MergeCase, SimDisk[]>? EveryState { get; init; }

    /// <summary>Number of engine runs.</summary>
    public long Runs { get; private set; }
    /// <summary>Crash states reached, including repeated ones.</summary>
    public long States { get; private set; }
    /// <summary>Distinct crash states; each was read and recovered.</summary>
    public long Distinct => _seen.Count;
    /// <summary>Steps at which too much was pending for an exhaustive search.</summary>
    public long Sampled { get; private set; }
    /// <summary>Runs that ended with "the base is lost", where the case allows it.</summary>
    public long Lost { get; private set; }
    /// <summary>Result of the first run, without crashes.</summary>
    public MergeResult? First { get; private set; }

    public string Counts => $"{_case.Name}: {Runs} runs, {States} crash states, {_seen.Count} distinct, {Sampled} steps sampled";

    /// <summary>Explores every state; throws with seed and history at the first state from which the target is not reached.</summary>
    public void Explore()
    {
        Explore(_case.Disks(), "start");
    }

    /// <summary>Explores from a given state of the devices.</summary>
    public void Explore(SimDisk[] disks, string history)
    {
        _start = Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true));
        _toDo.Enqueue(new World(disks, 0, 0, new History(null, history, 0)));
        while (_toDo.TryDequeue(out World? world)) Run(world);
    }

    public void Dispose()
    {
        if (_ownArena) _arena.Dispose();
    }

    private void Run(World world)
    {
        _current = world;
        _step = 0;
        _changes = -1;
        _count = SimMerge.DurableCount(world.Disks[0]);
        Runs++;
        try
        {
            if (_count < world.Count)
                throw new LostDataException($"the crash leaves the count {_count} although {world.Count} was durable");
            CheckUntouched(world.Disks[0].Durable, world.Disks[1].Durable, _start[1].Durable);
            CheckUntouched(world.Disks[0].Cache, world.Disks[1].Cache, _start[1].Cache);
            if (world.Crashes > 0) EveryState?.Invoke(_case, world.Disks);
            int unlike = SimMerge.FirstWrongPage(_case, world.Disks, _arena, _how.Seed);
            if (unlike >= 0) throw new LostDataException($"block {unlike} of the merged image, read without merging, is wrong");
            MergeResult result = SimMerge.Run(_case with { Readers = _case.Readers && Runs % ReadersEvery == 1 % ReadersEvery },
                world.Disks, _arena, _how.Seed + (ulong)world.Crashes, _stepped, pages: _pages);
            First ??= result;
            int wrong = world.Disks[1].Durable.FirstDifference(_case.Target);
            if (wrong >= 0) throw new LostDataException($"block {wrong} of the base is wrong, or not durable, after the merge");
            if (SimMerge.DurableCount(world.Disks[0]) != result.OpsTotal)
                throw new LostDataException("the merge ended before its count was durable");
        }
        catch (SnapuserdException e) when (_case.MayBeLost && world.Crashes > 0 && e.Code == ExitCode.CowCorrupt
            && e.Message.Contains("lost", StringComparison.Ordinal))
        {
            Lost++;
        }
        catch (Exception e)
        {
            throw new LostDataException($"{_case.Name}: seed {_how.Seed}, grain {_how.Grain}, history: {world.History}: {e.Message}", e);
        }
    }

    /// <summary>If the COW says that no merge has begun, the base must still hold the old image, because a rollback relies on it.</summary>
    private static void CheckUntouched(Image cow, Image now, Image old)
    {
        if (!SimMerge.SaysUntouched(cow)) return;
        int changed = now.FirstDifference(old);
        if (changed >= 0)
            throw new LostDataException(
                $"count and state byte are 0, as if no merge had begun, but block {changed} of the base is written");
    }

    private void Step()
    {
        _step++;
        int count = SimMerge.DurableCount(_current.Disks[0]);
        if (count < _count) throw new LostDataException($"the durable count decreases from {_count} to {count} at step {_step}");
        _count = count;
        if (_current.Crashes >= _how.Crashes || _step % _how.Stride != _how.Phase) return;
        long changes = 0;
        foreach (SimDisk disk in _current.Disks) changes += disk.Changes;
        // Reaping a write's completion changes the states after a process death, not those after a power cut.
        if (changes != _changes) PowerCuts();
        _changes = changes;
        Deaths();
    }

    // Registers a state; true if it is new.
    private bool Meet(ReadOnlySpan<ulong> hashes)
    {
        States++;
        ulong hash = 0;
        foreach (ulong disk in hashes) hash = Chance.Mix(hash + disk);
        return _seen.Add(hash);
    }

    private void Add(SimDisk[] disks, string kind) =>
        _toDo.Enqueue(new World(disks, _current.Crashes + 1, _count, new History(_current.History, kind, _step)));

    /// <summary>
    /// A power cut leaves the durable contents plus any subset of the pending pages or sectors, each in any of its versions.
    /// </summary>
    private void PowerCuts()
    {
        FindChoices();
        Span<ulong> hashes = stackalloc ulong[_current.Disks.Length];
        for (int i = 0; i < hashes.Length; i++) hashes[i] = _current.Disks[i].Durable.Hash;
        if (_picks.Length < _choices.Count) _picks = new int[_choices.Count * 2];
        Array.Clear(_picks, 0, _choices.Count);

        long combinations = 1;
        foreach (Choice choice in _choices) combinations = Math.Min(combinations * (choice.Versions + 1), 1L << 40);
        if (combinations <= 1L << _how.ExhaustiveUpTo)
        {
            AddPowerCut(hashes);
            for (long number = 1; number < combinations; number++)
            {
                // Counts with one digit per choice; the hash is updated for each digit that changes.
                for (int digit = 0; ; digit++)
                {
                    Choice choice = _choices[digit];
                    int next = _picks[digit] == choice.Versions ? 0 : _picks[digit] + 1;
                    Pick(digit, next, hashes);
                    if (next != 0) break;
                }
                AddPowerCut(hashes);
            }
            return;
        }
        Sampled++;
        AddPowerCut(hashes);
        for (int i = 0; i < _choices.Count; i++) Pick(i, _choices[i].Versions, hashes);
        AddPowerCut(hashes);
        for (int sample = 0; sample < _how.Samples; sample++)
        {
            int percent = 10 + _chance.Below(81);
            for (int i = 0; i < _choices.Count; i++)
                Pick(i, _chance.Percent(percent) ? 1 + _chance.Below(_choices[i].Versions) : 0, hashes);
            AddPowerCut(hashes);
        }
    }

    private void Pick(int index, int pick, Span<ulong> hashes)
    {
        Choice choice = _choices[index];
        if (_picks[index] > 0) hashes[choice.Disk] -= _versions[choice.FirstVersion + _picks[index] - 1].Gain;
        if (pick > 0) hashes[choice.Disk] += _versions[choice.FirstVersion + pick - 1].Gain;
        _picks[index] = pick;
    }

    private void FindChoices()
    {
        _choices.Clear();
        _versions.Clear();
        for (int disk = 0; disk < _current.Disks.Length; disk++)
        {
            SimDisk sim = _current.Disks[disk];
            List<PendingPage> pending = sim.Pending;
            // For each pending page, finds the next one with the same number.
            Room(sim.Durable.Pages);
            _next.Clear();
            for (int i = pending.Count - 1; i >= 0; i--)
            {
                _next.Add(_lastOf[pending[i].Number]);
                _lastOf[pending[i].Number] = i + 1;
            }
            for (int i = 0; i < pending.Count; i++)
            {
                int page = pending[i].Number;
                if (_lastOf[page] != i + 1) continue;
                _lastOf[page] = 0;
                int sectors = _how.Grain == Page.Size ? 1 : Page.Sectors;
                for (int sector = 0; sector < sectors; sector++)
                {
                    int at = sectors == 1 ? -1 : sector, first = _versions.Count;
                    for (int one = i + 1; one != 0; one = _next[pending.Count - one]) Consider(sim, pending[one - 1], at, first);
                    if (_versions.Count > first) _choices.Add(new Choice(disk, page, at, first, _versions.Count - first));
                }
            }
        }
    }

    private void Room(int pages)
    {
        if (_lastOf.Length < pages) _lastOf = new int[pages];
    }

    /// <summary>Adds one version, unless it equals the durable contents or is already listed.</summary>
    private void Consider(SimDisk disk, PendingPage pending, int sector, int first)
    {
        Page durable = disk.Durable[pending.Number], contents = pending.Contents;
        if (HashAt(contents, sector) == HashAt(durable, sector)) return;
        for (int i = first; i < _versions.Count; i++)
            if (HashAt(_versions[i].Contents, sector) == HashAt(contents, sector)) return;
        int page = pending.Number;
        ulong gain = sector < 0
            ? Image.Weight(page, contents) - Image.Weight(page, durable)
            : Image.Weight(page, contents, sector) - Image.Weight(page, durable, sector);
        _versions.Add(new Version(contents, gain));
    }

    private static ulong HashAt(Page page, int sector) => sector < 0 ? page.Hash : page.SectorHash(sector);

    private void AddPowerCut(ReadOnlySpan<ulong> durable)
    {
        Span<ulong> hashes = stackalloc ulong[durable.Length];
        for (int i = 0; i < hashes.Length; i++) hashes[i] = (durable[i] * 3) + (durable[i] * 5);
        if (!Meet(hashes)) return;

        Image[] images = new Image[_current.Disks.Length];
        for (int i = 0; i < images.Length; i++) images[i] = _current.Disks[i].Durable.Copy();
        Span<byte> mixed = stackalloc byte[Page.Size];
        for (int i = 0; i < _choices.Count; i++)
        {
            if (_picks[i] == 0) continue;
            Choice choice = _choices[i];
            Page contents = _versions[choice.FirstVersion + _picks[i] - 1].Contents;
            Image image = images[choice.Disk];
            if (choice.Sector >= 0)
            {
                image[choice.Page].Bytes.CopyTo(mixed);
                for (; ; i++)
                {
                    Choice here = _choices[i];
                    if (_picks[i] > 0)
                        _versions[here.FirstVersion + _picks[i] - 1].Contents.SectorBytes(here.Sector)
                            .CopyTo(mixed[(here.Sector * Page.Sector)..]);
                    if (i + 1 == _choices.Count || _choices[i + 1].Page != choice.Page || _choices[i + 1].Disk != choice.Disk) break;
                }
                contents = _pages.Of(mixed);
            }
            image.Set(choice.Page, contents);
        }
        Add(Array.ConvertAll(images, image => new SimDisk(image)), "power cut");
    }

    /// <summary>
    /// Process deaths: the cache survives, with any subset of the pages of requests in flight; a power cut may still follow.
    /// </summary>
    private void Deaths()
    {
        int inFlight = FindWritten();
        if (_lands.Length < inFlight) _lands = new bool[inFlight * 2];
        Span<bool> lands = _lands.AsSpan(0, inFlight);
        if (lands.Length <= Math.Min(6, _how.ExhaustiveUpTo))
        {
            for (int subset = 0; subset < 1 << lands.Length; subset++)
            {
                for (int i = 0; i < lands.Length; i++) lands[i] = (subset >> i & 1) != 0;
                AddDeath(lands);
            }
            return;
        }
        lands.Clear();
        AddDeath(lands);
        lands.Fill(true);
        AddDeath(lands);
        for (int sample = 0; sample < Math.Min(4, _how.Samples); sample++)
        {
            for (int i = 0; i < lands.Length; i++) lands[i] = _chance.Percent(50);
            AddDeath(lands);
        }
    }

    private int FindWritten()
    {
        _written.Clear();
        int inFlight = 0;
        foreach (SimDisk disk in _current.Disks)
        {
            Room(disk.Durable.Pages);
            foreach (PendingPage page in disk.Pending)
            {
                _written.Add(new Written(page, page.InFlight ? inFlight++ : -1, _lastOf[page.Number] - 1));
                _lastOf[page.Number] = _written.Count;
            }
            foreach (PendingPage page in disk.Pending) _lastOf[page.Number] = 0;
        }
        return inFlight;
    }

    private void AddDeath(ReadOnlySpan<bool> lands)
    {
        Span<ulong> hashes = stackalloc ulong[_current.Disks.Length];
        int at = 0;
        for (int disk = 0; disk < hashes.Length; disk++)
        {
            SimDisk sim = _current.Disks[disk];
            ulong cache = sim.Cache.Hash, pending = 0;
            for (int i = 0; i < sim.Pending.Count; i++)
            {
                Written written = _written[at++];
                PendingPage page = written.Page;
                if (written.Flight >= 0 && !lands[written.Flight]) continue;
                bool known = page.Contents.Hash == sim.Durable[page.Number].Hash;
                Page shown = sim.Cache[page.Number];
                bool shownByFlight = false;
                for (int before = written.Before; before >= 0; before = _written[before].Before)
                {
                    Written earlier = _written[before];
                    if (earlier.Flight >= 0 && !lands[earlier.Flight]) continue;
                    known |= earlier.Page.Contents.Hash == page.Contents.Hash;
                    // Two requests may each write a part of one page: the later one is visible.
                    if (earlier.Flight >= 0 && !shownByFlight) (shown, shownByFlight) = (earlier.Page.Contents, true);
                }
                if (written.Flight >= 0) cache += Image.Weight(page.Number, page.Contents) - Image.Weight(page.Number, shown);
                if (!known) pending += SimDisk.PendingWeight(page);
            }
            hashes[disk] = (sim.Durable.Hash * 3) + (cache * 5) + pending;
        }
        if (!Meet(hashes)) return;
        int flight = 0;
        bool[] chosen = lands.ToArray();
        Add(Array.ConvertAll(_current.Disks, disk => disk.AfterDeath(_ => chosen[flight++])), "death");
    }
}

/// <summary>Data was lost: the merge broke its guarantee.</summary>
public sealed class LostDataException(string what, Exception? inner = null) : Exception(what, inner);
