using System.Collections.Generic;
using Snapuserd.Merge;

namespace Snapuserd.Control;

/// <summary>
/// Limits how many snapshots of a process merge at the same time. They wait in a queue, share the memory, and free their slot when their
/// merge ends with any result. (Android's daemon frees it only when the device is gone.) A paused snapshot keeps its place in the queue,
/// and the others pass it. Any thread.
/// <para>
/// Lock order: SnapshotSet, Snapshot, MergeSlots, then MergeThrottle and MemoryBudget. A thread that holds one of these locks takes only
/// locks further right. Waking a snapshot takes its lock, so snapshots are woken only after the lock here is released.
/// </para>
/// </summary>
public sealed class MergeSlots(MemoryBudget budget, int merges)
{
    private readonly object _gate = new();
    private readonly List<Snapshot> _line = [];
    private int _merging;

    /// <summary>Bytes of buffers that one merge can have at most.</summary>
    public int MostBytes => (int)budget.MostBytes;

    /// <summary>Adds a snapshot to the queue.</summary>
    internal void Queue(Snapshot snapshot)
    {
        lock (_gate) _line.Add(snapshot);
    }

    /// <summary>
    /// Returns a memory quota if it is the snapshot's turn and a slot is free, else null. <see cref="Leave"/> gives both back.
    /// </summary>
    internal MemoryQuota? TryEnter(Snapshot snapshot)
    {
        MemoryQuota share;
        Snapshot? next;
        lock (_gate)
        {
            if (_merging == merges || First != snapshot) return null;
            _ = _line.Remove(snapshot);
            _merging++;
            next = Next;
            share = budget.Join();
        }
        next?.Wake();
        return share;
    }

    /// <summary>Frees the slot of a merge that has ended.</summary>
    internal void Leave(MemoryQuota share)
    {
        Snapshot? next;
        lock (_gate)
        {
            share.Dispose();
            _merging--;
            next = Next;
        }
        next?.Wake();
    }

    /// <summary>Removes a snapshot from the queue, if it is there.</summary>
    internal void GiveUp(Snapshot snapshot)
    {
        Snapshot? next;
        lock (_gate)
        {
            _ = _line.Remove(snapshot);
            next = Next;
        }
        next?.Wake();
    }

    /// <summary>Wakes the snapshot whose turn it is, if a slot is free.</summary>
    internal void WakeFirst()
    {
        Snapshot? next;
        lock (_gate) next = Next;
        next?.Wake();
    }

    private Snapshot? First => _line.Find(one => !one.IsPaused);

    /// <summary>The snapshot to wake after the lock is released; null if no slot is free.</summary>
    private Snapshot? Next => _merging < merges ? First : null;
}
