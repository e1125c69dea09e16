using System;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Finds other users of a block device than its server. Reads nothing from the device, because its server may be dead.</summary>
public static class BlockDeviceUse
{
    /// <summary>
    /// The reason why the block device at <paramref name="path"/> cannot be removed, as a part of a sentence; null if there is none, or
    /// no such device. A process that has it open counts even if the kernel shows no waiting request: in Linux 6.12 `inflight` omits
    /// requests that wait for a server. <paramref name="processes"/> is /proc; without it such processes are not found.
    /// </summary>
    public static string? Of(string path, string processes = "/proc")
    {
        if (Number(path) is not { } number) return null;
        string? inflight = KernelTree.Sys.ReadText($"dev/block/{number.Major}:{number.Minor}/inflight");
        if (inflight != null && inflight.AsSpan().ContainsAnyInRange('1', '9')) return "requests are waiting";
        // IsHeld comes last. Its open would wait for a partition scan in progress, which may wait for the dead server.
        return OpenedBy(path, processes) is { } process ? $"process {process} has it open"
            : IsHeld(path) ? "it is mounted or held by another device" : null;
    }

    /// <summary>The device is mounted or another device lies on it: it cannot be opened exclusively.</summary>
    public static bool IsHeld(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_NONBLOCK | Libc.O_CLOEXEC);
        if (fd < 0) return fd == -Errno.EBUSY;
        _ = Libc.Close(fd);
        return false;
    }

    /// <summary>
    /// The PID of a process that has the device open. Compares only the name of the device's node, because a stat of another process's
    /// descriptor may block on another server.
    /// </summary>
    private static int? OpenedBy(string path, string processes)
    {
        string node = path[path.LastIndexOf('/')..];
        foreach (string name in FolderNames.In(processes))
        {
            if (!int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out int process)) continue;
            string folder = $"{processes}/{name}/fd";
            foreach (string fd in FolderNames.In(folder))
                if (Libc.ReadLink($"{folder}/{fd}", out string target) >= 0 && target.EndsWith(node, StringComparison.Ordinal))
                    return process;
        }
        return null;
    }

    /// <summary>The device number of a block device, found without opening it; null if the path is not a block device.</summary>
    private static (uint Major, uint Minor)? Number(string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0
        && (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK ? (status.RdevMajor, status.RdevMinor) : null;
}
