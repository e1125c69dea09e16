using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("signal.h")]
public static unsafe partial class Libc
{
    /// <summary>kill(2); signal 0 only tests whether the process exists. Returns 0 or a negative errno: -ESRCH when it does not.</summary>
    public static int Kill(int process, int number) => kill(process, number) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int kill(int pid, int sig);
}
