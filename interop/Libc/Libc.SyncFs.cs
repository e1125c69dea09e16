using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// syncfs(2): writes back everything of the file system that <paramref name="fd"/> lies on. Returns 0 or a negative errno. Before Linux 5.8 it told no
    /// write-back errors, and FUSE and network file systems may answer 0 without having asked their server.
    /// </summary>
    public static int SyncFs(int fd) => syncfs(fd) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int syncfs(int fd);
}
