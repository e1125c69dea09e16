using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>pread(2). Returns the number of bytes read, fewer than requested at the end of the file, or a negative errno.</summary>
    public static nint PRead(int fd, nint buffer, nint count, long offset)
    {
        nint done = pread(fd, (byte*)buffer, count, offset);
        return done < 0 ? -Marshal.GetLastPInvokeError() : done;
    }

    /// <summary>pread(2) into a span.</summary>
    public static nint PRead(int fd, System.Span<byte> bytes, long offset)
    {
        fixed (byte* start = bytes) return PRead(fd, (nint)start, bytes.Length, offset);
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint pread(int fd, byte* buf, nint count, long offset);
}
