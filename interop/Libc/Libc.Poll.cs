using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>A descriptor monitored by poll(2).</summary>
[CType("struct pollfd")]
[LibraryHeader("poll.h")]
[StructLayout(LayoutKind.Sequential)]
public struct PollFd
{
    public int Fd;
    public short Events;
    [CName("revents")]
    public short ReturnedEvents;
}

[LibraryHeader("poll.h")]
public static unsafe partial class Libc
{
    public const short POLLIN = 1;
    public const short POLLOUT = 4;
    public const short POLLERR = 8;
    public const short POLLHUP = 16;
    public const short POLLNVAL = 32;
    public const short POLLRDHUP = 0x2000;

    /// <summary>
    /// poll(2). The timeout is in milliseconds; a negative one means no timeout. Returns the number of descriptors with events, 0 after the
    /// timeout, or a negative errno.
    /// </summary>
    public static int Poll(Span<PollFd> fds, int timeoutMilliseconds)
    {
        fixed (PollFd* start = fds)
        {
            int ready = poll(start, (nuint)fds.Length, timeoutMilliseconds);
            return ready < 0 ? -Marshal.GetLastPInvokeError() : ready;
        }
    }

    /// <summary>Sleeps; a signal with a handler ends it early.</summary>
    public static void Sleep(int milliseconds) => _ = poll(null, 0, milliseconds);

    [DllImport("libc", SetLastError = true)]
    private static extern int poll(PollFd* fds, nuint nfds, int timeout);
}
