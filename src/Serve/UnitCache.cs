using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>
/// Caches the most recently used of the decoded units of which a read requested only a part, because the next read usually requests the
/// next part. Thread-safe: a lock is held while bytes are copied, which takes little time compared with decoding.
/// </summary>
internal sealed class UnitCache : IDisposable
{
    /// <summary>Enough entries for a file system, which reads only a few places at a time; more would only lengthen the search.</summary>
    private const int MostEntries = 32;

    private readonly object _gate = new();
    private readonly Arena _arena;
    private readonly Entry[] _entries;
    private long _clock;

    private struct Entry
    {
        public int Op;
        public long Used;
        public Slice Memory;
    }

    /// <summary>
    /// A cache of <paramref name="bytes"/> for units of up to <paramref name="unitBytes"/> bytes each. It has room for at least one unit,
    /// even if that takes more memory.
    /// </summary>
    public UnitCache(int bytes, int unitBytes)
    {
        _entries = new Entry[Math.Clamp(bytes / unitBytes, 1, MostEntries)];
        _arena = new Arena(_entries.Length * unitBytes);
        for (int i = 0; i < _entries.Length; i++) _entries[i] = new Entry { Op = -1, Memory = _arena.Take(unitBytes)!.Value };
    }

    /// <summary>
    /// Copies bytes of the unit of op <paramref name="op"/> (its index in the file), starting at byte <paramref name="from"/> of the unit.
    /// False if the unit is not cached.
    /// </summary>
    public bool TryCopy(int op, int from, Span<byte> destination)
    {
        lock (_gate)
        {
            foreach (ref Entry entry in _entries.AsSpan())
            {
                if (entry.Op != op) continue;
                entry.Used = ++_clock;
                _arena[entry.Memory].Slice(from, destination.Length).CopyTo(destination);
                return true;
            }
        }
        return false;
    }

    /// <summary>Stores a decoded unit in place of the least recently used one.</summary>
    public void Keep(int op, ReadOnlySpan<byte> unit)
    {
        lock (_gate)
        {
            ref Entry oldest = ref _entries[0];
            foreach (ref Entry entry in _entries.AsSpan())
            {
                // Two threads may have decoded the same unit.
                if (entry.Op == op) return;
                if (entry.Used < oldest.Used) oldest = ref entry;
            }
            unit.CopyTo(_arena[oldest.Memory]);
            (oldest.Op, oldest.Used) = (op, ++_clock);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _arena.Dispose();
}
