using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Recovery;

namespace Snapuserd.Tests.Simulator;

/// <summary>How thoroughly whole devices are searched for a crash that loses something.</summary>
public sealed record DeviceThoroughness
{
    /// <summary>Decides the order of completions, and samples.</summary>
    public ulong Seed { get; init; } = 1;
    /// <summary>The unit in which a power cut tears writes, in bytes: 512 or 4096.</summary>
    public int Grain { get; init; } = Page.Size;
    /// <summary>Crashes in a row; the second one interrupts a resume.</summary>
    public int Crashes { get; init; } = 2;
    /// <summary>Power cuts at each step of the first run: up to this many combinations of pending pages, otherwise a sample.</summary>
    public int Cuts { get; init; } = 64;
    /// <summary>The same in a resume.</summary>
    public int CutsInResume { get; init; } = 2;
    /// <summary>A resume is crashed at every n-th of its steps, beginning with another one in each run.</summary>
    public int Stride { get; init; } = 5;
}

/// <summary>
/// The merge of a whole update, both phases, over simulated disks. After every step it computes states in which a power cut or the death
/// of the process could leave the device; from each distinct one, the same merge must reach the target. In each of them every partition
/// already reads as its target, and nothing but bases and COWs has changed.
/// </summary>
public sealed class DeviceSimulation(WholeDevice device, DeviceThoroughness how, Arena arena)
{
    private const int QueueDepth = 8;

    private readonly record struct World(SimDisk[] Disks, int Crashes, string History);

    private readonly HashSet<ulong> _seen = [];
    private readonly Queue<World> _toDo = new();
    private readonly PageStore _pages = new();
    private readonly Chance _chance = new(how.Seed);
    private readonly SimDisk[] _start = device.Disks();
    private World _current;
    private int _step;
    private long _changes;

    /// <summary>Merges of the whole update.</summary>
    public long Runs { get; private set; }

    /// <summary>Crash states, including repeated ones.</summary>
    public long States { get; private set; }

    /// <summary>Distinct crash states.</summary>
    public long Distinct => _seen.Count;

    /// <summary>Runs from the beginning, and from every distinct crash state.</summary>
    public void Explore()
    {
        _toDo.Enqueue(new World(device.Disks(), 0, "start"));
        while (_toDo.TryDequeue(out World world)) Run(world);
    }

    private void Run(World world)
    {
        (_current, _step, _changes) = (world, 0, -1);
        Runs++;
        try
        {
            CheckOthers();
            if (Runs % 4 == 1) foreach (PlannedMerge merge in device.Plan.Merges) CheckView(merge);
            UpdateMerge update = new(device.Plan, new SimUpdateDevices(this));
            update.Read();
            update.CheckPayloads();
            update.Run();
            if (!update.IsComplete) throw new LostDataException("the merge ended before everything was counted");
            foreach (PlannedMerge merge in device.Plan.Merges) CheckDurable(merge, "after the merge");
            CheckOthers();
        }
        catch (Exception e)
        {
            throw new LostDataException($"{device.Name}: seed {how.Seed}, grain {how.Grain}, history: {world.History}: {e.Message}", e);
        }
    }

    private void CheckDurable(PlannedMerge merge, string when)
    {
        int count = WholeDevice.DurableCount(merge, _current.Disks);
        if (count != device.Ops(merge.Name))
            throw new LostDataException($"{when}, {count} of {device.Ops(merge.Name)} ops of {merge.Name} are durably counted");
        byte[] content = WholeDevice.Content(merge.Base, _current.Disks, disk => disk.Durable);
        int same = content.AsSpan().CommonPrefixLength(device.Target(merge.Name));
        if (same < content.Length) throw new LostDataException($"{when}, byte {same} of {merge.Name} is wrong, or not durable");
    }

