using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Other devices with bytes of the same storage. The kernel grants a device to one user (O_EXCL, a mount, a mapped device). It does not
/// know that two loop devices use one file, or which storage two mapped devices share. So an exclusive user also holds every other name
/// of the storage.
/// </summary>
internal static class OtherNames
{
    /// <summary>
    /// Holds every other device over <paramref name="storage"/>. <paramref name="self"/> is the opened device, null for a file;
    /// <paramref name="unclaimed"/> are the devices below it that it does not claim. Returns descriptors that the caller closes. If
    /// <paramref name="busy"/> is set, that device is in use and nothing is held.
    /// </summary>
    internal static List<int> Hold(StorageIdentity storage, (uint Major, uint Minor)? self, List<(uint Major, uint Minor)> unclaimed,
        out string? busy)
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
            // EBUSY only: a device that cannot be opened for another reason is skipped; the locks among snapuserd processes remain.
            // Another snapuserd process may hold it for other bytes.
            if (fd != -Errno.EBUSY || IsInherited(major, minor) || StorageLocks.IsNoted(major, minor)) continue;
            foreach (int other in held) _ = Libc.Close(other);
            busy = $"/dev/{BlockNode.Name(major, minor) ?? $"{major}:{minor}"}";
            return [];
        }
        return held;
    }

    /// <summary>
    /// Locks the file below the loop device that <paramref name="self"/> is a window onto, with a shared flock as a reader does. This
    /// keeps an exclusive user of the file itself away, or waits for it. <see cref="StorageLocks"/> handle other windows onto the file.
    /// </summary>
    internal static int LockFileBelow((uint Major, uint Minor) self, out string path, out int fd)
    {
        fd = -1;
        path = "";
        (uint major, uint minor) = self;
        for (int level = 0; level < 4 && BlockNode.Partition(major, minor) is { } partition; level++)
            (major, minor) = (partition.Major, partition.Minor);
        if (major != Libc.LOOP_MAJOR) return 0;
        LoopInfo64 info = default;
        int loop = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        int result = loop < 0 ? loop : Libc.Ioctl(loop, Libc.LOOP_GET_STATUS64, ref info);
        if (loop >= 0) _ = Libc.Close(loop);
        if (result < 0) return 0;
        if (info.RDevice != 0) return LockFileBelow(Libc.DecodeDevice(info.RDevice), out path, out fd);
        if (LoopBackingFile.Open(minor, info, Libc.O_RDONLY) is not { } file) return 0;
        path = file.Path;
        // A supervisor that locked the file did so for this process too.
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
    /// The devices to hold: without the device itself, and without those below it that a partition or the device mapper claims. Of a disk
    /// with partitions, its overlapping partitions: the kernel refuses a disk while another partition of it is mounted, and a partition
    /// while its disk is held.
    /// </summary>
    private static List<(uint Major, uint Minor)> Candidates(StorageIdentity storage, (uint Major, uint Minor)? self,
        List<(uint Major, uint Minor)> unclaimed)
    {
        List<(uint Major, uint Minor)> all = BlockNode.All(), overlapping = [], chosen = [];
        HashSet<(uint, uint)> claimed = self is { } device ? ClaimedBelow(device) : [];
        foreach ((uint, uint) below in unclaimed) _ = claimed.Remove(below);
        foreach ((uint Major, uint Minor) one in all)
        {
            if (one == self || claimed.Contains(one)) continue;
            // A plain disk has no other name, and the given one is already open.
            bool window = one.Major == Libc.LOOP_MAJOR || unclaimed.Contains(one) || BlockNode.Partition(one.Major, one.Minor) != null
                || BlockNode.IsMapped(one.Major, one.Minor);
            if (window && StorageResolver.Of(one.Major, one.Minor).RelationTo(storage, out _) is StorageRelation.Equal
                or StorageRelation.Overlapping)
                overlapping.Add(one);
        }
        foreach ((uint Major, uint Minor) one in overlapping)
        {
            if (BlockNode.Partition(one.Major, one.Minor) is { } partition)
            {
                // For the given disk, or one below it, the kernel handles this.
                if ((partition.Major, partition.Minor) == self || claimed.Contains((partition.Major, partition.Minor))) continue;
                chosen.Add(one);
                continue;
            }
            if (!BlockNode.Partitions(one.Major, one.Minor).Exists(overlapping.Contains)) chosen.Add(one);
        }
        return chosen;
    }

    /// <summary>
    /// The disk of a partition, and the devices of a mapped or md device, down to a loop device: the kernel reserves them for the device
    /// above.
    /// </summary>
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
