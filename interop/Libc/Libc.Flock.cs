using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/file.h")]
public static unsafe partial class Libc
{
    public const int LOCK_SH = 1;
    public const int LOCK_EX = 2;
    public const int LOCK_NB = 4;
    public const int LOCK_UN = 8;

    /// <summary>
    /// flock(2). Returns 0, -EAGAIN when another open file holds the lock and LOCK_NB was given, or another negative errno.
    /// </summary>
    public static int Flock(int fd, int operation) => flock(fd, operation) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int flock(int fd, int operation);
}
