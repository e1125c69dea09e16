using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>send(2). Returns the number of bytes sent, or a negative errno.</summary>
    public static nint Send(int fd, ReadOnlySpan<byte> buffer, int flags)
    {
        fixed (byte* start = buffer)
        {
            nint done = send(fd, start, buffer.Length, flags);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint send(int sockfd, byte* buf, nint len, int flags);
}
