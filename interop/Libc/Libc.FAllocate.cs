using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("linux/falloc.h")]
public static unsafe partial class Libc
{
    public const int FALLOC_FL_KEEP_SIZE = 1;
    public const int FALLOC_FL_PUNCH_HOLE = 2;
    public const int FALLOC_FL_ZERO_RANGE = 0x10;

    /// <summary>
    /// fallocate(2). Offset and length are in bytes. Returns 0 or a negative errno: -EOPNOTSUPP if the file system does not support the
    /// mode.
    /// </summary>
    public static int FAllocate(int fd, int mode, long offset, long length) =>
        fallocate(fd, mode, offset, length) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int fallocate(int fd, int mode, long offset, long len);
}
