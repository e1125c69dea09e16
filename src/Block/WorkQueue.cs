using System;
using System.Threading;

namespace Snapuserd.Block;

/// <summary>
/// A bounded work queue with its own threads. If a worker throws, its job ends with <see cref="Crashed"/> and its thread continues with the
/// next job, because an unhandled exception in PID 1 is a kernel panic.
/// </summary>
public sealed class WorkQueue<TJob> : IWorkQueue<TJob> where TJob : struct
{
    /// <summary>The result of a job whose worker threw; <see cref="FirstCrash"/> has the exception.</summary>
    public const int Crashed = int.MinValue;

    private readonly struct Posted(in TJob job, uint tag)
    {
        public readonly TJob Job = job;
        public readonly uint Tag = tag;
    }

    private readonly object _posts = new();
    private readonly object _ends = new();
    private readonly Posted[] _posted;
    private readonly (uint Tag, int Result)[] _ended;
    private readonly Thread?[] _threads;
    private readonly IWorker<TJob>[] _workers;
    private readonly WakeUp _wakeUp;
    private int _postedFirst;
    private int _postedCount;
    private int _endedFirst;
    private int _endedCount;
    private int _underWay;
    private bool _stop;
    private bool _disposed;
    private Exception? _firstCrash;

    /// <summary>
    /// Makes a queue for <paramref name="threads"/> threads. Each has its own worker from <paramref name="makeWorker"/>, which runs in
    /// this constructor. Every end of a job signals <paramref name="wakeUp"/>. The threads start with the first job, because many merges
    /// have none.
    /// </summary>
    public WorkQueue(int threads, int capacity, Func<IWorker<TJob>> makeWorker, WakeUp wakeUp)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(threads);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity);
        _wakeUp = wakeUp;
        _posted = new Posted[capacity];
        _ended = new (uint, int)[capacity];
        _workers = new IWorker<TJob>[threads];
        _threads = new Thread?[threads];
        try
        {
            for (int i = 0; i < threads; i++) _workers[i] = makeWorker();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public int Capacity => _posted.Length;

    /// <summary>The first exception of a worker, for the message and the stack trace of exit code 70; null if there was none.</summary>
    public Exception? FirstCrash => Volatile.Read(ref _firstCrash);

    /// <summary>
    /// Posts a job; false when <see cref="Capacity"/> jobs are under way. The first job starts the threads: exit code 71 if not even one
    /// can be started.
    /// </summary>
    public bool TryPost(in TJob job, uint tag)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_underWay == Capacity) return false;
        if (_threads[0] is null) StartThreads();
        _underWay++;
        lock (_posts)
        {
            _posted[(_postedFirst + _postedCount) % Capacity] = new Posted(job, tag);
            _postedCount++;
            Monitor.Pulse(_posts);
        }
        return true;
    }

    /// <inheritdoc/>
    public bool TryReap(out uint tag, out int result)
    {
        lock (_ends)
        {
            (tag, result) = _ended[_endedFirst];
            if (_endedCount == 0) return false;
            _endedFirst = (_endedFirst + 1) % Capacity;
            _endedCount--;
        }
        _underWay--;
        return true;
    }

    /// <inheritdoc/>
    public void WaitForEnd()
    {
        if (_underWay == 0) throw new InvalidOperationException("no job is under way");
        lock (_ends)
        {
            while (_endedCount == 0) Monitor.Wait(_ends);
        }
    }

    /// <summary>Drops the jobs that no worker has begun, waits for the others, ends the threads and disposes of the workers.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        lock (_posts)
        {
            _stop = true;
            Monitor.PulseAll(_posts);
        }
        foreach (Thread? thread in _threads) thread?.Join();
        foreach (IWorker<TJob>? worker in _workers) worker?.Dispose();
    }

    /// <summary>Starts the threads. If the system grants only some of them, those do all the work.</summary>
    private void StartThreads()
    {
        for (int i = 0; i < _threads.Length; i++)
        {
            IWorker<TJob> worker = _workers[i];
            string name = $"worker {i}";
            Thread? thread = WorkerThread.TryStart(name, StackSize.Usual, () => Run(worker));
            if (thread == null && i > 0) return;
            _threads[i] = thread ?? throw WorkerThread.CannotStart(name,
                "try --threads 1, more memory, or to raise the limits (ulimit -u, pids.max of the cgroup)");
        }
    }

    private void Run(IWorker<TJob> worker)
    {
        while (true)
        {
            try
            {
                while (TryTake(out Posted posted))
                {
                    End(posted.Tag, Do(worker, posted.Job));
                    _wakeUp.Signal();
                }
                return;
            }
            catch (Exception e)
            {
                // Nothing above throws unless the runtime is out of memory. The thread continues, because the next jobs may have no
                // other.
                Interlocked.CompareExchange(ref _firstCrash, e, null);
            }
        }
    }

    private int Do(IWorker<TJob> worker, in TJob job)
    {
        try
        {
            return worker.Do(job);
        }
        catch (Exception e)
        {
            Interlocked.CompareExchange(ref _firstCrash, e, null);
            return Crashed;
        }
    }

    private bool TryTake(out Posted posted)
    {
        lock (_posts)
        {
            while (_postedCount == 0 && !_stop) Monitor.Wait(_posts);
            posted = _posted[_postedFirst];
            if (_stop) return false;
            _posted[_postedFirst] = default;
            _postedFirst = (_postedFirst + 1) % Capacity;
            _postedCount--;
            return true;
        }
    }

    private void End(uint tag, int result)
    {
        lock (_ends)
        {
            _ended[(_endedFirst + _endedCount) % Capacity] = (tag, result);
            _endedCount++;
            Monitor.Pulse(_ends);
        }
    }
}
