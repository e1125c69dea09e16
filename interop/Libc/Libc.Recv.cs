using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/socket.h")]
public static unsafe partial class Libc
{
    public const int MSG_DONTWAIT = 0x40;
    /// <summary>A closed peer causes EPIPE and no signal.</summary>
    public const int MSG_NOSIGNAL = 0x4000;

    /// <summary>recv(2). Returns the number of bytes received, 0 when the peer has closed, or a negative errno.</summary>
    public static nint Recv(int fd, Span<byte> buffer, int flags)
    {
        fixed (byte* start = buffer)
        {
            nint done = recv(fd, start, buffer.Length, flags);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint recv(int sockfd, byte* buf, nint len, int flags);
}
