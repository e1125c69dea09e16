using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/epoll.h")]
public static unsafe partial class Libc
{
    public const int EPOLL_CTL_ADD = 1;
    public const int EPOLL_CTL_DEL = 2;
    public const int EPOLL_CTL_MOD = 3;

    public const uint EPOLLIN = 1;
    public const uint EPOLLOUT = 4;
    public const uint EPOLLERR = 8;
    public const uint EPOLLHUP = 16;
    /// <summary>One event, then none until EPOLL_CTL_MOD: one thread at a time gets it.</summary>
    public const uint EPOLLONESHOT = 1u << 30;

    /// <summary>
    /// Bytes before the data of a struct epoll_event (events:32, data:64). The only struct here whose layout depends on the architecture:
    /// packed on x86-64, padded elsewhere.
    /// </summary>
    private static int EpollDataOffset => RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;

    /// <summary>epoll_ctl(2). <paramref name="data"/> comes back with every event. Returns 0 or a negative errno.</summary>
    public static int EpollCtl(int epoll, int operation, int fd, uint events, ulong data)
    {
        byte* raw = stackalloc byte[16];
        *(uint*)raw = events;
        Unsafe.WriteUnaligned(raw + EpollDataOffset, data);
        return epoll_ctl(epoll, operation, fd, raw) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int epoll_ctl(int epfd, int op, int fd, void* @event);
}
