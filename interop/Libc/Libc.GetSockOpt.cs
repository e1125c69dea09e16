using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Identity of a Unix socket's peer, as it was when the connection was made.</summary>
[CType("struct ucred")]
[LibraryHeader("sys/socket.h")]
[StructLayout(LayoutKind.Sequential)]
public struct PeerCredentials
{
    public int Pid;
    public uint Uid;
    public uint Gid;
}

public static unsafe partial class Libc
{
    /// <summary>A <see cref="PeerCredentials"/>.</summary>
    public const int SO_PEERCRED = 17;

    /// <summary>getsockopt(2) of an option of a fixed length. Returns 0 or a negative errno.</summary>
    public static int GetSockOpt<T>(int fd, int level, int option, out T value) where T : unmanaged
    {
        value = default;
        uint length = (uint)sizeof(T);
        fixed (T* target = &value)
            return getsockopt(fd, level, option, target, &length) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int getsockopt(int sockfd, int level, int optname, void* optval, uint* optlen);
}
