using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>A device of a merge: its number in the block queue, what to call it in a sentence, and its length in bytes.</summary>
public readonly record struct MergeDevice(int Number, string Name, long Length);

/// <summary>Everything a merge takes from outside: devices, I/O, memory, workers, time. Nothing in the engine reaches past it.</summary>
public sealed record MergeSetup
{
    /// <summary>Whole transfers to and from the devices below.</summary>
    public required Transfers Io { get; init; }
    /// <summary>All buffer memory there is; taken once, when the engine opens.</summary>
    public required Arena Arena { get; init; }
    /// <summary>Decompression and XOR, in the same arena.</summary>
    public required IWorkQueue<DecodeJob> Workers { get; init; }
    /// <summary>The clock by which checkpoints come.</summary>
    public required ITimeSource Time { get; init; }
    /// <summary>The COW: read, and its head written.</summary>
    public required MergeDevice Cow { get; init; }
    /// <summary>What the new image is written to.</summary>
    public required MergeDevice Base { get; init; }
    /// <summary>What Copy and Xor read; the same as <see cref="Base"/> unless the user named another.</summary>
    public required MergeDevice Source { get; init; }
    /// <summary>Block n of Source and block n of Base are one block, whatever the paths (design §5, rule 1).</summary>
    public bool SharedBlocks { get; init; } = true;
    /// <summary>Source is Base itself, not only another way to its blocks.</summary>
    public bool SourceIsBase => SharedBlocks && Source.Number == Base.Number;
    /// <summary>
    /// What storage a source of its own has in common with Base, in any order: then this alone says what a write to Base destroys for those
    /// that read Source (design §5), and <see cref="SharedBlocks"/> says nothing. Empty if they share nothing; null if
    /// <see cref="SharedBlocks"/> decides.
    /// </summary>
    public ReadOnlyMemory<SharedRange>? Overlap { get; init; }
    /// <summary>How to merge.</summary>
    public MergeOptions Options { get; init; } = new();
    /// <summary>Set from outside to stop at the next checkpoint.</summary>
    public StopFlag Stop { get; init; } = new();
    /// <summary>Whether and how fast to go on, as somebody else wants it meanwhile.</summary>
    public MergePace Pace { get; init; } = new();
    /// <summary>Who wants to know how far it is.</summary>
    public IMergeObserver? Observer { get; init; }
    /// <summary>Reserves storage before the first write; null where there is nothing to reserve.</summary>
    public IStorageReserver? Storage { get; init; }
    /// <summary>What says beside the COW that its merge has begun; null for nothing.</summary>
    public IMergeMark? Mark { get; init; }
    /// <summary>Those who read the merged image meanwhile. Its wake-up is the one that the queue of <see cref="Io"/> listens to.</summary>
    public ReaderGate Readers { get; init; } = new();

    /// <summary>Reads the COW through a window of arena memory: a sixteenth of it, which is plenty at 256 KiB, where a disk streams.</summary>
    internal CowFile ReadCow()
    {
        Slice window = Arena.Take(Math.Clamp(Arena.Size / 16, 8 << 10, 256 << 10) & -CowOp.BlockSize)
            ?? throw new SnapuserdException(ExitCode.OutOfResources, "the buffer memory is too small to read a COW; try a larger --memory");
        return CowFile.Read(new TransferSource(Io, Arena, window, Cow.Number, Cow.Name, Cow.Length));
    }
}

