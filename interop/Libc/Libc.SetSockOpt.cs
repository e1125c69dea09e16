using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/socket.h")]
public static unsafe partial class Libc
{
    public const int SOL_SOCKET = 1;
    /// <summary>An int: how many bytes may wait in the socket. The kernel limits it to net.core.wmem_max and then doubles it.</summary>
    public const int SO_SNDBUF = 7;
    /// <summary>A <see cref="TimeVal"/>: the time after which a receive ends with EAGAIN; zero for no limit.</summary>
    public const int SO_RCVTIMEO = 20;
    /// <summary>The same as <see cref="SO_SNDBUF"/> without the limit, for processes with CAP_NET_ADMIN.</summary>
    public const int SO_SNDBUFFORCE = 32;

    /// <summary>setsockopt(2). Returns 0 or a negative errno.</summary>
    public static int SetSockOpt<T>(int fd, int level, int option, T value) where T : unmanaged =>
        setsockopt(fd, level, option, &value, (uint)sizeof(T)) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int setsockopt(int sockfd, int level, int optname, void* optval, uint optlen);
}
