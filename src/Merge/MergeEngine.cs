using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The merge: a deterministic walk through the merge order, over nothing but the <see cref="MergeSetup"/> it is given.
/// <code>
///   plan:      steps of ops that rule 1 lets through | windows for scratch | Xors in place without scratch
///                |
///   pipeline:  fill -> read -> decompress, XOR -> ready        (any number of batches ahead, in merge order)
///                                                   |
///   first in line:  plain   -> written to Base as soon as its limit is durable, with others beside it
///                   window  -> saved in scratch, claimed, written, counted
///                   unsafe  -> the file marked, written, counted and unmarked
///   beside it: a checkpoint now and then, or when somebody's limit waits for one
/// </code>
/// <c>_durable</c> is the count that a power cut would leave; <c>_written</c> is the position up to which Base is written. Whatever stands
/// between them, and what is being written behind, is written again after a crash, which rule 1 makes harmless. Making contents ahead of time is harmless too: in a valid
/// order no op reads what an earlier one writes, and no op writes what an earlier one has still to read. Where source and base overlap an
/// op may read what an earlier one writes, but only inside one window, and a window is read as a whole before the first of its writes to
/// Base.
/// <para>
/// A protocol is a sequence of waits: each step begins I/O and yields the transfers that must be done before the next step. One runs at a time.
/// </para>
/// </summary>
public sealed class MergeEngine : IDisposable
{
    // Ordered ops that Android's engine takes at once (cow-format §13): what one window of the usual scratch holds.
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

    // What the count and Base are: the count on disk, the one that readers were told, the one that all of them go by.
    private int _durable;
    private int _published;
    private int _released;
    private int _written;
    private bool _recovered;
    private int _journaledTo;
    private int _unsafeTo;

    // What the predecessor left, once it was read.
    private LeftWindow? _left;

    // How far the plan has gone: the position behind the last batch, what is left of its step, and the durable count that the plan may expect there.
    private int _planned;
    private MergeStep _step;
    private int _expected;

    // What is going on.
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
    /// Reads and validates the COW against the devices, without writing anything. Exit code 65 when it is corrupt, does not fit, or
    /// cannot be merged; 64 when it can be merged only with <see cref="MergeOptions.AllowUnsafe"/>; 71 when the arena is too small. Whether
    /// a source that overlaps Base allows the merge is found out by <see cref="Run"/>, before its first write: what cannot be merged can
    /// still be served.
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
            // Where source and base overlap only merging is refused, and what is served can still be read.
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

    /// <summary>The COW that is merged.</summary>
    public CowFile Cow => _cow;

    /// <summary>What has been done so far; final when <see cref="Run"/> has returned, and true to the last checkpoint when it threw.</summary>
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

    /// <summary>How far it is; for the thread that merges.</summary>
    public MergeProgress Progress => new(_written, _plan.Count, _bytesDone, _bytesTotal);

    /// <summary>The count on disk: where the next run would go on.</summary>
    public int DurableCount => _durable;

