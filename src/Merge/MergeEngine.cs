using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The merge: a deterministic walk through the merge order, over nothing but the <see cref="MergeSetup"/> it is given.
/// <code>
///          +--------------------------- count = total: done
///          v
/// Start -> Step --- rule 1 lets a run of ops through -----> Plain: read, make, write; checkpoint now and then
///          ^  |---- an ordered op, scratch there ---------> Window: save in scratch, claim it, write, count
///          |  +---- an Xor in place, no scratch (unsafe) -> mark the file, write, count and unmark
///          +---------------------------------------------------------------------------------------+
/// </code>
/// <c>_durable</c> is the count that a power cut would leave; <c>_written</c> is the position up to which Base is written. They differ
/// only inside a plain run. Whatever stands between them is written again after a crash, which rule 1 makes harmless.
/// </summary>
public sealed class MergeEngine : IDisposable
{
    // Ordered ops that Android's engine takes at once (cow-format §13): what one window of the usual scratch holds.
    private const int AndroidBatch = 510;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly MergePlan _plan;
    private readonly CowHead _head;
    private readonly Stage _stage;
    private readonly uint[] _windowBlocks;
    private readonly long _bytesTotal;
    private readonly int _resumedFrom;

    private int _durable;
    private int _written;
    private int _journaledTo;
    private int _unsafeTo;
    private long _bytesDone;
    private long _bytesSinceCheckpoint;
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
        _stage = Stage.InRestOf(setup, cow);
        _windowBlocks = new uint[_head.Slots];
        _resumedFrom = (int)cow.Header.NumMergeOps;
        _durable = _written = _resumedFrom;
        for (int position = 0; position < plan.Count; position++)
        {
            int bytes = plan[position].UnitBytes;
            _bytesTotal += bytes;
            if (position < _written) _bytesDone += bytes;
        }
    }

    /// <summary>
    /// Reads and validates the COW against the devices, without writing anything. Exit code 65 when it is corrupt, does not fit, or
    /// cannot be merged; 64 when it can be merged only with <see cref="MergeOptions.AllowUnsafe"/>; 71 when the arena is too small.
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
            plan = new MergePlan(cow, layout.Window, setup.SharedBlocks, setup.SourceIsBase);
            if (layout.Window == 0 && !setup.Options.AllowUnsafe) RefuseInPlace(cow, plan);
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
    /// when asked to stop; after 74 and 75 the same command goes on at the last checkpoint.
    /// </summary>
    public MergeResult Run()
    {
        try
        {
            _setup.Observer?.Progress(new MergeProgress(_written, _plan.Count, _bytesDone, _bytesTotal));
            if (_setup.Options.VerifyFirst && _durable == 0) _stage.VerifyPayloads();
            Start();
            while (_written < _plan.Count) Step();
            if (_durable < _written) Checkpoint();
            return Result;
        }
        catch
        {
            // Buffers of requests in flight must not be reused or unmapped. If the queue itself broke there is no waiting for them.
            if (!_setup.Io.Broken) _setup.Io.Abandon();
            throw;
        }
    }

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

    /// <summary>Makes durable what a predecessor left, and finishes or forgets its window. Nothing is written before scratch was found good.</summary>
    private void Start()
    {
        _head.Load();
        if (_head.Count != _resumedFrom)
            throw new SnapuserdException(ExitCode.InUse, $"{_cow.Name}: num_merge_ops changed from {_resumedFrom} to {_head.Count} while it was read; another merge is running");

        LeftWindow left = LeftWindow.Read(_cow, _plan, _head, _durable);
        _head.MakeDurable(left.IsStale ? 0 : left.Entries);
        FlushBase();
        _lastCheckpoint = _setup.Time.Milliseconds;

        if (left.IsStale)
        {
            _head.State = ScratchLayout.Invalid;
            _head.Commit();
        }
        else if (left.Entries > 0)
        {
            _replayed = left.Entries;
            WriteWindow(left.Entries);
        }
    }

    private void Step()
    {
        StopIfAsked();
        MergeStep step = _plan.Next(_durable, _written);
        switch (step.Kind)
        {
            case StepKind.Checkpoint: Checkpoint(); break;
            case StepKind.Plain: Plain(step.Ops); break;
            case StepKind.Journal: Journal(step.Ops); break;
            default: Unsafe(); break;
        }
    }

    private void Plain(int run)
    {
        int end = _written + run;
        while (_written < end)
        {
            int from = _written;
            _stage.Clear();
            int position = from;
            while (position < end && (_plan.IsNoOp(position) || _stage.TryAdd(position))) position++;
            _stage.Produce();
            WriteStage();
            Advance(position);
            if (_written < end) StopIfAsked();
            if (_bytesSinceCheckpoint >= _setup.Options.CheckpointBytes
                || _setup.Time.Milliseconds - _lastCheckpoint >= _setup.Options.CheckpointMilliseconds) Checkpoint();
        }
    }

    private void Journal(int window)
    {
        if (_written != _durable) throw new InvalidOperationException("rule 3: a window begins behind the durable count");
        for (int staged = 0; staged < window;)
        {
            _stage.Clear();
            int from = staged;
            while (staged < window && _stage.TryAdd(_written + staged, _head.Slot(staged))) staged++;
            if (staged == from) throw new InvalidOperationException("the stage does not take a single op");
            _stage.Produce();
        }
        for (int i = 0; i < window; i++) _windowBlocks[i] = _plan[_written + i].NewBlock;
        _head.State = ScratchLayout.Invalid;
        _head.SetEntries(_windowBlocks.AsSpan(0, window));
        _head.WriteScratch(window);
        _head.State = ScratchLayout.Valid;
        if (_head.Count != _written || window != _plan.WindowAt(_written)) throw new InvalidOperationException("rule 3: the window is not the one that the count announces");
        _head.Commit();
        _journaled += window;
        WriteWindow(window);
    }

    /// <summary>Writes the window in the image, whose scratch is durable, to Base and counts it.</summary>
    private void WriteWindow(int window)
    {
        _stage.Clear();
        _journaledTo = _written + window;
        for (int i = 0; i < window; i++) WriteBase(_written + i, _plan[_written + i], _head.Slot(i));
        Settle();
        Advance(_written + window);
        FlushBase();
        _head.Count = _written;
        _head.State = ScratchLayout.Invalid;
        Counted();
    }

    /// <summary>
    /// A run of Xors in place without scratch, on the user's word. The magic says "unsafe" while Base is between two states, so that a
    /// run after a crash knows; the commit restores it together with the count.
    /// </summary>
    private void Unsafe()
    {
        if (!_setup.Options.AllowUnsafe || _plan.Window > 0) throw new InvalidOperationException("rule 1: an op that reads what it overwrites is neither journaled nor allowed");
        _stage.Clear();
        int position = _written;
        while (position < _plan.Count && _plan.IsInPlace(position) && _stage.TryAdd(position)) position++;
        _stage.Produce();
        _head.Magic = CowHeader.UnsafeMagic;
        _head.Commit();
        _unsafeTo = position;
        WriteStage();
        Advance(position);
        FlushBase();
        _head.Magic = CowHeader.Magic;
        _head.Count = _written;
        Counted();
    }

    /// <summary>Makes everything written durable and counts it.</summary>
    private void Checkpoint()
    {
        FlushBase();
        _head.Count = _written;
        Counted();
    }

    private void Counted()
    {
        _head.Commit();
        _durable = _written;
        _checkpoints++;
        _bytesSinceCheckpoint = 0;
        _lastCheckpoint = _setup.Time.Milliseconds;
    }

    private void WriteStage()
    {
        foreach (ref readonly Stage.Item item in _stage.Items) WriteBase(item.Position, item.Op, item.Data);
        Settle();
    }

    private void WriteBase(int position, in CowOp op, Slice data)
    {
        bool journaled = position >= _durable && position < _journaledTo && _head.DurableState == ScratchLayout.Valid && data == _head.Slot(position - _durable);
        bool allowed = position >= _durable && position < _unsafeTo && _head.Magic == CowHeader.UnsafeMagic;
        if (_plan.Limit(position) > _durable && !journaled && !allowed)
            throw new InvalidOperationException($"rule 1: position {position} overwrites a block that is read from position {_durable} on");
        _setup.Io.Write(_setup.Base.Number, (long)op.NewBlock * CowOp.BlockSize, data);
        _blocks += op.Blocks;
    }

    private void Settle()
    {
        if (_setup.Io.Drain() is { } failure) throw _stage.Explain(failure);
    }

    private void FlushBase()
    {
        _baseFlushes++;
        _setup.Io.Flush(_setup.Base.Number);
        if (_setup.Io.Drain() is { } failure)
            throw new SnapuserdException(ExitCode.InputOutput, $"{_setup.Base.Name}: flushing failed: {Reason.Of(failure.Errno)}; nothing behind op {_durable} of {_plan.Count} is counted");
    }

    private void Advance(int position)
    {
        for (; _written < position; _written++)
        {
            int bytes = _plan[_written].UnitBytes;
            _bytesDone += bytes;
            _bytesSinceCheckpoint += bytes;
        }
        _setup.Observer?.Progress(new MergeProgress(_written, _plan.Count, _bytesDone, _bytesTotal));
    }

    private void StopIfAsked()
    {
        if (!_setup.Stop.Requested) return;
        if (_durable < _written) Checkpoint();
        throw new SnapuserdException(ExitCode.Interrupted, $"stopped at op {_durable} of {_plan.Count}; the same command goes on from there");
    }
}
