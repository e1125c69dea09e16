using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// A file beside a COW that is a file: its merge may have begun (or has, if it is not empty), so that a COW that is missing is not taken for an update that never was. It is durable before a merge may begin, and goes
/// when all is merged and durable: by whoever merged, or, if that was killed in between, by the next boot. Whoever deletes a merged COW deletes the mark first.
/// </summary>
internal static class MergingMark
{
    internal static string PathOf(string cow) => cow + ".merging";

    /// <summary>There is a mark, or it cannot be known that there is none.</summary>
    internal static bool IsThere(string cow) => Libc.Statx(Libc.AT_FDCWD, PathOf(cow), Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out _) != -Errno.ENOENT;

    /// <summary>The mark says that a merge did write to the base: a COW beside it of which nothing is merged is not the COW that was.</summary>
    internal static bool SaysBegun(string cow) => Libc.Statx(Libc.AT_FDCWD, PathOf(cow), Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && status.Size > 0;

    /// <summary>Has the mark say so, if there is one. Never fails: without it the COW's own state is what there is.</summary>
    internal static void SayBegun(string cow)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, PathOf(cow), Libc.O_WRONLY | Libc.O_NOFOLLOW | Libc.O_CLOEXEC);
        if (fd < 0) return;
        if (Libc.Write(fd, "begun\n"u8) > 0) _ = Libc.FSync(fd);
        _ = Libc.Close(fd);
    }

    /// <summary>Makes a durable mark. Returns 0 or a negative errno.</summary>
    internal static int Make(string cow)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, PathOf(cow), Libc.O_WRONLY | Libc.O_CREAT | Libc.O_NOFOLLOW | Libc.O_CLOEXEC, 0x180);
        if (fd < 0) return fd;
        int result = Libc.FSync(fd);
        _ = Libc.Close(fd);
        // Also if it was there before: whoever made it may have been killed before this.
        return result < 0 ? result : FlushFolder(cow);
    }

    /// <summary>Removes the mark if there is one. Never fails: one that stays is removed by the next boot.</summary>
    internal static void Remove(string cow)
    {
        if (Libc.Unlink(PathOf(cow)) == 0) _ = FlushFolder(cow);
    }

    private static int FlushFolder(string cow)
    {
        int slash = cow.LastIndexOf('/');
        int fd = Libc.OpenAt(Libc.AT_FDCWD, slash < 0 ? "." : slash == 0 ? "/" : cow[..slash], Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd < 0) return fd;
        int result = Libc.FSync(fd);
        _ = Libc.Close(fd);
        return result;
    }
}