    /// <summary>
    /// Android's engine may have left a Base that nothing in the COW tells from a good one: there is no scratch, and among the ops that
    /// Android writes before it counts them next one overwrites a block that another of them reads. It keeps no order of its own there.
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
    /// Merges what is left; with nothing left it only makes sure that this is durable, since the count may have been read from a page
    /// cache that a killed run left dirty. Throws 65 before the first write to Base when a payload or the scratch is bad, 74 when a device fails, 75
    /// when asked to stop; after 74 and 75 the same command goes on at the last checkpoint. Where several merges share memory, <paramref name="share"/> is what this one
    /// has of it. It throws 74 as well, before the first write, if the file systems below have no room for all that it would write (<see cref="MergeSetup.Storage"/>).
    /// </summary>
    public MergeResult Run(MemoryShare? share = null)
    {
        try
        {
            if (share != null) _pipeline.Join(share);
            _setup.Mark?.Check(_cow);
            if (_setup.Overlap is not null) RefuseOverlap();
            if (_setup.Options.VerifyFirst && _durable == 0) _pipeline.VerifyPayloads(_setup.Observer, _setup.Options.CheckedOps);
            // Only now: what the check took is no part of the merge's rate.
            _setup.Observer?.Progress(Progress);
            AwaitResume();
            ReserveStorage();
            Start();
            while (!IsFinished())
            {
                // Each of them does what can be done now without waiting.
                bool changed = _pipeline.Advance();
                changed |= Follow();
                changed |= Plan();
                changed |= Write();
                changed |= Continue();
                // A turn that changed nothing has looked at the readers, if it waits for them, and found some inside; and at the pace, which whoever changes it wakes it for.
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
    /// Reads the head of the COW and publishes to <see cref="MergeSetup.Readers"/> where ops are to be read: nobody may read before. <see cref="Run"/> does it
    /// unless it was done. Exit code 65 when what scratch holds is none of the states that Android or this engine leave.
    /// </summary>
    public void Open() => _left ??= Prepare();

    /// <summary>
    /// Makes durable that everything is merged, where an earlier process has counted the last op: writes page 0 back as it was read, and flushes Base and COW. That process may have left the
    /// count in a page cache, and a page whose write-back failed is not written again by a flush alone. After <see cref="Open"/> and before <see cref="Run"/>, on its thread. Exit code 74 when a device fails.
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

    /// <summary>The block in a slot of the window that <see cref="OpHomes.Window"/> speaks of; for readers who have entered, from any thread.</summary>
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

    /// <summary>Nothing is written unless all that is left can be merged although source and base overlap. Exit codes 64 and 65.</summary>
    private void RefuseOverlap()
    {
        LeftWindow left = _left ??= Prepare();
        _plan.CheckMergeable(_durable + (left.IsStale ? 0 : left.Entries), _setup);
        if (_plan.Window == 0 && !_setup.Options.AllowUnsafe) RefuseInPlace(_cow, _plan);
    }

    /// <summary>What is paused by now does not begin: the first write to the COW says that there may be no way back.</summary>
    private void AwaitResume()
    {
        while (_setup.Pace.IsPaused)
        {
            if (_setup.Stop.Requested) throw Interrupted();
            _pipeline.Wait(forOthers: true);
        }
    }

    /// <summary>
    /// A file that is COW or Base may have holes where the merge writes. Without room for all of them the merge does not begin: it would leave Base between two images.
    /// </summary>
    private void ReserveStorage()
    {
        if (_setup.Storage is not { } storage) return;
        storage.Reserve(_setup.Cow, [new ByteRange(0, _head.Image.Length)]);
        storage.Reserve(_setup.Base, _plan.WrittenFrom(_durable));
    }

    private SnapuserdException Interrupted() => new(ExitCode.Interrupted, $"stopped at op {_durable} of {_plan.Count}; the same command goes on from there");

    /// <summary>Looks at what a predecessor left, and begins to make it durable. Nothing is written before scratch was found good.</summary>
    private void Start()
    {
        LeftWindow left = _left ?? Prepare();
        _planned = _expected = _durable + (left.IsStale ? 0 : left.Entries);
        // What was merged before may have been made durable already.
        if (!_recovered) Begin(Recover(left));
    }

    /// <summary>
    /// Makes durable what a predecessor left, on both devices side by side, and finishes or forgets its window. Once the head is written back, later ops are read and
    /// decoded beside the flushes, since none reads what the window writes; none is written before this has ended.
    /// </summary>
    private IEnumerable<IPending> Recover(LeftWindow left)
    {
        BeginFlushOfBase();
        foreach (TransferGroup transfers in _head.MakeDurable(left.IsStale ? 0 : left.Entries, begins: _durable == 0 && _plan.Count > 0))
        {
            yield return transfers;
            // A flush that has failed ends the run; nothing more is flushed then, lest it look durable.
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

    /// <summary>Everything is merged and durable. Exit code 75 if asked to stop, once what was begun is finished and counted.</summary>
    private bool IsFinished()
    {
        // Looked at once per turn: a request that comes in the middle of one would leave a turn that does nothing and has nothing to wait for.
        _stopping = _setup.Stop.Requested;
        // A window that waits for readers has nothing on Base yet: the next run finds it in scratch.
        bool held = _stopping && _protocol is { Current: ReaderGate };
        if (_protocol != null && !held) return false;
        if (_stopping)
        {
            if (!held && _pipeline.Count > 0 && _pipeline[0].Phase is BatchPhase.Writing or BatchPhase.Written) return false;
            if (_written == _durable && _written < _plan.Count) throw Interrupted();
            _checkpointDue |= _written > _durable;
        }
        // Readers are told of the last count as well, unless nobody has time to wait for those who are inside.
        return _durable == _plan.Count && (_published == _durable || _stopping) && _writeBack.IsDone;
    }

    /// <summary>Fills free rooms with the ops that come next. True if anything changed.</summary>
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
        // A window has an entry for each of its ops, also for a Copy onto itself.
        if (_step.Kind != StepKind.Journal && _plan.IsNoOp(_planned))
        {
            batch.Skip(_plan[_planned].UnitBytes);
            return true;
        }
        return batch.TryAdd(_plan.Limit(_planned));
    }

    /// <summary>Has written what may be written, in merge order, and takes leave of what is. True if anything changed.</summary>
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
                // In merge order, so that the same file always gets the same sentence, and when all that comes before is counted.
                if (place > 0 || _protocol != null) break;
                if (_written == _durable) batch.ThrowIfFailed();
                _checkpointDue = true;
                break;
            }
            long now = _setup.Time.Milliseconds;
            if (!_setup.Pace.MayWrite(now))
            {
                // A pause may be long, and end with the power: what is written is made durable first. A rate holds after every batch, where that would be a flush each.
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
                // Readers may be all it waits for. The limit alone would do, but the next batch of the step would need another checkpoint; and the one that runs may be the one it waits for.
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

    /// <summary>Takes leave of written plain batches, in merge order: not before a window that comes first and is written from scratch memory.</summary>
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
            // The time since the last one is over until the one that runs has ended; nothing that is written meanwhile makes another one due.
            || (_protocol == null && _setup.Time.Milliseconds - _lastCheckpoint >= _setup.Options.CheckpointMilliseconds);
        return true;
    }

    /// <summary>Sets the device to work on what it has in its cache. One such request at a time, and none that something else would have to wait for.</summary>
    private void AskForWriteBack()
    {
        if (_setup.Options.WriteBackBytes == 0 || _bytesSinceWriteBack < _setup.Options.WriteBackBytes || !_writeBack.IsDone || !_setup.Io.HasRoom) return;
        _bytesSinceWriteBack = 0;
        _setup.Io.WriteBack(_setup.Base.Number, _writeBack);
    }

    /// <summary>The first batch is a window, or a part of one, or unsafe: it has a protocol of its own, which begins when everything before it is durable.</summary>
    private bool BeginProtocol(Batch batch)
    {
        if (_protocol != null) return false;
        if (_written > _durable)
        {
            _checkpointDue = true;
            return false;
        }
        // The memory of the last window is still being read.
        if (_released < _durable) return false;
        if (batch.Step.Kind == StepKind.Unsafe) return Begin(WriteUnsafe(batch));

        if (batch.From != _durable + _staged) throw new InvalidOperationException("rule 3: a window begins behind the durable count");
        foreach (ref readonly Batch.Item item in batch.Items) _head.SetSlot(item.Position - _durable, item.Data);
        int parts = _staged;
        _staged += batch.Items.Length;
        bool whole = batch.To - batch.From == batch.Step.Ops;
        // What does not fit into one room is written from scratch memory in the end.
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

    /// <summary>Goes on with the protocol that runs. True if anything changed.</summary>
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

    /// <summary>Makes everything that is written durable and counts it, while later ops go on under the old count.</summary>
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

    /// <summary>The window at the count, whose contents are in the head's slots and, unless <paramref name="batch"/> is null, in a room as well.</summary>
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
        // The base writes destroy what the window's ops read; readers find its contents in memory from here on.
        _setup.Readers.Publish(new OpHomes(_durable, window));
        while (!_setup.Readers.IsDone) yield return _setup.Readers;
        foreach (IPending pending in WriteWindow(window, batch)) yield return pending;
    }

    /// <summary>Writes the window whose scratch is durable to Base and counts it.</summary>
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
        // Plain ops behind the window may have been written beside it; the flush does not cover them.
        _head.Count = end;
        _head.State = ScratchLayout.Invalid;
        foreach (TransferGroup transfers in _head.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>
    /// Xors in place without scratch, on the user's word. The magic says "unsafe" while Base is between two states, so that a
    /// run after a crash knows; the commit restores it together with the count.
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

    /// <summary>Writes the first batch, whose protocol this is, and takes leave of it.</summary>
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

    /// <summary>Writes a window from the head's slots, together what is contiguous both there and on Base.</summary>
    private void WriteSlots(int window)
    {
        int positions = _written;
        if (_head.DurableState != ScratchLayout.Valid || positions != _durable || positions + window > _journaledTo)
            throw new InvalidOperationException("rule 1: a window is written whose scratch is not durable");
        for (int i = 0; i < window;)
        {
            uint block = _plan[positions + i].NewBlock;
            int run = 1;
            while (i + run < window && run * CowOp.BlockSize < _setup.Options.RequestBytes && _plan[positions + i + run].NewBlock == block + run) run++;
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

    /// <summary>Has readers follow the durable count: published at once or when the last switch is over, and of use to the merge when all have followed. True if anything changed.</summary>
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
