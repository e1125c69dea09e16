using System;

namespace Snapuserd.Merge;

/// <summary>
/// Buffer memory shared by several merges of one process. Each merge is guaranteed <see cref="SureBytes"/>, so no merge ever waits for
/// another to begin or to continue; the rest is shared equally. A merge above its fair share, because it was alone, returns buffers as they
/// become free. Thread-safe.
/// </summary>
public sealed class MemoryBudget
{
    private readonly object _gate = new();
    private readonly long _bytes;
    private readonly int _most;
    private readonly MemoryQuota?[] _shares;
    private int _count;
    private long _taken;
    private long _peak;

    /// <summary>
    /// A budget of <paramref name="bytes"/> for at most <paramref name="merges"/> merges at a time. Each is guaranteed
    /// <paramref name="sureBytes"/>, which equals the smallest `--memory`.
    /// </summary>
    public MemoryBudget(long bytes, int merges, int sureBytes = 8 << 20)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(merges);
        ArgumentOutOfRangeException.ThrowIfLessThan(bytes, (long)merges * sureBytes);
        (_bytes, _most, SureBytes, _shares) = (bytes, merges, sureBytes, new MemoryQuota?[merges]);
    }

    /// <summary>Bytes guaranteed to each merge.</summary>
    public int SureBytes { get; }

    /// <summary>Most bytes a merge can take, when it is the only one.</summary>
    public long MostBytes => _bytes - ((long)(_most - 1) * SureBytes);

    /// <summary>Bytes taken now, and the peak.</summary>
    public (long Now, long Peak) Taken
    {
        get
        {
            lock (_gate) return (_taken, _peak);
        }
    }

    /// <summary>
    /// Adds a merge. It leaves by disposing its <see cref="MemoryQuota"/>. Throws if the budget already has its maximum number of merges.
    /// </summary>
    public MemoryQuota Join()
    {
        lock (_gate)
        {
            int free = Array.IndexOf(_shares, null);
            if (free < 0) throw new InvalidOperationException($"{_most} merges share the memory already");
            _count++;
            return _shares[free] = new MemoryQuota(this);
        }
    }

    internal bool TryTake(MemoryQuota share, long bytes)
    {
        lock (_gate)
        {
            if (share.Taken + bytes > SureBytes && (share.Taken + bytes > Part || _taken + bytes > _bytes - Owed(share))) return false;
            share.Taken += bytes;
            _taken += bytes;
            _peak = Math.Max(_peak, _taken);
            return true;
        }
    }

    internal bool HasTooMuch(MemoryQuota share)
    {
        lock (_gate) return share.Taken > Part;
    }

    internal void Give(MemoryQuota share, long bytes)
    {
        lock (_gate)
        {
            share.Taken -= bytes;
            _taken -= bytes;
        }
    }

    internal void Leave(MemoryQuota share)
    {
        lock (_gate)
        {
            int place = Array.IndexOf(_shares, share);
            if (place < 0) return;
            _shares[place] = null;
            _count--;
            _taken -= share.Taken;
            share.Taken = 0;
        }
    }

    /// <summary>The fair share of each merge: an equal part of the memory, after the guarantees of merges not yet started.</summary>
    private long Part => (_bytes - ((long)(_most - _count) * SureBytes)) / _count;

    /// <summary>Guaranteed bytes that other merges have not taken.</summary>
    private long Owed(MemoryQuota share)
    {
        long owed = (long)(_most - _count) * SureBytes;
        foreach (MemoryQuota? other in _shares)
            if (other != null && other != share) owed += Math.Max(0, SureBytes - other.Taken);
        return owed;
    }
}

/// <summary>The quota of one merge in a <see cref="MemoryBudget"/>.</summary>
public sealed class MemoryQuota : IDisposable
{
    private readonly MemoryBudget _budget;

    internal MemoryQuota(MemoryBudget budget) => _budget = budget;

    /// <summary>Bytes taken.</summary>
    public long Taken { get; internal set; }

    /// <summary>Takes <paramref name="bytes"/>. False if they are not available now.</summary>
    public bool TryTake(long bytes) => _budget.TryTake(this, bytes);

    /// <summary>The merge holds more than its fair share, because another merge has started.</summary>
    public bool HasTooMuch => _budget.HasTooMuch(this);

    /// <summary>Gives <paramref name="bytes"/> back.</summary>
    public void Give(long bytes) => _budget.Give(this, bytes);

    /// <summary>Gives everything back. The merge no longer uses its memory.</summary>
    public void Dispose() => _budget.Leave(this);
}
