using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>fchown(2). Returns 0 or a negative errno.</summary>
    public static int FChOwn(int fd, uint user, uint group) => fchown(fd, user, group) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int fchown(int fd, uint owner, uint group);
}
