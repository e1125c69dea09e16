using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>fchmod(2). Returns 0 or a negative errno.</summary>
    public static int FChMod(int fd, uint mode) => fchmod(fd, mode) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int fchmod(int fd, uint mode);
}
