using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Follows a device or file down to its bottoms (<see cref="StorageIdentity"/>). A device that cannot be queried, for lack of permission
/// or of /sys, is itself a bottom.
/// </summary>
internal sealed class StorageResolver
{
    /// <summary>Largest number of stacked devices that are followed. More than a few levels are a mistake or an attack.</summary>
    private const int MostLevels = 16;

    private readonly Dictionary<StorageBottom, StorageLayer> _layers = [];

    /// <summary>
    /// Block devices directly below loop devices. The loop driver does not claim them, so they can be mounted although the loop device is
    /// in use.
    /// </summary>
    private readonly List<(uint Major, uint Minor)> _unclaimed = [];

    /// <summary>For each file found below a loop device, one such loop device.</summary>
    private readonly Dictionary<StorageBottom, uint> _loops = [];

    private StorageResolver()
    {
    }

    /// <summary>The storage of an open file or block device of <paramref name="length"/> bytes.</summary>
    internal static StorageIdentity Of(int fd, in StatxData status, long length) => Of(fd, status, length, out _);

    /// <summary>
    /// The storage of an open file or block device. <paramref name="unclaimed"/> gets the block devices below it that can be mounted
    /// although this device is in use.
    /// </summary>
    internal static StorageIdentity Of(int fd, in StatxData status, long length, out List<(uint Major, uint Minor)> unclaimed)
    {
        StorageResolver resolver = new();
        List<StoragePiece> pieces = [];
        if ((status.Mode & (uint)Libc.S_IFMT) == (uint)Libc.S_IFBLK)
            resolver.Device(fd, status.RdevMajor, status.RdevMinor, 0, length, 0, pieces);
        // An empty file counts as one byte long, because that byte may be written later.
        else resolver.File(FileIdentity.Of(fd, status), 0, Math.Max(1, length), 0, pieces);
        unclaimed = resolver._unclaimed;
        return new StorageIdentity(pieces, resolver._layers, resolver._loops);
    }

    /// <summary>The storage of a block device by its number.</summary>
    internal static StorageIdentity Of(uint major, uint minor)
    {
        StorageResolver resolver = new();
        List<StoragePiece> pieces = [];
        resolver.Device(-1, major, minor, 0, BlockNode.Length(major, minor), 0, pieces);
        return new StorageIdentity(pieces, resolver._layers, resolver._loops);
    }

    private void Device(int fd, uint major, uint minor, long offset, long length, int level, List<StoragePiece> pieces)
    {
        if (length <= 0) return;
        if (level < MostLevels)
        {
            // Partitions come first, because the ioctl on a partition of a loop device returns the information of the whole loop device.
            if (BlockNode.Partition(major, minor) is { } partition)
            {
                Device(-1, partition.Major, partition.Minor, Sum(partition.Offset, offset), length, level + 1, pieces);
                return;
            }
            if (major == Libc.LOOP_MAJOR && TryLoop(fd, minor, offset, length, level, pieces)) return;
            if (BlockNode.IsMapped(major, minor) && DeviceTable.Read(major, minor) is { } table)
            {
                Mapped(major, minor, table, offset, length, level, pieces);
                return;
            }
        }
        StorageBottom bottom = StorageBottom.OfDevice(major, minor);
        if (BlockNode.Slaves(major, minor) is { Count: > 0 } slaves) AddLayer(bottom, BlockNode.Kind(major, minor), slaves, level);
        pieces.Add(new StoragePiece(bottom, offset, length));
    }

    private bool TryLoop(int fd, uint minor, long offset, long length, int level, List<StoragePiece> pieces)
    {
        int own = fd >= 0 ? -1 : BlockNode.Open(Libc.LOOP_MAJOR, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        LoopInfo64 info = default;
        int result = fd >= 0 || own >= 0 ? Libc.Ioctl(fd >= 0 ? fd : own, Libc.LOOP_GET_STATUS64, ref info) : own;
        if (own >= 0) _ = Libc.Close(own);
        if (result < 0) return false;
        long start = Sum((long)Math.Min(info.Offset, long.MaxValue), offset);
        if (info.RDevice != 0)
        {
            (uint major, uint number) = Libc.DecodeDevice(info.RDevice);
            if (!_unclaimed.Contains((major, number))) _unclaimed.Add((major, number));
            Device(-1, major, number, start, length, level + 1, pieces);
            return true;
        }
        StorageBottom file = FileBelow(minor, info);
        if (!_loops.ContainsKey(file)) _loops.Add(file, minor);
        File(file, start, length, level + 1, pieces);
        return true;
    }

    /// <summary>
    /// The file of a loop device. If it may be on an overlayfs, it is opened by name to find the file in the upper layer.
    /// </summary>
    private static StorageBottom FileBelow(uint minor, in LoopInfo64 info)
    {
        (uint major, uint fileMinor) = Libc.DecodeDevice(info.Device);
        StorageBottom file = StorageBottom.OfFile(major, fileMinor, info.Inode);
        if (major != 0) return file;
        using LoopBackingFile? open = LoopBackingFile.Open(minor, info, Libc.O_RDONLY);
        return open != null && Libc.Statx(open.Fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0
            ? FileIdentity.Of(open.Fd, status) : file;
    }

    private void Mapped(uint major, uint minor, List<DeviceTableLine> table, long offset, long length, int level, List<StoragePiece> pieces)
    {
        long end = Sum(offset, length);
        foreach (DeviceTableLine line in table)
        {
            long from = Math.Max(offset, line.Start), to = Math.Min(end, Sum(line.Start, line.Length));
            if (from >= to) continue;
            if (line.IsLinear)
            {
                Device(-1, line.Major, line.Minor, Sum(line.Offset, from - line.Start), to - from, level + 1, pieces);
                continue;
            }
            StorageBottom bottom = StorageBottom.OfDevice(major, minor);
            if (!line.IsNothing) AddLayer(bottom, $"dm-{line.Type} (dm-{minor})", BlockNode.Slaves(major, minor), level);
            pieces.Add(new StoragePiece(bottom, from, to - from));
        }
    }

    /// <summary>A file lies on a device if its file system has one: a write to that device may be a write to the file.</summary>
    private void File(StorageBottom file, long offset, long length, int level, List<StoragePiece> pieces)
    {
        // Major 0 does not name a device: it is used by tmpfs, overlayfs, network file systems, btrfs.
        if (file.Major != 0) AddLayer(file, "the file system that it lies on", [(file.Major, file.Minor)], level);
        pieces.Add(new StoragePiece(file, offset, length));
    }

    private void AddLayer(StorageBottom over, string name, List<(uint Major, uint Minor)> devices, int level)
    {
        if (level >= MostLevels || _layers.ContainsKey(over)) return;
        List<StoragePiece> below = [];
        _layers.Add(over, new StorageLayer(name, below));
        int unclaimed = _unclaimed.Count;
        foreach ((uint major, uint minor) in devices) Device(-1, major, minor, 0, BlockNode.Length(major, minor), level + 1, below);
        // The layer, or the mount of the file system, claims every device below it.
        _unclaimed.RemoveRange(unclaimed, _unclaimed.Count - unclaimed);
    }

    private static long Sum(long one, long other) => one > long.MaxValue - other ? long.MaxValue : one + other;
}
