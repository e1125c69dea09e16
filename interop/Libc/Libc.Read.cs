using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>read(2). Returns the number of bytes read, 0 at the end, or a negative errno.</summary>
    public static nint Read(int fd, Span<byte> buffer)
    {
        fixed (byte* start = buffer)
        {
            nint done = read(fd, start, buffer.Length);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint read(int fd, byte* buf, nint count);
}
