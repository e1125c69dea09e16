using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Other devices with bytes of the same storage. The kernel keeps one device for one user (O_EXCL, a mount, a mapped device), but it does not know that two loop devices
/// are one file, nor what two mapped devices share. So an exclusive user holds every other name of the storage as well.
/// </summary>
internal static class OtherNames
{
    /// <summary>
    /// Holds every other device over <paramref name="storage"/>. <paramref name="self"/> is the device whose name was given, if it is one, and <paramref name="unclaimed"/> are the devices
    /// below it that it does not claim. Returns descriptors, which are the caller's to close; with <paramref name="busy"/> set, that device is in use and nothing is held.
    /// </summary>
    internal static List<int> Hold(StorageIdentity storage, (uint Major, uint Minor)? self, List<(uint Major, uint Minor)> unclaimed, out string? busy)
    {
        busy = null;
        List<int> held = [];
        foreach ((uint major, uint minor) in Candidates(storage, self, unclaimed))
        {
            int fd = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK | Libc.O_EXCL);
            if (fd >= 0)
            {
                held.Add(fd);
                if (StorageLocks.NoteName(major, minor) is >= 0 and int note) held.Add(note);
            }
            // What cannot be opened for another reason cannot be asked; the locks among our own processes stay. One of those may hold it for other bytes.
            if (fd != -Errno.EBUSY || IsInherited(major, minor) || StorageLocks.IsNoted(major, minor)) continue;
            foreach (int other in held) _ = Libc.Close(other);
            busy = $"/dev/{BlockNode.Name(major, minor) ?? $"{major}:{minor}"}";
            return [];
        }
        return held;
    }

    /// <summary>
    /// Files below loop devices that <paramref name="self"/> is a window onto, locked (flock) as a reader locks them: an exclusive user of the file itself is kept away, and waited for. Other
    /// windows onto it are the business of <see cref="StorageLocks"/>.
    /// </summary>
    internal static int LockFileBelow((uint Major, uint Minor) self, out string path, out int fd)
    {
        fd = -1;
        path = "";
        (uint major, uint minor) = self;
        for (int level = 0; level < 4 && BlockNode.Partition(major, minor) is { } partition; level++) (major, minor) = (partition.Major, partition.Minor);
        if (major != Libc.LOOP_MAJOR) return 0;
        LoopInfo64 info = default;
        int loop = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        int result = loop < 0 ? loop : Libc.Ioctl(loop, Libc.LOOP_GET_STATUS64, ref info);
        if (loop >= 0) _ = Libc.Close(loop);
        if (result < 0) return 0;
        if (info.RDevice != 0) return LockFileBelow(Libc.DecodeDevice(info.RDevice), out path, out fd);
        if (LoopBackingFile.Open(minor, info, Libc.O_RDONLY) is not { } file) return 0;
        path = file.Path;
        // A supervisor that locked it did so for us as well.
        result = Libc.Statx(file.Fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result == 0 && InheritedHolds.Find(status) < 0)
        {
            result = Libc.Flock(file.Fd, Libc.LOCK_SH | Libc.LOCK_NB);
            if (result == 0)
            {
                fd = file.Fd;
                return 0;
            }
        }
        file.Dispose();
        return result == -Errno.EAGAIN ? result : 0;
    }

    private static bool IsInherited(uint major, uint minor) =>
        InheritedHolds.Find(new StatxData { Mode = Libc.S_IFBLK, RdevMajor = major, RdevMinor = minor }) >= 0;

    /// <summary>
    /// The devices to hold. Not the device itself, nor those below it that a partition or the device mapper claims. Of a disk with partitions its overlapping partitions,
    /// because the kernel refuses a disk while another partition of it is mounted, and a partition while its disk is held.
    /// </summary>
    private static List<(uint Major, uint Minor)> Candidates(StorageIdentity storage, (uint Major, uint Minor)? self, List<(uint Major, uint Minor)> unclaimed)
    {
        List<(uint Major, uint Minor)> all = BlockNode.All(), overlapping = [], chosen = [];
        HashSet<(uint, uint)> claimed = self is { } device ? ClaimedBelow(device) : [];
        foreach ((uint, uint) below in unclaimed) _ = claimed.Remove(below);
        foreach ((uint Major, uint Minor) one in all)
        {
            if (one == self || claimed.Contains(one)) continue;
            // A disk that is nothing but itself has no other name; the one that was given has been opened.
            bool window = one.Major == Libc.LOOP_MAJOR || unclaimed.Contains(one) || BlockNode.Partition(one.Major, one.Minor) != null || BlockNode.IsMapped(one.Major, one.Minor);
            if (window && StorageResolver.Of(one.Major, one.Minor).RelationTo(storage, out _) is StorageRelation.Equal or StorageRelation.Overlapping) overlapping.Add(one);
        }
        foreach ((uint Major, uint Minor) one in overlapping)
        {
            if (BlockNode.Partition(one.Major, one.Minor) is { } partition)
            {
                // Of the disk that was given, or of one that is below it, the kernel sees to it.
                if ((partition.Major, partition.Minor) == self || claimed.Contains((partition.Major, partition.Minor))) continue;
                chosen.Add(one);
                continue;
            }
            if (!BlockNode.Partitions(one.Major, one.Minor).Exists(overlapping.Contains)) chosen.Add(one);
        }
        return chosen;
    }

    /// <summary>The disk of a partition, and the devices of a mapped or md device, all the way down to a loop device: the kernel keeps them for the device above.</summary>
    private static HashSet<(uint, uint)> ClaimedBelow((uint Major, uint Minor) device)
    {
        HashSet<(uint, uint)> below = [];
        Stack<(uint Major, uint Minor)> rest = new();
        rest.Push(device);
        while (rest.TryPop(out (uint Major, uint Minor) one))
        {
            List<(uint Major, uint Minor)> next = BlockNode.Slaves(one.Major, one.Minor);
            if (BlockNode.Partition(one.Major, one.Minor) is { } partition) next.Add((partition.Major, partition.Minor));
            foreach ((uint, uint) found in next)
                if (below.Add(found)) rest.Push(found);
        }
        return below;
    }
}
