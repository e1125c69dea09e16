using System;
using System.Collections.Generic;
using System.Globalization;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Block;

/// <summary>
/// A line of a device-mapper table: <paramref name="Length"/> bytes from <paramref name="Start"/> of the mapped device on. A "linear"
/// line maps them to the bytes from <paramref name="Offset"/> of device <paramref name="Major"/>:<paramref name="Minor"/>. For any other
/// <paramref name="Type"/> the mapping is unknown.
/// </summary>
internal readonly record struct DeviceTableLine(string Type, long Start, long Length, uint Major, uint Minor, long Offset)
{
    internal bool IsLinear => Type == "linear";

    /// <summary>No device is below it: reads return zeros or errors.</summary>
    internal bool IsNothing => Type is "zero" or "error";
}

/// <summary>
/// Reads the active table of a device-mapper device by its number (linux/dm-ioctl.h). /sys shows which devices are below, but not at
/// which offsets.
/// </summary>
internal static class DeviceTable
{
    private const int HeadBytes = 312, LineBytes = 40, FirstBuffer = 16 << 10, LargestBuffer = 4 << 20, SectorBytes = 512;

    /// <summary>The lines in order; null if the table cannot be read.</summary>
    internal static List<DeviceTableLine>? Read(uint major, uint minor) => Read(major, minor, out _);

    /// <summary>The same, and how many times the device is open or mounted.</summary>
    internal static List<DeviceTableLine>? Read(uint major, uint minor, out int opens)
    {
        opens = 0;
        int control = KernelTree.Dev.Open("mapper/control", Libc.O_RDWR);
        if (control < 0)
            control =
                Scarcity.Check(Libc.OpenAt(Libc.AT_FDCWD, "/dev/mapper/control", Libc.O_RDWR | Libc.O_CLOEXEC), "/dev/mapper/control");
        // Android's init makes the node elsewhere.
        if (control < 0)
            control = Scarcity.Check(Libc.OpenAt(Libc.AT_FDCWD, "/dev/device-mapper", Libc.O_RDWR | Libc.O_CLOEXEC), "/dev/device-mapper");
        if (control < 0) return null;
        try
        {
            for (int size = FirstBuffer; size <= LargestBuffer; size *= 4)
            {
                byte[] message = new byte[size];
                ref DmIoctl header = ref MemoryMarshal.AsRef<DmIoctl>(message.AsSpan());
                header.SetVersion();
                (header.DataSize, header.DataStart, header.Flags) = ((uint)size, HeadBytes, DM_STATUS_TABLE_FLAG);
                header.Dev = Libc.EncodeDevice(major, minor);
                if (Libc.Ioctl(control, DM_TABLE_STATUS, ref message[0]) < 0) return null;
                opens = header.OpenCount;
                if ((header.Flags & DM_BUFFER_FULL_FLAG) == 0) return Parse(message);
            }
            return null;
        }
        finally
        {
            _ = Libc.Close(control);
        }
    }

    /// <summary>Parses the reply to TABLE_STATUS; null if its lines do not fit into the message or are malformed.</summary>
    internal static List<DeviceTableLine>? Parse(ReadOnlySpan<byte> message)
    {
        DmIoctl header = MemoryMarshal.Read<DmIoctl>(message);
        List<DeviceTableLine> lines = [];
        if (header.DataStart > message.Length) return null;
        ReadOnlySpan<byte> table = message[(int)header.DataStart..];
        long at = 0;
        for (uint i = 0; i < header.TargetCount; i++)
        {
            if (at < 0 || at > table.Length - LineBytes) return null;
            DmTargetSpec spec = MemoryMarshal.Read<DmTargetSpec>(table[(int)at..]);
            string type = Text(spec.TypeBytes), parameters = Text(table[((int)at + LineBytes)..]);
            if (spec.SectorStart > long.MaxValue / SectorBytes || spec.Length > long.MaxValue / SectorBytes) return null;
            DeviceTableLine line = new(type, (long)spec.SectorStart * SectorBytes, (long)spec.Length * SectorBytes, 0, 0, 0);
            if (line.IsLinear)
            {
                if (!ParseLinear(parameters, ref line)) return null;
            }
            lines.Add(line);
            // In a table that is read, Next is relative to the first line; in a table to be loaded, to this line.
            at = spec.Next;
        }
        return lines;
    }

    /// <summary>"major:minor start", the start in sectors.</summary>
    private static bool ParseLinear(ReadOnlySpan<char> parameters, ref DeviceTableLine line)
    {
        int colon = parameters.IndexOf(':'), blank = parameters.IndexOf(' ');
        if (colon < 0 || blank < colon
            || !uint.TryParse(parameters[..colon], NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            || !uint.TryParse(parameters[(colon + 1)..blank], NumberStyles.None, CultureInfo.InvariantCulture, out uint minor)
            || !long.TryParse(parameters[(blank + 1)..].Trim(), NumberStyles.None, CultureInfo.InvariantCulture, out long start)
            || start > long.MaxValue / SectorBytes)
        {
            return false;
        }
        line = line with { Major = major, Minor = minor, Offset = start * SectorBytes };
        return true;
    }

    private static string Text(ReadOnlySpan<byte> bytes)
    {
        int end = bytes.IndexOf((byte)0);
        return ByteText.Decode(end < 0 ? bytes : bytes[..end]);
    }
}
