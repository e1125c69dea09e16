using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// sendto(2) to the Unix socket <paramref name="path"/>; a leading '@' marks a name of the abstract name space (unix(7)). Returns the
    /// bytes sent or a negative errno.
    /// </summary>
    public static nint SendTo(int fd, ReadOnlySpan<byte> bytes, int flags, string path)
    {
        int encoded = UnixAddress.Of(path, out UnixAddress address);
        if (encoded < 0) return encoded;
        // An abstract name extends to the end of the address, so the length must be exact. A path ends with a zero; more zeros do no harm.
        int length = sizeof(UnixAddress);
        if (address.Path[0] == (byte)'@')
        {
            length = sizeof(ushort) + new ReadOnlySpan<byte>(address.Path, UnixAddress.LongestPath + 1).IndexOf((byte)0);
            address.Path[0] = 0;
        }
        fixed (byte* data = bytes)
        {
            nint sent = sendto(fd, data, bytes.Length, flags, (byte*)&address, (uint)length);
            return sent < 0 ? -Marshal.GetLastPInvokeError() : sent;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint sendto(int sockfd, byte* buf, nint len, int flags, byte* dest_addr, uint addrlen);
}
