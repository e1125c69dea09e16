using System;
using System.Collections.Generic;
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
/// After a crash the next run writes everything from <c>_durable</c> on again, including plain batches that were in flight past
/// <c>_written</c>. Rule 1 makes this harmless. Producing contents ahead of time is harmless too. In a valid order no op reads what an
/// earlier op writes, and no op writes what an earlier op has still to read. Where source and base overlap, an op may read what an earlier
/// op writes, but only inside one window. All reads of a window finish before its first write to Base.
/// <para>
/// A protocol is a sequence of waits: each step begins I/O and yields the transfers that must be done before the next step. One protocol
/// runs at a time.
/// </para>
/// </summary>
public sealed class MergeEngine : IDisposable
{
    // Ordered ops that Android's engine processes at once (cow-format §13): one window of the usual scratch.
    private const int AndroidBatch = 510;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly MergePlan _plan;
    private readonly CowHead _head;
    private readonly Pipeline _pipeline;
    private readonly uint[] _windowBlocks;
    private readonly TransferGroup _transfers = new();
    private readonly TransferGroup _writeBack = new();
    private readonly long _bytesTotal;
    private readonly int _resumedFrom;

    // The four watermarks, in ops of the merge order. _durable: the count on disk, which a power cut leaves. _published: the count that
    // readers were told. _released: the count that all readers use; no reader inside still uses a lower one. _written: Base is written up
    // to this position.
    private int _durable;
    private int _published;
    private int _released;
    private int _written;
    private bool _recovered;
    private int _journaledTo;
    private int _unsafeTo;

    // What the previous run left in scratch; null until it is read.
    private LeftWindow? _left;

    // How far the plan has gone: the position after the last batch, the rest of its step, and the durable count that the plan may expect
    // there.
    private int _planned;
    private MergeStep _step;
    private int _expected;

    // The running protocol, requests, and bytes since the last checkpoint and write-back.
    private IEnumerator<IPending>? _protocol;
    private int _staged;
    private bool _stopping;
    private bool _checkpointDue;
    private bool _held;
    private long _bytesDone;
    private long _bytesSinceCheckpoint;
    private long _bytesUncounted;
    private long _bytesSinceWriteBack;
    private long _lastCheckpoint;

    private int _replayed;
    private int _journaled;
    private long _blocks;
    private int _baseFlushes;
    private int _checkpoints;

