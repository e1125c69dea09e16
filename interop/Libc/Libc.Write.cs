using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>write(2). Returns the number of bytes written or a negative errno.</summary>
    public static nint Write(int fd, ReadOnlySpan<byte> buffer)
    {
        fixed (byte* start = buffer)
        {
            nint done = write(fd, start, buffer.Length);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint write(int fd, byte* buf, nint count);
}
