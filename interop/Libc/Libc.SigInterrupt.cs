using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("signal.h")]
public static unsafe partial class Libc
{
    public const int SIGUSR2 = 12;

    /// <summary>
    /// siginterrupt(3): from now on a signal with a handler interrupts a system call with EINTR instead of restarting it. Returns 0 or a
    /// negative errno.
    /// </summary>
    public static int SigInterrupt(int number) => siginterrupt(number, 1) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int siginterrupt(int sig, int flag);
}