/// <summary>How to merge.</summary>
public sealed record MergeOptions
{
    /// <summary>Decode every payload before the first write, while nothing is merged yet.</summary>
    public bool VerifyFirst { get; init; } = true;
    /// <summary>Ops of the file, from its beginning on, whose payloads an earlier process has decoded while no process could change the COW; the check goes on after them.</summary>
    public int CheckedOps { get; init; }
    /// <summary>Merge an Xor that reads its own destination even if there is no scratch to protect it.</summary>
    public bool AllowUnsafe { get; init; }
    /// <summary>
    /// Bytes written to Base between checkpoints. The flush of a checkpoint is what sets a disk to work that otherwise only collects: 32 MiB
    /// were quicker than 64 (tests/Benchmarks/README.md), and are still no more than one flush per 16 MiB. It also bounds what a crash repeats.
    /// </summary>
    public long CheckpointBytes { get; init; } = 32 << 20;
    /// <summary>
    /// Bytes written to Base and not counted at the most, beside what is in memory: what a crash repeats. Writing goes on while a
    /// checkpoint's flush takes its time, but no further than this. Six
    /// intervals cost less than two where a flush takes 5 ms longer, and do not hide it whole (tests/Benchmarks/README.md).
    /// </summary>
    public long UncountedBytes { get; init; } = 192 << 20;
    /// <summary>
    /// Bytes written to Base after which the device is asked to begin writing them back, so that it works while more is made ready and a flush finds less to do;
    /// 0 for never. Nothing rests on it.
    /// </summary>
    public long WriteBackBytes { get; init; } = 4 << 20;
    /// <summary>Milliseconds between checkpoints, for devices so slow that 32 MiB take longer.</summary>
    public long CheckpointMilliseconds { get; init; } = 250;
    /// <summary>Bytes of a request at the most, unless one unit is longer.</summary>
    public int RequestBytes { get; init; } = 1 << 20;
    /// <summary>Bytes of contents after which a decode job ends: enough work to outweigh what handing it over costs.</summary>
    public int JobBytes { get; init; } = 128 << 10;
}

/// <summary>How far a merge is. Ops are counted as the header counts them; bytes are bytes of Base.</summary>
public readonly record struct MergeProgress(int OpsDone, int OpsTotal, long BytesDone, long BytesTotal);

/// <summary>Listens to a merge, on the engine's thread; must not block.</summary>
public interface IMergeObserver
{
    /// <summary>Everything up to here is written, not necessarily durable.</summary>
    void Progress(in MergeProgress progress);

    /// <summary>The payloads up to here decode: the check before the first write, which is no part of the merge. Counted in ops of the file and in bytes of their units.</summary>
    void Checking(in MergeProgress progress)
    {
    }
}

/// <summary>Something outside of the COW that says that its merge has begun. Called on the engine's thread, once each in a run, and may block.</summary>
public interface IMergeMark
{
    /// <summary>Called before anything is written. Throws 65 if it speaks of another COW than <paramref name="cow"/>: the base is that one's.</summary>
    void Check(CowFile cow);

    /// <summary>
    /// Called when the COW says durably that its merge has begun, as far as it can, with the ops that are counted, and before the first write to Base. It is durable when this returns; throws 74 if it cannot be.
    /// </summary>
    void Begin(CowFile cow, int count);

    /// <summary>Called when all is merged and durable. Never throws.</summary>
    void End();
}

/// <summary>What a finished merge did.</summary>
public sealed record MergeResult
{
    /// <summary>Ops in the merge order.</summary>
    public int OpsTotal { get; init; }
    /// <summary>Ops that an earlier run had merged.</summary>
    public int ResumedFrom { get; init; }
    /// <summary>Ops replayed from scratch that a killed run had left.</summary>
    public int Replayed { get; init; }
    /// <summary>Ops that went through scratch in this run.</summary>
    public int Journaled { get; init; }
    /// <summary>Blocks written to Base in this run.</summary>
    public long Blocks { get; init; }
    /// <summary>Bytes written to Base in this run.</summary>
    public long BaseBytesWritten { get; init; }
    /// <summary>Bytes written to the COW in this run.</summary>
    public long CowBytesWritten { get; init; }
    /// <summary>Flushes of either device in this run.</summary>
    public int Flushes { get; init; }
    /// <summary>Times the durable count advanced in this run.</summary>
    public int Checkpoints { get; init; }
    /// <summary>An earlier run had begun and not ended.</summary>
    public bool WasResumed => ResumedFrom + Replayed > 0 && !AlreadyMerged;
    /// <summary>Nothing was left to do.</summary>
    public bool AlreadyMerged => ResumedFrom == OpsTotal;
}
