using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>fsync(2) and fdatasync(2) of a file, a folder or a device, before the program publishes data that it wrote there.</summary>
public static class FileFlush
{
    /// <summary>
    /// Called on its thread before each flush, with the descriptor; a negative errno replaces the call. Null except in tests.
    /// </summary>
    [ThreadStatic]
    internal static Func<int, int>? Before;

    /// <summary>The descriptor cannot be flushed: its file system lacks the call, or writing through it is not permitted.</summary>
    public static bool IsLacking(int result) =>
        Errno.IsUnsupported(result) || result is -Errno.EINVAL or -Errno.EBADF or -Errno.EPERM or -Errno.EACCES or -Errno.EROFS;

    /// <summary>
    /// Makes durable the data written to the descriptor, and the metadata needed to read it. Returns 0 or a negative errno.
    /// </summary>
    public static int OfData(int fd) => Before?.Invoke(fd) is < 0 and int refused ? refused : Libc.FDataSync(fd);

    /// <summary>Makes the data and all metadata of the file durable. Returns 0 or a negative errno.</summary>
    public static int Of(int fd) => Before?.Invoke(fd) is < 0 and int refused ? refused : Libc.FSync(fd);
}
