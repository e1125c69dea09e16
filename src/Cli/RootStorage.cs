using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>What a process does whose work the root file system may depend on.</summary>
internal static class RootStorage
{
    /// <summary>
    /// Shutdown kills every process of the initrd but those whose argv[0] begins with '@' (systemd.io/ROOT_STORAGE_DAEMONS). The name is given at
    /// the start of a program only, so in an initrd this program starts itself again, under that name.
    /// </summary>
    internal static void TakeName()
    {
        string[] arguments = OwnProcess.Arguments();
        if (arguments[0].StartsWith('@') || !Exists("/etc/initrd-release")) return;
        arguments[0] = "@snapuserd";
        // If that fails, so be it: a device that is there until shutdown begins is better than none.
        _ = Libc.ExecV("/proc/self/exe", arguments);
    }

    /// <summary>
    /// Keeps what was touched once in memory, because reading it back may need the very device that is served; and has others killed first when memory is
    /// short. What is not allowed is said in one line and goes unmade.
    /// </summary>
    internal static void StayInMemory(Output output)
    {
        int locked = Libc.MLockAll(Libc.MCL_CURRENT | Libc.MCL_FUTURE | Libc.MCL_ONFAULT);
        if (locked < 0) output.Write(Priority.Warning, "memory_not_locked", $"its memory is not locked ({Reason.Of(locked)}): under memory pressure it may have to be read from the device that it serves");
        BeKilledLast(output);
    }

    /// <summary>The half of it that concerns the others.</summary>
    internal static void BeKilledLast(Output output)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, "/proc/self/oom_score_adj", Libc.O_WRONLY | Libc.O_CLOEXEC);
        nint written = fd < 0 ? fd : Libc.Write(fd, "-1000"u8);
        if (fd >= 0) _ = Libc.Close(fd);
        if (written < 0) output.Write(Priority.Warning, "may_be_killed", $"oom_score_adj could not be set ({Reason.Of((int)written)}): it may be killed when memory is short");
    }

    private static bool Exists(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_PATH | Libc.O_CLOEXEC);
        if (fd < 0) return false;
        _ = Libc.Close(fd);
        return true;
    }
}
