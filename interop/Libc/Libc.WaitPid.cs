using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/wait.h")]
public static unsafe partial class Libc
{
    private const int P_PID = 1;
    private const int WNOHANG = 1;
    private const int WEXITED = 4;
    private const int WNOWAIT = 0x1000000;

    /// <summary>
    /// Blocks until a child has ended, but does not reap it; its PID is not reused until <see cref="WaitPid"/> does. Returns 0 or a
    /// negative errno.
    /// </summary>
    public static int WaitForEnd(int child) => waitid(P_PID, child, null, WEXITED | WNOWAIT) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    /// <summary>
    /// Reaps an ended child. Returns 0 or a negative errno. <paramref name="code"/> is its exit code, or −1 if a signal killed it,
    /// whose number is <paramref name="signal"/>.
    /// </summary>
    public static int WaitPid(int child, out int code, out int signal)
    {
        int result = Wait(child, 0, out code, out signal);
        return result < 0 ? result : 0;
    }

    /// <summary>
    /// Reaps a child if it has ended, without waiting. Returns the child's PID, 0 while it lives, or a negative errno.
    /// </summary>
    public static int TryWaitPid(int child, out int code, out int signal) => Wait(child, WNOHANG, out code, out signal);

    private static int Wait(int child, int options, out int code, out int signal)
    {
        int status = 0;
        int result = waitpid(child, &status, options);
        signal = status & 0x7f;
        code = signal == 0 ? (status >> 8) & 0xff : -1;
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int waitid(int idtype, int id, void* info, int options);

    [DllImport("libc", SetLastError = true)]
    private static extern int waitpid(int pid, int* status, int options);
}