    /// <summary>Nothing outside of bases and COWs has changed.</summary>
    private void CheckOthers()
    {
        foreach (Func<SimDisk, Image> of in (Func<SimDisk, Image>[])[disk => disk.Durable, disk => disk.Cache])
        {
            for (int number = 0; number < _start.Length; number++)
            {
                Image before = _start[number].Durable, now = of(_current.Disks[number]);
                for (int page = 0; page < before.Pages; page++)
                    if (before[page] != now[page])
                        for (int sector = 0; sector < Page.Sectors; sector++)
                            if (before[page].SectorHash(sector) != now[page].SectorHash(sector)
                                && !IsWritable(WholeDevice.Names[number], ((long)page * Page.Sectors) + sector))
                                throw new LostDataException(
                                    $"sector {(page * Page.Sectors) + sector} of {WholeDevice.Names[number]} has changed");
            }
        }
    }

    private bool IsWritable(string name, long sector) => device.Plan.Merges.Any(merge =>
        merge.Base.Concat(merge.Cow).Any(piece => piece.Device == name && piece.Start <= sector && sector < piece.End));

    /// <summary>The partition, read without merging it, is its target at any time.</summary>
    private void CheckView(PlannedMerge merge)
    {
        using IOpenMerge open = new SimUpdateDevices(this) { ReadsOnly = true }.Open(merge);
        using MergedImage image = MergedImage.Open(open.Setup);
        byte[] target = device.Target(merge.Name);
        for (long offset = 0; offset < image.Length;)
        {
            ReadOnlySpan<byte> chunk = image.Read(offset);
            int same = chunk.CommonPrefixLength(target.AsSpan((int)offset));
            if (same < chunk.Length) throw new LostDataException($"byte {offset + same} of {merge.Name}, read without merging, is wrong");
            offset += chunk.Length;
        }
    }

