using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>A buffer of <see cref="NbdBuffers"/>. All but the slice belongs to the pool.</summary>
internal sealed class NbdBuffer(Slice slice)
{
    public Slice Slice { get; } = slice;

    /// <summary>The answer that waits with its data in here, while it may be evicted.</summary>
    public NbdAnswer? Parked { get; set; }

    public NbdBuffer? Older { get; set; }

    public NbdBuffer? Newer { get; set; }
}

/// <summary>
/// A fixed number of buffers for all clients. A worker holds at most one at a time. An answer whose client does not take it keeps its buffer only until a worker needs one: then
/// the answer that has waited longest loses its data, which are read again when its client goes on. So clients that do not take their answers keep nobody from being served.
/// Thread-safe; its lock is taken after that of a session.
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

    /// <summary>Takes <paramref name="count"/> buffers of the arena, which holds them.</summary>
    public NbdBuffers(Arena arena, int count, int bytes)
    {
        _count = count;
        _free = new Stack<NbdBuffer>(count);
        for (int i = 0; i < count; i++) _free.Push(new NbdBuffer(arena.Take(bytes)!.Value));
    }

    /// <summary>Buffers that hold data.</summary>
    public int InUse
    {
        get
        {
            lock (_gate) return _count - _free.Count;
        }
    }

    /// <summary>Answers that wait with their data, and how many have lost theirs so far.</summary>
    public (int Parked, long Evicted) Waiting
    {
        get
        {
            lock (_gate) return (_parked, _evicted);
        }
    }

    /// <summary>A buffer for a worker that holds none: there is always one that is free or parked, because there are as many as workers.</summary>
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

    /// <summary>A worker leaves its buffer with an answer that has to wait.</summary>
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

    /// <summary>The worker takes over the answer's buffer; null if the data are gone.</summary>
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

    /// <summary>A worker needs its buffer no more.</summary>
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
