using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A range of bytes of a file (<paramref name="Inode"/> ≠ 0) or a block device, whatever it is called: two with a byte in common are the same storage.</summary>
internal readonly record struct StorageRange(uint Major, uint Minor, ulong Inode, long Offset, long Length)
{
    internal bool Overlaps(in StorageRange other) =>
        Major == other.Major && Minor == other.Minor && Inode == other.Inode
        && Offset < other.Offset + Math.Max(1, other.Length) && other.Offset < Offset + Math.Max(1, Length);
}

/// <summary>
/// Where the bytes of a device really are. A loop device is a window onto a file or another device, and neither locks nor exclusive
/// holds reach from one to the other; this does, by asking the loop driver.
/// </summary>
internal static class Storage
{
    /// <summary>Loop devices are numbered from 0; a machine that has used more than this many at once is not one that boots from a COW.</summary>
    private const int LoopDevices = 256;

    /// <summary>Loop over loop over loop: more than a few levels are a mistake or an attack.</summary>
    private const int MostLevels = 8;

    /// <summary>The device itself and everything that stands behind it.</summary>
    internal static List<StorageRange> RangesOf(int fd, in StatxData status, long length)
    {
        bool block = (status.Mode & (uint)Libc.S_IFMT) == (uint)Libc.S_IFBLK;
        StorageRange range = block ? new StorageRange(status.RdevMajor, status.RdevMinor, 0, 0, length) : new StorageRange(status.DevMajor, status.DevMinor, status.Ino, 0, length);
        List<StorageRange> ranges = [range];
        int owned = -1;
        for (int level = 0; level < MostLevels && range is { Major: Libc.LOOP_MAJOR, Inode: 0 }; level++)
        {
            LoopInfo64 info = default;
            if (Libc.Ioctl(owned >= 0 ? owned : fd, Libc.LOOP_GET_STATUS64, ref info) < 0) break;
            range = Behind(info, range);
            ranges.Add(range);
            if (owned >= 0) _ = Libc.Close(owned);
            owned = range.Inode == 0 ? Open(range.Minor, 0) : -1;
            if (owned < 0) break;
        }
        if (owned >= 0) _ = Libc.Close(owned);
        return ranges;
    }

    /// <summary>
    /// Holds every loop device over a file exclusively, so that none can be mounted or merged meanwhile. The descriptors are the caller's
    /// to close. With <paramref name="busy"/> set, that loop device is mounted or held, and nothing is held.
    /// </summary>
    internal static List<int> HoldLoopsOver(in StorageRange file, out string? busy)
    {
        busy = null;
        List<int> held = [];
        for (uint number = 0; number < LoopDevices; number++)
        {
            int fd = Open(number, 0);
            if (fd < 0) continue;
            LoopInfo64 info = default;
            bool over = Libc.Ioctl(fd, Libc.LOOP_GET_STATUS64, ref info) >= 0
                && Behind(info, new StorageRange(Libc.LOOP_MAJOR, number, 0, 0, long.MaxValue)) is var range && (range.Major, range.Minor, range.Inode) == (file.Major, file.Minor, file.Inode);
            _ = Libc.Close(fd);
            if (!over) continue;
            fd = Open(number, Libc.O_EXCL);
            if (fd >= 0)
            {
                held.Add(fd);
                continue;
            }
            foreach (int other in held) _ = Libc.Close(other);
            busy = Path(number);
            return [];
        }
        return held;
    }

    private static StorageRange Behind(in LoopInfo64 info, in StorageRange window)
    {
        (uint major, uint minor) = Libc.DecodeDevice(info.RDevice != 0 ? info.RDevice : info.Device);
        return new StorageRange(major, minor, info.RDevice != 0 ? 0 : info.Inode, window.Offset + (long)info.Offset, window.Length);
    }

    private static string Path(uint number) => $"/dev/loop{number}";

    private static int Open(uint number, int flags)
    {
        int fd;
        do fd = Libc.OpenAt(Libc.AT_FDCWD, Path(number), Libc.O_RDONLY | Libc.O_CLOEXEC | Libc.O_NONBLOCK | flags);
        while (fd == -Errno.EINTR);
        return fd;
    }
}
