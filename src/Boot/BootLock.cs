using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Boot;

/// <summary>
/// Serializes `snapuserd boot`: each run decides by a state that another one would change. The kernel releases the lock when the process
/// ends in any way. The file lies beside the folder of the sockets, not inside, because `ctl` takes every file there for a server's socket.
/// </summary>
public sealed class BootLock : IDisposable
{
    private const int PauseMilliseconds = 50;

    private readonly int _fd;

    private BootLock(int fd) => _fd = fd;

    /// <summary>
    /// Waits for the lock, at most <paramref name="milliseconds"/>; then exit code 76. If the file cannot be made, there can be no servers
    /// either, and the boot continues without the lock.
    /// </summary>
    public static BootLock Take(string controlFolder, IBootSystem system, ILog log, long milliseconds)
    {
        string path = controlFolder.TrimEnd('/') + ".lock";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CREAT | Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC,
            Modes.PrivateFile);
        if (fd < 0)
            log.Write(Priority.Notice, "no_lock",
                $"{path} cannot be made, so nothing keeps two boots from being at work at a time: {ErrnoText.Of(fd)}");
        if (fd < 0) return new BootLock(fd);
        long deadline = system.Milliseconds + milliseconds;
        bool told = false;
        int result;
        while ((result = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB)) is -Errno.EAGAIN or -Errno.EINTR)
        {
            if (!told)
                log.Write(Priority.Warning, "waits", $"another snapuserd boot is at work ({path} is locked): this one waits for its end");
            told = true;
            if (system.Milliseconds >= deadline)
            {
                _ = Libc.Close(fd);
                throw new SnapuserdException(ExitCode.InUse,
                    $"another snapuserd boot is still at work ({path} is locked), so this one has done nothing");
            }
            system.Pause(PauseMilliseconds);
        }
        if (result < 0) log.Write(Priority.Warning, "no_lock", $"{path} cannot be locked: {ErrnoText.Of(result)}");
        return new BootLock(fd);
    }

    public void Dispose()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
    }
}
