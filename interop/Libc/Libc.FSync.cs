using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>fsync(2): like fdatasync, but with the whole inode. Returns 0 or a negative errno.</summary>
    public static int FSync(int fd) => fsync(fd) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int fsync(int fd);
}
