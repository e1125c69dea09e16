using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// A Unix socket that listens at a path and accepts connections from its owner only. Disposing of it removes the file, unless another
/// server has taken the name.
/// </summary>
public sealed class SocketFile : IDisposable
{
    /// <summary>
    /// Attempts for the folder's lock, 20 ms apart. Another server holds the lock for three system calls only. If another program holds it
    /// longer, this server continues without the lock.
    /// </summary>
    private const int LockTries = 25, TryMilliseconds = 20;

    private readonly string _path;
    private readonly (uint Major, uint Minor, ulong Inode) _file;

    private SocketFile(string path, int fd, (uint, uint, ulong) file) => (_path, Fd, _file) = (path, fd, file);

    /// <summary>The listening socket, non-blocking; −1 once disposed.</summary>
    public int Fd { get; private set; }

    /// <summary>
    /// Listens at a path that does not exist, or is the socket of a server that has died. Exit code 64 for an invalid path, 71 if no
    /// descriptor is left, 73 when the socket cannot be made or the path is not a socket, 76 when a server listens there.
    /// </summary>
    public static SocketFile Listen(string path, int backlog)
    {
        int fd = Check(path, Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        try
        {
            // bind gives the new file the socket's mode. So another user can never connect, and the umask need not change.
            Check(path, Libc.FChMod(fd, Modes.PrivateFile));
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

    /// <summary>Stops listening. Removes the file, unless it now belongs to a server that has taken the name.</summary>
    public void Dispose()
    {
        if (Fd < 0) return;
        if (_file != default && Identity(_path) == _file) _ = Libc.Unlink(_path);
        _ = Libc.Close(Fd);
        Fd = -1;
    }

    /// <summary>
    /// Takes over the name of a server that has died. The lock keeps two servers that start at once from taking it from each other.
    /// </summary>
    private static int BindAgain(string path, int fd)
    {
        int slash = path.LastIndexOf('/');
        string folder = slash < 0 ? "." : slash == 0 ? "/" : path[..slash];
        int locked = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_CLOEXEC);
        for (int tries = 0; locked >= 0 && tries < LockTries && Libc.Flock(locked, Libc.LOCK_EX | Libc.LOCK_NB) == -Errno.EAGAIN; tries++)
            Libc.Sleep(TryMilliseconds);
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

    /// <summary>
    /// Removes the socket of a dead server. While a server lives, the kernel accepts or queues a connection to its socket.
    /// </summary>
    private static void RemoveStale(string path)
    {
        int found = Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status);
        if (found == -Errno.ENOENT) return;
        Check(path, found);
        if ((status.Mode & (uint)Libc.S_IFMT) != Libc.S_IFSOCK)
            throw new SnapuserdException(ExitCode.CannotCreate, $"cannot make the socket {path}: it exists and is not a socket");
        int fd = Check(path, Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        int connected = Libc.Connect(fd, path);
        _ = Libc.Close(fd);
        if (connected == -Errno.ENOENT) return;
        // Any other result comes from the socket of a live server.
        if (connected != -Errno.ECONNREFUSED) Check(path, -Errno.EADDRINUSE);
        Check(path, Libc.Unlink(path));
    }

    private static (uint Major, uint Minor, ulong Inode)? Identity(string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status) < 0 ? null
            : (status.DevMajor, status.DevMinor, status.Ino);

    private static int Check(string path, int result)
    {
        if (result >= 0) return result;
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Create, result), result switch
        {
            -Errno.ENAMETOOLONG =>
                $"cannot make the socket {path}: its path has more than {UnixAddress.LongestPath} bytes; use a shorter one",
            -Errno.EINVAL => $"'{path}' is not a valid path for a socket",
            -Errno.EADDRINUSE => $"a server listens at {path} already",
            _ => $"cannot make the socket {path}: {ErrnoText.Of(result)}",
        });
    }
}
