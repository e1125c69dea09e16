using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Interrupts an <see cref="IBlockQueue.Wait"/> from another thread: a worker that finished a job, a signal handler, the control thread.
/// One queue listens to it. Signals before the last one was seen merge into one, so a woken queue must check every source of events.
/// </summary>
public sealed class WakeUp : IDisposable
{
    private readonly int _fd;
    private int _signalled;
    private bool _disposed;

    /// <summary>Makes the eventfd. Exit code 71 if the system refuses to make, write or read it: a wait for it would never end.</summary>
    public WakeUp()
    {
        // Blocking on purpose: a ring completes the read of a non-blocking descriptor with EAGAIN instead of waiting.
        _fd = Libc.EventFd(0, Libc.EFD_CLOEXEC);
        if (_fd < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make an eventfd: {Reason.Of(_fd)}");
        int refused = Try();
        if (refused >= 0) return;
        _ = Libc.Close(_fd);
        throw new SnapuserdException(ExitCode.OutOfResources,
            $"cannot use an eventfd: {Reason.Of(refused)}; allow read and write in the sandbox");
    }

    /// <summary>
    /// The eventfd; a read of 8 bytes ends when it is signalled. A signal handler may add 1 to it, which is one more signal.
    /// </summary>
    public int Fd => _fd;

    /// <summary>
    /// Wakes the queue's thread, now or at its next wait. From any thread; only the first of several signals costs a system call.
    /// </summary>
    public void Signal()
    {
        if (Interlocked.Exchange(ref _signalled, 1) != 0) return;
        ulong one = 1;
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(new ReadOnlySpan<ulong>(ref one));
        // Adding 1 cannot overflow a counter that is at most 1, so only a signal can interrupt this.
        while (Retry.Interrupted(Libc.Write(_fd, bytes))) { }
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
        Span<PollFd> fds = [new PollFd { Fd = _fd, Events = Libc.POLLIN }];
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
        ulong count = 0;
        if (Libc.Read(_fd, MemoryMarshal.AsBytes(new Span<ulong>(ref count))) != sizeof(ulong)) return false;
        Taken();
        return true;
    }

    /// <summary>Signals and consumes the signal, as threads and queue will. A negative errno if a sandbox forbids it.</summary>
    private int Try()
    {
        ulong value = 1;
        Span<byte> bytes = MemoryMarshal.AsBytes(new Span<ulong>(ref value));
        nint result;
        do result = Libc.Write(_fd, bytes);
        while (Retry.Interrupted(result));
        if (result < 0) return (int)result;
        do result = Libc.Read(_fd, bytes);
        while (Retry.Interrupted(result));
        return (int)result;
    }

    /// <summary>Closes the eventfd; by then no queue may listen to it and no thread may signal it.</summary>
    public void Dispose()
    {
        if (!_disposed) _ = Libc.Close(_fd);
        _disposed = true;
    }
}
