using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// tgkill(2): sends a signal to one thread of this process. Returns 0 or a negative errno, -ESRCH if the thread has ended.
    /// </summary>
    public static int TgKill(int process, int thread, int number) =>
        tgkill(process, thread, number) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int tgkill(int tgid, int tid, int sig);
}
