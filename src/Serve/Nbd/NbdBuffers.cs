using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>A buffer of <see cref="NbdBuffers"/>. Only the pool may use its members other than <see cref="Slice"/>.</summary>
internal sealed class NbdBuffer(Slice slice)
{
    public Slice Slice { get; } = slice;

    /// <summary>The waiting reply whose data is in this buffer and may be evicted; null if there is none.</summary>
    public NbdAnswer? Parked { get; set; }

    public NbdBuffer? Older { get; set; }

    public NbdBuffer? Newer { get; set; }
}

/// <summary>
/// A fixed pool of buffers for all clients. A worker holds at most one at a time. A reply that its client does not read keeps its buffer
/// until a worker needs one and none is free. Then the reply that was parked first loses its data, which is read again when the client
/// continues. So stalled clients cannot exhaust the buffers. Thread-safe. The pool's lock may be taken while a session's lock is held, but
/// not the reverse.
/// </summary>
internal sealed class NbdBuffers
{
    private readonly object _gate = new();
    private readonly Stack<NbdBuffer> _free;
    private readonly int _count;
    private NbdBuffer? _oldest;
    private NbdBuffer? _newest;
    private int _parked;
    private long _evicted;

    /// <summary>Takes <paramref name="count"/> buffers from the arena.</summary>
    public NbdBuffers(Arena arena, int count, int bytes)
    {
        _count = count;
        _free = new Stack<NbdBuffer>(count);
        for (int i = 0; i < count; i++) _free.Push(new NbdBuffer(arena.Take(bytes)!.Value));
    }

    /// <summary>The number of buffers that hold data.</summary>
    public int InUse
    {
        get
        {
            lock (_gate) return _count - _free.Count;
        }
    }

    /// <summary>The number of replies that are parked with their data, and the number of evictions so far.</summary>
    public (int Parked, long Evicted) Waiting
    {
        get
        {
            lock (_gate) return (_parked, _evicted);
        }
    }

    /// <summary>
    /// Takes a free buffer, or evicts a parked one. The caller must not hold another buffer. There are at least as many buffers as workers,
    /// so one is always free or parked.
    /// </summary>
    public NbdBuffer Take()
    {
        lock (_gate)
        {
            if (_free.TryPop(out NbdBuffer? free)) return free;
            NbdBuffer buffer = _oldest ?? throw new InvalidOperationException("more buffers are held than there are workers");
            Unlink(buffer);
            buffer.Parked!.Buffer = null;
            buffer.Parked = null;
            _evicted++;
            return buffer;
        }
    }

    /// <summary>Leaves a worker's buffer to a reply that cannot be sent now.</summary>
    public void Park(NbdAnswer answer, NbdBuffer buffer)
    {
        lock (_gate)
        {
            answer.Buffer = buffer;
            buffer.Parked = answer;
            (buffer.Older, buffer.Newer) = (_newest, null);
            if (_newest != null) _newest.Newer = buffer;
            else _oldest = buffer;
            _newest = buffer;
            _parked++;
        }
    }

    /// <summary>Takes a parked buffer back, so that it cannot be evicted; null if it was evicted.</summary>
    public NbdBuffer? Reclaim(NbdAnswer answer)
    {
        lock (_gate)
        {
            if (answer.Buffer is not { } buffer) return null;
            Unlink(buffer);
            buffer.Parked = null;
            answer.Buffer = null;
            return buffer;
        }
    }

    /// <summary>Returns a buffer to the pool.</summary>
    public void Give(NbdBuffer buffer)
    {
        lock (_gate) _free.Push(buffer);
    }

    private void Unlink(NbdBuffer buffer)
    {
        if (buffer.Older != null) buffer.Older.Newer = buffer.Newer;
        else _oldest = buffer.Newer;
        if (buffer.Newer != null) buffer.Newer.Older = buffer.Older;
        else _newest = buffer.Older;
        (buffer.Older, buffer.Newer) = (null, null);
        _parked--;
    }
}
