using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>A device of a merge: its number in the block queue, its name in messages, and its length in bytes.</summary>
public readonly record struct MergeDevice(int Number, string Name, long Length);

/// <summary>All external dependencies of a merge: devices, I/O, memory, workers, time. The engine uses nothing else.</summary>
public sealed record MergeSetup
{
    /// <summary>Transfers of any length to and from the devices below.</summary>
    public required IoScheduler Io { get; init; }
    /// <summary>All buffer memory; taken once, when the engine opens.</summary>
    public required Arena Arena { get; init; }
    /// <summary>Decompression and XOR, in the same arena.</summary>
    public required IWorkQueue<DecodeJob> Workers { get; init; }
    /// <summary>The clock that schedules checkpoints.</summary>
    public required ITimeSource Time { get; init; }
    /// <summary>The COW. It is read, and its metadata image is written.</summary>
    public required MergeDevice Cow { get; init; }
    /// <summary>The device that the new image is written to.</summary>
    public required MergeDevice Base { get; init; }
    /// <summary>The device that Copy and Xor read; the same as <see cref="Base"/> unless the user named another.</summary>
    public required MergeDevice Source { get; init; }
    /// <summary>Block n of Source and block n of Base are the same block, whatever the paths (design §5, rule 1).</summary>
    public bool SharedBlocks { get; init; } = true;
    /// <summary>Source is Base itself, not only another path to its blocks.</summary>
    public bool SourceIsBase => SharedBlocks && Source.Number == Base.Number;
    /// <summary>
    /// The storage that a separate source shares with Base, in any order; empty if they share nothing. If set, it alone says which bytes of
    /// Source a write to Base destroys (design §5). If null, <see cref="SharedBlocks"/> decides.
    /// </summary>
    public ReadOnlyMemory<SharedRange>? Overlap { get; init; }
    /// <summary>How to merge.</summary>
    public MergeOptions Options { get; init; } = new();
    /// <summary>Set from outside to stop at the next checkpoint.</summary>
    public StopFlag Stop { get; init; } = new();
    /// <summary>Pause and rate limit, set from outside.</summary>
    public MergeThrottle Throttle { get; init; } = new();
    /// <summary>Receives the progress; null for none. Nothing durable depends on it (<see cref="ObserverGuard"/>).</summary>
    public IMergeObserver? Observer { get; init; }
    /// <summary>Reserves storage before the first write; null if there is nothing to reserve.</summary>
    public IStorageReserver? Storage { get; init; }
    /// <summary>A marker beside the COW that says that its merge has begun; null for none.</summary>
    public IMergeMarker? Marker { get; init; }
    /// <summary>
    /// The gate for readers of the merged image during the merge. It signals the wake-up that the queue of <see cref="Io"/> waits on.
    /// </summary>
    public ReaderGate Readers { get; init; } = new();

    /// <summary>
    /// Reads the COW through a window of arena memory: a sixteenth of the arena, at most 256 KiB, which is enough for a disk to stream. The
    /// caller disposes it. Exit code 65 for a damaged COW, 71 if the arena is too small.
    /// </summary>
    public CowFile ReadCow()
    {
        Slice window = Arena.Take(Math.Clamp(Arena.Size / 16, 8 << 10, 256 << 10) & -CowOp.BlockSize)
            ?? throw new SnapuserdException(ExitCode.OutOfResources, "the buffer memory is too small to read a COW; try a larger --memory");
        return CowFile.Read(new TransferSource(Io, Arena, window, Cow.Number, Cow.Name, Cow.Length));
    }
}

