using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    public const int F_GETFD = 1;
    public const int F_SETFD = 2;
    public const int F_GETFL = 3;
    public const int F_SETFL = 4;

    /// <summary>fcntl(2) for the commands that take an integer. Returns the command's value or a negative errno.</summary>
    public static int Fcntl(int fd, int command, int argument)
    {
        int result = fcntl(fd, command, argument);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int fcntl(int fd, int cmd, nint arg);
}
