using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The loop of a merge. Each turn does all that is possible without waiting: collects completed I/O and jobs, fills buffers, begins
/// permitted writes, and continues the running protocol. A turn without progress is followed by a wait for the next completion.
/// </summary>
internal sealed class MergeLoop
{
    private readonly MergeSetup _setup;
    private readonly MergePlan _plan;
    private readonly MetadataImage _metadata;
    private readonly Pipeline _pipeline;
    private readonly Watermarks _marks;
    private readonly RunningProtocol _running = new();
    private readonly CheckpointSchedule _checkpoints;
    private readonly MergeRules _rules;
    private readonly BaseWriter _target;
    private readonly MergeProtocols _protocols;
    private readonly BatchFiller _filler;

    // The state in this turn: the merge was asked to stop; a pause or the rate limit has held back a batch.
    private bool _stopping;
    private bool _held;

    /// <summary>The loop of a merge whose parts are ready. Nothing is read or written yet.</summary>
    public MergeLoop(MergeSetup setup, CowFile cow, MergePlan plan, MetadataImage metadata, Pipeline pipeline, Watermarks marks)
    {
        _setup = setup;
        _plan = plan;
        _metadata = metadata;
        _pipeline = pipeline;
        _marks = marks;
        _checkpoints = new CheckpointSchedule(setup, marks, _running);
        _rules = new MergeRules(setup.Options, plan, metadata, marks, _running);
        _target = new BaseWriter(setup, plan, metadata, marks);
        _protocols = new MergeProtocols(setup, cow, plan, metadata, pipeline, _target, marks, _rules, _checkpoints, _running);
        _filler = new BatchFiller(plan, pipeline);
    }

    /// <summary>The work done so far.</summary>
    public MergeResult Result => new()
    {
        OpsTotal = _plan.Count,
        ResumedFrom = _marks.Start,
        Replayed = _protocols.Replayed,
        Journaled = _protocols.Journaled,
        Blocks = _marks.BlocksWritten,
        BaseBytesWritten = _marks.BlocksWritten * CowOp.BlockSize,
        CowBytesWritten = _metadata.BytesWritten,
        Flushes = _target.Flushes + _metadata.Flushes,
        Checkpoints = _checkpoints.Count,
    };

    /// <summary>Runs recovery to its end, and waits for its I/O. Exit code 74 if a device fails.</summary>
    public void Recover(RecoveredWindow left)
    {
        foreach (IPending pending in _protocols.Recover(left))
            while (!pending.IsDone) _setup.Io.Wait();
    }

    /// <summary>Begins recovery, unless <see cref="Recover"/> has run it. Later batches begin after the recovered window.</summary>
    public void Start(RecoveredWindow left)
    {
        _filler.BeginAt(_marks.Durable + (left.IsStale ? 0 : left.Entries));
        if (!_rules.IsRecovered) _protocols.BeginRecovery(left);
    }

    /// <summary>
    /// Merges until everything is durable. Exit code 75 if asked to stop, after the work in progress is finished and counted; 74 if a
    /// device fails.
    /// </summary>
    public void Run()
    {
        while (!IsFinished())
        {
            // No progress this turn. Block until I/O or a job completes, the last old-epoch reader leaves, or the rate changes; each of
            // them wakes the queue.
            if (!Turn()) _pipeline.Wait(forOthers: _held || _marks.Released < _marks.Durable || _running.AwaitsReaders);
        }
    }

    /// <summary>The error of a merge that was asked to stop.</summary>
    public SnapuserdException Interrupted() =>
        new(ExitCode.Interrupted, $"stopped at op {_marks.Durable} of {_plan.Count}; the same command goes on from there");

    /// <summary>
    /// True if everything is merged and durable. Throws exit code 75 if asked to stop, after the work in progress is finished and counted.
    /// </summary>
    private bool IsFinished()
    {
        // Read only once per turn. If a stop request took effect in the middle of a turn, the turn could do nothing and then wait for an
        // event that never comes.
        _stopping = _setup.Stop.Requested;
        // A window that waits for readers has written nothing to Base yet. The next run finds it in scratch.
        bool abandonsWindow = _stopping && _running.AwaitsReaders;
        if (_running.IsRunning && !abandonsWindow) return false;
        if (_stopping)
        {
            if (!abandonsWindow && _pipeline.Count > 0 && _pipeline[0].Phase is BatchPhase.Writing or BatchPhase.Written) return false;
            if (_marks.Written == _marks.Durable && _marks.Written < _plan.Count) throw Interrupted();
            if (_marks.Written > _marks.Durable) _checkpoints.Request();
        }
        // The last count is published to readers as well, unless the merge must stop and cannot wait for them.
        return _marks.Durable == _plan.Count && (_marks.Published == _marks.Durable || _stopping) && _target.IsWriteBackDone;
    }

