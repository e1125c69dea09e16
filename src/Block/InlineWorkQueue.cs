using System;

namespace Snapuserd.Block;

/// <summary>A work queue without threads: posting a job runs it. For one processor, and for tests that need a fixed order.</summary>
public sealed class InlineWorkQueue<TJob> : IWorkQueue<TJob> where TJob : struct
{
    private readonly IWorker<TJob> _worker;
    private readonly WakeUp? _wakeUp;
    private readonly (uint Tag, int Result)[] _ended;
    private int _first;
    private int _count;

    /// <summary>
    /// The queue takes ownership of the worker. <paramref name="wakeUp"/>, if given, is signalled at the end of every job.
    /// </summary>
    public InlineWorkQueue(IWorker<TJob> worker, int capacity, WakeUp? wakeUp = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity);
        _worker = worker;
        _wakeUp = wakeUp;
        _ended = new (uint, int)[capacity];
    }

    /// <inheritdoc/>
    public int Capacity => _ended.Length;

    /// <inheritdoc/>
    public bool TryPost(in TJob job, uint tag)
    {
        if (_count == Capacity) return false;
        int result = _worker.Do(job);
        _ended[(_first + _count++) % Capacity] = (tag, result);
        _wakeUp?.Signal();
        return true;
    }

    /// <inheritdoc/>
    public bool TryReap(out uint tag, out int result)
    {
        (tag, result) = _ended[_first];
        if (_count == 0) return false;
        _first = (_first + 1) % Capacity;
        _count--;
        return true;
    }

    /// <inheritdoc/>
    public void WaitForEnd()
    {
        if (_count == 0) throw new InvalidOperationException("no job is under way");
    }

    /// <summary>Disposes of the worker.</summary>
    public void Dispose() => _worker.Dispose();
}
