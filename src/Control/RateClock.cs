using System;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Control;

/// <summary>
/// Wakes a rate-limited merge fifty times a second, on its own thread: the engine has no timer, so it would not continue by itself.
/// </summary>
public sealed class RateClock : IDisposable
{
    private const int Milliseconds = 20;

    private readonly ManualResetEventSlim _end = new();
    private readonly Thread _thread;

    /// <summary>Starts the thread. Exit code 71 if the system has no thread left. <paramref name="wakeUp"/> must outlive it.</summary>
    public RateClock(WakeUp wakeUp) => _thread = WorkerThread.Start("rate", StackSize.Small, () => Run(wakeUp));

    /// <summary>Ends the thread and waits for it.</summary>
    public void Dispose()
    {
        _end.Set();
        _thread.Join();
        _end.Dispose();
    }

    private void Run(WakeUp wakeUp)
    {
        while (!_end.Wait(Milliseconds)) wakeUp.Signal();
    }
}
