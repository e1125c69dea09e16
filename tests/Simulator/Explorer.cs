using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>One merge to be tortured: a COW, the base it starts from, and what must come out.</summary>
public sealed record MergeCase(string Name, Image Cow, Image Base, Image Target)
{
    /// <summary>A device of its own for Copy and Xor, or null when they read Base.</summary>
    public Image? Source { get; init; }
    public MergeOptions Options { get; init; } = new() { VerifyFirst = false };
    public int ArenaBytes { get; init; } = 256 << 10;
    public int QueueDepth { get; init; } = 8;
    /// <summary>An Xor in place without scratch: after a crash in the middle of it, exit code 65 that says so is the right answer.</summary>
    public bool MayBeLost { get; init; }

    /// <summary>Fresh disks: COW, base, and the source if it is another.</summary>
    public SimDisk[] Disks() => Source is { } source ? [new SimDisk(Cow), new SimDisk(Base), new SimDisk(source)] : [new SimDisk(Cow), new SimDisk(Base)];
}

/// <summary>How thoroughly to look.</summary>
public sealed record Thoroughness
{
    public ulong Seed { get; init; } = 1;
    /// <summary>Grain at which a power cut tears, in bytes: 512 or 4096.</summary>
    public int Grain { get; init; } = Page.Size;
    /// <summary>Crashes in a row; the second and later ones hit recoveries.</summary>
    public int Crashes { get; init; } = 2;
    /// <summary>All subsets of what is pending up to this many; beyond, a sample of <see cref="Samples"/>.</summary>
    public int ExhaustiveUpTo { get; init; } = 12;
    public int Samples { get; init; } = 16;
    /// <summary>Look at every n-th step only, …</summary>
    public int Stride { get; init; } = 1;
    /// <summary>… those whose number leaves this remainder.</summary>
    public int Phase { get; init; }
}

/// <summary>
/// Runs the real engine on a <see cref="MergeCase"/> and, after every step, works out every state in which a power cut or the death of
/// the process could leave the devices. In each distinct state the merged image must read as the target; then it is recovered by a run
/// of the real engine, which must reach the target and is crashed at every step in its turn. A state that was seen before is not run again.
/// </summary>
public sealed class Explorer
{
    private sealed record World(SimDisk[] Disks, int Crashes, string History);

    private readonly MergeCase _case;
    private readonly Thoroughness _how;
    private readonly HashSet<ulong> _seen = [];
    private readonly Queue<World> _toDo = new();
    private readonly Arena _arena;
    private readonly Chance _chance;
    private World _current = null!;
    private int _step;

    public Explorer(MergeCase merge, Thoroughness how)
    {
        _case = merge;
        _how = how;
        _arena = new Arena(merge.ArenaBytes);
        _chance = new Chance(how.Seed);
    }

    /// <summary>
    /// Called once for each distinct crash state, before it is recovered, with what the devices hold: it may read them and must not change
    /// them (<see cref="SimDisk.AfterDeath"/> makes a copy). What it throws is reported like a loss, with seed and history.
    /// </summary>
    public Action<MergeCase, SimDisk[]>? EveryState { get; init; }

    /// <summary>Runs of the engine.</summary>
    public long Runs { get; private set; }
    /// <summary>Crash states met, repeated ones included.</summary>
    public long States { get; private set; }
    /// <summary>Steps at which more was pending than could be tried exhaustively.</summary>
    public long Sampled { get; private set; }
    /// <summary>Runs that ended with "the base is lost", where the case allows it.</summary>
    public long Lost { get; private set; }
    /// <summary>Result of the first, uncrashed run.</summary>
    public MergeResult? First { get; private set; }

    public string Counts => $"{_case.Name}: {Runs} runs, {States} crash states, {_seen.Count} distinct, {Sampled} steps sampled";

    /// <summary>Explores to the end; throws with seed and history at the first state from which the target is not reached.</summary>
    public void Explore()
    {
        Explore(_case.Disks(), "start");
    }

    /// <summary>The same from a state that something else has left.</summary>
    public void Explore(SimDisk[] disks, string history)
    {
        _toDo.Enqueue(new World(disks, 0, history));
        while (_toDo.TryDequeue(out World? world)) Run(world);
    }

    private void Run(World world)
    {
        _current = world;
        _step = 0;
        Runs++;
        try
        {
            EveryState?.Invoke(_case, world.Disks);
            int unlike = SimMerge.FirstWrongPage(_case, world.Disks, _arena, _how.Seed);
            if (unlike >= 0) throw new LostDataException($"block {unlike} of the merged image, read without merging, is wrong");
            MergeResult result = SimMerge.Run(_case, world.Disks, _arena, _how.Seed + (ulong)world.Crashes, Step);
            First ??= result;
            int wrong = world.Disks[1].Durable.FirstDifference(_case.Target);
            if (wrong >= 0) throw new LostDataException($"block {wrong} of the base is wrong, or not durable, after the merge");
            if (SimMerge.DurableCount(world.Disks[0]) != result.OpsTotal) throw new LostDataException("the merge ended and its count is not durable");
        }
        catch (SnapuserdException e) when (_case.MayBeLost && world.Crashes > 0 && e.Code == ExitCode.CowCorrupt && e.Message.Contains("lost", StringComparison.Ordinal))
        {
            Lost++;
        }
        catch (Exception e)
        {
            throw new LostDataException($"{_case.Name}: seed {_how.Seed}, grain {_how.Grain}, history: {world.History}: {e.Message}", e);
        }
    }

