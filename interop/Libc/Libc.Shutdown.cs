using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/socket.h")]
public static unsafe partial class Libc
{
    public const int SHUT_RD = 0;
    public const int SHUT_WR = 1;
    public const int SHUT_RDWR = 2;

    /// <summary>shutdown(2): every blocked call on the socket returns. Returns 0 or a negative errno.</summary>
    public static int Shutdown(int fd, int how) => shutdown(fd, how) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int shutdown(int sockfd, int how);
}
