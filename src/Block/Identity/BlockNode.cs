using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Information of /sys about a block device, by its number; also opens the device when no path that this process sees leads to it.
/// </summary>
internal static class BlockNode
{
    private const int SectorBytes = 512;

    /// <summary>Number of loop devices to try when /sys is unavailable.</summary>
    private const uint LoopDevices = 256;

    /// <summary>Every block device of the kernel, by number; without /sys the first loop devices, whether they exist or not.</summary>
    internal static List<(uint Major, uint Minor)> All() => All(KernelTree.Sys);

    /// <summary>Every block device, from a given /sys.</summary>
    internal static List<(uint Major, uint Minor)> All(KernelTree sys)
    {
        List<(uint, uint)> all = [];
        if (sys.Folder < 0)
            for (uint minor = 0; minor < LoopDevices; minor++) all.Add((Libc.LOOP_MAJOR, minor));
        foreach (string name in sys.Names("dev/block") ?? [])
            if (ParseNumber(name) is { } number) all.Add(number);
        all.Sort();
        return all;
    }

    /// <summary>Its name below /dev, such as "sda1"; null without /sys.</summary>
    internal static string? Name(uint major, uint minor)
    {
        foreach (string line in (KernelTree.Sys.ReadText($"{Folder(major, minor)}/uevent") ?? "").Split('\n'))
            if (line.StartsWith("DEVNAME=", StringComparison.Ordinal)) return line["DEVNAME=".Length..];
        return null;
    }

    /// <summary>Its length in bytes; 0 without /sys.</summary>
    internal static long Length(uint major, uint minor) =>
        Number($"{Folder(major, minor)}/size") is { } sectors and <= long.MaxValue / SectorBytes ? sectors * SectorBytes : 0;

    /// <summary>For a partition: the disk, and the byte offset on it where the partition begins.</summary>
    internal static (uint Major, uint Minor, long Offset)? Partition(uint major, uint minor)
    {
        string folder = Folder(major, minor);
        if (Number($"{folder}/partition") == null || Number($"{folder}/start") is not { } start
            || ParseNumber(KernelTree.Sys.ReadText($"{folder}/../dev")) is not { } disk)
            return null;
        return (disk.Major, disk.Minor, start * SectorBytes);
    }

    /// <summary>The partitions of a disk.</summary>
    internal static List<(uint Major, uint Minor)> Partitions(uint major, uint minor)
    {
        List<(uint, uint)> partitions = [];
        string folder = Folder(major, minor);
        foreach (string name in KernelTree.Sys.Names(folder) ?? [])
            if (Number($"{folder}/{name}/partition") != null && ParseNumber(KernelTree.Sys.ReadText($"{folder}/{name}/dev")) is { } number)
                partitions.Add(number);
        return partitions;
    }

    /// <summary>True for a device of the device mapper.</summary>
    internal static bool IsMapped(uint major, uint minor) => KernelTree.Sys.Names($"{Folder(major, minor)}/dm") != null;

    /// <summary>The name of a device of the device mapper; without /sys its number.</summary>
    internal static string MapperName(uint major, uint minor) =>
        KernelTree.Sys.ReadText($"{Folder(major, minor)}/dm/name") is { Length: > 0 } name ? name : $"{major}:{minor}";

    /// <summary>The devices directly above a device.</summary>
    internal static List<(uint Major, uint Minor)> Holders(uint major, uint minor) => Linked(major, minor, "holders");

    /// <summary>The devices directly below an md, bcache or device-mapper device.</summary>
    internal static List<(uint Major, uint Minor)> Slaves(uint major, uint minor) => Linked(major, minor, "slaves");

    /// <summary>Kind of a device that lies on others, for messages: "md raid1", or else its name or number.</summary>
    internal static string Kind(uint major, uint minor) =>
        KernelTree.Sys.ReadText($"{Folder(major, minor)}/md/level") is { Length: > 0 } level ? $"md {level}" : Name(major, minor)
            ?? $"{major}:{minor}";

    /// <summary>
    /// Opens a block device by its number, through the kernel's devtmpfs, or else through /dev or /dev/block, and verifies the number. A
    /// descriptor or a negative errno.
    /// </summary>
    internal static int Open(uint major, uint minor, int flags)
    {
        string name = Name(major, minor) ?? (major == Libc.LOOP_MAJOR ? $"loop{minor}" : "");
        if (name.Length == 0) return -Errno.ENOENT;
        int result = -Errno.ENOENT;
        // Android's init makes the nodes in /dev/block.
        foreach (string folder in (ReadOnlySpan<string>)["", "/dev/", "/dev/block/"])
        {
            bool own = folder.Length == 0;
            int fd = own ? KernelTree.Dev.Open(name, flags)
                : Scarcity.Check(Libc.OpenAt(Libc.AT_FDCWD, folder + name, flags | Libc.O_CLOEXEC), name);
            if (fd < 0)
            {
                if (own || fd != -Errno.ENOENT) result = fd;
                if (fd == -Errno.EBUSY) return fd;
                continue;
            }
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK
                && (status.RdevMajor, status.RdevMinor) == (major, minor)) return fd;
            _ = Libc.Close(fd);
        }
        return result;
    }

    private static List<(uint Major, uint Minor)> Linked(uint major, uint minor, string links)
    {
        List<(uint, uint)> devices = [];
        string folder = $"{Folder(major, minor)}/{links}";
        foreach (string name in KernelTree.Sys.Names(folder) ?? [])
            if (ParseNumber(KernelTree.Sys.ReadText($"{folder}/{name}/dev")) is { } number) devices.Add(number);
        return devices;
    }

    private static string Folder(uint major, uint minor) => $"dev/block/{major}:{minor}";

    private static long? Number(string path) =>
        long.TryParse(KernelTree.Sys.ReadText(path), NumberStyles.None, CultureInfo.InvariantCulture, out long number) ? number : null;

    private static (uint Major, uint Minor)? ParseNumber(string? text)
    {
        int colon = text?.IndexOf(':', StringComparison.Ordinal) ?? -1;
        return colon > 0 && uint.TryParse(text.AsSpan(0, colon), NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            && uint.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out uint minor) ? (major,
                minor) : null;
    }
}
