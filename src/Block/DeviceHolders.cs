using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A device-mapper device over a part of another block device.</summary>
public sealed class DeviceHolder
{
    private readonly uint _major;
    private readonly uint _minor;

    internal DeviceHolder(uint major, uint minor) => (_major, _minor, Name) = (major, minor, BlockNode.MapperName(major, minor));

    /// <summary>Its name in the device mapper.</summary>
    public string Name { get; }
    /// <summary>The bytes of the device below that it maps, as far as its table says it.</summary>
    public required IReadOnlyList<(long Offset, long Length)> Ranges { get; init; }
    /// <summary>A type of target in its table that is not "linear"; null if all lines are linear.</summary>
    public string? OtherType { get; init; }
    /// <summary>How many times it is open or mounted.</summary>
    public int Opens { get; init; }
    /// <summary>It is mounted, in whatever namespace, or a further device lies on it.</summary>
    public bool IsHeld { get; init; }
    /// <summary>Where this process sees it mounted.</summary>
    public required IReadOnlyList<string> MountPoints { get; init; }

    /// <summary>
    /// Holds it exclusively, so that no process can mount it. A descriptor that the caller closes, or a negative errno: EBUSY if it
    /// is in use.
    /// </summary>
    public int Hold() => BlockNode.Open(_major, _minor, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_NONBLOCK);

    /// <summary>
    /// Writes back what the page cache of the mapped device has, and drops it. Each block device has a cache of its own: what is written to
    /// the device below shows up in reads of this one only then. A device that is gone has no cache.
    /// </summary>
    public void DropCache()
    {
        int fd = BlockNode.Open(_major, _minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        if (fd < 0) return;
        BlockDevice.DropCache(fd);
        _ = Libc.Close(fd);
    }
}

/// <summary>
/// Lists the device-mapper devices over a block device. The device mapper holds the device below exclusively, once for all of them: while
/// there is one, no process can, though nothing may be mounted.
/// </summary>
public static class DeviceHolders
{
    private const int MostMountBytes = 1 << 20;

    /// <summary>
    /// The devices directly over <paramref name="device"/>; empty for a file. Exit code 76 if one of them is not of the device mapper, or
    /// its table cannot be read.
    /// </summary>
    public static List<DeviceHolder> Of(BlockDevice device)
    {
        List<DeviceHolder> holders = [];
        if (!device.IsBlockDevice || Libc.Statx(device.Fd, Libc.STATX_BASIC_STATS, out StatxData status) < 0) return holders;
        string mounts = "";
        foreach ((uint major, uint minor) in BlockNode.Holders(status.RdevMajor, status.RdevMinor))
        {
            if (!BlockNode.IsMapped(major, minor) || DeviceTable.Read(major, minor, out int opens) is not { } table)
                throw new SnapuserdException(ExitCode.InUse, $"{device.Path} is in use by {BlockNode.Kind(major, minor)}");
            if (mounts.Length == 0 && SmallFile.Read("/proc/self/mountinfo", MostMountBytes) is { } bytes) mounts = ByteText.Decode(bytes);
            holders.Add(Holder(major, minor, table, opens, (status.RdevMajor, status.RdevMinor), mounts));
        }
        return holders;
    }

    private static DeviceHolder Holder(uint major, uint minor, List<DeviceTableLine> table, int opens, (uint, uint) below,
        string mounts)
    {
        List<(long Offset, long Length)> ranges = [];
        string? other = null;
        foreach (DeviceTableLine line in table)
        {
            if (!line.IsLinear && !line.IsNothing) other = line.Type;
            if (line.IsLinear && (line.Major, line.Minor) == below) ranges.Add((line.Offset, line.Length));
        }
        int fd = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_NONBLOCK);
        if (fd >= 0) _ = Libc.Close(fd);
        return new DeviceHolder(major, minor)
        {
            Ranges = ranges,
            OtherType = other,
            Opens = opens,
            // What cannot be opened cannot be looked at: it counts as held, unless it is gone.
            IsHeld = fd is < 0 and not (-Errno.ENXIO or -Errno.ENODEV),
            MountPoints = MountPoints(mounts, major, minor),
        };
    }

    /// <summary>
    /// The mount points of a device in the text of mountinfo: its third field is the number of the device, its fifth the mount point, with
    /// blanks as \040.
    /// </summary>
    internal static List<string> MountPoints(string mounts, uint major, uint minor)
    {
        List<string> points = [];
        foreach (string line in mounts.Split('\n'))
        {
            string[] fields = line.Split(' ');
            if (fields.Length > 4 && fields[2] == $"{major}:{minor}")
                points.Add(fields[4].Replace("\\040", " ", StringComparison.Ordinal));
        }
        return points;
    }
}
