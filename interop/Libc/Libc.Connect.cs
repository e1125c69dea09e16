using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// connect(2) to the Unix socket at a path. Returns 0 or a negative errno; -ECONNREFUSED when no process listens there any more.
    /// </summary>
    public static int Connect(int fd, string path)
    {
        int result = UnixAddress.Of(path, out UnixAddress address);
        if (result < 0) return result;
        return connect(fd, &address, (uint)sizeof(UnixAddress)) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>
    /// connect(2) to the Unix socket of an abstract name. Returns 0 or a negative errno; -ECONNREFUSED when no process listens there.
    /// </summary>
    public static int ConnectAbstract(int fd, string name)
    {
        int result = UnixAddress.OfAbstract(name, out UnixAddress address, out uint length);
        if (result < 0) return result;
        return connect(fd, &address, length) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int connect(int sockfd, void* addr, uint addrlen);
}
