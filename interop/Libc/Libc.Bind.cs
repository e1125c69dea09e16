using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// bind(2) of a Unix socket to a path, which must not exist. Returns 0 or a negative errno; -EADDRINUSE when the path exists.
    /// </summary>
    public static int Bind(int fd, string path)
    {
        int result = UnixAddress.Of(path, out UnixAddress address);
        if (result < 0) return result;
        return bind(fd, &address, (uint)sizeof(UnixAddress)) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>
    /// bind(2) of a Unix socket to an abstract name (unix(7)), which the kernel frees when the socket is closed, however its process
    /// ends. Returns 0 or a negative errno; -EADDRINUSE when another socket of the network namespace has the name.
    /// </summary>
    public static int BindAbstract(int fd, string name)
    {
        int result = UnixAddress.OfAbstract(name, out UnixAddress address, out uint length);
        if (result < 0) return result;
        return bind(fd, &address, length) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int bind(int sockfd, void* addr, uint addrlen);
}
