using System.Collections.Generic;
using Snapuserd.Merge;

namespace Snapuserd.Daemon;

/// <summary>
/// How many snapshots of a process merge at a time: they wait in line, share the memory, and free their place when their merge has ended, whatever came of it. (Android's
/// daemon frees it only when the device is gone.) Those that are paused keep their place in the line, and the others pass them. Any thread.
/// </summary>
public sealed class MergeSlots(MemoryBudget budget, int merges)
{
    private readonly object _gate = new();
    private readonly List<Snapshot> _line = [];
    private int _merging;

    /// <summary>Bytes of buffers that a merge can have at the most.</summary>
    public int MostBytes => (int)budget.MostBytes;

    /// <summary>Stands in line.</summary>
    internal void Queue(Snapshot snapshot)
    {
        lock (_gate) _line.Add(snapshot);
    }

    /// <summary>Its memory if it is its turn; <see cref="Leave"/> gives it back.</summary>
    internal MemoryShare? TryEnter(Snapshot snapshot)
    {
        lock (_gate)
        {
            if (_merging == merges || First != snapshot) return null;
            _ = _line.Remove(snapshot);
            _merging++;
            WakeFirst();
            return budget.Join();
        }
    }

    /// <summary>Has ended its merge.</summary>
    internal void Leave(MemoryShare share)
    {
        lock (_gate)
        {
            share.Dispose();
            _merging--;
            WakeFirst();
        }
    }

    /// <summary>Waits no longer, if it did.</summary>
    internal void GiveUp(Snapshot snapshot)
    {
        lock (_gate)
        {
            _ = _line.Remove(snapshot);
            WakeFirst();
        }
    }

    /// <summary>Whose turn it is now looks at that.</summary>
    internal void WakeFirst()
    {
        lock (_gate)
            if (_merging < merges) First?.Wake();
    }

    private Snapshot? First => _line.Find(one => !one.IsPaused);
}
