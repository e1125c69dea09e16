using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Boot;

/// <summary>
/// Decides whether a folder without the COW means "no update", or only that the file system with the COW is not mounted there yet. If the
/// doubt is wrong, the user only has to put a file into the empty folder. If "no update" is wrong, the system mounts a half-merged base and
/// writes to it.
/// </summary>
public static class CowFolder
{
    /// <summary>
    /// Called if the COW does not exist in <paramref name="folder"/>. Returns the reason why it may still exist; null if there is no COW.
    /// </summary>
    public static string? Doubt(string folder)
    {
        int result = Libc.StatFs(folder, out StatFsData data);
        if (result < 0) return $"{folder} cannot be looked at: {ErrnoText.Of(result)}";
        if (TypeOf(data.Type) is { } type) return $"its folder lies {type}: the file system that has the COW is not mounted";
        result = Libc.Statx(Libc.AT_FDCWD, folder, 0, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result == 0)
            result = Libc.Statx(Libc.AT_FDCWD, "/", 0, Libc.STATX_BASIC_STATS, out StatxData root) is < 0 and int error ? error
                : SameDevice(status, root) ? 1 : 0;
        if (result < 0) return $"{folder} cannot be looked at: {ErrnoText.Of(result)}";
        bool mounted = result == 0 || (status.Attributes & Libc.STATX_ATTR_MOUNT_ROOT) != 0;
        return mounted || HasFiles(folder) ? null
            : $"its folder {folder} is empty, and on the file system of / itself: perhaps another is yet to be mounted there; if not, put "
                + "any file into that folder";
    }

    /// <summary>
    /// Describes a file system that cannot keep a COW across boots, or hides the files below it; null for any other file system.
    /// </summary>
    public static string? TypeOf(long magic) => magic switch
    {
        Libc.TMPFS_MAGIC or Libc.RAMFS_MAGIC => "in memory",
        Libc.SQUASHFS_MAGIC or Libc.EROFS_SUPER_MAGIC_V1 or Libc.CRAMFS_MAGIC or Libc.ISOFS_SUPER_MAGIC =>
            "on a read-only image",
        Libc.AUTOFS_SUPER_MAGIC => "where something is mounted on demand",
        Libc.OVERLAYFS_SUPER_MAGIC => "on an overlay, which may be in memory (a COW there is named by its path below the overlay)",
        _ => null,
    };

    private static bool SameDevice(in StatxData one, in StatxData other) =>
        (one.DevMajor, one.DevMinor) == (other.DevMajor, other.DevMinor);

    private static bool HasFiles(string folder)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd < 0) return false;
        List<string> names = [];
        int result = Libc.NamesIn(fd, names);
        _ = Libc.Close(fd);
        return result == 0 && names.Count > 0;
    }
}
