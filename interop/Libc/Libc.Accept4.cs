using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// accept4(2) without the peer's address; <paramref name="flags"/> may have SOCK_CLOEXEC and SOCK_NONBLOCK. Returns a descriptor or a
    /// negative errno.
    /// </summary>
    public static int Accept4(int fd, int flags)
    {
        int accepted = accept4(fd, null, null, flags);
        return accepted < 0 ? -Marshal.GetLastPInvokeError() : accepted;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int accept4(int sockfd, void* addr, uint* addrlen, int flags);
}
