using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>
/// Finds the current slot and the partitions of an Android device (android-device §1): where the options say, below /dev/block/by-name, or
/// by the names in the kernel's list of partitions. If super is a file, it is the dump of another device, and nothing is searched on this
/// one.
/// </summary>
public sealed class DeviceFinder
{
    private const string LinkFolder = "/dev/block/by-name";
    private const int MostBytes = 64 << 10;

    private readonly DeviceLocations _where;
    private readonly Dictionary<string, string> _named = new(StringComparer.Ordinal);
    private readonly BootParameters _told;
    private readonly bool _isDump;

    /// <summary>
    /// Reads the bootloader's parameters. Exit code 69 if the device says that another slot is current than
    /// <see cref="DeviceLocations.Slot"/>; 65 if what it says is not the suffix of a slot; 66 and 74 if a named file cannot be read.
    /// </summary>
    public DeviceFinder(DeviceLocations where)
    {
        _where = where;
        _told = BootParameters.Parse(Text(where.CommandLine, "/proc/cmdline"), Text(where.BootConfig, "/proc/bootconfig"));
        if (_told.Slot is { } told)
        {
            if (where.Slot != null && where.Slot != told)
                throw new SnapuserdException(ExitCode.Unavailable,
                    $"--slot {where.Slot[1..]} is given, but the device says that its current slot is {told.TrimStart('_')} "
                    + $"(androidboot.slot_suffix={told})");
            if (!Slots.IsSlot(told))
                throw new SnapuserdException(ExitCode.CowCorrupt,
                    $"androidboot.slot_suffix is '{told}', but a device with Virtual A/B has the slots _a and _b");
        }
        Slot = _told.Slot ?? where.Slot;
        _isDump = where.Super is { } super && IsRegularFile(super);
        if (where.Super != null) _named.Add(Super, where.Super);
        if (where.Misc != null) _named.Add(Misc, where.Misc);
        if (where.UserData != null) _named.Add(UserData, where.UserData);
    }

    /// <summary>The name of the partition with the tables, as the tables call it.</summary>
    public const string Super = "super";

    /// <summary>The name of the bootloader's partition.</summary>
    public const string Misc = "misc";

    /// <summary>The name of the data partition.</summary>
    public const string UserData = "userdata";

    /// <summary>The name of the partition with the state files.</summary>
    public const string Metadata = "metadata";

    /// <summary>The suffix of the current slot; null if it is unknown.</summary>
    public string? Slot { get; }

    /// <summary>The path of super. Exit code 66 if it cannot be found.</summary>
    public string SuperPath
    {
        get
        {
            if (_named.TryGetValue(Super, out string? named)) return named;
            string name = _told.SuperPartition(Slot);
            return Find(name) ?? throw new SnapuserdException(ExitCode.InputMissing,
                _where.ByName is { } folder ? $"{folder} has no {name}"
                    : $"no partition is named {name}; is this an Android device? Name its super partition with --super");
        }
    }

    /// <summary>
    /// The folder that is mounted at /metadata, or the partition to mount. Exit code 66 if there is neither.
    /// </summary>
    public string MetadataPath
    {
        get
        {
            if (_where.Metadata != null) return _where.Metadata;
            if (_where.ByName == null && !_isDump && Exists("/metadata/ota")) return "/metadata";
            return Find(Metadata) ?? throw new SnapuserdException(ExitCode.InputMissing,
                _isDump || _where.ByName != null ? "the state of the update is in /metadata of the device; name the folder with --metadata"
                    : "/metadata is not mounted, and no partition is named metadata; name one with --metadata");
        }
    }

    /// <summary>
    /// The path of the partition <paramref name="name"/>; null if there is none. Exit code 64 if several have the name.
    /// </summary>
    public string? Find(string name)
    {
        if (_named.TryGetValue(name, out string? named)) return named;
        // The name may come from a table; it must not lead out of the folder.
        if (name is "" or "." or ".." || name.Contains('/', StringComparison.Ordinal)) return null;
        if (_where.ByName is { } folder) return Exists($"{folder}/{name}") ? $"{folder}/{name}" : null;
        if (_isDump) return null;
        return Exists($"{LinkFolder}/{name}") ? $"{LinkFolder}/{name}" : InKernel(name);
    }

    private static string? InKernel(string name)
    {
        List<string> found = [];
        foreach (KernelDevice device in KernelDevices.All() ?? [])
        {
            if (device.PartitionLabel != name) continue;
            // Android's init makes the nodes in /dev/block.
            foreach (string path in (ReadOnlySpan<string>)[$"/dev/block/{device.Name}", $"/dev/{device.Name}"])
            {
                if (Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) != 0
                    || (status.RdevMajor, status.RdevMinor) != (device.Major, device.Minor))
                    continue;
                found.Add(path);
                break;
            }
        }
        if (found.Count > 1)
            throw new SnapuserdException(ExitCode.Usage, $"several partitions are named {name}: {string.Join(", ", found)}; put a link to "
                + "the right one into a folder, and name that with --by-name");
        return found.Count == 1 ? found[0] : null;
    }

    private static string Text(string? named, string usual)
    {
        if (named == null)
        {
            try
            {
                return SmallFile.Read(usual, MostBytes) is { } bytes ? ByteText.Decode(bytes) : "";
            }
            catch (SnapuserdException e) when (e.Code != ExitCode.OutOfResources)
            {
                // Without it, the slot is unknown, which is reported where it matters.
                return "";
            }
        }
        byte[] file = SmallFile.Read(named, MostBytes)
            ?? throw new SnapuserdException(ExitCode.InputMissing, $"{named} does not exist");
        return ByteText.Decode(file);
    }

    private static bool Exists(string path) => Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) == 0;

    private static bool IsRegularFile(string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0
        && (status.Mode & (uint)Libc.S_IFMT) == (uint)Libc.S_IFREG;
}
