using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// epoll_wait(2) for one event; the timeout in milliseconds, negative for none. Returns 1, 0 when the time is over, or a negative
    /// errno.
    /// </summary>
    public static int EpollWait(int epoll, out uint events, out ulong data, int timeoutMilliseconds)
    {
        byte* raw = stackalloc byte[16];
        int ready = epoll_wait(epoll, raw, 1, timeoutMilliseconds);
        (events, data) = ready > 0 ? (*(uint*)raw, Unsafe.ReadUnaligned<ulong>(raw + EpollDataOffset)) : (0, 0);
        return ready < 0 ? -Marshal.GetLastPInvokeError() : ready;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int epoll_wait(int epfd, void* events, int maxevents, int timeout);
}
