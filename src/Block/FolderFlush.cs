using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Makes a created, renamed or removed name durable, even where a folder cannot be flushed.</summary>
public static class FolderFlush
{
    /// <summary>
    /// Flushes the folder of <paramref name="path"/>. Returns 0, or a negative errno if the device failed, no space was left, or the
    /// folder no longer exists.
    /// <para>
    /// Some file systems and sandboxes have no fsync for a folder (EINVAL, EBADF, ENOSYS, EOPNOTSUPP, EPERM, EROFS), and a folder without
    /// read permission cannot be opened. Then the whole file system is flushed through <paramref name="fd"/>, the file itself.
    /// <paramref name="unsupported"/> is 0 if that is equivalent. Otherwise it is the errno for the folder: the name exists, but may not
    /// survive a power cut.
    /// </para>
    /// </summary>
    public static int Of(string path, int fd, out int unsupported)
    {
        unsupported = 0;
        int slash = path.LastIndexOf('/');
        string folder = slash < 0 ? "." : slash == 0 ? "/" : path[..slash];
        int result = Flush(folder);
        if (!FileFlush.IsLacking(result)) return result;
        int all = Libc.SyncFs(fd);
        // Without syncfs, flush the file: XFS, ext4 and others then also write the rename to their journal.
        if (FileFlush.IsLacking(all)) all = FileFlush.Of(fd);
        else if (all == 0 && FlushesAll(fd)) return 0;
        if (all < 0 && !FileFlush.IsLacking(all)) return all;
        unsupported = result;
        return 0;
    }

    /// <summary>The warning for an output whose name may not survive a power cut.</summary>
    public static string Warning(string path, int unsupported) =>
        $"{path} is written and in place, but its folder cannot be flushed: {ErrnoText.Of(unsupported)}; a power cut soon after this may "
        + "undo the new name: run sync, or write to another file system";

    private static int Flush(string folder)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd < 0) return fd;
        int result, tries = 0;
        // A failed flush of a folder loses no data, so repeating it is safe.
        do result = FileFlush.Of(fd);
        while (Retry.Interrupted(result) && ++tries <= Retry.AttemptsBeforeSync);
        _ = Libc.Close(fd);
        return result;
    }

    /// <summary>
    /// The file system is one whose syncfs is known to make names durable. FUSE and network file systems return 0 without doing anything.
    /// </summary>
    private static bool FlushesAll(int fd) => Libc.FStatFs(fd, out StatFsData data) == 0
        && data.Type is Libc.EXT4_SUPER_MAGIC or Libc.XFS_SUPER_MAGIC or Libc.BTRFS_SUPER_MAGIC or Libc.F2FS_SUPER_MAGIC
            or Libc.TMPFS_MAGIC or Libc.RAMFS_MAGIC or Libc.MSDOS_SUPER_MAGIC or Libc.EXFAT_SUPER_MAGIC;
}
