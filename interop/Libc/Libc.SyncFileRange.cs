using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    public const int SYNC_FILE_RANGE_WRITE = 2;

    /// <summary>
    /// sync_file_range(2); offset and length in bytes, length 0 to the end. With SYNC_FILE_RANGE_WRITE it starts the write-back of dirty
    /// pages and does not wait for it. The flags that wait also consume errors that the next fsync would have reported. Returns 0 or a
    /// negative errno (-ESPIPE for a descriptor that is neither file nor block device).
    /// </summary>
    public static int SyncFileRange(int fd, long offset, long length, int flags) =>
        sync_file_range(fd, offset, length, (uint)flags) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern int sync_file_range(int fd, long offset, long nbytes, uint flags);
}
