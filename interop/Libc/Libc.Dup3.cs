using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// dup3(2): atomically makes <paramref name="newFd"/> a copy of <paramref name="fd"/>. Returns it or a negative errno.
    /// </summary>
    public static int Dup3(int fd, int newFd, int flags)
    {
        int result = dup3(fd, newFd, flags);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int dup3(int oldfd, int newfd, int flags);
}
