using System;

namespace Snapuserd.Merge;

/// <summary>
/// Pause switch and token-bucket rate limiter. Thread-safe. The merge thread asks it before each batch of writes; writes in flight always
/// finish. The caller that changes a setting must wake the engine's queue. While a rate is set (<see cref="IsLimited"/>), the queue must be
/// woken at intervals, because the engine has no timer.
/// </summary>
public sealed class MergeThrottle
{
    /// <summary>
    /// Milliseconds of unused rate that may accumulate while there is nothing to write. A merge that lagged for minutes must not write that
    /// much at once.
    /// </summary>
    private const long MostSaved = 200;

    /// <summary>
    /// Most milliseconds counted between two queries, and the largest rate in bytes per second. Their product fits into 63 bits.
    /// </summary>
    private const long MostElapsed = 3_600_000, MostRate = 1L << 40;

    private readonly object _gate = new();
    private bool _paused;
    private long _rate;
    private long _credit;
    private long _filled;

    /// <summary>Paused: no write begins until <see cref="Resume"/>.</summary>
    public bool IsPaused
    {
        get
        {
            lock (_gate) return _paused;
        }
    }

    /// <summary>
    /// Maximum bytes per second written to Base, over a second or more; 0 for no limit. Batches are written whole, so single ones may be
    /// faster.
    /// </summary>
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

    /// <summary>A rate is set, so time alone can let the merge continue.</summary>
    public bool IsLimited => BytesPerSecond > 0;

    /// <summary>Pauses the merge after the writes in flight.</summary>
    public void Pause()
    {
        lock (_gate) _paused = true;
    }

    /// <summary>Resumes the merge.</summary>
    public void Resume()
    {
        lock (_gate) _paused = false;
    }

    /// <summary>True if a batch may begin at <paramref name="now"/>, in milliseconds.</summary>
    internal bool MayWrite(long now)
    {
        lock (_gate)
        {
            if (_paused) return false;
            if (_rate == 0) return true;
            long elapsed = Math.Clamp(now - _filled, 0, MostElapsed);
            _filled = now;
            // In thousandths of a byte, so that slow rates lose nothing between two queries a millisecond apart.
            _credit = Math.Min(_credit + (elapsed * _rate), MostSaved * _rate);
            return _credit >= 0;
        }
    }

    /// <summary>Charges the <paramref name="bytes"/> of a batch that is being written.</summary>
    internal void Take(long bytes)
    {
        // Without a rate the credit is unused, and the next rate starts with none.
        lock (_gate) _credit -= bytes * 1000;
    }
}
