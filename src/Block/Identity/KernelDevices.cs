using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// A block device in the kernel's list. For a partition, also the UUID and the label from the partition table, if the table has them.
/// </summary>
public sealed class KernelDevice(uint major, uint minor, string name, long length, string? partitionUuid = null,
    string? partitionLabel = null)
{
    /// <summary>Major number.</summary>
    public uint Major { get; } = major;

    /// <summary>Minor number.</summary>
    public uint Minor { get; } = minor;

    /// <summary>Name below /dev, such as "sda1".</summary>
    public string Name { get; } = name;

    /// <summary>Length in bytes.</summary>
    public long Length { get; } = length;

    /// <summary>PARTUUID; null if the kernel reports none.</summary>
    public string? PartitionUuid { get; } = partitionUuid;

    /// <summary>PARTLABEL; null if the kernel reports none.</summary>
    public string? PartitionLabel { get; } = partitionLabel;
}

/// <summary>Lists and reads the kernel's block devices, for the search for a hibernation image or a partition of some name.</summary>
public static class KernelDevices
{
    /// <summary>Most devices in a stack, such as LVM over RAID over a partition; a device over a deeper stack is not listed.</summary>
    private const int MostLevels = 16;

    /// <summary>
    /// Devices that are not listed, by the part of the name before the number: memory, which does not survive a power-off; devices of a
    /// server that may be dead, so that a read never returns; floppy and optical drives.
    /// </summary>
    private static readonly string[] s_leftOut = ["ram", "zram", "ublkb", "nbd", "fd", "sr"];

    /// <summary>
    /// The devices that may hold a hibernation image and can be read without blocking, sorted by number. Null if /sys is unavailable.
    /// </summary>
    public static List<KernelDevice>? All()
    {
        if (KernelTree.Sys.Folder < 0) return null;
        List<KernelDevice> all = [];
        foreach ((uint major, uint minor) in BlockNode.All())
            if (Of(major, minor) is { Length: > 0 } device && !IsLeftOut(device.Name, major, minor, 0)) all.Add(device);
        return all;
    }

    /// <summary>The device with this number, even if <see cref="All"/> does not list it; null if there is none.</summary>
    public static KernelDevice? Of(uint major, uint minor)
    {
        string? name = null, uuid = null, label = null;
        foreach (string line in (KernelTree.Sys.ReadText($"dev/block/{major}:{minor}/uevent") ?? "").Split('\n'))
        {
            if (Value(line, "DEVNAME=") is { } device) name = device;
            if (Value(line, "PARTUUID=") is { } partition) uuid = partition;
            if (Value(line, "PARTNAME=") is { } text) label = text;
        }
        return name == null ? null : new KernelDevice(major, minor, name, BlockNode.Length(major, minor), uuid, label);
    }

    /// <summary>
    /// Reads from the medium and not from the page cache, because the kernel changes swap headers without updating the cache. Returns the
    /// number of bytes read or a negative errno.
    /// </summary>
    public static nint Read(uint major, uint minor, long offset, Span<byte> bytes)
    {
        int fd = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        if (fd < 0) return fd;
        // DONTNEED keeps pages that the range covers only in part.
        long from = Sizes.RoundDown(offset, Sizes.SystemPage);
        _ = Libc.FAdvise(fd, from, Sizes.RoundUp(offset + bytes.Length - from, Sizes.SystemPage), Libc.POSIX_FADV_DONTNEED);
        int tries = 0;
        nint read;
        do read = Libc.PRead(fd, bytes, offset);
        while (Retry.Again(read, ref tries));
        _ = Libc.Close(fd);
        return read;
    }

    /// <summary>
    /// True for a device with one of the names above, a suspended mapped device, and every device that is stacked over one of these or over
    /// too many others.
    /// </summary>
    private static bool IsLeftOut(string name, uint major, uint minor, int level)
    {
        foreach (string prefix in s_leftOut)
            if (name.Length > prefix.Length && name.StartsWith(prefix, StringComparison.Ordinal) && char.IsAsciiDigit(name[prefix.Length]))
                return true;
        if (level == MostLevels || KernelTree.Sys.ReadText($"dev/block/{major}:{minor}/dm/suspended") == "1") return true;
        foreach ((uint below, uint number) in BlockNode.Slaves(major, minor))
            if (IsLeftOut(BlockNode.Name(below, number) ?? "", below, number, level + 1)) return true;
        return false;
    }

    private static string? Value(string line, string key) => line.StartsWith(key, StringComparison.Ordinal) ? line[key.Length..] : null;
}
