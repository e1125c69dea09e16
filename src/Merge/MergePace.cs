using System;

namespace Snapuserd.Merge;

/// <summary>
/// Whether a merge may go on and how fast, as somebody else wants it: asked by the engine before each batch of writes, set from any thread. What was begun is finished whatever is set.
/// Whoever sets it wakes the engine's queue; with a rate, again and again (<see cref="IsLimited"/>), because the engine has no timer.
/// </summary>
public sealed class MergePace
{
    /// <summary>Milliseconds of a rate that may be saved up while there is nothing to write: a merge that fell behind must not make up for minutes at once.</summary>
    private const long MostSaved = 200;

    /// <summary>Milliseconds after which a look counts no more time, and bytes per second of the largest rate: their product fits 63 bits.</summary>
    private const long MostElapsed = 3_600_000, MostRate = 1L << 40;

    private readonly object _gate = new();
    private bool _paused;
    private long _rate;
    private long _credit;
    private long _filled;

    /// <summary>Nothing is begun until <see cref="Resume"/>.</summary>
    public bool IsPaused
    {
        get
        {
            lock (_gate) return _paused;
        }
    }

    /// <summary>Bytes per second that are written to Base at the most, over a second or more; 0 for no limit. Batches are written whole, so single ones may be quicker.</summary>
    public long BytesPerSecond
    {
        get
        {
            lock (_gate) return _rate;
        }
        set
        {
            ArgumentOutOfRangeException.ThrowIfNegative(value);
            lock (_gate) (_rate, _credit) = (Math.Min(value, MostRate), 0);
        }
    }

    /// <summary>There is a rate, so time alone can let the merge go on.</summary>
    public bool IsLimited => BytesPerSecond > 0;

    /// <summary>Holds the merge as soon as what is being written is written.</summary>
    public void Pause()
    {
        lock (_gate) _paused = true;
    }

    /// <summary>Lets it go on.</summary>
    public void Resume()
    {
        lock (_gate) _paused = false;
    }

    /// <summary>Whether a batch may be begun at <paramref name="now"/>, in milliseconds.</summary>
    internal bool MayWrite(long now)
    {
        lock (_gate)
        {
            if (_paused) return false;
            if (_rate == 0) return true;
            long elapsed = Math.Clamp(now - _filled, 0, MostElapsed);
            _filled = now;
            // In thousandths of a byte, so that slow rates lose nothing between two looks a millisecond apart.
            _credit = Math.Min(_credit + (elapsed * _rate), MostSaved * _rate);
            return _credit >= 0;
        }
    }

    /// <summary>A batch of <paramref name="bytes"/> is being written.</summary>
    internal void Take(long bytes)
    {
        lock (_gate)
        {
            if (_rate > 0) _credit -= bytes * 1000;
        }
    }
}
