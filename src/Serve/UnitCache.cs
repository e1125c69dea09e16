using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>
/// The most recently decoded units of which only a part was requested: the next read mostly asks for the next part. Thread-safe: a lock is
/// held while bytes are copied, which takes little time compared with decoding.
/// </summary>
internal sealed class UnitCache : IDisposable
{
    /// <summary>A file system reads a few places at a time; more entries would only lengthen the search.</summary>
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
    /// A cache for units of up to <paramref name="unitBytes"/> bytes, in <paramref name="bytes"/> of memory; it holds at least one.
    /// </summary>
    public UnitCache(int bytes, int unitBytes)
    {
        _entries = new Entry[Math.Clamp(bytes / unitBytes, 1, MostEntries)];
        _arena = new Arena(_entries.Length * unitBytes);
        for (int i = 0; i < _entries.Length; i++) _entries[i] = new Entry { Op = -1, Memory = _arena.Take(unitBytes)!.Value };
    }

    /// <summary>
    /// Copies the bytes from <paramref name="from"/> on of the unit of the op with that index in the file; false if it is not cached.
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
