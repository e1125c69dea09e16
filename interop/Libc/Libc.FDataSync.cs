using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// fdatasync(2): flushes data, size and the device's own cache. Returns 0 or a negative errno, after which the data may be lost
    /// although it still reads back.
    /// </summary>
    public static int FDataSync(int fd) => fdatasync(fd) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int fdatasync(int fd);
}
