using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A Unix socket that listens at a path and that only its owner may connect to. The file goes when this does, unless another server has taken the name.</summary>
public sealed class SocketFile : IDisposable
{
    /// <summary>Mode of the file: its owner's, for reading and writing.</summary>
    private const uint OwnerOnly = 0x180;

    /// <summary>Tries, 20 ms apart, for the folder's lock: whoever holds it needs it for three system calls. Somebody else may lock folders as well, and for long; then it goes on without.</summary>
    private const int LockTries = 25, TryMilliseconds = 20;

    private readonly string _path;
    private readonly (uint Major, uint Minor, ulong Inode) _file;

    private SocketFile(string path, int fd, (uint, uint, ulong) file) => (_path, Fd, _file) = (path, fd, file);

    /// <summary>The listening socket, which does not block; −1 once disposed.</summary>
    public int Fd { get; private set; }

    /// <summary>
    /// Listens at a path that does not exist, or is the socket of a server that has died. Exit code 64 for a path that is none, 73 when it cannot be made or is something
    /// else than a socket, 76 when a server listens there, 77 without permission, 71 without descriptors.
    /// </summary>
    public static SocketFile Listen(string path, int backlog)
    {
        int fd = Check(path, Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        try
        {
            // The file that bind makes gets the socket's mode: there is no moment in which others could connect, and no umask to be changed.
            Check(path, Libc.FChMod(fd, OwnerOnly));
            int bound = Libc.Bind(fd, path);
            if (bound == -Errno.EADDRINUSE) bound = BindAgain(path, fd);
            Check(path, bound);
            SocketFile file = new(path, fd, Identity(path) ?? default);
            Check(path, Libc.Listen(fd, backlog));
            return file;
        }
        catch
        {
            _ = Libc.Close(fd);
            throw;
        }
    }

    /// <summary>Listens no more. The file goes, unless it is that of a server which has taken the name meanwhile.</summary>
    public void Dispose()
    {
        if (Fd < 0) return;
        if (_file != default && Identity(_path) == _file) _ = Libc.Unlink(_path);
        _ = Libc.Close(Fd);
        Fd = -1;
    }

    /// <summary>Takes the name of a server that has died. Two that come at the same moment must not take it from each other, hence the lock.</summary>
    private static int BindAgain(string path, int fd)
    {
        int slash = path.LastIndexOf('/');
        string folder = slash < 0 ? "." : slash == 0 ? "/" : path[..slash];
        int locked = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_CLOEXEC);
        for (int tries = 0; locked >= 0 && tries < LockTries && Libc.Flock(locked, Libc.LOCK_EX | Libc.LOCK_NB) == -Errno.EAGAIN; tries++)
            _ = Libc.Poll(default, TryMilliseconds);
        try
        {
            RemoveStale(path);
            return Libc.Bind(fd, path);
        }
        finally
        {
            if (locked >= 0) _ = Libc.Close(locked);
        }
    }

    /// <summary>Removes the socket of a server that has died; whoever is alive has it accepted, or at least queued.</summary>
    private static void RemoveStale(string path)
    {
        int found = Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status);
        if (found == -Errno.ENOENT) return;
        Check(path, found);
        if ((status.Mode & (uint)Libc.S_IFMT) != Libc.S_IFSOCK) throw new SnapuserdException(ExitCode.CannotCreate, $"cannot make the socket {path}: there is something else of that name");
        int fd = Check(path, Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        int connected = Libc.Connect(fd, path);
        _ = Libc.Close(fd);
        if (connected == -Errno.ENOENT) return;
        if (connected != -Errno.ECONNREFUSED) throw new SnapuserdException(ExitCode.InUse, $"a server listens at {path} already");
        Check(path, Libc.Unlink(path));
    }

    private static (uint Major, uint Minor, ulong Inode)? Identity(string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status) < 0 ? null : (status.DevMajor, status.DevMinor, status.Ino);

    private static int Check(string path, int result)
    {
        if (result >= 0) return result;
        throw result switch
        {
            -Errno.ENAMETOOLONG => new SnapuserdException(ExitCode.Usage, $"the path of a socket has {UnixAddress.LongestPath} bytes at the most: {path}"),
            -Errno.EINVAL => new SnapuserdException(ExitCode.Usage, $"'{path}' is no path for a socket"),
            -Errno.EACCES or -Errno.EPERM or -Errno.EROFS => new SnapuserdException(ExitCode.Permission, $"cannot make the socket {path}: {Reason.Of(result)}"),
            -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM => new SnapuserdException(ExitCode.OutOfResources, $"cannot make the socket {path}: {Reason.Of(result)}"),
            -Errno.EADDRINUSE => new SnapuserdException(ExitCode.InUse, $"a server listens at {path} already"),
            _ => new SnapuserdException(ExitCode.CannotCreate, $"cannot make the socket {path}: {Reason.Of(result)}"),
        };
    }
}
