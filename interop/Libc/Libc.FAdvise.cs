using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("fcntl.h")]
public static unsafe partial class Libc
{
    /// <summary>The pages are not needed soon: those that are clean and unused leave the page cache.</summary>
    public const int POSIX_FADV_DONTNEED = 4;

    /// <summary>
    /// posix_fadvise(3). Offset and length are in bytes; length 0 means up to the end of the file. Returns 0 or a negative errno (-ESPIPE
    /// for a pipe, which has no page cache).
    /// </summary>
    public static int FAdvise(int fd, long offset, long length, int advice) => -posix_fadvise(fd, offset, length, advice);

    [DllImport("libc")]
    private static extern int posix_fadvise(int fd, long offset, long len, int advice);
}
