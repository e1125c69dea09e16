using System;
using System.Globalization;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>
/// A table of one line in the kernel: dm-linear from <paramref name="StartSectors"/> of a device on, or another target
/// (<paramref name="Type"/>), whose device is not known.
/// </summary>
/// <param name="Type">Target type of its first line.</param>
/// <param name="Major">Major number of the device below.</param>
/// <param name="Minor">Minor number of the device below.</param>
/// <param name="StartSectors">Start in that device, in sectors of 512 bytes.</param>
/// <param name="Sectors">Its length in sectors of 512 bytes.</param>
/// <param name="ReadOnly">The mapped device refuses writes.</param>
public readonly record struct MapperTable(string Type, uint Major, uint Minor, long StartSectors, long Sectors, bool ReadOnly)
{
    /// <summary>The target type that maps one device, or a part of one.</summary>
    public const string Linear = "linear";
}

/// <summary>Messages to the device mapper, in the layout that DeviceMapperAbi.cs describes.</summary>
internal static class MapperMessage
{
    /// <summary>
    /// Bytes of a message without a table, or with a table of one line in either direction: 312 of the header, 40 of the line, and text.
    /// </summary>
    internal const int Bytes = 1024;

    private const int HeadBytes = 312, LineBytes = 40;

    /// <summary>The prefix of the identifiers of our devices.</summary>
    private const string Mark = "SNAPUSERD-";

    /// <summary>The identifier that marks a device as ours.</summary>
    internal static string Identifier(string name) => Mark + name;

    /// <summary>The longest name whose identifier fits: shorter than the kernel's limit for names.</summary>
    internal static int LongestName => DM_UUID_LEN - 1 - Mark.Length;

    /// <summary>The message's header.</summary>
    internal static ref DmIoctl Head(Span<byte> message) => ref MemoryMarshal.AsRef<DmIoctl>(message);

    /// <summary>
    /// Begins a message about device <paramref name="name"/>; empty for none. The rest of <paramref name="message"/> is for the answer.
    /// </summary>
    internal static void Write(Span<byte> message, string name, uint flags)
    {
        message.Clear();
        ref DmIoctl header = ref Head(message);
        header.SetVersion();
        header.DataSize = (uint)message.Length;
        header.DataStart = HeadBytes;
        header.Flags = flags;
        _ = ByteText.Encode(name, header.NameBytes[..^1]);
    }

    /// <summary>DEV_CREATE of one of our devices.</summary>
    internal static void WriteCreation(Span<byte> message, string name)
    {
        Write(message, name, 0);
        _ = ByteText.Encode(Identifier(name), Head(message).UuidBytes);
    }

    /// <summary>TABLE_LOAD of dm-linear over a whole device, or its first sectors.</summary>
    internal static void WriteTable(Span<byte> message, string name, in MapperTarget target)
    {
        Write(message, name, target.ReadOnly ? DM_READONLY_FLAG : 0);
        Head(message).TargetCount = 1;
        ref DmTargetSpec line = ref MemoryMarshal.AsRef<DmTargetSpec>(message[HeadBytes..]);
        line.Length = (ulong)target.Sectors;
        _ = ByteText.Encode(MapperTable.Linear, line.TypeBytes);
        // By number, which means the same in every mount namespace and after switch_root. "major:minor start" and a zero.
        string parameters = string.Create(CultureInfo.InvariantCulture, $"{target.Major}:{target.Minor} 0");
        int length = ByteText.Encode(parameters, message[(HeadBytes + LineBytes)..]) + 1;
        line.Next = (uint)(LineBytes + ((length + 7) & ~7));
    }

    /// <summary>
    /// Parses the answer of TABLE_STATUS; null if there is no table. A table that is not a single line of dm-linear has the type of its
    /// first line, or "several" if it has more lines.
    /// </summary>
    internal static MapperTable? ReadTable(ReadOnlySpan<byte> message)
    {
        ref readonly DmIoctl header = ref MemoryMarshal.AsRef<DmIoctl>(message);
        if (header.TargetCount == 0) return null;
        bool readOnly = (header.Flags & DM_READONLY_FLAG) != 0;
        int at = (int)Math.Min(header.DataStart, int.MaxValue);
        if (header.TargetCount > 1 || (header.Flags & DM_BUFFER_FULL_FLAG) != 0 || at > message.Length - LineBytes)
            return new MapperTable("several", 0, 0, 0, 0, readOnly);
        DmTargetSpec line = MemoryMarshal.Read<DmTargetSpec>(message[at..]);
        string type = Text(line.TypeBytes);
        string parameters = Text(message[(at + LineBytes)..]);
        int colon = parameters.IndexOf(':', StringComparison.Ordinal), blank = parameters.IndexOf(' ', StringComparison.Ordinal);
        if (type != MapperTable.Linear || line.SectorStart != 0 || colon < 0 || blank < colon
            || !uint.TryParse(parameters.AsSpan(0, colon), NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            || !uint.TryParse(parameters.AsSpan(colon + 1, blank - colon - 1), NumberStyles.None, CultureInfo.InvariantCulture,
                out uint minor)
            || !long.TryParse(parameters.AsSpan(blank + 1), NumberStyles.None, CultureInfo.InvariantCulture, out long start))
        {
            return new MapperTable(type, 0, 0, 0, (long)line.Length, readOnly);
        }
        return new MapperTable(type, major, minor, start, (long)line.Length, readOnly);
    }

    /// <summary>The device called <paramref name="name"/> in the answer of LIST_DEVICES, or null.</summary>
    internal static ulong? FindDevice(ReadOnlySpan<byte> message, string name)
    {
        const int NameOffset = 12;
        uint start = MemoryMarshal.AsRef<DmIoctl>(message).DataStart;
        for (long at = start; at <= message.Length - NameOffset - 1;)
        {
            ReadOnlySpan<byte> entry = message[(int)at..];
            ulong device = MemoryMarshal.Read<ulong>(entry);
            uint next = MemoryMarshal.Read<uint>(entry[sizeof(ulong)..]);
            // An empty list has one entry without a device.
            if (device != 0 && Text(entry[NameOffset..]) == name) return device;
            if (next == 0) return null;
            at += next;
        }
        return null;
    }

    /// <summary>Text up to its terminating zero.</summary>
    internal static string Text(ReadOnlySpan<byte> bytes)
    {
        int end = bytes.IndexOf((byte)0);
        return ByteText.Decode(end < 0 ? bytes : bytes[..end]);
    }
}