    private void Step()
    {
        _step++;
        if (_current.Crashes >= _how.Crashes || _step % _how.Stride != _how.Phase) return;
        PowerCuts();
        Deaths();
    }

    private void Add(SimDisk[] disks, string kind)
    {
        States++;
        ulong hash = 0;
        foreach (SimDisk disk in disks) hash = Chance.Mix(hash + disk.Hash);
        // With fewer crashes left less would be tried, so the number is part of what makes a state known.
        if (_seen.Add(hash + (ulong)_current.Crashes)) _toDo.Enqueue(new World(disks, _current.Crashes + 1, $"{_current.History}, {kind} at step {_step}"));
    }

    private readonly record struct Choice(int Disk, int Page, int Sector, List<Page> Versions);

    /// <summary>Durable contents with any subset of the pending pages or sectors on top, each in any of the versions it had.</summary>
    private void PowerCuts()
    {
        List<Choice> choices = Choices();
        long combinations = 1;
        foreach (Choice choice in choices) combinations = Math.Min(combinations * (choice.Versions.Count + 1), 1L << 40);
        if (combinations <= 1L << _how.ExhaustiveUpTo)
        {
            for (long number = 0; number < combinations; number++)
            {
                long rest = number;
                AddPowerCut(choices, choice => { int pick = (int)(rest % (choice.Versions.Count + 1)); rest /= choice.Versions.Count + 1; return pick; });
            }
            return;
        }
        Sampled++;
        AddPowerCut(choices, _ => 0);
        AddPowerCut(choices, choice => choice.Versions.Count);
        for (int i = 0; i < _how.Samples; i++)
        {
            int percent = 10 + _chance.Below(81);
            AddPowerCut(choices, choice => _chance.Percent(percent) ? 1 + _chance.Below(choice.Versions.Count) : 0);
        }
    }

    private List<Choice> Choices()
    {
        List<Choice> choices = [];
        for (int disk = 0; disk < _current.Disks.Length; disk++)
        {
            SimDisk sim = _current.Disks[disk];
            Dictionary<int, List<Page>> byPage = [];
            foreach (PendingPage pending in sim.Pending)
            {
                if (!byPage.TryGetValue(pending.Number, out List<Page>? versions)) byPage.Add(pending.Number, versions = []);
                versions.Add(pending.Contents);
            }
            foreach ((int page, List<Page> versions) in byPage)
            {
                if (_how.Grain == Page.Size)
                {
                    List<Page> different = Distinct(sim.Durable[page], versions, 0, Page.Sectors);
                    if (different.Count > 0) choices.Add(new Choice(disk, page, -1, different));
                    continue;
                }
                for (int sector = 0; sector < Page.Sectors; sector++)
                {
                    List<Page> different = Distinct(sim.Durable[page], versions, sector, 1);
                    if (different.Count > 0) choices.Add(new Choice(disk, page, sector, different));
                }
            }
        }
        return choices;
    }

    private static List<Page> Distinct(Page durable, List<Page> versions, int sector, int sectors)
    {
        List<Page> different = [];
        foreach (Page version in versions)
        {
            bool known = Same(durable, version, sector, sectors);
            foreach (Page other in different) known |= Same(other, version, sector, sectors);
            if (!known) different.Add(version);
        }
        return different;
    }

    private static bool Same(Page a, Page b, int sector, int sectors) =>
        a == b || a.Bytes.Slice(sector * Page.Sector, sectors * Page.Sector).SequenceEqual(b.Bytes.Slice(sector * Page.Sector, sectors * Page.Sector));

    private void AddPowerCut(List<Choice> choices, Func<Choice, int> pick)
    {
        Image[] images = new Image[_current.Disks.Length];
        for (int i = 0; i < images.Length; i++) images[i] = _current.Disks[i].Durable.Copy();
        Span<byte> mixed = stackalloc byte[Page.Size];
        foreach (Choice choice in choices)
        {
            int version = pick(choice);
            if (version == 0) continue;
            Page contents = choice.Versions[version - 1];
            Image image = images[choice.Disk];
            if (choice.Sector >= 0)
            {
                image[choice.Page].Bytes.CopyTo(mixed);
                contents.SectorBytes(choice.Sector).CopyTo(mixed[(choice.Sector * Page.Sector)..]);
                contents = new Page(mixed);
            }
            image.Set(choice.Page, contents);
        }
        Add(Array.ConvertAll(images, image => new SimDisk(image)), "power cut");
    }

    /// <summary>The cache lives on, with any subset of the pages of requests in flight; it may still be cut later.</summary>
    private void Deaths()
    {
        List<PendingPage> inFlight = [];
        foreach (SimDisk disk in _current.Disks)
            foreach (PendingPage page in disk.Pending)
                if (page.InFlight) inFlight.Add(page);
        if (inFlight.Count <= Math.Min(6, _how.ExhaustiveUpTo))
        {
            for (int subset = 0; subset < 1 << inFlight.Count; subset++)
            {
                int chosen = subset;
                AddDeath(page => (chosen >> inFlight.IndexOf(page) & 1) != 0);
            }
            return;
        }
        AddDeath(_ => false);
        AddDeath(_ => true);
        for (int i = 0; i < Math.Min(4, _how.Samples); i++) AddDeath(_ => _chance.Percent(50));
    }

    private void AddDeath(Func<PendingPage, bool> lands) => Add(Array.ConvertAll(_current.Disks, disk => disk.AfterDeath(lands)), "death");
}

/// <summary>The promise was broken.</summary>
public sealed class LostDataException(string what, Exception? inner = null) : Exception(what, inner);
