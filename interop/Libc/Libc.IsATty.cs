using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>isatty(3): true for a terminal.</summary>
    public static bool IsATty(int fd) => isatty(fd) == 1;

    [DllImport("libc", SetLastError = true)]
    private static extern int isatty(int fd);
}