    /// <summary>Does everything that can be done without waiting. True if anything changed.</summary>
    private bool Turn()
    {
        bool changed = _pipeline.Advance();
        changed |= _protocols.FollowCount();
        changed |= Fill();
        changed |= Write();
        changed |= _running.Continue();
        return changed;
    }

    /// <summary>
    /// Fills free buffers with the next ops, whose payloads are then read. Only after page 0 is written back: that write could change a
    /// payload that was read before. True if anything changed.
    /// </summary>
    private bool Fill() => !_stopping && _metadata.IsWrittenBack && _filler.Fill();

    /// <summary>Starts every permitted write, in merge order, and retires finished batches. True if anything changed.</summary>
    private bool Write()
    {
        if (!_rules.IsRecovered) return false;
        bool changed = Retire();
        _held = false;
        long uncounted = _marks.BytesUncounted;
        for (int place = 0; place < _pipeline.Count; place++)
        {
            Batch batch = _pipeline[place];
            if (batch.Phase is BatchPhase.Writing or BatchPhase.Written)
            {
                uncounted += batch.Bytes;
                continue;
            }
            if (batch.Phase != BatchPhase.Ready || _stopping || !Begin(batch, place == 0, uncounted)) break;
            _setup.Throttle.Take(batch.Bytes);
            changed = true;
            // A protocol may release its batch, which moves the others up in the line. The next turn continues with them.
            if (batch.Step.Kind != StepKind.Plain) break;
            uncounted += batch.Bytes;
        }
        if (_checkpoints.IsDue && !_running.IsRunning)
        {
            _protocols.BeginCheckpoint();
            changed = true;
        }
        return changed;
    }

    /// <summary>Begins to write a batch whose contents are complete, if nothing forbids it. True if it began.</summary>
    private bool Begin(Batch batch, bool isFirst, long uncounted)
    {
        if (batch.HasFailed)
        {
            if (isFirst && !_running.IsRunning) Report(batch);
            return false;
        }
        if (IsHeld()) return false;
        if (batch.Step.Kind != StepKind.Plain) return isFirst && BeginProtocol(batch);
        WritePermission permission = _rules.MayWrite(batch, uncounted);
        if (permission == WritePermission.NeedsCheckpoint) _checkpoints.Request();
        if (permission != WritePermission.Granted) return false;
        _rules.CheckRule1(batch);
        batch.BeginWriting();
        return true;
    }

    /// <summary>
    /// Throws the failure of the first batch. Reported in merge order, after everything before it is counted, so the same file always gives
    /// the same message.
    /// </summary>
    private void Report(Batch batch)
    {
        if (_marks.Written == _marks.Durable) batch.ThrowIfFailed();
        _checkpoints.Request();
    }

    /// <summary>True if a pause or the rate limit forbids writes now.</summary>
    private bool IsHeld()
    {
        long now = _setup.Time.Milliseconds;
        if (_setup.Throttle.MayWrite(now)) return false;
        _held = true;
        // The power may fail during a long pause, so the written ops are made durable now. A rate limit holds after every batch: there a
        // checkpoint waits until the interval is over, so that not every batch costs a flush.
        if (_rules.CanCount && (_setup.Throttle.IsPaused || _checkpoints.IsIntervalOver(now))) _checkpoints.Request();
        return true;
    }

    /// <summary>
    /// Begins the protocol of the first batch, which is a window, a part of one, or unsafe. If ops before it are not durable yet, requests
    /// a checkpoint instead. True if anything changed.
    /// </summary>
    private bool BeginProtocol(Batch batch)
    {
        if (_running.IsRunning) return false;
        if (_marks.Written > _marks.Durable)
        {
            _checkpoints.Request();
            return false;
        }
        // Readers are still using the memory of the last window.
        if (_marks.Released < _marks.Durable) return false;
        if (batch.Step.Kind == StepKind.Unsafe) _protocols.BeginUnsafe(batch);
        else _protocols.AddToWindow(batch);
        return true;
    }

    /// <summary>
    /// Retires written plain batches, in merge order. A window that precedes them and is written from the metadata image is retired first.
    /// </summary>
    private bool Retire()
    {
        bool changed = false;
        while (_pipeline.Count > 0 && _pipeline[0] is { Phase: BatchPhase.Written, Step.Kind: StepKind.Plain } batch
            && batch.From == _marks.Written)
        {
            batch.ThrowIfFailed();
            _marks.AdvanceWritten(batch.To);
            _pipeline.Release();
            changed = true;
        }
        if (!changed) return false;
        _target.AskForWriteBack();
        _checkpoints.Update();
        return true;
    }
}
