using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/epoll.h")]
public static unsafe partial class Libc
{
    public const int EPOLL_CLOEXEC = 0x80000;

    /// <summary>epoll_create1(2). Returns a descriptor or a negative errno.</summary>
    public static int EpollCreate1(int flags)
    {
        int fd = epoll_create1(flags);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int epoll_create1(int flags);
}
