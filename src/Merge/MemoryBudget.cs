using System;

namespace Snapuserd.Merge;

/// <summary>
/// Buffer memory that several merges of one process share. Each is sure of <see cref="SureBytes"/> from its first moment, so that none ever waits for another to begin or to go on;
/// of the rest each may take as much as any other. Who has more than its part, because it was alone, gives back as its buffers become free. Any thread.
/// </summary>
public sealed class MemoryBudget
{
    private readonly object _gate = new();
    private readonly long _bytes;
    private readonly int _most;
    private readonly MemoryShare?[] _shares;
    private int _count;
    private long _taken;
    private long _peak;

    /// <summary>
    /// <paramref name="bytes"/> for at most <paramref name="merges"/> merges at a time, each of which is sure of <paramref name="sureBytes"/>: what the smallest `--memory` would
    /// give it.
    /// </summary>
    public MemoryBudget(long bytes, int merges, int sureBytes = 8 << 20)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(merges);
        ArgumentOutOfRangeException.ThrowIfLessThan(bytes, (long)merges * sureBytes);
        (_bytes, _most, SureBytes, _shares) = (bytes, merges, sureBytes, new MemoryShare?[merges]);
    }

    /// <summary>Bytes that a merge has whatever the others do.</summary>
    public int SureBytes { get; }

    /// <summary>Bytes that a merge can have at the most: when it is the only one.</summary>
    public long MostBytes => _bytes - ((long)(_most - 1) * SureBytes);

    /// <summary>Bytes taken at the moment, and the most there ever were.</summary>
    public (long Now, long Peak) Taken
    {
        get
        {
            lock (_gate) return (_taken, _peak);
        }
    }

    /// <summary>Another merge, which leaves by disposing of its share. Throws when there are as many as there may be.</summary>
    public MemoryShare Join()
    {
        lock (_gate)
        {
            int free = Array.IndexOf(_shares, null);
            if (free < 0) throw new InvalidOperationException($"{_most} merges share the memory already");
            _count++;
            return _shares[free] = new MemoryShare(this);
        }
    }

    internal bool TryTake(MemoryShare share, long bytes)
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

    internal bool HasTooMuch(MemoryShare share)
    {
        lock (_gate) return share.Taken > Part;
    }

    internal void Give(MemoryShare share, long bytes)
    {
        lock (_gate)
        {
            share.Taken -= bytes;
            _taken -= bytes;
        }
    }

    internal void Leave(MemoryShare share)
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

    /// <summary>What each may have: as much as the others, beside what is kept for those who are not there yet.</summary>
    private long Part => (_bytes - ((long)(_most - _count) * SureBytes)) / _count;

    /// <summary>What the others are sure of and have not taken.</summary>
    private long Owed(MemoryShare share)
    {
        long owed = (long)(_most - _count) * SureBytes;
        foreach (MemoryShare? other in _shares)
            if (other != null && other != share) owed += Math.Max(0, SureBytes - other.Taken);
        return owed;
    }
}

/// <summary>What one merge has of a <see cref="MemoryBudget"/>.</summary>
public sealed class MemoryShare : IDisposable
{
    private readonly MemoryBudget _budget;

    internal MemoryShare(MemoryBudget budget) => _budget = budget;

    /// <summary>Bytes taken.</summary>
    public long Taken { get; internal set; }

    /// <summary>Takes <paramref name="bytes"/>; false if they are not to be had at the moment.</summary>
    public bool TryTake(long bytes) => _budget.TryTake(this, bytes);

    /// <summary>Somebody came who is to have as much.</summary>
    public bool HasTooMuch => _budget.HasTooMuch(this);

    /// <summary>Gives back what was taken.</summary>
    public void Give(long bytes) => _budget.Give(this, bytes);

    /// <summary>Gives everything back; its memory is no longer in use.</summary>
    public void Dispose() => _budget.Leave(this);
}
