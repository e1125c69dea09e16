using System;
using System.Collections.Generic;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// A part of a partition: <paramref name="Sectors"/> sectors of 512 bytes from <paramref name="Start"/> on, on the block device with index
/// <paramref name="Device"/> of the table. If <paramref name="IsZero"/> is true, it lies on no device and reads as zeros.
/// </summary>
public readonly record struct LpExtent(long Sectors, bool IsZero, long Start, int Device)
{
    /// <summary>The first sector after the extent.</summary>
    public long End => Start + Sectors;
}

/// <summary>A logical partition: its extents, one after the other, are its content.</summary>
public sealed class LpPartition(string name, uint attributes, int group, IReadOnlyList<LpExtent> extents)
{
    /// <summary>The name, with the suffix of its slot.</summary>
    public string Name { get; } = name;
    /// <summary>A sum of the attributes below.</summary>
    public uint Attributes { get; } = attributes;
    /// <summary>The index of its group.</summary>
    public int Group { get; } = group;
    /// <summary>Its extents, in order.</summary>
    public IReadOnlyList<LpExtent> Extents { get; } = extents;

    /// <summary>The content must not be written.</summary>
    public const uint ReadOnly = 1;
    /// <summary>On disk only: <see cref="Name"/> gets the suffix of the metadata slot when it is read.</summary>
    public const uint SlotSuffixed = 2;
    /// <summary>Set by the writer of an update for the partitions that it changes.</summary>
    public const uint Updated = 4;
    /// <summary>An image that recovery gave up; it is deleted at the next chance.</summary>
    public const uint Disabled = 8;

    /// <summary>Length in sectors.</summary>
    public long Sectors
    {
        get
        {
            long sum = 0;
            foreach (LpExtent extent in Extents) sum += extent.Sectors;
            return sum;
        }
    }

    /// <summary>Length in bytes.</summary>
    public long Bytes => Sectors * LpGeometry.SectorBytes;

    /// <summary>True if the partition has this attribute.</summary>
    public bool Has(uint attribute) => (Attributes & attribute) != 0;
}

/// <summary>A group of partitions with a common limit of bytes; 0 for no limit.</summary>
public sealed class LpGroup(string name, ulong maxBytes)
{
    /// <summary>The name.</summary>
    public string Name { get; } = name;
    /// <summary>The limit in bytes.</summary>
    public ulong MaxBytes { get; } = maxBytes;
}

/// <summary>A block device that holds extents.</summary>
public sealed class LpBlockDevice(string name, long firstSector, uint alignment, uint alignmentOffset, long bytes)
{
    /// <summary>Its name among the partitions of the disk.</summary>
    public string Name { get; } = name;
    /// <summary>The first sector of partitions; those before it hold the tables.</summary>
    public long FirstSector { get; } = firstSector;
    /// <summary>Bytes to whose multiples extents were aligned.</summary>
    public uint Alignment { get; } = alignment;
    /// <summary>Bytes by which these multiples are shifted.</summary>
    public uint AlignmentOffset { get; } = alignmentOffset;
    /// <summary>Length in bytes.</summary>
    public long Bytes { get; } = bytes;
}

/// <summary>The partition table of one slot (LP metadata, android-device §2).</summary>
public sealed class LpTable
{
    private readonly Dictionary<string, LpPartition> _byName;

    internal LpTable(LpGeometry geometry, int minor, uint flags, List<LpPartition> partitions, List<LpGroup> groups,
        List<LpBlockDevice> devices)
    {
        (Geometry, Minor, Flags, Partitions, Groups, Devices) = (geometry, minor, flags, partitions, groups, devices);
        _byName = new(StringComparer.Ordinal);
        foreach (LpPartition partition in partitions) _byName.Add(partition.Name, partition);
    }

    /// <summary>The geometry that the table was found with.</summary>
    public LpGeometry Geometry { get; }

    /// <summary>Minor version of the format, 0 to 2.</summary>
    public int Minor { get; }

    /// <summary>1: a device with Virtual A/B; 2: overlays of `adb remount` are active. 0 before minor version 2.</summary>
    public uint Flags { get; }

    /// <summary>All partitions, in the order of the table.</summary>
    public IReadOnlyList<LpPartition> Partitions { get; }

    /// <summary>All groups.</summary>
    public IReadOnlyList<LpGroup> Groups { get; }

    /// <summary>All block devices; the first one holds the table.</summary>
    public IReadOnlyList<LpBlockDevice> Devices { get; }

    /// <summary>The partition of that name, or null.</summary>
    public LpPartition? Find(string name) => _byName.GetValueOrDefault(name);
}
