using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// A block device in the kernel's list: number, name below /dev, length in bytes, and its entry in a partition table (null if none).
/// </summary>
public sealed class KernelDevice(uint major, uint minor, string name, long length, string? partitionUuid = null,
    string? partitionLabel = null)
{
    /// <summary>Major number.</summary>
    public uint Major { get; } = major;

    /// <summary>Minor number.</summary>
    public uint Minor { get; } = minor;

    /// <summary>Name such as "sda1".</summary>
    public string Name { get; } = name;

    /// <summary>Length in bytes.</summary>
    public long Length { get; } = length;

    /// <summary>PARTUUID, if the kernel reports it.</summary>
    public string? PartitionUuid { get; } = partitionUuid;

    /// <summary>PARTLABEL, if the kernel reports it.</summary>
    public string? PartitionLabel { get; } = partitionLabel;
}

/// <summary>The block devices that can be read without waiting for a server, a network, or a person who changes a disk.</summary>
public static class KernelDevices
{
    /// <summary>Most levels of a device stack.</summary>
    private const int MostLevels = 16;

    /// <summary>
    /// Name prefixes, before a digit, of devices that are left out: memory, which does not survive a power-off; devices whose server may
    /// be dead, so that a read never ends; removable media.
    /// </summary>
    private static readonly string[] s_leftOut = ["ram", "zram", "ublkb", "nbd", "fd", "sr"];

    /// <summary>All devices of nonzero length, disks and partitions, by number; null if the kernel's list is unavailable.</summary>
    public static List<KernelDevice>? All()
    {
        if (KernelTree.Sys.Folder < 0) return null;
        List<KernelDevice> all = [];
        foreach ((uint major, uint minor) in BlockNode.All())
            if (Of(major, minor) is { Length: > 0 } device && !IsLeftOut(device.Name, major, minor, 0)) all.Add(device);
        return all;
    }

    /// <summary>The device with a number, of any kind; null if the kernel has none.</summary>
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
    /// Reads from the medium, not from cached pages: the kernel changes swap headers without updating the page cache. Returns bytes or a
    /// negative errno.
    /// </summary>
    public static nint Read(uint major, uint minor, long offset, Span<byte> bytes)
    {
        int fd = BlockNode.Open(major, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        if (fd < 0) return fd;
        // Only whole pages leave the page cache.
        long from = Sizes.RoundDown(offset, Sizes.SystemPage);
        _ = Libc.FAdvise(fd, from, Sizes.RoundUp(offset + bytes.Length - from, Sizes.SystemPage), Libc.POSIX_FADV_DONTNEED);
        int tries = 0;
        nint read;
        do read = Libc.PRead(fd, bytes, offset);
        while (Retry.Again(read, ref tries));
        _ = Libc.Close(fd);
        return read;
    }

    /// <summary>Also true for a suspended mapped device, and for every device over one that is left out.</summary>
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