    /// <summary>A write may only go to base or COW of its merge, and to a base of the second phase only after the first.</summary>
    private void CheckWrite(PlannedMerge merge, string name, in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Write) return;
        long start = request.Offset, end = start + request.Buffer.Length;
        bool Holds(DevicePiece piece) => piece.Device == name && piece.Start * LpGeometry.SectorBytes <= start
            && end <= piece.End * LpGeometry.SectorBytes;
        bool toBase = merge.Base.Any(Holds);
        if (!toBase && !merge.Cow.Any(Holds))
            throw new LostDataException($"the merge of {merge.Name} writes {end - start} bytes at {start} of {name}");
        if (toBase && merge.Phase == 2)
            foreach (PlannedMerge first in device.Plan.Merges)
                if (first.Phase == 1) CheckDurable(first, $"at the first write to {merge.Name}");
    }

    private void Step()
    {
        _step++;
        if (_current.Crashes >= how.Crashes) return;
        if (_current.Crashes > 0 && (_step + Runs) % how.Stride != 0) return;
        SimDisk[] disks = _current.Disks;
        long changes = disks.Sum(disk => (long)disk.Changes);
        // The end of a write changes the states after a process death, not those after a power cut.
        if (changes != _changes)
            foreach (SimDisk[] cut in CrashStates.PowerCuts(disks, how.Grain, _current.Crashes == 0 ? how.Cuts : how.CutsInResume, _chance))
                Add(cut, "power cut");
        _changes = changes;
        Add(Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true)), "death");
        Add(Array.ConvertAll(disks, disk => disk.AfterDeath(_ => false)), "death");
        Add(Array.ConvertAll(disks, disk => disk.AfterDeath(_ => _chance.Percent(50))), "death");
    }

    private void Add(SimDisk[] disks, string kind)
    {
        States++;
        ulong hash = 0;
        foreach (SimDisk disk in disks) hash = Chance.Mix(hash + disk.Hash);
        if (_seen.Add(hash)) _toDo.Enqueue(new World(disks, _current.Crashes + 1, $"{_current.History}, {kind} at step {_step}"));
    }

    /// <summary>The devices of the product, over simulated disks.</summary>
    private sealed class SimUpdateDevices(DeviceSimulation simulation) : IUpdateDevices
    {
        /// <summary>No write is allowed.</summary>
        internal bool ReadsOnly { get; init; }

        public IOpenMerge Open(PlannedMerge merge) => new OpenMerge(simulation, MergeLayout.Of(merge), ReadsOnly ? null : merge);

        public IOpenMerge OpenCow(string name, IReadOnlyList<DevicePiece> pieces) =>
            new OpenMerge(simulation, MergeLayout.OfCow(name, pieces), null);
    }

    private sealed class OpenMerge : IOpenMerge
    {
        private readonly PieceQueue _queue;
        private readonly SimWorkers _workers;

        internal OpenMerge(DeviceSimulation simulation, MergeLayout layout, PlannedMerge? writes)
        {
            Arena arena = simulation.Arena;
            SimMerge.Clean(arena);
            ulong seed = simulation.Seed + (ulong)simulation._current.Crashes;
            SimDisk[] below = [.. layout.Devices.Select(name => simulation._current.Disks[WholeDevice.Number(name)])];
            Fault? Look(int number, BlockRequest request)
            {
                if (writes is null && request.Verb == BlockVerb.Write) throw new LostDataException("a reader writes");
                if (writes is not null) simulation.CheckWrite(writes, layout.Devices[request.Device], request);
                return null;
            }
            SimQueue own = new(below, arena, QueueDepth, seed, simulation.Step, Look, simulation._pages);
            _queue = new PieceQueue(own, layout.Maps, arena);
            _workers = new SimWorkers(new DecodeWorker(), seed);
            IoScheduler io = new(_queue, [.. layout.Maps.Select(_ => 1)]);
            Setup = layout.Setup(io, arena, _workers, new SimTime(seed), new StopFlag()) with
            {
                Options = new MergeOptions
                {
                    CheckpointBytes = 3 * Page.Size,
                    UncountedBytes = 6 * Page.Size,
                    WriteBackBytes = (long)(seed & 1),
                },
            };
        }

        public MergeSetup Setup { get; }

        public void TakeErrors()
        {
        }

        public void Dispose()
        {
            _queue.Dispose();
            _workers.Dispose();
        }
    }

    private Arena Arena => arena;

    private ulong Seed => how.Seed;

    /// <summary>
    /// Small devices, and then a random one for each seed until the seconds run out. Argument: `once` for the random device of one seed.
    /// </summary>
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
            return Program.Failed("devices", budget, e);
        }
        Console.WriteLine($"devices, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>
    /// A small and a random device for each seed, on all processors. Throws at the first failure, with the command that repeats it.
    /// </summary>
    public static void CheckAll(IEnumerable<ulong> seeds, Tally tally, double seconds = double.PositiveInfinity) =>
        Crew.Share(seeds, (seed, arenas) =>
        {
            try
            {
                DeviceThoroughness how = new() { Seed = seed, Grain = seed % 2 == 0 ? Page.Sector : Page.Size };
                Check(DeviceBuilder.Small(seed, (int)(seed % Page.Sectors)), how with { Cuts = 16 }, arenas, tally);
                Check(DeviceBuilder.Random(seed), how with { Cuts = 8, Stride = 11 }, arenas, tally);
            }
            catch (Exception e)
            {
                throw Program.Lost("devices", $"--seed {seed} once", e);
            }
        }, seconds);

    /// <summary>One device; throws if anything is lost.</summary>
    public static void Check(WholeDevice device, DeviceThoroughness how, Arenas arenas, Tally tally)
    {
        DeviceSimulation simulation = new(device, how, arenas[256 << 10, Snapuserd.Tests.Support.SimulatedPages.All[0]]);
        simulation.Explore();
        tally.Add(1, simulation.Runs, simulation.States, simulation.Distinct);
    }
}
