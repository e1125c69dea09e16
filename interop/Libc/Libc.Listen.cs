using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>listen(2). Returns 0 or a negative errno.</summary>
    public static int Listen(int fd, int backlog) => listen(fd, backlog) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int listen(int sockfd, int backlog);
}
