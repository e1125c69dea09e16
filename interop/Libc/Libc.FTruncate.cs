using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>ftruncate(2); <paramref name="length"/> in bytes. Returns 0 or a negative errno.</summary>
    public static int FTruncate(int fd, long length) => ftruncate(fd, length) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int ftruncate(int fd, long length);
}
