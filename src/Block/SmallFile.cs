using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Files that are read completely: tables, and files of /proc, whose length is unknown before they are read.</summary>
public static class SmallFile
{
    /// <summary>
    /// The bytes of a file, at most <paramref name="most"/> + 1; null if it does not exist. Other errors have the exit codes of
    /// <see cref="FailedCall.Open"/>. With <paramref name="keepsAccessTime"/> the file's access time stays, if its owner is this user.
    /// </summary>
    public static byte[]? Read(string path, int most, bool keepsAccessTime = false)
    {
        const int flags = Libc.O_RDONLY | Libc.O_CLOEXEC | Libc.O_NOCTTY;
        int fd = keepsAccessTime ? OpenKeepingAccessTime(path, flags) : Libc.OpenAt(Libc.AT_FDCWD, path, flags);
        if (fd is -Errno.ENOENT or -Errno.ENOTDIR) return null;
        if (fd < 0) throw Bad(path, fd);
        byte[] bytes = new byte[most + 1];
        int length = 0;
        int tries = 0;
        nint read;
        do
        {
            read = Libc.Read(fd, bytes.AsSpan(length));
            if (read > 0) length += (int)read;
        }
        while ((read > 0 && length < bytes.Length) || Retry.Again(read, ref tries));
        _ = Libc.Close(fd);
        if (read < 0) throw Bad(path, (int)read);
        return bytes[..length];
    }

    /// <summary>Opens a file or folder whose access time stays when it is read. A descriptor or a negative errno.</summary>
    public static int OpenKeepingAccessTime(string path, int flags)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, path, flags | Libc.O_NOATIME);
        return fd == -Errno.EPERM ? Retry.OpenAt(Libc.AT_FDCWD, path, flags) : fd;
    }

    private static SnapuserdException Bad(string path, int errno) =>
        ErrnoPolicy.Failure(FailedCall.Open, errno, $"{path} cannot be read");
}
