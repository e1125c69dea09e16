using System;
using System.Globalization;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>
/// A table in the kernel. If <paramref name="Type"/> is <see cref="Linear"/>, it maps a range of one device; otherwise its device and range
/// are unknown (zeros).
/// </summary>
/// <param name="Type">Target type of the table's first line.</param>
/// <param name="Major">Major number of the device that is mapped.</param>
/// <param name="Minor">Minor number of the device that is mapped.</param>
/// <param name="StartSectors">Start of the range in that device, in sectors of 512 bytes.</param>
/// <param name="Sectors">Length of the range in sectors of 512 bytes.</param>
/// <param name="ReadOnly">True if the mapped device refuses writes.</param>
public readonly record struct MapperTable(string Type, uint Major, uint Minor, long StartSectors, long Sectors, bool ReadOnly)
{
    /// <summary>The target type that maps one device, or a part of one.</summary>
    public const string Linear = "linear";
}

/// <summary>
/// A line of a table to be loaded: <paramref name="Sectors"/> sectors of 512 bytes from <paramref name="StartSectors"/> on, of the device
/// <paramref name="Major"/>:<paramref name="Minor"/>; of no device, and zeros, if both numbers are 0.
/// </summary>
public readonly record struct MapperPiece(uint Major, uint Minor, long StartSectors, long Sectors)
{
    internal bool IsZero => Major == 0 && Minor == 0;
}

/// <summary>Messages to the device mapper, in the layout that DeviceMapperAbi.cs describes.</summary>
internal static class MapperMessage
{
    /// <summary>
    /// Bytes of a buffer for a message with at most one table line, sent or received: 312 for the header, 40 for the line, and the rest for
    /// its text.
    /// </summary>
    internal const int Bytes = 1024;

    private const int HeadBytes = 312, LineBytes = 40;

    /// <summary>Two numbers of a device, a sector, and what separates them, rounded up to 8 bytes.</summary>
    private const int LongestParameters = 48;

    /// <summary>The prefix of the identifiers of our devices.</summary>
    private const string Mark = "SNAPUSERD-";

    /// <summary>The identifier that marks a device as ours.</summary>
    internal static string Identifier(string name) => Mark + name;

    /// <summary>
    /// The length of the longest name whose identifier fits into the kernel's field. It is below the kernel's limit for names.
    /// </summary>
    internal static int LongestName => DM_UUID_LEN - 1 - Mark.Length;

    /// <summary>The message's header.</summary>
    internal static ref DmIoctl Head(Span<byte> message) => ref MemoryMarshal.AsRef<DmIoctl>(message);

    /// <summary>
    /// Writes the header of a message about device <paramref name="name"/>, which may be empty. The kernel writes its reply to the same
    /// memory.
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

    /// <summary>Writes a DEV_CREATE message for one of our devices.</summary>
    internal static void WriteCreation(Span<byte> message, string name)
    {
        Write(message, name, 0);
        _ = ByteText.Encode(Identifier(name), Head(message).UuidBytes);
    }

    /// <summary>Bytes of a buffer for a message with a table of <paramref name="lines"/> lines.</summary>
    internal static int BytesFor(int lines) => Bytes + (lines * (LineBytes + LongestParameters));

    /// <summary>Writes a TABLE_LOAD message for dm-linear over a whole device or its first sectors.</summary>
    internal static void WriteTable(Span<byte> message, string name, in MapperTarget target) =>
        WriteTable(message, name, [new MapperPiece(target.Major, target.Minor, 0, target.Sectors)], target.ReadOnly);

    /// <summary>Writes a TABLE_LOAD message for a device that consists of these pieces.</summary>
    internal static void WriteTable(Span<byte> message, string name, ReadOnlySpan<MapperPiece> pieces, bool readOnly)
    {
        Write(message, name, readOnly ? DM_READONLY_FLAG : 0);
        Head(message).TargetCount = (uint)pieces.Length;
        ulong start = 0;
        int at = HeadBytes;
        foreach (MapperPiece piece in pieces)
        {
            ref DmTargetSpec line = ref MemoryMarshal.AsRef<DmTargetSpec>(message[at..]);
            (line.SectorStart, line.Length) = (start, (ulong)piece.Sectors);
            _ = ByteText.Encode(piece.IsZero ? "zero" : MapperTable.Linear, line.TypeBytes);
            // "major:minor start" and a terminating zero. Numbers instead of a path, because they mean the same in every mount namespace
            // and after switch_root.
            string parameters = piece.IsZero ? ""
                : string.Create(CultureInfo.InvariantCulture, $"{piece.Major}:{piece.Minor} {piece.StartSectors}");
            int length = ByteText.Encode(parameters, message[(at + LineBytes)..]) + 1;
            line.Next = (uint)(LineBytes + ((length + 7) & ~7));
            at += (int)line.Next;
            start += line.Length;
        }
    }

    /// <summary>Parses the reply to TABLE_STATUS; null if there is no table. The type of a table with several lines is "several".</summary>
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

    /// <summary>The number of device <paramref name="name"/> in the reply to LIST_DEVICES; null if the device is not listed.</summary>
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
