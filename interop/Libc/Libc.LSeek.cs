using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("unistd.h")]
public static unsafe partial class Libc
{
    public const int SEEK_DATA = 3;
    public const int SEEK_HOLE = 4;

    /// <summary>
    /// lseek(2). Returns the new position in bytes or a negative errno; -ENXIO when SEEK_DATA finds no data after
    /// <paramref name="offset"/>.
    /// </summary>
    public static long LSeek(int fd, long offset, int whence)
    {
        long position = lseek(fd, offset, whence);
        return position < 0 ? -Marshal.GetLastPInvokeError() : position;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern long lseek(int fd, long offset, int whence);
}
