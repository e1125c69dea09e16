using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// syncfs(2): writes back the whole file system of <paramref name="fd"/>. Returns 0 or a negative errno. Before Linux 5.8 it did not
    /// report write-back errors, and FUSE and network file systems may return 0 without asking their server.
    /// </summary>
    public static int SyncFs(int fd) => syncfs(fd) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int syncfs(int fd);
}
