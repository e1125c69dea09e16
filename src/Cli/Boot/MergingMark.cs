using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// A file beside a COW that is a file: its merge may have begun (or has, if it is not empty), so that a COW that is missing is not taken for an update that never was. It is durable before a merge may begin, and goes
/// when all is merged and durable: by whoever merged, or, if that was killed in between, by the next boot. Whoever deletes a merged COW deletes the mark first.
/// <para>
/// A file of that name with anything else in it is somebody else's: it is never written to and never removed, and there can be no mark beside that COW.
/// </para>
/// </summary>
internal static class MergingMark
{
    private static ReadOnlySpan<byte> Begun => "begun\n"u8;

    internal static string PathOf(string cow) => cow + ".merging";

    /// <summary>There is a mark, or it cannot be known that there is none.</summary>
    internal static bool IsThere(string cow) => Libc.Statx(Libc.AT_FDCWD, PathOf(cow), Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out _) != -Errno.ENOENT;

    /// <summary>The mark says that a merge did write to the base: a COW beside it of which nothing is merged is not the COW that was.</summary>
    internal static bool SaysBegun(string cow)
    {
        int fd = Open(cow, Libc.O_RDONLY);
        if (fd < 0) return false;
        bool begun = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && status.Size > 0;
        _ = Libc.Close(fd);
        return begun;
    }

    /// <summary>Has the mark say so, if there is one. Never fails: without it the COW's own state is what there is.</summary>
    internal static void SayBegun(string cow)
    {
        int fd = Open(cow, Libc.O_RDWR);
        if (fd < 0) return;
        if (Libc.PWrite(fd, Begun, 0) > 0) _ = Libc.FSync(fd);
        _ = Libc.Close(fd);
    }

    /// <summary>
    /// Makes a durable mark. Returns 0 or a negative errno; -EEXIST if something of that name is no mark.
    /// <para>
    /// A mark that a power cut can take away is none: the base could be half merged, the COW lost with the same cut, and the next boot would take the base for the old
    /// image. Where the folder cannot be flushed, and flushing all of the file system is not known to be as good, this is a failure: the row is served and not merged.
    /// </para>
    /// </summary>
    internal static int Make(string cow)
    {
        int fd = Open(cow, Libc.O_RDWR | Libc.O_CREAT);
        if (fd < 0) return fd;
        int result = Libc.FSync(fd), unsupported = 0;
        // Also if it was there before: whoever made it may have been killed before this.
        if (result >= 0) result = FolderFlush.Of(cow, fd, out unsupported);
        _ = Libc.Close(fd);
        return result < 0 ? result : unsupported;
    }

    /// <summary>Removes the mark if there is one. Never fails: one that stays is removed by the next boot.</summary>
    internal static void Remove(string cow)
    {
        int fd = Open(cow, Libc.O_RDWR);
        if (fd < 0) return;
        if (Libc.Unlink(PathOf(cow)) == 0) _ = FolderFlush.Of(cow, fd, out _);
        _ = Libc.Close(fd);
    }

    /// <summary>Opens the mark, without following a link or waiting for the other end of a pipe. -EEXIST if it is none.</summary>
    private static int Open(string cow, int flags)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, PathOf(cow), Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC | flags, 0x180);
        if (fd is -Errno.ELOOP or -Errno.EISDIR or -Errno.ENXIO) return -Errno.EEXIST;
        if (fd < 0 || IsMark(fd)) return fd;
        _ = Libc.Close(fd);
        return -Errno.EEXIST;
    }

    private static bool IsMark(int fd)
    {
        if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) != 0 || (status.Mode & (uint)Libc.S_IFMT) != Libc.S_IFREG || status.Size > (ulong)Begun.Length) return false;
        Span<byte> text = stackalloc byte[Begun.Length];
        nint read = Libc.PRead(fd, text, 0);
        if (read != (nint)status.Size) return false;
        // A power cut may have kept the length of what was written, and lost the bytes.
        for (int i = 0; i < read; i++)
            if (text[i] != Begun[i] && text[i] != 0) return false;
        return true;
    }
}
