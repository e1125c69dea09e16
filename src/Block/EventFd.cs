using System;
using System.Runtime.InteropServices;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>An eventfd(2): a counter that any thread raises, and that a poll or a read of its descriptor waits for.</summary>
public sealed class EventFd : IDisposable
{
    private readonly object _gate = new();

    private EventFd(int fd) => Fd = fd;

    /// <summary>The descriptor; −1 once it is closed.</summary>
    public int Fd { get; private set; }

    /// <summary>
    /// Makes an eventfd. A read of the counter while it is 0 waits if it <paramref name="blocks"/>, and fails with EAGAIN otherwise. Exit
    /// code 71 if no descriptor is left.
    /// </summary>
    public static EventFd Create(bool blocks = false)
    {
        int fd = Open(blocks);
        return fd >= 0 ? new EventFd(fd) : throw new SnapuserdException(ExitCode.OutOfResources,
            $"cannot make an eventfd: {ErrnoText.Of(fd)}");
    }

    /// <summary>Makes an eventfd whose reads do not block; null if no descriptor is left.</summary>
    public static EventFd? TryCreate()
    {
        int fd = Open(blocks: false);
        return fd >= 0 ? new EventFd(fd) : null;
    }

    /// <summary>
    /// Adds 1 to the counter. From any thread, and without effect once it is closed. Returns a negative errno if it fails.
    /// </summary>
    public int Signal()
    {
        ulong one = 1;
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(new ReadOnlySpan<ulong>(in one));
        nint result = 0;
        // After the close, another file may have the descriptor's number.
        lock (_gate)
        {
            if (Fd < 0) return 0;
            do result = Libc.Write(Fd, bytes);
            while (Retry.Interrupted(result));
        }
        return (int)result;
    }

    /// <summary>
    /// Resets the counter to 0. Returns 8 or a negative errno. Does not repeat a read after -EINTR, so that a signal can end the wait.
    /// </summary>
    public int Drain()
    {
        ulong count = 0;
        return (int)Libc.Read(Fd, MemoryMarshal.AsBytes(new Span<ulong>(ref count)));
    }

    /// <summary>Closes the eventfd; no thread may wait for it.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (Fd >= 0) _ = Libc.Close(Fd);
            Fd = -1;
        }
    }

    private static int Open(bool blocks) => Libc.EventFd(0, Libc.EFD_CLOEXEC | (blocks ? 0 : Libc.EFD_NONBLOCK));
}
