using System;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Lets any thread or signal handler wake a thread that blocks in <see cref="IBlockQueue.Wait"/>. One queue uses it.
/// Signals that arrive before the queue has taken the previous one merge with it, so a woken queue must check every source of events.
/// </summary>
public sealed class WakeUp : IDisposable
{
    private readonly EventFd _event;
    private int _signalled;

    /// <summary>
    /// Creates the eventfd, and tries one write and one read. Exit code 71 if the system refuses any of these, because a later wait would
    /// never end.
    /// </summary>
    public WakeUp()
    {
        // The descriptor must block: io_uring completes a read of a non-blocking one with EAGAIN instead of waiting.
        _event = EventFd.Create(blocks: true);
        int refused = Try();
        if (refused >= 0) return;
        _event.Dispose();
        throw new SnapuserdException(ExitCode.OutOfResources,
            $"cannot use an eventfd: {ErrnoText.Of(refused)}; allow read and write in the sandbox");
    }

    /// <summary>
    /// The eventfd. A read of 8 bytes blocks until <see cref="Signal"/> is called. A handler of a Unix signal, which cannot call it, adds 1
    /// to the eventfd instead.
    /// </summary>
    public int Fd => _event.Fd;

    /// <summary>
    /// Wakes the queue's thread, now or at its next wait. From any thread; only the first of several signals costs a system call.
    /// </summary>
    public void Signal()
    {
        if (Interlocked.Exchange(ref _signalled, 1) != 0) return;
        // Cannot block: every read resets the counter, and so few additions come between two reads that it stays far below its maximum.
        _ = _event.Signal();
    }

    /// <summary>
    /// Called after the queue has read the eventfd. The next <see cref="Signal"/> writes to the eventfd again. A full fence: the queue then
    /// sees all work that a thread stored before its signal was merged into this one.
    /// </summary>
    internal void Taken() => Interlocked.Exchange(ref _signalled, 0);

    /// <summary>
    /// For a thread without a queue. Blocks until a signal arrives or the timeout expires; −1 means no timeout. Returns true if it
    /// consumed a signal, and false after the timeout or an interrupted system call.
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

    /// <summary>Blocks until a signal arrives, and consumes it. Returns false if the read was interrupted or failed.</summary>
    internal bool Take()
    {
        if (_event.Drain() != sizeof(ulong)) return false;
        Taken();
        return true;
    }

    /// <summary>Writes to the eventfd and reads it. Returns a negative errno if a sandbox forbids either call.</summary>
    private int Try()
    {
        int result = _event.Signal();
        if (result < 0) return result;
        do result = _event.Drain();
        while (Retry.Interrupted(result));
        return result;
    }

    /// <summary>Closes the eventfd. No queue may still wait for it, and no thread may still signal it.</summary>
    public void Dispose() => _event.Dispose();
}
