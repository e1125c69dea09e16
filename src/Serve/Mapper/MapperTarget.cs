using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The target of a mapped device: the first <paramref name="Sectors"/> sectors of 512 bytes of a block device.</summary>
public readonly record struct MapperTarget(string Path, uint Major, uint Minor, long Sectors, bool ReadOnly)
{
    /// <summary>
    /// The block device at <paramref name="path"/>, limited to <paramref name="bytes"/> unless negative. Read-only if
    /// <paramref name="readOnly"/> is true or the device is read-only. Throws with exit code 64 if it is not a block device, 65 if it is
    /// too short, and with the codes of <see cref="BlockDevice.Open"/>.
    /// </summary>
    public static MapperTarget Of(string path, bool readOnly, long bytes = -1)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        if (!device.IsBlockDevice)
            throw new SnapuserdException(ExitCode.Usage,
                $"{path} is a file: the device mapper takes block devices (losetup makes one of a file)");
        if (device.Length < bytes)
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{path} has {device.Length} bytes, fewer than the {bytes} to be mapped");
        int isReadOnly = 0;
        int result = Libc.Statx(device.Fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result == 0) result = Libc.Ioctl(device.Fd, Libc.BLKROGET, ref isReadOnly);
        if (result < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{path}: {ErrnoText.Of(result)}");
        return new MapperTarget(path, status.RdevMajor, status.RdevMinor, (bytes < 0 ? device.Length : bytes) / 512,
            readOnly || isReadOnly != 0);
    }

    /// <summary>True if <paramref name="table"/> maps that device.</summary>
    public bool IsUnder(in MapperTable? table) => table is { } known && known.Type == MapperTable.Linear && known.Major == Major
        && known.Minor == Minor;

    /// <summary>True if <paramref name="table"/> equals the table for this target.</summary>
    internal bool IsSameAs(in MapperTable? table) => IsUnder(table) && table is { StartSectors: 0 } known && known.Sectors == Sectors
        && known.ReadOnly == ReadOnly;
}
