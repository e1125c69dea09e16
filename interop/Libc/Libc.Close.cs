using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>close(2). Returns 0 or a negative errno; the descriptor is gone either way and must not be closed again.</summary>
    public static int Close(int fd) => close(fd) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int close(int fd);
}