    private MergeEngine(MergeSetup setup, CowFile cow, MergePlan plan)
    {
        _setup = setup;
        _cow = cow;
        _plan = plan;
        _head = new CowHead(setup, new ScratchLayout(cow.Header.HeaderBytes, cow.Header.ScratchBytes), plan.LongestWindowFrom((int)cow.Header.NumMergeOps));
        _pipeline = Pipeline.InRestOf(setup, cow, MergeForecast.Of(plan, (int)cow.Header.NumMergeOps).Windows > 0);
        _windowBlocks = new uint[_head.Slots];
        _resumedFrom = (int)cow.Header.NumMergeOps;
        _durable = _published = _released = _written = _resumedFrom;
        for (int position = 0; position < plan.Count; position++)
        {
            int bytes = plan[position].UnitBytes;
            _bytesTotal += bytes;
            if (position < _written) _bytesDone += bytes;
        }
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
                throw new SnapuserdException(ExitCode.CowCorrupt, $"{cow.Name}: version {cow.Header.Major} has no room to merge safely; it can be inspected and extracted only");
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
    public MergeResult Result => new()
    {
        OpsTotal = _plan.Count,
        ResumedFrom = _resumedFrom,
        Replayed = _replayed,
        Journaled = _journaled,
        Blocks = _blocks,
        BaseBytesWritten = _blocks * CowOp.BlockSize,
        CowBytesWritten = _head.BytesWritten,
        Flushes = _baseFlushes + _head.Flushes,
        Checkpoints = _checkpoints,
    };

    /// <summary>The current progress. Only for the merge thread.</summary>
    public MergeProgress Progress => new(_written, _plan.Count, _bytesDone, _bytesTotal);

    /// <summary>The count on disk: the next run continues from here.</summary>
    public int DurableCount => _durable;

    /// <summary>
    /// True if Android's engine may have left a damaged Base that nothing in the COW distinguishes from a good one. This needs two
    /// conditions. There is no scratch. And among the ops that Android writes before its next count, one overwrites a block that another of
    /// them reads. Android's engine does not order these ops.
    /// </summary>
    public bool MayHideDamage
    {
        get
        {
            if (_plan.Window > 0) return false;
            int end = Math.Min(_plan.Count, _durable + AndroidBatch);
            for (int position = _durable; position < end && _plan[position].IsOrdered; position++)
                if (_plan.Limit(position) > _durable) return true;
            return false;
        }
    }

    /// <summary>
    /// Merges the remaining ops. If none remain, only makes the result durable: the count may have been read from a page cache that a
    /// killed run left dirty. Throws 65 before the first write to Base if a payload or the scratch is bad, 74 if a device fails, and 75 if
    /// asked to stop. After 74 and 75 the same command continues from the last checkpoint. Also throws 74, before the first write, if the
    /// file systems below lack space for all writes of the merge (<see cref="MergeSetup.Storage"/>). Where several merges share memory,
    /// <paramref name="share"/> is the quota of this merge.
    /// </summary>
    public MergeResult Run(MemoryShare? share = null)
    {
        try
        {
            if (share != null) _pipeline.Join(share);
            _setup.Mark?.Check(_cow);
            if (_setup.Overlap is not null) RefuseOverlap();
            if (_setup.Options.VerifyFirst && _durable == 0) _pipeline.VerifyPayloads(_setup.Observer, _setup.Options.CheckedOps);
            // Reported only after the payload check: the time of the check does not count towards the merge rate.
            _setup.Observer?.Progress(Progress);
            AwaitResume();
            ReserveStorage();
            Start();
            while (!IsFinished())
            {
                // Each call does what it can without waiting.
                bool changed = _pipeline.Advance();
                changed |= Follow();
                changed |= Plan();
                changed |= Write();
                changed |= Continue();
                // No progress this turn. Block until I/O or a job completes, the last old-epoch reader leaves, or the pace changes; each of
                // them wakes the queue.
                if (!changed) _pipeline.Wait(forOthers: _held || _released < _durable || _protocol is { Current: ReaderGate });
            }
            _setup.Mark?.End();
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
    /// Reads the COW's metadata image and publishes the locations of the ops to <see cref="MergeSetup.Readers"/>. No reader may read before
    /// this. <see cref="Run"/> calls it if the caller did not. Exit code 65 if scratch is in a state that neither Android nor this engine
    /// leaves.
    /// </summary>
    public void Open() => _left ??= Prepare();

    /// <summary>
    /// Makes the result durable where an earlier process has counted the last op: writes page 0 back as it was read, and flushes Base and
    /// COW. The earlier process may have left the count in a page cache. A flush alone does not write a page again after its write-back
    /// failed. Call it after <see cref="Open"/> and before <see cref="Run"/>, on the merge thread. Exit code 74 if a device fails.
    /// </summary>
    public void MakeMergedDurable()
    {
        if (_durable != _plan.Count) throw new InvalidOperationException("some ops are not merged yet");
        try
        {
            Finish(Recover(_left ??= Prepare()));
        }
        catch
        {
            _pipeline.Abandon();
            throw;
        }
    }

    /// <summary>
    /// The block in a slot of the window described by <see cref="OpHomes.Window"/>. For readers that have entered; thread-safe.
    /// </summary>
    public ReadOnlySpan<byte> WindowBlock(int slot) => _setup.Arena[_head.Slot(slot)];

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
                    $"{cow.Name}: {plan.Describe(position)} reads the block it overwrites, and the COW has no scratch to protect it: a power cut there would lose the block; --allow-unsafe merges all the same");
    }

    /// <summary>
    /// Throws before the first write unless all remaining ops can be merged although source and base overlap. Exit codes 64 and 65.
    /// </summary>
    private void RefuseOverlap()
    {
        LeftWindow left = _left ??= Prepare();
        _plan.CheckMergeable(_durable + (left.IsStale ? 0 : left.Entries), _setup);
        if (_plan.Window == 0 && !_setup.Options.AllowUnsafe) RefuseInPlace(_cow, _plan);
    }

    /// <summary>Does not start while paused: the first COW write ends the possibility of rollback.</summary>
    private void AwaitResume()
    {
        while (_setup.Pace.IsPaused)
        {
            if (_setup.Stop.Requested) throw Interrupted();
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
        storage.Reserve(_setup.Cow, [new ByteRange(0, _head.Image.Length)]);
        storage.Reserve(_setup.Base, _plan.WrittenFrom(_durable));
    }

    private SnapuserdException Interrupted() => new(ExitCode.Interrupted, $"stopped at op {_durable} of {_plan.Count}; the same command goes on from there");

    /// <summary>
    /// Reads what the previous run left, and begins to make it durable. Nothing is written before the scratch is found valid.
    /// </summary>
    private void Start()
    {
        LeftWindow left = _left ?? Prepare();
        _planned = _expected = _durable + (left.IsStale ? 0 : left.Entries);
        // An earlier call may have made the merged ops durable already.
        if (!_recovered) Begin(Recover(left));
    }

    /// <summary>
    /// Makes durable what the previous run left, on both devices in parallel, and finishes or discards its window. Once the metadata image
    /// is written back, later ops are read and decoded during the flushes, because none of them reads what the window writes. None is
    /// written before this protocol ends.
    /// </summary>
    private IEnumerable<IPending> Recover(LeftWindow left)
    {
        BeginFlushOfBase();
        foreach (TransferGroup transfers in _head.MakeDurable(left.IsStale ? 0 : left.Entries, begins: _durable == 0 && _plan.Count > 0))
        {
            yield return transfers;
            // A failed flush ends the run. No device is flushed after it: the later flush could succeed and make lost data look durable.
            CheckFlushOfBase();
        }
        yield return _transfers;
        CheckFlushOfBase();
        if (_durable < _plan.Count) _setup.Mark?.Begin(_cow, _durable);
        _lastCheckpoint = _setup.Time.Milliseconds;

        if (left.IsStale)
        {
            _head.State = ScratchLayout.Invalid;
            foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        }
        else if (left.Entries > 0)
        {
            _replayed = left.Entries;
            foreach (IPending pending in WriteWindow(left.Entries, null)) yield return pending;
        }
        _recovered = true;
    }

    private LeftWindow Prepare()
    {
        Finish(_head.Load());
        if (_head.Count != _resumedFrom)
            throw new SnapuserdException(ExitCode.InUse, $"{_cow.Name}: num_merge_ops changed from {_resumedFrom} to {_head.Count} while it was read; another merge is running");
        LeftWindow left = LeftWindow.Read(_cow, _plan, _head, _durable);
        _plan.CheckSources(_durable, left, _setup);
        _setup.Readers.Publish(new OpHomes(_durable, left.IsStale ? 0 : left.Entries));
        return left;
    }

    private void Finish(IEnumerable<IPending> protocol)
    {
        foreach (IPending pending in protocol)
            while (!pending.IsDone) _setup.Io.Wait();
    }

    /// <summary>
    /// True if everything is merged and durable. Throws exit code 75 if asked to stop, after the work in progress is finished and counted.
    /// </summary>
    private bool IsFinished()
    {
        // Read once per turn: a request that arrives in the middle of a turn would leave a turn that does nothing and has nothing to wait
        // for.
        _stopping = _setup.Stop.Requested;
        // A window that waits for readers has written nothing to Base yet. The next run finds it in scratch.
        bool held = _stopping && _protocol is { Current: ReaderGate };
        if (_protocol != null && !held) return false;
        if (_stopping)
        {
            if (!held && _pipeline.Count > 0 && _pipeline[0].Phase is BatchPhase.Writing or BatchPhase.Written) return false;
            if (_written == _durable && _written < _plan.Count) throw Interrupted();
            _checkpointDue |= _written > _durable;
        }
        // Readers are told the last count as well, unless the merge must stop and cannot wait for them.
        return _durable == _plan.Count && (_published == _durable || _stopping) && _writeBack.IsDone;
    }

    /// <summary>Fills free buffers with the next ops. True if anything changed.</summary>
    private bool Plan()
    {
        bool changed = false;
        while (_planned < _plan.Count && !_stopping && _head.IsWrittenBack)
        {
            if (_step.Ops == 0) NextStep();
            if (_pipeline.TryOpen(_planned, _step, _expected) is not { } batch) break;
            int end = _planned + _step.Ops;
            while (_planned < end && TryPlan(batch)) _planned++;
            if (batch.To == batch.From) throw new InvalidOperationException("a room does not take a single op");
            _step = _step with { Ops = end - _planned };
            if (_step.Kind is StepKind.Journal or StepKind.Unsafe) _expected = _planned;
            batch.Close();
            changed = true;
        }
        return changed;
    }

    private void NextStep()
    {
        _step = _plan.Next(_expected, _planned);
        if (_step.Kind != StepKind.Checkpoint) return;
        _expected = _planned;
        _step = _plan.Next(_expected, _planned);
    }

    private bool TryPlan(Batch batch)
    {
        // A window has an entry for each of its ops, including a Copy onto itself.
        if (_step.Kind != StepKind.Journal && _plan.IsNoOp(_planned))
        {
            batch.Skip(_plan[_planned].UnitBytes);
            return true;
        }
        return batch.TryAdd(_plan.Limit(_planned));
    }

    /// <summary>Starts every permitted write, in merge order, and retires finished batches. True if anything changed.</summary>
    private bool Write()
    {
        if (!_recovered) return false;
        bool changed = Retire();
        _held = false;
        long uncounted = _bytesUncounted;
        for (int place = 0; place < _pipeline.Count; place++)
        {
            Batch batch = _pipeline[place];
            if (batch.Phase is BatchPhase.Writing or BatchPhase.Written)
            {
                uncounted += batch.Bytes;
                continue;
            }
            if (batch.Phase != BatchPhase.Ready || _stopping) break;
            if (batch.HasFailed)
            {
                // Reported in merge order, after everything before it is counted, so the same file always gives the same message.
                if (place > 0 || _protocol != null) break;
                if (_written == _durable) batch.ThrowIfFailed();
                _checkpointDue = true;
                break;
            }
            long now = _setup.Time.Milliseconds;
            if (!_setup.Pace.MayWrite(now))
            {
                // A pause may be long and end in a power cut, so what is written is made durable first. A rate limit holds after every
                // batch; a checkpoint each time would flush once per batch.
                _held = true;
                _checkpointDue |= _protocol == null && _written > _durable && (_setup.Pace.IsPaused || now - _lastCheckpoint >= _setup.Options.CheckpointMilliseconds);
                break;
            }
            if (batch.Step.Kind != StepKind.Plain)
            {
                if (place == 0 && BeginProtocol(batch))
                {
                    _setup.Pace.Take(batch.Bytes);
                    changed = true;
                }
                break;
            }
            if (batch.Limit > _released)
            {
                // The batch may wait for readers only; then no checkpoint helps. The checkpoint waits for batch.Expected, not only for the
                // safe-from count: otherwise the next batch of the step needs another one. A running checkpoint may already be the one it
                // waits for.
                _checkpointDue |= batch.Limit > _durable && _protocol == null && _written >= batch.Expected;
                break;
            }
            if (uncounted >= _setup.Options.UncountedBytes)
            {
                _checkpointDue |= _protocol == null && _written > _durable;
                break;
            }
            CheckRule1(batch);
            batch.BeginWriting();
            _setup.Pace.Take(batch.Bytes);
            uncounted += batch.Bytes;
            changed = true;
        }
        if (_checkpointDue && _protocol == null) changed |= Begin(Checkpoint());
        return changed;
    }

    /// <summary>
    /// Retires written plain batches, in merge order. A window that precedes them and is written from the metadata image is retired first.
    /// </summary>
    private bool Retire()
    {
        bool changed = false;
        while (_pipeline.Count > 0 && _pipeline[0] is { Phase: BatchPhase.Written, Step.Kind: StepKind.Plain } batch && batch.From == _written)
        {
            batch.ThrowIfFailed();
            Advance(batch.To);
            _pipeline.Release();
            changed = true;
        }
        if (!changed) return false;
        AskForWriteBack();
        _checkpointDue |= _written == _plan.Count || _bytesSinceCheckpoint >= _setup.Options.CheckpointBytes
            // The interval is measured from the end of the last checkpoint. While one runs, elapsed time does not make another one due.
            || (_protocol == null && _setup.Time.Milliseconds - _lastCheckpoint >= _setup.Options.CheckpointMilliseconds);
        return true;
    }

    /// <summary>Starts background write-back. At most one request in flight, and never when the queue is full.</summary>
    private void AskForWriteBack()
    {
        if (_setup.Options.WriteBackBytes == 0 || _bytesSinceWriteBack < _setup.Options.WriteBackBytes || !_writeBack.IsDone || !_setup.Io.HasRoom) return;
        _bytesSinceWriteBack = 0;
        _setup.Io.WriteBack(_setup.Base.Number, _writeBack);
    }

    /// <summary>
    /// Begins the protocol of the first batch, which is a window, a part of one, or unsafe. Everything before it must be durable. True if
    /// anything changed.
    /// </summary>
    private bool BeginProtocol(Batch batch)
    {
        if (_protocol != null) return false;
        if (_written > _durable)
        {
            _checkpointDue = true;
            return false;
        }
        // Readers are still using the memory of the last window.
        if (_released < _durable) return false;
        if (batch.Step.Kind == StepKind.Unsafe) return Begin(WriteUnsafe(batch));

        if (batch.From != _durable + _staged) throw new InvalidOperationException("rule 3: a window begins behind the durable count");
        foreach (ref readonly Batch.Item item in batch.Items) _head.SetSlot(item.Position - _durable, item.Data);
        int parts = _staged;
        _staged += batch.Items.Length;
        bool whole = batch.To - batch.From == batch.Step.Ops;
        // A window that does not fit into one buffer is written from the metadata image.
        if (parts > 0 || !whole) _pipeline.Release();
        if (!whole) return true;
        int window = _staged;
        _staged = 0;
        return Begin(Journal(window, parts == 0 ? batch : null));
    }

    private bool Begin(IEnumerable<IPending> protocol)
    {
        _protocol = protocol.GetEnumerator();
        Step();
        return true;
    }

    /// <summary>Continues the running protocol. True if anything changed.</summary>
    private bool Continue()
    {
        bool changed = false;
        while (_protocol is { Current.IsDone: true })
        {
            Step();
            changed = true;
        }
        return changed;
    }

    private void Step()
    {
        if (_protocol!.MoveNext()) return;
        _protocol.Dispose();
        _protocol = null;
    }

    /// <summary>Makes everything that is written durable and counts it. Later ops proceed meanwhile under the old count.</summary>
    private IEnumerable<IPending> Checkpoint()
    {
        int to = _written;
        _checkpointDue = false;
        _bytesSinceCheckpoint = 0;
        foreach (TransferGroup transfers in FlushBase()) yield return transfers;
        _head.Count = to;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        Counted(to);
    }

    /// <summary>
    /// Journals the window at the count. Its contents are in the metadata image's slots and, unless <paramref name="batch"/> is null, in a
    /// buffer as well.
    /// </summary>
    private IEnumerable<IPending> Journal(int window, Batch? batch)
    {
        if (_written != _durable || _released != _durable || window != _plan.WindowAt(_written)) throw new InvalidOperationException("rule 3: the window is not the one that the count announces");
        for (int i = 0; i < window; i++) _windowBlocks[i] = _plan[_written + i].NewBlock;
        _head.State = ScratchLayout.Invalid;
        _head.SetEntries(_windowBlocks.AsSpan(0, window));
        foreach (TransferGroup transfers in _head.WriteScratch(window)) yield return transfers;
        _head.State = ScratchLayout.Valid;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        _journaled += window;
        // The writes to Base destroy what the window's ops read. From here on readers take the window's contents from memory.
        _setup.Readers.Publish(new OpHomes(_durable, window));
        while (!_setup.Readers.IsDone) yield return _setup.Readers;
        foreach (IPending pending in WriteWindow(window, batch)) yield return pending;
    }

    /// <summary>Writes the window to Base and counts it. Its scratch is durable.</summary>
    private IEnumerable<IPending> WriteWindow(int window, Batch? batch)
    {
        int end = _journaledTo = _written + window;
        if (!_plan.IsSafe(end))
            throw new InvalidOperationException($"rule 1: the window from {_written} to {end} overwrites what a later op reads");
        if (batch != null)
        {
            foreach (IPending pending in WriteFirst(batch)) yield return pending;
        }
        else
        {
            WriteSlots(window);
            yield return _transfers;
            if (_transfers.TakeFailure() is { } failure) throw ExplainSlot(failure);
            Advance(end);
        }
        foreach (TransferGroup transfers in FlushBase()) yield return transfers;
        // Plain ops after the window may have been written in parallel; the flush does not cover them.
        _head.Count = end;
        _head.State = ScratchLayout.Invalid;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>
    /// Merges Xors in place without scratch, if the user allowed it. The magic says "unsafe" while Base is between two states, so that a
    /// run after a crash can tell. The last commit restores the magic together with the count.
    /// </summary>
    private IEnumerable<IPending> WriteUnsafe(Batch batch)
    {
        if (!_setup.Options.AllowUnsafe || _plan.Window > 0) throw new InvalidOperationException("rule 1: an op that reads what it overwrites is neither journaled nor allowed");
        _head.Magic = CowHeader.UnsafeMagic;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        int end = _unsafeTo = batch.To;
        foreach (IPending pending in WriteFirst(batch)) yield return pending;
        foreach (TransferGroup transfers in FlushBase()) yield return transfers;
        _head.Magic = CowHeader.Magic;
        _head.Count = end;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>Writes and retires the first batch, which this protocol belongs to.</summary>
    private IEnumerable<IPending> WriteFirst(Batch batch)
    {
        CheckRule1(batch);
        batch.BeginWriting(wait: true);
        yield return batch.Transfers;
        batch.Advance();
        batch.ThrowIfFailed();
        Advance(batch.To);
        _pipeline.Release();
    }

    /// <summary>
    /// Writes a window from the metadata image's slots. Blocks that are contiguous both there and on Base share a request.
    /// </summary>
    private void WriteSlots(int window)
    {
        int positions = _written;
        if (_head.DurableState != ScratchLayout.Valid || positions != _durable || positions + window > _journaledTo)
            throw new InvalidOperationException("rule 1: a window is written whose scratch is not durable");
        for (int i = 0; i < window;)
        {
            uint block = _plan[positions + i].NewBlock;
            int run = 1;
            while (i + run < window && (run + 1) * CowOp.BlockSize <= _setup.Options.RequestBytes && _plan[positions + i + run].NewBlock == block + run) run++;
            _setup.Io.Write(_setup.Base.Number, (long)block * CowOp.BlockSize, _head.Slot(i) with { Length = run * CowOp.BlockSize }, _transfers);
            i += run;
        }
    }

    private SnapuserdException ExplainSlot(in TransferFailure failure)
    {
        int slot = (failure.Request.Buffer.Offset + failure.Done - _head.Slot(0).Offset) / CowOp.BlockSize;
        return new SnapuserdException(ExitCode.InputOutput,
            $"{_setup.Base.Name}: writing {failure.Request.Buffer.Length - failure.Done} bytes at {failure.Request.Offset + failure.Done} for {_plan.Describe(_durable + slot)} failed: {Reason.Of(failure.Errno)}");
    }

    private void CheckRule1(Batch batch)
    {
        if (!_recovered) throw new InvalidOperationException("Base is written before what the predecessor left was made durable");
        bool journaled = batch.From >= _durable && batch.To <= _journaledTo && batch.Limit <= _journaledTo &&
            _head.DurableState == ScratchLayout.Valid;
        bool allowed = batch.From >= _durable && batch.To <= _unsafeTo && batch.Limit <= _unsafeTo && _head.Magic == CowHeader.UnsafeMagic;
        if (batch.Limit > _released && !journaled && !allowed)
            throw new InvalidOperationException($"rule 1: positions {batch.From} to {batch.To} overwrite a block that is read from position {_released} on");
    }

    private IEnumerable<TransferGroup> FlushBase()
    {
        BeginFlushOfBase();
        yield return _transfers;
        CheckFlushOfBase();
    }

    private void BeginFlushOfBase()
    {
        _baseFlushes++;
        _setup.Io.Flush(_setup.Base.Number, _transfers);
    }

    private void CheckFlushOfBase()
    {
        if (_transfers.TakeFailure() is { } failure)
            throw new SnapuserdException(ExitCode.InputOutput, $"{_setup.Base.Name}: flushing failed: {Reason.Of(failure.Errno)}; nothing behind op {_durable} of {_plan.Count} is counted");
    }

    private void Counted(int count)
    {
        for (; _durable < count; _durable++) _bytesUncounted -= _plan[_durable].UnitBytes;
        _checkpoints++;
        _lastCheckpoint = _setup.Time.Milliseconds;
        if (count == _written) (_bytesSinceCheckpoint, _checkpointDue) = (0, false);
        Follow();
    }

    /// <summary>
    /// Moves readers to the durable count: publishes it at once, or after the last switch ends. Raises <c>_released</c> after all readers
    /// have followed. True if anything changed.
    /// </summary>
    private bool Follow()
    {
        if (_released == _durable || !_setup.Readers.IsDone) return false;
        int before = _released;
        _released = _published;
        if (_published < _durable)
        {
            _published = _durable;
            _setup.Readers.Publish(new OpHomes(_durable, 0));
            if (_setup.Readers.IsDone) _released = _published;
            return true;
        }
        return _released != before;
    }

    private void Advance(int position)
    {
        for (; _written < position; _written++)
        {
            CowOp op = _plan[_written];
            _bytesDone += op.UnitBytes;
            _bytesSinceCheckpoint += op.UnitBytes;
            _bytesUncounted += op.UnitBytes;
            _bytesSinceWriteBack += op.UnitBytes;
            if (_written < _journaledTo || !_plan.IsNoOp(_written)) _blocks += op.Blocks;
        }
        _setup.Observer?.Progress(Progress);
    }
}
