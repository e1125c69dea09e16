using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>
/// Android's lock of the state files: flock on the folder ota below /metadata. A process that changes the update or its
/// partitions takes it exclusively.
/// </summary>
public sealed class MetadataLock : IDisposable
{
    private readonly int _fd;

    private MetadataLock(int fd) => _fd = fd;

    /// <summary>
    /// Takes the lock of the folder <paramref name="metadata"/>. Without a folder ota there is no update and nothing to lock. Exit code 76
    /// if another process has it.
    /// </summary>
    public static MetadataLock Take(string metadata, bool exclusive)
    {
        string folder = metadata + "/ota";
        int fd = Retry.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd is -Errno.ENOENT or -Errno.ENOTDIR) return new MetadataLock(-1);
        if (fd < 0) throw ErrnoPolicy.Failure(FailedCall.Open, fd, $"{folder} cannot be opened");
        int locked;
        do locked = Libc.Flock(fd, (exclusive ? Libc.LOCK_EX : Libc.LOCK_SH) | Libc.LOCK_NB);
        while (Retry.Interrupted(locked));
        if (locked == 0) return new MetadataLock(fd);
        _ = Libc.Close(fd);
        throw locked == -Errno.EAGAIN
            ? new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Lock, locked), $"{folder} is locked: another program reads or changes "
                + "the update; wait until it has ended")
            : ErrnoPolicy.Failure(FailedCall.Lock, locked, $"{folder} cannot be locked");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
    }
}
