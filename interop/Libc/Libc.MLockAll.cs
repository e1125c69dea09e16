using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/mman.h")]
public static unsafe partial class Libc
{
    public const int MCL_CURRENT = 1;
    public const int MCL_FUTURE = 2;
    public const int MCL_ONFAULT = 4;

    /// <summary>mlockall(2): keeps the process in memory. Returns 0 or a negative errno.</summary>
    public static int MLockAll(int flags) => mlockall(flags) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int mlockall(int flags);
}
