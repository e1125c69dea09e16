using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/socket.h")]
[LibraryHeader("linux/netlink.h")]
public static unsafe partial class Libc
{
    public const int AF_UNIX = 1;
    public const int AF_NETLINK = 16;
    public const int SOCK_STREAM = 1;
    public const int SOCK_DGRAM = 2;
    public const int SOCK_RAW = 3;
    public const int SOCK_SEQPACKET = 5;
    public const int SOCK_CLOEXEC = 0x80000;
    public const int SOCK_NONBLOCK = 0x800;
    /// <summary>The protocol of a netlink socket to families that are identified by name.</summary>
    public const int NETLINK_GENERIC = 16;

    /// <summary>socket(2). Returns a descriptor or a negative errno.</summary>
    public static int Socket(int family, int type, int protocol)
    {
        int fd = socket(family, type, protocol);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int socket(int domain, int type, int protocol);
}
