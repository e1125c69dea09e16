using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>socketpair(2): two connected sockets. Returns 0 or a negative errno.</summary>
    public static int SocketPair(int family, int type, out int first, out int second)
    {
        int* fds = stackalloc int[2];
        (first, second) = (-1, -1);
        if (socketpair(family, type, 0, fds) < 0) return -Marshal.GetLastPInvokeError();
        (first, second) = (fds[0], fds[1]);
        return 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int socketpair(int domain, int type, int protocol, int* sv);
}
