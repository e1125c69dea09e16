using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// Keeps two boots from being at work at a time: each would decide by what the other is about to change. The kernel lets go of it when the process ends, however it does. The file lies beside the folder of the sockets,
/// where `ctl` takes every file for a server's.
/// </summary>
internal sealed class BootLock : IDisposable
{
    private const int PauseMilliseconds = 50;

    private readonly int _fd;

    private BootLock(int fd) => _fd = fd;

    /// <summary>Waits for its turn, at most <paramref name="milliseconds"/>; exit code 76 then. Where there can be no such file there can be no servers either, and what is left is done without.</summary>
    internal static BootLock Take(string controlFolder, IBootSystem system, ILog log, long milliseconds)
    {
        string path = controlFolder.TrimEnd('/') + ".lock";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CREAT | Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC, 0x180);
        if (fd < 0) log.Write(Priority.Notice, "no_lock", $"{path} cannot be made, so nothing keeps two boots from being at work at a time: {Reason.Of(fd)}");
        if (fd < 0) return new BootLock(fd);
        long deadline = system.Milliseconds + milliseconds;
        bool told = false;
        int result;
        while ((result = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB)) is -Errno.EAGAIN or -Errno.EINTR)
        {
            if (!told) log.Write(Priority.Warning, "waits", $"another snapuserd boot is at work ({path} is locked): this one waits for its end");
            told = true;
            if (system.Milliseconds >= deadline)
            {
                _ = Libc.Close(fd);
                throw new SnapuserdException(ExitCode.InUse, $"another snapuserd boot is still at work ({path} is locked), so this one has done nothing");
            }
            system.Pause(PauseMilliseconds);
        }
        if (result < 0) log.Write(Priority.Warning, "no_lock", $"{path} cannot be locked: {Reason.Of(result)}");
        return new BootLock(fd);
    }

    public void Dispose()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
    }
}
