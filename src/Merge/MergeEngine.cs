using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The merge: a deterministic walk through the merge order. It uses nothing but the <see cref="MergeSetup"/> it is given.
/// <code>
///   plan:      steps of ops that rule 1 permits | windows for scratch | Xors in place without scratch
///                |
///   pipeline:  fill -> read -> decompress, XOR -> ready        (any number of batches ahead, in merge order)
///                                                   |
///   first in line:  plain   -> written to Base as soon as its safe-from count is durable, in parallel with others
///                   window  -> saved in scratch, claimed, written, counted
///                   unsafe  -> the file marked, written, counted and unmarked
///   in parallel:    checkpoints, by bytes and time, or when a batch waits for its safe-from count
/// </code>
/// After a crash the next run writes everything from the durable count on again, including plain batches that were in flight past the
/// written count. Rule 1 makes this harmless. Producing contents ahead of time is harmless too: in a valid order no op reads what an
/// earlier op writes, and no op writes what an earlier op has yet to read. Where source and base overlap, an op may read what an earlier
/// op writes, but only inside one window. All reads of a window finish before its first write to Base.
/// <para>
/// This class is the public API. It reads and checks everything before the first write; <see cref="MergeLoop"/> then merges, with these
/// parts:
/// </para>
/// <list type="bullet">
/// <item><see cref="Watermarks"/>: the progress of the merge;</item>
/// <item><see cref="BatchFiller"/> and <see cref="Pipeline"/>: the contents of the next ops;</item>
/// <item><see cref="MergeRules"/> and <see cref="CheckpointSchedule"/>: what may be written, and when a checkpoint is due;</item>
/// <item><see cref="MergeProtocols"/>: the order of writes and flushes; <see cref="RunningProtocol"/> runs one of them at a time;</item>
/// <item><see cref="MetadataImage"/> and <see cref="BaseWriter"/>: writes and flushes of the COW and of Base.</item>
/// </list>
/// </summary>
public sealed class MergeEngine : IDisposable
{
    // Ordered ops that Android's engine processes at once (cow-format §13): one window of the usual scratch.
    private const int AndroidBatch = 510;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly MergePlan _plan;
    private readonly MetadataImage _metadata;
    private readonly Pipeline _pipeline;
    private readonly Watermarks _marks;
    private readonly MergeLoop _loop;

    // The previous run's window in scratch; null until it is read.
    private RecoveredWindow? _left;

    private MergeEngine(MergeSetup setup, CowFile cow, MergePlan plan)
    {
        int count = (int)cow.Header.NumMergeOps;
        _setup = setup;
        _cow = cow;
        _plan = plan;
        _metadata =
            new MetadataImage(setup, new ScratchLayout(cow.Header.HeaderBytes, cow.Header.ScratchBytes), plan.LongestWindowFrom(count));
        _pipeline = Pipeline.InRestOf(setup, cow, MergeForecast.Of(plan, count).Windows > 0);
        _marks = new Watermarks(plan, count, setup.Observer);
        _loop = new MergeLoop(setup, cow, plan, _metadata, _pipeline, _marks);
    }

    /// <summary>
    /// Reads and validates the COW against the devices, without writing anything. Exit code 65 if the COW is corrupt, does not fit the
    /// devices, or cannot be merged; 64 if it can be merged only with <see cref="MergeOptions.AllowUnsafe"/>; 71 if the arena is too small.
    /// <see cref="Run"/> checks before its first write whether a source that overlaps Base allows the merge: a COW that cannot be merged
    /// can still be served.
    /// </summary>
    public static MergeEngine Open(MergeSetup setup)
    {
        CowFile? cow = null;
        MergePlan? plan = null;
        try
        {
            cow = setup.ReadCow();
            if (cow.Header.Major < 2)
                throw new SnapuserdException(ExitCode.CowCorrupt,
                    $"{cow.Name}: version {cow.Header.Major} has no room to merge safely; it can be inspected and extracted only");
            cow.CheckDevices(setup.Base.Length, setup.Source.Length);
            ScratchLayout layout = new(cow.Header.HeaderBytes, cow.Header.ScratchBytes);
            plan = new MergePlan(cow, layout.Window, setup.SharedBlocks, setup.SourceIsBase, setup.Overlap);
            // An overlap of source and base forbids only the merge: Run refuses it, and the image can still be served.
            if (layout.Window == 0 && !setup.Options.AllowUnsafe && setup.Overlap is null) RefuseInPlace(cow, plan);
            return new MergeEngine(setup, cow, plan);
        }
        catch
        {
            plan?.Dispose();
            cow?.Dispose();
            throw;
        }
    }

    /// <summary>The COW of this merge.</summary>
    public CowFile Cow => _cow;

    /// <summary>The work done so far: final after <see cref="Run"/> returns, and correct up to the last checkpoint if it threw.</summary>
    public MergeResult Result => _loop.Result;

    /// <summary>The current progress. Only for the merge thread.</summary>
    public MergeProgress Progress => _marks.Progress;

    /// <summary>The count on disk: the next run continues from here.</summary>
    public int DurableCount => _marks.Durable;

    /// <summary>
    /// True if Android's engine may have damaged Base without a trace in the COW. Both conditions must hold:
    /// <list type="bullet">
    /// <item>The COW has no scratch.</item>
    /// <item>Among the ops that Android's engine writes before its next count, in no particular order, one overwrites a block that another
    /// reads.</item>
    /// </list>
    /// </summary>
    public bool MayHideDamage
    {
        get
        {
            if (_plan.Window > 0) return false;
            int count = _marks.Durable;
            int end = Math.Min(_plan.Count, count + AndroidBatch);
            for (int position = count; position < end && _plan[position].IsOrdered; position++)
                if (_plan.SafeFrom(position) > count) return true;
            return false;
        }
    }

