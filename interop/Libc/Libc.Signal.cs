using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("signal.h")]
public static unsafe partial class Libc
{
    public const int SIGKILL = 9;
    public const int SIGUSR1 = 10;
    public const int SIGPIPE = 13;
    public const int SIGTERM = 15;
    public const int SIGXFSZ = 25;
    public const int SIGPWR = 30;

    /// <summary>signal(2) with SIG_IGN: the signal is dropped from now on. Returns 0 or a negative errno.</summary>
    public static int IgnoreSignal(int number)
    {
        const nint ignore = 1;
        return signal(number, ignore) == -1 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint signal(int signum, nint handler);
}
