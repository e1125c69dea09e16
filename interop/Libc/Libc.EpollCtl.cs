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
    /// <summary>One event, then none until EPOLL_CTL_MOD, so only one thread at a time gets it.</summary>
    public const uint EPOLLONESHOT = 1u << 30;

    /// <summary>epoll_ctl(2). <paramref name="data"/> is returned with every event. Returns 0 or a negative errno.</summary>
    public static int EpollCtl(int epoll, int operation, int fd, uint events, ulong data)
    {
        EpollEventX64 packed = new() { Events = events, Data = data };
        EpollEventArm64 aligned = new() { Events = events, Data = data };
        void* entry = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? &packed : &aligned;
        return epoll_ctl(epoll, operation, fd, entry) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int epoll_ctl(int epfd, int op, int fd, void* @event);
}
