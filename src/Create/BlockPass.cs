using System;
using System.Runtime.ExceptionServices;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>
/// Does the tasks of one thread. Tasks must be independent, so that the result does not depend on which thread does which task.
/// </summary>
internal interface IPassWorker : IDisposable
{
    /// <summary>Does one task.</summary>
    void Do(long task);
}

/// <summary>
/// Distributes numbered tasks in ascending order to its own threads and waits for all of them. The first exception of a worker ends the
/// pass and is thrown to the caller; a stop flag ends it with exit code 75.
/// </summary>
internal sealed class BlockPass
{
    private readonly object _lock = new();
    private readonly long _tasks;
    private readonly StopFlag? _stop;
    private long _next;
    private long _done;
    private int _running;
    private Exception? _failure;

    private BlockPass(long tasks, StopFlag? stop) => (_tasks, _stop) = (tasks, stop);

    /// <summary>
    /// Runs tasks 0 … <paramref name="tasks"/> − 1 on at most <paramref name="threads"/> threads. <paramref name="progress"/> receives the
    /// number of finished tasks, on this thread.
    /// </summary>
    public static void Run(long tasks, int threads, Func<IPassWorker> makeWorker, StopFlag? stop, Action<long>? progress)
    {
        if (tasks == 0) return;
        var pass = new BlockPass(tasks, stop);
        pass.Run((int)Math.Min(tasks, threads), makeWorker, progress);
    }

    private void Run(int threads, Func<IPassWorker> makeWorker, Action<long>? progress)
    {
        var workers = new IPassWorker[threads];
        var started = new Thread[threads];
        try
        {
            for (int i = 0; i < threads; i++) workers[i] = makeWorker();
            for (int i = 0; i < threads; i++)
            {
                IPassWorker worker = workers[i];
                string name = $"create {i}";
                lock (_lock) _running++;
                if (WorkerThread.TryStart(name, StackSize.Usual, () => Work(worker)) is { } thread)
                {
                    started[i] = thread;
                    continue;
                }
                lock (_lock) _running--;
                throw WorkerThread.CannotStart(name, "try fewer --threads");
            }
            Wait(progress);
            progress?.Invoke(_done);
        }
        finally
        {
            // An exception above may have ended the pass early. No thread takes another task, and a worker's buffers are freed only after
            // its thread has ended.
            lock (_lock) _next = _tasks;
            foreach (Thread? thread in started) thread?.Join();
            foreach (IPassWorker? worker in workers) worker?.Dispose();
        }
        if (_failure is SnapuserdException known) throw new SnapuserdException(known.Code, known.Message);
        if (_failure != null) ExceptionDispatchInfo.Throw(_failure);
        if (_done < _tasks) throw new SnapuserdException(ExitCode.Interrupted, "stopped before the images were compared");
    }

    private void Wait(Action<long>? progress)
    {
        while (true)
        {
            long done;
            lock (_lock)
            {
                if (_running == 0) break;
                Monitor.Wait(_lock);
                done = _done;
            }
            progress?.Invoke(done);
        }
    }

    private void Work(IPassWorker worker)
    {
        try
        {
            while (TryTake(out long task))
            {
                worker.Do(task);
                lock (_lock)
                {
                    _done++;
                    Monitor.Pulse(_lock);
                }
            }
        }
        catch (Exception e)
        {
            lock (_lock)
            {
                _failure ??= e;
                _next = _tasks;
            }
        }
        lock (_lock)
        {
            _running--;
            Monitor.Pulse(_lock);
        }
    }

    private bool TryTake(out long task)
    {
        lock (_lock)
        {
            task = _next;
            if (task >= _tasks || _stop is { Requested: true }) return false;
            _next++;
            return true;
        }
    }
}
