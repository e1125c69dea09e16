using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>pwrite(2). Returns the number of bytes written or a negative errno.</summary>
    public static nint PWrite(int fd, nint buffer, nint count, long offset)
    {
        nint done = pwrite(fd, (byte*)buffer, count, offset);
        return done < 0 ? -Marshal.GetLastPInvokeError() : done;
    }

    /// <summary>pwrite(2) of a span.</summary>
    public static nint PWrite(int fd, System.ReadOnlySpan<byte> bytes, long offset)
    {
        fixed (byte* start = bytes) return PWrite(fd, (nint)start, bytes.Length, offset);
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint pwrite(int fd, byte* buf, nint count, long offset);
}
