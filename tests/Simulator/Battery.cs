using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// `simulator battery`: a short part of every simulation, the same each time. The unchanged engine must pass. A sabotaged one
/// (<see cref="Sabotages"/>) must fail, and then the last line names the check that failed.
/// </summary>
public static class Battery
{
    /// <summary>The beginning of the line that names the check by which a sabotage was caught.</summary>
    public const string Caught = "caught by ";

    /// <summary>The name of the step whose source overlaps the base.</summary>
    public const string Overlaps = "bases and sources that overlap";

    /// <summary>The name of the step whose memory has pages of 4, 16 and 64 KiB.</summary>
    public const string Pages = "buffers given back on systems with pages of three sizes";

    /// <summary>The name of the step in which a merge runs between two steps of a reader.</summary>
    public const string Entering = "a merge between two steps of a reader's entry";

    /// <summary>The name of the step whose scratch does not match the count.</summary>
    public const string Scratched = "scratch that does not match the count";

    /// <summary>The name of the step that begins with everything merged and nothing flushed.</summary>
    public const string Done = "a merge that another program has finished and not flushed";

    /// <summary>The name of the step whose COW changes.</summary>
    public const string Changing = "a COW that changes after its metadata was read";

    /// <summary>The name of the step whose windows have lists of several sectors.</summary>
    public const string LongLists = "a power cut in a list of entries of several sectors";

    /// <summary>The name of the step whose transfers are short and then cancelled.</summary>
    public const string Cancelled = "a synchronous call after a short transfer";

    /// <summary>The name of the step that merges whole updates.</summary>
    public const string Devices = "whole devices in two phases";

    /// <summary>The steps, in this order: the quick ones that detect most defects come first.</summary>
    private static readonly (string Name, Action Try)[] Steps =
    [
        ("readers who enter at any moment", () => GateCases.Check()),
        (Entering, () => EntryCases.Check()),
        ("the windows of an undisturbed merge", () => All(Windows)),
        ("one crash at any step",
            () => All(merge => Crash(merge, new Thoroughness { Seed = 1, Crashes = 1, ExhaustiveUpTo = 7, Samples = 8 }))),
        ("one crash at any step of a long run", () => { for (ulong seed = 1; seed <= 3;
            seed++) Crash(Faults.Stream(), new Thoroughness { Seed = seed, Crashes = 1, ExhaustiveUpTo = 2, Samples = 2 }); }),
        ("flushes that take long", () => Undisturbed(Faults.LongStream(8))),
        (Pages, Faults.GivesPagesBack),
        ("checkpoints by bytes", () => Faults.CheckpointsByBytes(16, 1)),
        ("checkpoints by the clock", () => Undisturbed(Faults.SlowStream(5))),
        (Scratched, () => All(Scratch)),
        (Done, () => All(Finished)),
        (Changing, ChangedHead),
        (LongLists, CutLongLists),
        (Cancelled, ShortThenPlain),
        ("a flush that fails and drops its data", () => All(LostFlush)),
        ("a window that only the page cache holds", () => All(CachedWindow)),
        ("faults of requests", () => { foreach (string name in SmallCases.Names) Faults.Small(name, 2, 1, 7, _ => { }); }),
        ("programs of two ops", () => Sample(5)),
        ("two crashes at sector grain", () => All(merge =>
            Crash(merge, new Thoroughness { Seed = 2, Grain = Page.Sector, Crashes = 2, ExhaustiveUpTo = 3, Samples = 3, Stride = 3 }))),
        (Overlaps, SomeOverlaps),
        (Devices, WholeDevices),
    ];

    /// <summary>The names of all steps, in order.</summary>
    public static IEnumerable<string> Names => Steps.Select(step => step.Name);

    /// <summary>Returns 0 if every check passes, else 1. An argument names the only step to run.</summary>
    public static int Simulate(Budget budget)
    {
        Stopwatch clock = Stopwatch.StartNew();
        foreach ((string name, Action attempt) in Steps)
        {
            if (budget.Words is [string only] && only != name) continue;
            try
            {
                attempt();
                Console.Error.WriteLine($"{clock.Elapsed.TotalSeconds:F1} s: {name}");
            }
            catch (Exception e)
            {
                Console.WriteLine($"{Caught}{Check(e)}, in \"{name}\", seed {budget.Seed}: {e.Message.ReplaceLineEndings(" ")}");
                return 1;
            }
        }
        Console.WriteLine($"battery: nothing found in {Steps.Length} simulations, {clock.Elapsed.TotalSeconds:F1} s");
        return 0;
    }

