using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// Simulates a device whose flush takes some milliseconds longer. The completion of a flush is held back, and a thread wakes the queue when
/// it is due. Requests after the flush continue meanwhile, as on a device.
/// </summary>
internal sealed class SlowFlushQueue : IBlockQueue
{
    private readonly IBlockQueue _inner;
    private readonly WakeUp _wakeUp;
    private readonly long _delay;
    private readonly HashSet<uint> _flushes = [];
    private readonly Queue<(BlockCompletion End, long Due)> _held = new();
    private readonly BlockingTimes _times = new();
    private readonly Thread _thread;

    internal SlowFlushQueue(IBlockQueue inner, WakeUp wakeUp, int milliseconds)
    {
        _inner = inner;
        _wakeUp = wakeUp;
        _delay = milliseconds * Stopwatch.Frequency / 1000;
        _thread = new Thread(Wake) { IsBackground = true };
        _thread.Start();
    }

    public int Depth => _inner.Depth;

    public bool TryQueue(in BlockRequest request)
    {
        if (!_inner.TryQueue(request)) return false;
        if (request.Verb == BlockVerb.Flush) _flushes.Add(request.Tag);
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        while (true)
        {
            if (_held.TryPeek(out (BlockCompletion End, long Due) first) && first.Due <= Stopwatch.GetTimestamp())
            {
                _held.Dequeue();
                completions[0] = first.End;
                return 1;
            }
            int count = _inner.Wait(completions), kept = 0;
            if (count < 0) return count;
            foreach (BlockCompletion completion in completions[..count])
            {
                if (!_flushes.Remove(completion.Tag)) { completions[kept++] = completion; continue; }
                long due = Stopwatch.GetTimestamp() + _delay;
                _held.Enqueue((completion, due));
                _times.Add(due);
            }
            // The wake-up may be for the caller, which then checks all its conditions and calls again.
            if (kept > 0 || (count == 0 && !(_held.TryPeek(out first) && first.Due <= Stopwatch.GetTimestamp()))) return kept;
        }
    }

    public int Perform(in BlockRequest request) => _inner.Perform(request);

    public void Dispose() => Stop();

    /// <summary>Ends the thread; nothing is in flight.</summary>
    internal void Stop()
    {
        _times.Close();
        _thread.Join();
    }

    private void Wake()
    {
        while (_times.Next() is { } due)
        {
            // The thread sleeps until 1.5 ms before the due time and then spins: a sleep that is too long would count as device time.
            for (long left; (left = due - Stopwatch.GetTimestamp()) > 0;)
            {
                int milliseconds = (int)(left * 1000 / Stopwatch.Frequency);
                if (milliseconds > 1) _ = Libc.Poll(default, milliseconds - 1);
                else Thread.Yield();
            }
            _wakeUp.Signal();
        }
    }

    private sealed class BlockingTimes
    {
        private readonly Queue<long> _queue = new();
        private bool _closed;

        internal void Add(long time)
        {
            lock (_queue)
            {
                _queue.Enqueue(time);
                Monitor.Pulse(_queue);
            }
        }

        internal long? Next()
        {
            lock (_queue)
            {
                while (_queue.Count == 0 && !_closed) Monitor.Wait(_queue);
                return _queue.Count == 0 ? null : _queue.Dequeue();
            }
        }

        internal void Close()
        {
            lock (_queue)
            {
                _closed = true;
                Monitor.Pulse(_queue);
            }
        }
    }
}
