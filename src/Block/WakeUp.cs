using System;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Interrupts an <see cref="IBlockQueue.Wait"/> from another thread: a worker that finished a job, a signal handler, the control thread.
/// One queue listens to it. Signals before the last one was seen merge into one, so a woken queue must check every source of events.
/// </summary>
public sealed class WakeUp : IDisposable
{
    private readonly EventFd _event;
    private int _signalled;

    /// <summary>Makes the eventfd. Exit code 71 if the system refuses to make, write or read it: a wait for it would never end.</summary>
    public WakeUp()
    {
        // Blocking on purpose: a ring completes the read of a non-blocking descriptor with EAGAIN instead of waiting.
        _event = EventFd.Create(blocks: true);
        int refused = Try();
        if (refused >= 0) return;
        _event.Dispose();
        throw new SnapuserdException(ExitCode.OutOfResources,
            $"cannot use an eventfd: {ErrnoText.Of(refused)}; allow read and write in the sandbox");
    }

    /// <summary>
    /// The eventfd; a read of 8 bytes ends when it is signalled. A signal handler may add 1 to it, which is one more signal.
    /// </summary>
    public int Fd => _event.Fd;

    /// <summary>
    /// Wakes the queue's thread, now or at its next wait. From any thread; only the first of several signals costs a system call.
    /// </summary>
    public void Signal()
    {
        if (Interlocked.Exchange(ref _signalled, 1) != 0) return;
        // Adding 1 cannot overflow a counter that is at most 1.
        _ = _event.Signal();
    }

    /// <summary>
    /// Called after the queue has read the eventfd: from here on a signal is a new one. A full fence: work done before a merged signal is
    /// visible.
    /// </summary>
    internal void Taken() => Interlocked.Exchange(ref _signalled, 0);

    /// <summary>
    /// For a thread that has no queue: blocks until there is a signal or the timeout expires; −1 for no limit. True if there was a
    /// signal, which is consumed.
    /// </summary>
    public bool Wait(int milliseconds)
    {
        Span<PollFd> fds = [new PollFd { Fd = _event.Fd, Events = Libc.POLLIN }];
        return Libc.Poll(fds, milliseconds) > 0 && Take();
    }

    /// <summary>Consumes a signal if there is one, without blocking.</summary>
    internal bool TryTake()
    {
        if (Volatile.Read(ref _signalled) == 0) return false;
        return Take();
    }

    /// <summary>Blocks until there is a signal and consumes it. False when a system call was interrupted instead.</summary>
    internal bool Take()
    {
        if (_event.Drain() != sizeof(ulong)) return false;
        Taken();
        return true;
    }

    /// <summary>Signals and consumes the signal, as threads and queue will. A negative errno if a sandbox forbids it.</summary>
    private int Try()
    {
        int result = _event.Signal();
        if (result < 0) return result;
        do result = _event.Drain();
        while (Retry.Interrupted(result));
        return result;
    }

    /// <summary>Closes the eventfd; by then no queue may listen to it and no thread may signal it.</summary>
    public void Dispose() => _event.Dispose();
}
