using System;
using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>
/// Puts Copy and Xor ops into an order in which no op reads what an earlier one has written, and in which few ops need the journal. Rule 1
/// of design §5 permits an op once the durable count has passed the last op that reads its destination. The engine streams the permitted
/// ops if they are more than half of a window; otherwise it journals a whole window. So the order consists of
/// <list type="number">
/// <item>generations: all ops whose destination no remaining op reads, ascending, while there are enough of them;</item>
/// <item>chains, otherwise: any order needs the journal, so each chain is followed to its end, in runs that ascend where possible;</item>
/// <item>in-place Xor at the end: they always need the journal, so they share windows with one another.</item>
/// </list>
/// </summary>
internal sealed class MergeSequence
{
    /// <summary>
    /// Minimum ops of a generation: just above half of the 510 ops that a window in 2 MiB of scratch holds. From there on the engine
    /// streams.
    /// </summary>
    private const int Generation = 256;

    /// <summary>
    /// How many blocks back to search for the beginning of a run: about one window, after which sequential reads gain nothing.
    /// </summary>
    private const int RunSearch = 512;

    /// <summary>In <see cref="_readers"/>: the op is already in the order.</summary>
    private const uint Placed = uint.MaxValue;

    private readonly NativeArray<PackedChange> _changes;
    // For each block, the number of ops that read it and are not placed yet. The block's own op must come after them.
    private readonly NativeArray<uint> _readers;
    private readonly NativeArray<uint> _order;
    // Blocks of ops that became free, each once: streams from the front, ops that read themselves from the back. Placed ops are skipped.
    private readonly NativeArray<uint> _free;
    private readonly StopPoll _stop;
    private long _count;
    private long _streamHead, _streamTail;
    private long _ownHead, _ownTail;
    private long _freeStreams;
    private long _freeOwn;

    private MergeSequence(NativeArray<PackedChange> changes, NativeArray<uint> readers, NativeArray<uint> order, NativeArray<uint> free,
        StopPoll stop)
    {
        _changes = changes;
        _readers = readers;
        _order = order;
        _free = free;
        _stop = stop;
        _ownHead = _ownTail = free.Length - 1;
    }

    /// <summary>
    /// Returns the blocks of all ordered ops in merge order, in 4 bytes per op. While it runs, it needs 4 more bytes per op and 4 per block
    /// of the new image. The graph must have no cycle.
    /// </summary>
    public static NativeArray<uint> Order(NativeTally tally, NativeArray<PackedChange> changes, long orderedOps, StopPoll stop)
    {
        var order = new NativeArray<uint>(tally, orderedOps, "the merge order");
        try
        {
            using var readers = new NativeArray<uint>(tally, changes.Length, "the merge order");
            using var free = new NativeArray<uint>(tally, orderedOps, "the merge order");
            new MergeSequence(changes, readers, order, free, stop).Run();
            return order;
        }
        catch
        {
            order.Dispose();
            throw;
        }
    }

    private void Run()
    {
        CountReaders();
        for (long block = 0; block < _changes.Length; block++)
        {
            _stop.Step();
            FreeIfUnread(block);
        }
        while (_freeStreams + _freeOwn > 0)
        {
            if (_freeStreams >= Generation) PlaceGeneration();
            else if (_freeOwn > 0) PlaceChain(NextOwn());
            else PlaceChain(NextStream());
        }
        for (long block = 0; block < _changes.Length; block++)
            if (OpGraph.IsInPlace(block, _changes[block])) _order[_count++] = (uint)block;
        if (_count != _order.Length) throw new InvalidOperationException($"{_order.Length - _count} ops wait for themselves");
    }

    private void CountReaders()
    {
        for (long block = 0; block < _changes.Length; block++)
        {
            _stop.Step();
            PackedChange change = _changes[block];
            if (!change.IsOrdered) continue;
            for (int edge = 0; edge < OpGraph.Edges; edge++)
            {
                long after = OpGraph.After(_changes, block, change, edge);
                if (after >= 0) _readers[after]++;
            }
        }
    }

    /// <summary>
    /// Places all free streams, ascending. No later op reads what they write, so one checkpoint before them permits all of them.
    /// </summary>
    private void PlaceGeneration()
    {
        long first = _count;
        for (; _streamHead < _streamTail; _streamHead++)
            if (_readers[_free[_streamHead]] != Placed) _order[_count++] = _free[_streamHead];
        if (_count - first > int.MaxValue)
            throw new SnapuserdException(ExitCode.OutOfResources, $"{_count - first} ops are more than can be sorted at once");
        _order.Slice(first, (int)(_count - first)).Sort();
        for (long i = first; i < _count; i++) Release(_order[i]);
    }

    private void PlaceChain(long block)
    {
        bool own = OpGraph.ReadsItself(block, _changes[block]);
        while (block >= 0)
        {
            block = BeginningOfRun(block, own);
            long freed;
            do
            {
                _order[_count++] = (uint)block;
                freed = Release(block);
                if (_freeStreams >= Generation) return;
                block++;
            }
            while (IsFree(block, own));
            block = IsFree(freed, own) ? freed : -1;
        }
    }

    private long BeginningOfRun(long block, bool own)
    {
        for (int steps = 0; steps < RunSearch && IsFree(block - 1, own); steps++) block--;
        return block;
    }

    private bool IsFree(long block, bool own) =>
        block >= 0 && block < _changes.Length && _readers[block] == 0 && IsInChains(block)
        && OpGraph.ReadsItself(block, _changes[block]) == own;

    /// <summary>True for an ordered op that is not in-place; in-place ops come at the end.</summary>
    private bool IsInChains(long block) => _changes[block].IsOrdered && !OpGraph.IsInPlace(block, _changes[block]);

    /// <summary>Removes a placed op from the graph. Returns the last op that this made free, or -1.</summary>
    private long Release(long block)
    {
        _stop.Step();
        PackedChange change = _changes[block];
        if (OpGraph.ReadsItself(block, change)) _freeOwn--;
        else _freeStreams--;
        _readers[block] = Placed;
        long freed = -1;
        for (int edge = 0; edge < OpGraph.Edges; edge++)
        {
            long after = OpGraph.After(_changes, block, change, edge);
            if (after < 0) continue;
            _readers[after]--;
            if (FreeIfUnread(after)) freed = after;
        }
        return freed;
    }

    private bool FreeIfUnread(long block)
    {
        if (_readers[block] != 0 || !IsInChains(block)) return false;
        if (OpGraph.ReadsItself(block, _changes[block]))
        {
            _free[_ownTail--] = (uint)block;
            _freeOwn++;
        }
        else
        {
            _free[_streamTail++] = (uint)block;
            _freeStreams++;
        }
        return true;
    }

    private long NextStream()
    {
        while (_readers[_free[_streamHead]] == Placed) _streamHead++;
        return _free[_streamHead];
    }

    private long NextOwn()
    {
        while (_readers[_free[_ownHead]] == Placed) _ownHead--;
        return _free[_ownHead];
    }
}