/// <summary>Options of a merge.</summary>
public sealed record MergeOptions
{
    /// <summary>Decode every payload before the first write, while nothing is merged yet.</summary>
    public bool VerifyFirst { get; init; } = true;
    /// <summary>
    /// Leading ops of the file whose payloads an earlier process has decoded while no process could change the COW. The check continues
    /// after them.
    /// </summary>
    public int CheckedOps { get; init; }
    /// <summary>Merges an Xor that reads its own destination even without scratch to protect it.</summary>
    public bool AllowUnsafe { get; init; }
    /// <summary>
    /// Bytes written to Base between checkpoints; this also bounds the work that a crash repeats. A checkpoint's flush starts the
    /// write-back of disks that otherwise only cache. 32 MiB was faster than 64 (tests/Benchmarks/README.md); with two flushes per
    /// checkpoint, that is at most one flush per 16 MiB.
    /// </summary>
    public long CheckpointBytes { get; init; } = 32 << 20;
    /// <summary>
    /// Maximum bytes written to Base and not yet counted; after a crash they are written again. Writing continues during a checkpoint's
    /// flush, up to this limit. It is six checkpoint intervals: where a flush takes 5 ms longer, that costs less time than two intervals,
    /// but does not hide the flush entirely (tests/Benchmarks/README.md).
    /// </summary>
    public long UncountedBytes { get; init; } = 192 << 20;
    /// <summary>
    /// Bytes written to Base after which the engine asks the device to begin write-back; 0 for never. The device works while more batches
    /// become ready, and a flush finds less to do. Correctness does not depend on it.
    /// </summary>
    public long WriteBackBytes { get; init; } = 4 << 20;
    /// <summary>Milliseconds between checkpoints, for devices so slow that 32 MiB take longer.</summary>
    public long CheckpointMilliseconds { get; init; } = 250;
    /// <summary>Maximum bytes of a request, unless one unit is longer.</summary>
    public int RequestBytes { get; init; } = 1 << 20;
    /// <summary>Bytes of contents after which a decode job ends: enough work to outweigh the cost of handing it over.</summary>
    public int JobBytes { get; init; } = 128 << 10;
}

/// <summary>The progress of a merge. Ops are counted as in the header; bytes are bytes of Base.</summary>
public readonly record struct MergeProgress(int OpsDone, int OpsTotal, long BytesDone, long BytesTotal);

/// <summary>Receives the progress of a merge, on the engine's thread. Must not block.</summary>
public interface IMergeObserver
{
    /// <summary>Everything up to here is written, not necessarily durable.</summary>
    void Progress(in MergeProgress progress);

    /// <summary>
    /// The payloads up to here decode. Called by the check before the first write, which is not part of the merge. Counts ops of the file
    /// and bytes of their units.
    /// </summary>
    void Checking(in MergeProgress progress)
    {
    }
}

/// <summary>
/// A marker outside of the COW that says that its merge has begun. The engine calls Begin, at most once per run;
/// <see cref="MergeLifecycle"/> calls the other methods. All calls come from the engine's thread, and may block.
/// </summary>
public interface IMergeMarker
{
    /// <summary>
    /// Called before anything is written. Throws with exit code 65 if the marker names another COW than <paramref name="cow"/>, because the
    /// base then belongs to that COW.
    /// </summary>
    void Check(CowFile cow);

    /// <summary>
    /// Called before the first write to Base, with the number of counted ops. By then the COW itself shows durably that its merge has
    /// begun, if it can show this. The marker, if there is one, must be durable on return. If that fails, throws with the exit code of the
    /// errno: 74 for a failing device.
    /// </summary>
    void Begin(CowFile cow, int count);

    /// <summary>Called after everything is merged and durable. Never throws.</summary>
    void End();
}

/// <summary>The result of a finished merge.</summary>
public sealed record MergeResult
{
    /// <summary>Ops in the merge order.</summary>
    public int OpsTotal { get; init; }
    /// <summary>Ops that an earlier run had merged.</summary>
    public int ResumedFrom { get; init; }
    /// <summary>Ops replayed from the scratch that a killed run left.</summary>
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
    /// <summary>An earlier run began the merge and did not finish it.</summary>
    public bool WasResumed => ResumedFrom + Replayed > 0 && !AlreadyMerged;
    /// <summary>Earlier runs had merged all ops.</summary>
    public bool AlreadyMerged => ResumedFrom == OpsTotal;
}