    /// <summary>
    /// Merges the remaining ops. If none remain, only makes the result durable: the count may have been read from a page cache that a
    /// killed run left dirty. Where several merges share memory, <paramref name="share"/> is the quota of this merge. Programs run it
    /// through <see cref="MergeLifecycle"/>. Exit codes:
    /// <list type="bullet">
    /// <item>65 if the scratch or a payload is invalid. With <see cref="MergeOptions.VerifyFirst"/>, a merge finds invalid payloads before
    /// its first write.</item>
    /// <item>74 if a device fails. The same command continues from the last checkpoint. Also, before the first write, if the file systems
    /// below lack space for all writes of the merge (<see cref="MergeSetup.Storage"/>).</item>
    /// <item>75 if asked to stop. The same command continues from the last checkpoint.</item>
    /// </list>
    /// </summary>
    public MergeResult Run(MemoryQuota? share = null)
    {
        try
        {
            if (share != null) _pipeline.Join(share);
            if (_setup.Overlap is not null) RefuseOverlap();
            if (_setup.Options.VerifyFirst && _marks.Durable == 0) _pipeline.VerifyPayloads(_setup.Observer, _setup.Options.CheckedOps);
            // Reported only after the payload check: the time of the check does not count towards the merge rate.
            _setup.Observer?.Progress(Progress);
            AwaitResume();
            ReserveStorage();
            _loop.Start(_left ?? Prepare());
            _loop.Run();
            return Result;
        }
        catch
        {
            // Buffers of requests in flight must not be reused or unmapped.
            _pipeline.Abandon();
            throw;
        }
    }

    /// <summary>
    /// Reads the COW's metadata image and publishes the locations of the ops to <see cref="MergeSetup.Readers"/>. Readers must not read
    /// before this. <see cref="Run"/> does the same if the caller did not. Exit code 65 if scratch is in a state that neither Android's
    /// engine nor this one produces.
    /// </summary>
    public void Open() => _left ??= Prepare();

    /// <summary>
    /// Makes the result durable where an earlier process has counted the last op: writes page 0 back as it was read, and flushes Base and
    /// COW. The count may still be in the page cache only. A flush alone is not enough: after a failed write-back, it does not write the
    /// page again. Call it after <see cref="Open()"/> and before <see cref="Run"/>, on the merge thread. Exit code 74 if a device fails.
    /// </summary>
    public void MakeMergedDurable()
    {
        if (_marks.Durable != _plan.Count) throw new InvalidOperationException("some ops are not merged yet");
        try
        {
            _loop.Recover(_left ??= Prepare());
        }
        catch
        {
            _pipeline.Abandon();
            throw;
        }
    }

    /// <summary>
    /// The block in a slot of the window described by <see cref="OpLocations.Window"/>. For readers that have entered; thread-safe.
    /// </summary>
    public ReadOnlySpan<byte> WindowBlock(int slot) => _setup.Arena[_metadata.Slot(slot)];

    /// <inheritdoc/>
    public void Dispose()
    {
        _plan.Dispose();
        _cow.Dispose();
    }

    private static void RefuseInPlace(CowFile cow, MergePlan plan)
    {
        for (int position = (int)cow.Header.NumMergeOps; position < plan.Count; position++)
            if (plan.IsInPlace(position))
                throw new SnapuserdException(ExitCode.Usage,
                    $"{cow.Name}: {plan.Describe(position)} reads the block it overwrites, and the COW has no scratch to protect it: "
                    + "a power cut there would lose the block; --allow-unsafe merges all the same");
    }

    /// <summary>
    /// Throws before the first write unless all remaining ops can be merged although source and base overlap. Exit codes 64 and 65.
    /// </summary>
    private void RefuseOverlap()
    {
        RecoveredWindow left = _left ??= Prepare();
        _plan.CheckMergeable(_marks.Durable + (left.IsStale ? 0 : left.Entries), _setup);
        if (_plan.Window == 0 && !_setup.Options.AllowUnsafe) RefuseInPlace(_cow, _plan);
    }

    /// <summary>Does not start while paused: the first COW write ends the possibility of rollback.</summary>
    private void AwaitResume()
    {
        while (_setup.Throttle.IsPaused)
        {
            if (_setup.Stop.Requested) throw _loop.Interrupted();
            _pipeline.Wait(forOthers: true);
        }
    }

    /// <summary>
    /// Reserves the holes that the merge fills, if Base or COW is a file. Without enough space the merge does not begin: it would leave
    /// Base between two images.
    /// </summary>
    private void ReserveStorage()
    {
        if (_setup.Storage is not { } storage) return;
        storage.Reserve(_setup.Cow, [new ByteRange(0, _metadata.Image.Length)]);
        storage.Reserve(_setup.Base, _plan.WrittenFrom(_marks.Durable));
    }

    /// <summary>
    /// Reads the previous run's window from scratch, checks it, and publishes the locations of ops to readers. Writes nothing.
    /// </summary>
    private RecoveredWindow Prepare()
    {
        foreach (IoGroup transfers in _metadata.Load())
            while (!transfers.IsDone) _setup.Io.Wait();
        if (_metadata.Count != _marks.Start)
            throw new SnapuserdException(ExitCode.InUse,
                $"{_cow.Name}: num_merge_ops changed from {_marks.Start} to {_metadata.Count} while it was read; another merge is running");
        RecoveredWindow left = RecoveredWindow.Read(_cow, _plan, _metadata, _marks.Durable);
        _plan.CheckSources(_marks.Durable, left, _setup);
        _setup.Readers.Publish(new OpLocations(_marks.Durable, left.IsStale ? 0 : left.Entries));
        return left;
    }
}