    /// <summary>The name of the check that failed, from the innermost exception.</summary>
    private static string Check(Exception e)
    {
        while (e.InnerException is { } inner) e = inner;
        // A simulator that cannot run has detected nothing.
        if (e is IOException or TypeLoadException or MissingMemberException or BadImageFormatException or InvalidProgramException) throw e;
        return e switch
        {
            ContractViolationException => "the contract of the block queue",
            InvalidOperationException => Sabotage.Assertion,
            SnapuserdException stop => $"a merge that must not stop (code {(int)stop.Code})",
            LostDataException => "the comparison with the expected result",
            _ => $"an exception ({e.GetType().Name})",
        };
    }

    private static void All(Action<MergeCase> attempt)
    {
        foreach (string name in SmallCases.Names) attempt(SmallCases.Make(name));
    }

    /// <summary>Every <paramref name="stride"/>-th of the programs of two ops.</summary>
    private static void Sample(int stride)
    {
        using Arenas arenas = new();
        Tally tally = new();
        int number = 0;
        foreach ((SmallOp[] ops, int _) in Programs.AllLists(2, 1))
            if (number++ % stride == 0)
                foreach (SmallProgram program in Programs.Variants(ops, 1)) Programs.Check(program, 1, arenas, tally);
    }

    /// <summary>A few hundred programs over every kind of overlap, and some long ones.</summary>
    private static void SomeOverlaps()
    {
        Tally tally = new();
        Simulator.Overlaps.CheckAll(Simulator.Overlaps.All(2, 3).Take(150).Concat(Simulator.Overlaps.Some(3, 3).Take(150)), 3, tally);
        OverlapGraphs.CheckAll(OverlapGraphs.All(6, 1).Take(2000), 1, tally, stride: 9);
        Simulator.Overlaps.CheckLong(Enumerable.Range(1, 20).Select(seed => (ulong)seed), tally);
    }

    /// <summary>A few devices, with one crash at any step of the merge of the whole update.</summary>
    private static void WholeDevices()
    {
        using Arenas arenas = new();
        Tally tally = new();
        DeviceThoroughness how = new() { Crashes = 1, Cuts = 8 };
        for (ulong seed = 1; seed <= 6; seed++)
        {
            DeviceSimulation.Check(DeviceBuilder.Small(seed, (int)(seed % 2)), how with { Seed = seed }, arenas, tally);
            DeviceSimulation.Check(DeviceBuilder.Random(seed), how with { Seed = seed }, arenas, tally);
        }
    }

    private static void Undisturbed(MergeCase merge)
    {
        using Arena arena = new(merge.ArenaBytes);
        SimMerge.Run(merge, merge.Disks(), arena, 1, () => { });
    }

    private static void Crash(MergeCase merge, Thoroughness how)
    {
        using Explorer explorer = new(merge, how);
        explorer.Explore();
    }

    private static void Crash(MergeCase merge, Thoroughness how, SimDisk[] disks, string history)
    {
        using Explorer explorer = new(merge, how);
        explorer.Explore(disks, history);
    }

