using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>Precautions for a process on which the root file system may depend.</summary>
public static class RootStorage
{
    /// <summary>
    /// Shutdown kills every process of the initrd except those whose argv[0] begins with '@' (systemd.io/ROOT_STORAGE_DAEMONS). argv[0] is
    /// fixed when a program starts, so in an initrd this program executes itself again with that name.
    /// </summary>
    public static void TakeName()
    {
        string[] arguments = OwnProcess.Arguments();
        if (arguments[0].StartsWith('@') || !Exists("/etc/initrd-release")) return;
        arguments[0] = "@snapuserd";
        // If this fails, continue without the name: a device that works until shutdown is better than none.
        _ = Libc.ExecV("/proc/self/exe", arguments);
    }

    /// <summary>
    /// Moves the process into the system's root. After switch_root, a process started from the ramdisk has an empty root with the system's
    /// root mounted over it. Without such a mount this has no effect. The root is that of the whole process, so only a process with one
    /// snapshot may call this.
    /// </summary>
    public static void EnterSystemRoot() => _ = Libc.ChRoot("/..");

    /// <summary>
    /// Locks this process's pages in memory as they are touched, because reading them back may need the device that this process serves.
    /// Also makes the kernel kill other processes first when memory is short. Logs a warning for each step that fails.
    /// </summary>
    public static void StayInMemory(ILog log)
    {
        int locked = Libc.MLockAll(Libc.MCL_CURRENT | Libc.MCL_FUTURE | Libc.MCL_ONFAULT);
        if (locked < 0)
            log.Write(Priority.Warning, "memory_not_locked", $"its memory is not locked ({ErrnoText.Of(locked)}): under memory pressure it "
                + "may have to be read from the device that it serves");
        BeKilledLast(log);
    }

    /// <summary>Makes the kernel kill other processes first when memory is short.</summary>
    public static void BeKilledLast(ILog log)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, "/proc/self/oom_score_adj", Libc.O_WRONLY | Libc.O_CLOEXEC);
        nint written = fd < 0 ? fd : Libc.Write(fd, "-1000"u8);
        if (fd >= 0) _ = Libc.Close(fd);
        if (written < 0)
            log.Write(Priority.Warning, "may_be_killed",
                $"oom_score_adj could not be set ({ErrnoText.Of((int)written)}): it may be killed when memory is short");
    }

    private static bool Exists(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_PATH | Libc.O_CLOEXEC);
        if (fd < 0) return false;
        _ = Libc.Close(fd);
        return true;
    }
}
