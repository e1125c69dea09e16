using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Finds and holds other devices over the same storage. The kernel grants a device to one user (O_EXCL, a mount, a mapped device). It does
/// not know that two loop devices use one file, or which storage two mapped devices share. So an exclusive user also holds every other name
/// of the storage.
/// </summary>
internal static class OtherNames
{
    /// <summary>
    /// Holds every other device over <paramref name="storage"/>. <paramref name="self"/> is the opened device, null for a file;
    /// <paramref name="unclaimed"/> are the devices below it that it does not claim. <paramref name="withoutMapped"/> leaves out the
    /// devices of the device mapper. Returns descriptors that the caller closes. If <paramref name="busy"/> is set, that device is in use
    /// and nothing is held.
    /// </summary>
    internal static List<int> Hold(StorageIdentity storage, (uint Major, uint Minor)? self, List<(uint Major, uint Minor)> unclaimed,
        out string? busy, bool withoutMapped = false)
    {
        busy = null;
        List<int> held = [];
        foreach ((uint major, uint minor) in Candidates(storage, self, unclaimed))
        {
            if (withoutMapped && BlockNode.IsMapped(major, minor)) continue;
            int fd = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK | Libc.O_EXCL);
            if (fd >= 0)
            {
                held.Add(fd);
                if (StorageLocks.NoteName(major, minor) is >= 0 and int note) held.Add(note);
            }
            // Only EBUSY means that a foreign program uses the device. A device that cannot be opened for another reason is skipped; the
            // storage locks still exclude other snapuserd processes. EBUSY is harmless if this process inherited the hold, or if another
            // snapuserd process holds the device only as a name of storage that it uses.
            if (fd != -Errno.EBUSY || IsInherited(major, minor) || StorageLocks.IsNoted(major, minor)) continue;
            foreach (int other in held) _ = Libc.Close(other);
            busy = $"/dev/{BlockNode.Name(major, minor) ?? $"{major}:{minor}"}";
            return [];
        }
        return held;
    }

    /// <summary>
    /// Locks the file below the loop device that <paramref name="self"/> is a window onto, with a shared flock as a reader does. Returns
    /// -EAGAIN while another program has the file locked exclusively; otherwise 0, even if no file is found or locked.
    /// <paramref name="fd"/> holds the lock; −1 if there is none. <see cref="StorageLocks"/> handle other windows onto the file.
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
    /// The devices over the storage that must be held. Excludes the opened device and those below it that the kernel reserves for it. For a
    /// disk with overlapping partitions, only the partitions are held: the kernel refuses a disk while another partition of it is mounted,
    /// and a partition while its disk is held.
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
            // Only these kinds of devices can be another name of the storage: a plain disk contains no bytes of another device.
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
                // The kernel itself refuses the partitions of the opened disk, and of a disk that is reserved for the opened device.
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