    /// <summary>
    /// Rule 3, checked on the medium. Whenever state 2 is durable, the entries are exactly the next min(W, run of ordered ops) ops from the
    /// count on. Entry i is in slot i, and every slot holds the contents that its block must get. Recovery by this engine would accept
    /// fewer ops, but Android's groups would not fit after that.
    /// </summary>
    private static void Windows(MergeCase merge)
    {
        using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
        ScratchLayout layout = new(cow.Header.HeaderBytes, cow.Header.ScratchBytes);
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] disks = merge.Disks();
        SimMerge.Run(merge, disks, arena, 1, () =>
        {
            if (layout.Window == 0 || disks[0].Durable[0].Bytes[layout.StateOffset] != ScratchLayout.Valid) return;
            int count = SimMerge.DurableCount(disks[0]), due = 0;
            byte[] head = new byte[layout.SlotOffset(layout.Window)];
            disks[0].Durable.Read(0, head);
            while (due < layout.Window && count + due < cow.Order.Count && cow[cow.Order.OpIndex(count + due)].IsOrdered) due++;
            for (int i = 0; i < layout.Window; i++)
            {
                ReadOnlySpan<byte> entry = head.AsSpan((int)layout.EntryOffset(i), ScratchLayout.EntryBytes);
                (ulong block, ulong offset) found = (BinaryPrimitives.ReadUInt64LittleEndian(entry),
                    BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]));
                uint block = i < due ? cow[cow.Order.OpIndex(count + i)].NewBlock : 0;
                if (found != (i < due ? (block, (ulong)layout.SlotOffset(i)) : (0, 0)))
                    throw new LostDataException($"{merge.Name}: at count {count} the window has {due} ops, and entry {i} is {found}");
                if (i < due && !head.AsSpan((int)layout.SlotOffset(i), Page.Size).SequenceEqual(merge.Target[(int)block].Bytes))
                    throw new LostDataException($"{merge.Name}: at count {count} slot {i} does not hold what block {block} must become");
                if (i == due) break;
            }
        });
        if (disks[1].Durable.FirstDifference(merge.Target) is >= 0 and int wrong)
            throw new LostDataException($"{merge.Name}: block {wrong} is wrong after an undisturbed merge");
    }

    /// <summary>
    /// The window on disk has a list of entries that does not match the count. The run must fail with exit code 65 before the first write,
    /// unless the entries are those of the ops just counted, which is a state that Android leaves.
    /// </summary>
    private static void Scratch(MergeCase merge)
    {
        if (FaultSweep.ClaimedWindow(merge, 1) is not { } claimed) return;
        using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
        ScratchLayout layout = new(cow.Header.HeaderBytes, cow.Header.ScratchBytes);
        int entry = (int)layout.EntryOffset(0), next = (int)layout.EntryOffset(1);
        Refuses(merge, claimed, "the first entry names another block", page => page[entry] ^= 1);
        Refuses(merge, claimed, "the first entry has a wrong offset", page => page[entry + 9] ^= 16);
        Refuses(merge, claimed, "the list has no entry", page => page.AsSpan(entry, 16).Clear());
        if (BinaryPrimitives.ReadUInt64LittleEndian(claimed[0].Cache[0].Bytes[(next + 8)..]) == 0) return;
        Refuses(merge, claimed, "the second entry names another block", page => page[next] ^= 1);
        Refuses(merge, claimed, "two entries are swapped", page =>
        {
            byte[] first = page[entry..next];
            page.AsSpan(next, 16).CopyTo(page.AsSpan(entry));
            first.CopyTo(page.AsSpan(next));
        });

        // The window is merged and counted, and the state byte still says that it is valid.
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] counted = Copy(claimed);
        SimDisk[]? stale = null;
        int from = SimMerge.DurableCount(claimed[0]);
        SimMerge.Run(merge, counted, arena, 1, () =>
        {
            if (stale is null && SimMerge.DurableCount(counted[0]) > from) stale = Copy(counted);
        });
        SimDisk[] left = Copy(claimed);
        byte[] head = claimed[0].Cache[0].Bytes.ToArray();
        BinaryPrimitives.WriteUInt64LittleEndian(head.AsSpan(CowHeader.MergeCountOffset), (ulong)SimMerge.DurableCount(stale![0]));
        Image cowImage = left[0].Cache.Copy();
        cowImage.Set(0, new Page(head));
        SimDisk[] forgotten = [new SimDisk(cowImage), new SimDisk(stale[1].Durable), .. SourceOf(merge)];
        // Scratch is not read when no ordered op follows, as in Android.
        int count = SimMerge.DurableCount(forgotten[0]);
        if (Enumerable.Range(count, cow.Order.Count - count).Any(position => cow[cow.Order.OpIndex(position)].IsOrdered))
        {
            Refuses(merge, forgotten, "the second entry of a counted window names another block", page => page[next] ^= 1);
            Refuses(merge, forgotten, "the second entry of a counted window has a wrong offset", page => page[next + 9] ^= 16);
        }
        Thoroughness how = new() { Seed = 1, Crashes = 1, ExhaustiveUpTo = 4, Samples = 2 };
        Crash(merge, how, forgotten, "a counted window is still marked valid");
        CheckClaims(merge, forgotten, layout);
    }

    /// <summary>
    /// The engine first clears a counted window that is still marked valid. A state byte of 2 must not announce the entries of that window
    /// while the engine writes to the base, nor at the end.
    /// </summary>
    private static void CheckClaims(MergeCase merge, SimDisk[] forgotten, ScratchLayout layout)
    {
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] disks = Copy(forgotten);
        ReadOnlySpan<byte> Head() => disks[0].Durable[0].Bytes;
        byte[] stale = First().ToArray();
        ReadOnlySpan<byte> First() => Head().Slice((int)layout.EntryOffset(0), ScratchLayout.EntryBytes);
        bool Claims() => Head()[layout.StateOffset] == ScratchLayout.Valid && First().SequenceEqual(stale);
        bool early = false;
        SimMerge.Run(merge, disks, arena, 1, () => early |= disks[1].Pending.Count > 0 && Claims());
        if (early) throw new LostDataException($"{merge.Name}: the base is written while a counted window is still marked valid");
        if (Claims()) throw new LostDataException($"{merge.Name}: the merge has ended and a counted window is still marked valid");
    }

    /// <summary>When a finished merge is reported, it is durable: the COW with its count, and the base.</summary>
    private static void Finished(MergeCase merge)
    {
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] merged = merge.Disks();
        int total = SimMerge.Run(merge, merged, arena, 1, () => { }).OpsTotal;
        SimDisk cow = SimDisk.Unflushed(merge.Cow, merged[0].Cache), target = SimDisk.Unflushed(merge.Base, merged[1].Cache);
        MergeResult again = SimMerge.Run(merge, [cow, target, .. SourceOf(merge)], arena, 2, () => { });
        if (!again.AlreadyMerged) throw new LostDataException($"{merge.Name}: a finished merge is merged again");
        string reported = $"{merge.Name}: the engine reports that everything is merged already";
        if (SimMerge.DurableCount(cow) != total) throw new LostDataException($"{reported}, and a power cut takes the count back");
        int wrong = target.Durable.FirstDifference(merge.Target);
        if (wrong >= 0) throw new LostDataException($"{reported}, and a power cut takes block {wrong} back");
    }

    /// <summary>
    /// Payloads that share a page with the COW's metadata image change after the engine has read that image. The start writes the page back
    /// as it was read, so the engine reads no payload until that write has ended: a read in between would race with the write.
    /// </summary>
    private static void ChangedHead()
    {
        byte[] old = SmallCases.Random(5, 12);
        CowBuilder cow = new() { Version = 3, ScratchBytes = 0, MaxUnitBytes = 8192 };
        for (uint i = 0; i < 3; i++) cow.Replace(i, SmallCases.Random(i, 1));
        Image target = new(NaiveMerger.Merge(cow.Ops, old, old));
        MergeCase merge = new("payloads on page 0", new Image(cow.Build()), new Image(old), target);
        using Arena arena = new(merge.ArenaBytes);
        for (ulong seed = 1; seed <= 20; seed++)
        {
            SimMerge.Clean(arena);
            SimDisk[] disks = merge.Disks();
            using SimQueue queue = new(disks, arena, merge.QueueDepth, seed, () => { });
            using SimWorkers workers = new(new DecodeWorker(), seed);
            using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, arena, seed, queue, workers));
            engine.Open();
            byte[] page = disks[0].Cache[0].Bytes.ToArray();
            int payload = (int)engine.Cow[0].DataOffset;
            if (payload >= page.Length) throw new LostDataException($"{merge.Name}: the first payload lies at {payload}");
            page[payload] ^= 1;
            disks[0].Cache.Set(0, new Page(page));
            _ = engine.Run();
            if (disks[1].Durable.FirstDifference(merge.Target) is >= 0 and int wrong)
                throw new LostDataException(
                    $"{merge.Name}: block {wrong} is wrong after a merge that wrote the metadata image back, seed {seed}");
        }
    }

    /// <summary>
    /// Two windows with more entries than the first sector of the COW can hold. A power cut may keep any of the sectors of a list of
    /// entries; the lost sectors hold their previous contents.
    /// </summary>
    private static void CutLongLists()
    {
        const int window = 32, blocks = (2 * window) + 4;
        byte[] old = SmallCases.Random(6, blocks);
        CowBuilder cow = new() { Version = 3, ScratchBytes = SmallCases.ScratchFor(window), MaxUnitBytes = 8192 };
        for (uint i = 0; i < 2 * window; i++) cow.Copy(i, i + 1);
        Image target = new(NaiveMerger.Merge(cow.Ops, old, old));
        MergeCase merge = new($"long windows, W={window}", new Image(cow.Build()), new Image(old), target)
        {
            ArenaBytes = 1 << 20,
            Readers = false,
        };
        Crash(merge, new Thoroughness { Seed = 1, Grain = Page.Sector, Crashes = 1, ExhaustiveUpTo = 4, Samples = 12 });
    }

    /// <summary>
    /// Each read and each write in turn moves one half of its bytes, and the attempt to move the other half is cancelled. The synchronous
    /// call that follows moves the other half, and the merge continues.
    /// </summary>
    private static void ShortThenPlain()
    {
        MergeCase merge = SmallCases.Make("compressed") with { Readers = false };
        using Arena arena = new(merge.ArenaBytes);
        int moved = 0;
        for (int k = 0; ; k++)
        {
            SimDisk[] disks = merge.Disks();
            (BlockVerb Verb, int Device, long End)? rest = null;
            bool reached = false;
            SimMerge.Run(merge, disks, arena, 1, () => { }, (number, request) =>
            {
                long end = request.Offset + request.Buffer.Length;
                reached |= number == k;
                if (number == k && request.Verb is BlockVerb.Read or BlockVerb.Write && request.Buffer.Length > 1)
                {
                    rest = (request.Verb, request.Device, end);
                    return new Fault(request.Buffer.Length / 2);
                }
                if (rest != (request.Verb, request.Device, end)) return null;
                rest = null;
                moved++;
                return new Fault(-Errno.ECANCELED);
            });
            if (disks[1].Durable.FirstDifference(merge.Target) is >= 0 and int wrong)
                throw new LostDataException($"{merge.Name}: block {wrong} is wrong after request {k} was short and then cancelled");
            if (!reached) break;
        }
        if (moved == 0) throw new LostDataException("no request was short and then cancelled");
    }

    private static void Refuses(MergeCase merge, SimDisk[] claimed, string what, Action<byte[]> change)
    {
        byte[] page = claimed[0].Cache[0].Bytes.ToArray();
        change(page);
        Image cow = claimed[0].Cache.Copy();
        cow.Set(0, new Page(page));
        SimDisk[] disks = Copy(claimed);
        disks[0] = new SimDisk(cow);
        using Arena arena = new(merge.ArenaBytes);
        // Thrown at the end: an exception in the middle of the engine's call would leave requests that are never reaped.
        bool written = false;
        try
        {
            SimMerge.Run(merge, disks, arena, 1, () => written = true);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt && !written)
        {
            return;
        }
        if (written) throw new LostDataException($"{merge.Name}: {what}, and the merge writes nevertheless");
        throw new LostDataException($"{merge.Name}: {what}, and no check noticed");
    }

    /// <summary>
    /// Every flush of a merge fails in turn. The data to be flushed stays visible to readers and never reaches the medium; after that, the
    /// machine crashes too.
    /// </summary>
    private static void LostFlush(MergeCase merge)
    {
        if (merge.MayBeLost) return;
        using Arena arena = new(merge.ArenaBytes);
        for (int fail = 0; ; fail++)
        {
            SimDisk[] disks = merge.Disks();
            int flushes = 0;
            try
            {
                SimMerge.Run(merge, disks, arena, 3, () => { },
                    (_, request) => request.Verb == BlockVerb.Flush && flushes++ == fail ? new Fault(-Errno.EIO, DropsDirty: true) : null);
                if (flushes <= fail) return;
                throw new LostDataException($"{merge.Name}: flush {fail} failed and the merge continued");
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.InputOutput)
            {
            }
            Crash(merge, new Thoroughness { Seed = 3, Crashes = 1, ExhaustiveUpTo = 5, Samples = 4 }, Copy(disks), $"flush {fail} failed");
        }
    }

    /// <summary>Header, entries and slots appear written, but the COW on the medium is unchanged.</summary>
    private static void CachedWindow(MergeCase merge)
    {
        if (FaultSweep.ClaimedWindow(merge, 1) is not { } claimed || SimMerge.DurableCount(claimed[0]) != 0) return;
        SimDisk[] disks = Copy(claimed);
        disks[0] = SimDisk.AfterDroppedFlush(merge.Cow, claimed[0].Cache);
        Crash(merge, new Thoroughness { Seed = 9, Crashes = 2, ExhaustiveUpTo = 6, Samples = 8 }, disks,
            "an earlier flush of scratch failed unnoticed");
    }

    /// <summary>The source's disk, if the case has one.</summary>
    private static SimDisk[] SourceOf(MergeCase merge) => merge.Source is { } source ? [new SimDisk(source)] : [];

    private static SimDisk[] Copy(SimDisk[] disks) => Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true));
}
