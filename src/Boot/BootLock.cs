using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Boot;

/// <summary>
/// Serializes `snapuserd boot`, because each run bases its decisions on a state that another run would change. The kernel releases the lock
/// when the process ends, however it ends. The file lies beside the folder of the sockets, not inside it, where `ctl` would take it for a
/// server's socket.
/// </summary>
public sealed class BootLock : IDisposable
{
    private const int PauseMilliseconds = 50;

    private readonly int _fd;

    private BootLock(int fd) => _fd = fd;

    /// <summary>
    /// Waits for the lock, at most <paramref name="milliseconds"/>; then throws with exit code 76 (in use). If the lock file cannot be
    /// created, servers cannot create their sockets beside it either, so the boot continues without the lock.
    /// </summary>
    public static BootLock Take(string controlFolder, IBootSystem system, ILog log, long milliseconds)
    {
        string path = controlFolder.TrimEnd('/') + ".lock";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CREAT | Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC,
            Modes.PrivateFile);
        if (fd < 0)
            log.Write(Priority.Notice, "no_lock",
                $"{path} cannot be made, so another snapuserd boot could run at the same time: {ErrnoText.Of(fd)}");
        if (fd < 0) return new BootLock(fd);
        long deadline = system.Milliseconds + milliseconds;
        bool reported = false;
        int result;
        while ((result = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB)) is -Errno.EAGAIN or -Errno.EINTR)
        {
            if (!reported)
                log.Write(Priority.Warning, "waits", $"another snapuserd boot is at work ({path} is locked): this one waits for its end");
            reported = true;
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
