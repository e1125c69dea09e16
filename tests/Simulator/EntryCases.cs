using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Runs the product's reader and the real engine; the merge runs between two steps of the reader's entry into the gate. There the merge
/// need not wait for the reader. It runs to its end, or to a stop at any of its steps, and destroys every location that the reader could
/// have looked up before. A long read enters several times; the merge runs at one of these times, and each of them is tried. The read must
/// return the target.
/// </summary>
public static class EntryCases
{
    /// <summary>Blocks of a read that takes two rounds: Xors without compression, of which 32 fill the memory of one round.</summary>
    private const int LongBlocks = 40;

    private enum Outcome
    {
        /// <summary>The reader never reached that place.</summary>
        NotReached,
        /// <summary>The merge was stopped there, and the read was right.</summary>
        Stopped,
        /// <summary>The merge ended there, and the read was right.</summary>
        Ended,
    }

    /// <summary>Runs every case; returns how many reads were compared.</summary>
    public static int Check()
    {
        int reads = 0;
        foreach (MergeCase merge in SmallCases.Names.Select(name => SmallCases.Make(name)).Append(LongRead()))
        {
            if (merge.MayBeLost) continue;
            using Arena arena = new(merge.ArenaBytes);
            Outcome outcome;
            int places = 0;
            do
            {
                int steps = 0;
                do
                {
                    outcome = Run(merge, arena, places, steps);
                    steps += merge.Target.Pages > LongBlocks ? 7 : 1;
                    if (outcome != Outcome.NotReached) reads++;
                }
                while (outcome == Outcome.Stopped);
                if (outcome != Outcome.NotReached) places++;
            }
            while (outcome != Outcome.NotReached);
            int due = merge.Target.Pages > LongBlocks ? 2 : 1;
            if (places < due) throw new LostDataException($"{merge.Name}: a read of the image enters the gate {places} times, not {due}");
        }
        return reads;
    }

    private static MergeCase LongRead()
    {
        byte[] old = SmallCases.Random(77, LongBlocks + 8);
        CowBuilder cow = new() { Version = 3, ScratchBytes = SmallCases.ScratchFor(6), MaxUnitBytes = 8192 };
        for (uint i = 0; i < LongBlocks; i++) cow.Xor(i, (i + 1) * 4096ul, SmallCases.Random(i, 1));
        Image target = new(NaiveMerger.Merge(cow.Ops, old, old));
        return new MergeCase("a read of two rounds, W=6", new Image(cow.Build()), new Image(old), target)
        {
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 3 * CowOp.BlockSize },
        };
    }

    /// <summary>
    /// Reads the image once. At the <paramref name="place"/>-th of the reader's pauses the merge runs; a stop is requested after
    /// <paramref name="steps"/> steps.
    /// </summary>
    private static Outcome Run(MergeCase merge, Arena arena, int place, int steps)
    {
        SimMerge.Clean(arena);
        SimDisk[] disks = merge.Disks();
        StopFlag stop = new();
        Outcome outcome = Outcome.NotReached;
        MergeEngine? engine = null;
        bool reads = false;
        int step = 0, pause = 0;
        if (steps == 0) stop.Request();
        void ComeBetween()
        {
            // The merge also passes these places when it publishes; GateCases covers interruptions there.
            if (!reads || pause++ != place) return;
            reads = false;
            try
            {
                _ = engine!.Run();
                outcome = Outcome.Ended;
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.Interrupted)
            {
                outcome = Outcome.Stopped;
            }
            reads = true;
        }
        using WakeUp wakeUp = new();
        using SimQueue queue = new(disks, arena, merge.QueueDepth, 1, () =>
        {
            if (++step == steps) stop.Request();
        });
        using SimWorkers workers = new(new DecodeWorker(), 1);
        ReaderGate gate = new(wakeUp) { Interleave = ComeBetween };
        MergeSetup setup = SimMerge.Setup(merge, disks, arena, 1, queue, workers) with { Readers = gate, Stop = stop };
        using MergeEngine opened = engine = MergeEngine.Open(setup);
        engine.Open();

        string failure = "";
        using SnapshotView view = new(engine, setup, 1, sentence => failure = sentence);
        using Arena memory = new(ViewReader.BytesPerRead(view) + (int)view.Length + (2 * Page.Size));
        static void Refuse() => throw new ContractViolationException("a reader issued a write");
        using SimQueue own = new(disks, memory, merge.QueueDepth, 2, Refuse) { Beside = [queue] };
        queue.Beside = [own];
        using ViewReader reader = new(view, new IoScheduler(own, [1, 1, 1]), memory, 1);
        Slice buffer = memory.Take((int)view.Length)!.Value;
        reads = true;
        int result = reader.Read(0, buffer);
        reads = false;
        string when = $"{merge.Name}: a read of the image, with {steps} steps of the merge at pause {place} of the reader's entry,";
        if (result != buffer.Length) throw new LostDataException($"{when} ends with {result}: {failure}");
        for (int block = 0; block < merge.Target.Pages; block++)
        {
            int length = Math.Min(Page.Size, buffer.Length - (block * Page.Size));
            if (!memory[buffer.Part(block * Page.Size, length)].SequenceEqual(merge.Target[block].Bytes[..length]))
                throw new LostDataException($"{when} returns a wrong block {block}");
        }
        return outcome;
    }
}
