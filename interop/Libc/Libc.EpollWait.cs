using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// epoll_wait(2) for one event. The timeout is in milliseconds; a negative one means no timeout. Returns 1, 0 after the timeout, or a
    /// negative errno.
    /// </summary>
    public static int EpollWait(int epoll, out uint events, out ulong data, int timeoutMilliseconds)
    {
        // Large enough for either layout.
        EpollEventArm64 aligned = default;
        EpollEventX64* packed = (EpollEventX64*)&aligned;
        int ready = epoll_wait(epoll, &aligned, 1, timeoutMilliseconds);
        if (ready <= 0) (events, data) = (0, 0);
        else if (RuntimeInformation.ProcessArchitecture == Architecture.X64) (events, data) = (packed->Events, packed->Data);
        else (events, data) = (aligned.Events, aligned.Data);
        return ready < 0 ? -Marshal.GetLastPInvokeError() : ready;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int epoll_wait(int epfd, void* events, int maxevents, int timeout);
}
