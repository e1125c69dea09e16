using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    public const int SYNC_FILE_RANGE_WRITE = 2;

    /// <summary>
    /// sync_file_range(2). Offset and length are in bytes; length 0 means up to the end of the file. SYNC_FILE_RANGE_WRITE starts the
    /// write-back of dirty pages and does not wait until they are written. Do not use the flags that wait: they consume write-back errors,
    /// which the next fsync then does not report. Returns 0 or a negative errno (-ESPIPE for a pipe, a socket or a
    /// character device).
    /// </summary>
    public static int SyncFileRange(int fd, long offset, long length, int flags) =>
        sync_file_range(fd, offset, length, (uint)flags) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int sync_file_range(int fd, long offset, long nbytes, uint flags);
}
