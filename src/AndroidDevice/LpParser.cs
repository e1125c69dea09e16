using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// Parses one table of LP metadata: a header, and directly after it the tables of partitions, extents, groups and block devices.
/// <code>
///  off size field
///    0    4 magic 0x414C5030
///    4    2 major version, 10
///    6    2 minor version, 0 to 2
///    8    4 bytes of the header: 128, or 256 from minor version 2 on
///   12   32 SHA-256 of the header, with these 32 bytes as zeros
///   44    4 bytes of all tables
///   48   32 SHA-256 of the tables
///   80 4×12 partitions, extents, groups, block devices: offset from the end of the header, entries, bytes of an entry
///  128    4 flags, from minor version 2 on
/// </code>
/// </summary>
internal readonly ref struct LpParser
{
    private const uint Magic = 0x414C5030;
    private const int Major = 10, LatestMinor = 2;
    private const int OldHeaderBytes = 128, HeaderBytesFromMinor2 = 256;
    private const int HeaderChecksum = 12, TablesChecksum = 48;
    private const int NameBytes = 36;
    private const uint KnownAttributes = LpPartition.ReadOnly | LpPartition.SlotSuffixed;
    private const uint AttributesFromMinor1 = LpPartition.Updated | LpPartition.Disabled;
    private const uint SlotSuffixedFlag = 1;

    /// <summary>A number of sectors from which a byte offset no longer fits into a long.</summary>
    private const ulong TooManySectors = 1ul << 53;

    private readonly ReadOnlySpan<byte> _tables;
    private readonly LpGeometry _geometry;
    private readonly int _minor;
    private readonly string _suffix;

    private LpParser(ReadOnlySpan<byte> tables, LpGeometry geometry, int minor, int slot)
    {
        _tables = tables;
        _geometry = geometry;
        _minor = minor;
        _suffix = slot == 0 ? Slots.A : Slots.B;
    }

    /// <summary>Bytes that are enough to learn the length of header and tables.</summary>
    internal const int PrefixBytes = 48;

    /// <summary>
    /// Bytes of header and tables, from the first <see cref="PrefixBytes"/>. Returns null, or the reason why they are invalid.
    /// </summary>
    internal static string? Measure(ReadOnlySpan<byte> prefix, LpGeometry geometry, out int headerBytes, out int tableBytes)
    {
        (headerBytes, tableBytes) = (0, 0);
        uint magic = U32(prefix, 0);
        if (magic != Magic) return Text($"magic 0x{magic:x8}, expected 0x{Magic:x8}");
        int major = BinaryPrimitives.ReadUInt16LittleEndian(prefix[4..]), minor = BinaryPrimitives.ReadUInt16LittleEndian(prefix[6..]);
        if (major != Major || minor > LatestMinor)
            return Text($"version {major}.{minor}; only {Major}.0 to {Major}.{LatestMinor} are known");
        uint header = U32(prefix, 8), expected = minor < 2 ? OldHeaderBytes : (uint)HeaderBytesFromMinor2;
        if (header != expected) return Text($"a header of {header} bytes, expected {expected} in version {major}.{minor}");
        uint tables = U32(prefix, 44);
        if (tables > geometry.MaxTableBytes || header + (ulong)tables > geometry.MaxTableBytes)
            return Text($"the tables have {tables} bytes; at most {geometry.MaxTableBytes - header} are reserved for them");
        (headerBytes, tableBytes) = ((int)header, (int)tables);
        return null;
    }

    /// <summary>
    /// Parses header and tables, whose lengths <see cref="Measure"/> gave. <paramref name="slot"/> is the number of the metadata slot,
    /// which determines the suffix of names that need one. Returns null, or the reason why they are invalid.
    /// </summary>
    internal static string? Parse(ReadOnlySpan<byte> bytes, LpGeometry geometry, int slot, out LpTable? table)
    {
        table = null;
        if (Measure(bytes, geometry, out int headerBytes, out int tableBytes) is { } reason) return reason;
        ReadOnlySpan<byte> header = bytes[..headerBytes], tables = bytes.Slice(headerBytes, tableBytes);
        if (!Checksum.Matches(header, HeaderChecksum)) return "the checksum of the header is wrong";
        if (!Checksum.IsOf(header.Slice(TablesChecksum, 32), tables)) return "the checksum of the tables is wrong";
        int minor = BinaryPrimitives.ReadUInt16LittleEndian(header[6..]);
        LpParser parser = new(tables, geometry, minor, slot);
        return parser.ParseAll(header, out table);
    }

    private string? ParseAll(ReadOnlySpan<byte> header, out LpTable? table)
    {
        table = null;
        List<LpBlockDevice> devices = [];
        List<LpGroup> groups = [];
        ExtentTable extents = new();
        List<LpPartition> partitions = [];
        string? reason = ParseDevices(header[116..], devices) ?? ParseGroups(header[104..], groups)
            ?? ParseExtents(header[92..], devices.Count, extents) ?? ParsePartitions(header[80..], groups.Count, extents, partitions);
        if (reason != null) return reason;
        if (devices.Count == 0) return "no block device";
        table = new LpTable(_geometry, _minor, _minor < 2 ? 0 : U32(header, 128), partitions, groups, devices);
        return null;
    }

    /// <summary>The entries of the table that a descriptor describes. Returns null, or the reason why it is invalid.</summary>
    private string? Entries(ReadOnlySpan<byte> descriptor, string what, int entryBytes, out ReadOnlySpan<byte> entries)
    {
        entries = default;
        uint offset = U32(descriptor, 0), count = U32(descriptor, 4), size = U32(descriptor, 8);
        if (size != entryBytes) return Text($"entries of {size} bytes in the table of {what}, expected {entryBytes}");
        if (offset > _tables.Length || count * (ulong)size > (ulong)(_tables.Length - (int)offset))
            return Text($"the table of {what} ends after the end of all tables");
        entries = _tables.Slice((int)offset, (int)(count * size));
        return null;
    }

    private string? ParseDevices(ReadOnlySpan<byte> descriptor, List<LpBlockDevice> devices)
    {
        const int bytes = 64;
        if (Entries(descriptor, "block devices", bytes, out ReadOnlySpan<byte> entries) is { } reason) return reason;
        for (; entries.Length > 0; entries = entries[bytes..])
        {
            ulong first = U64(entries, 0), size = U64(entries, 16);
            if (first >= TooManySectors || size > long.MaxValue)
                return Text($"block device {devices.Count} has {size} bytes, and its partitions begin at sector {first}: too large");
            string name = Name(entries[24..], (U32(entries, 60) & SlotSuffixedFlag) != 0);
            devices.Add(new LpBlockDevice(name, (long)first, U32(entries, 8), U32(entries, 12), (long)size));
        }
        return null;
    }

    private string? ParseGroups(ReadOnlySpan<byte> descriptor, List<LpGroup> groups)
    {
        const int bytes = 48;
        if (Entries(descriptor, "groups", bytes, out ReadOnlySpan<byte> entries) is { } reason) return reason;
        for (; entries.Length > 0; entries = entries[bytes..])
            groups.Add(new LpGroup(Name(entries, (U32(entries, 36) & SlotSuffixedFlag) != 0), U64(entries, 40)));
        return null;
    }

    /// <summary>
    /// The extents of all partitions. Real tables have gaps, entries that no partition uses; only an entry that is used has to be valid.
    /// </summary>
    private sealed class ExtentTable
    {
        internal List<LpExtent> All { get; } = [];

        /// <summary>By index: the reason why an entry cannot be used.</summary>
        internal Dictionary<int, string> Invalid { get; } = [];
    }

    private string? ParseExtents(ReadOnlySpan<byte> descriptor, int devices, ExtentTable extents)
    {
        const int bytes = 24;
        if (Entries(descriptor, "extents", bytes, out ReadOnlySpan<byte> entries) is { } reason) return reason;
        for (; entries.Length > 0; entries = entries[bytes..])
        {
            int number = extents.All.Count;
            ulong sectors = U64(entries, 0), start = U64(entries, 12);
            uint type = U32(entries, 8), device = U32(entries, 20);
            bool zero = type == 1;
            if (type == 0 && device >= devices) return Text($"extent {number} lies on block device {device} of {devices}");
            if (type > 1) extents.Invalid.Add(number, Text($"extent {number} has type {type}"));
            else if (sectors >= TooManySectors || (!zero && (start >= TooManySectors || start + sectors >= TooManySectors)))
                extents.Invalid.Add(number, Text($"extent {number} has {sectors} sectors from sector {start} on: too large"));
            bool bad = extents.Invalid.ContainsKey(number);
            extents.All.Add(zero || bad
                ? new LpExtent(bad ? 0 : (long)sectors, true, 0, 0) : new LpExtent((long)sectors, false, (long)start, (int)device));
        }
        return null;
    }

    private string? ParsePartitions(ReadOnlySpan<byte> descriptor, int groups, ExtentTable extents, List<LpPartition> partitions)
    {
        const int bytes = 52;
        if (Entries(descriptor, "partitions", bytes, out ReadOnlySpan<byte> entries) is { } reason) return reason;
        uint known = KnownAttributes | (_minor < 1 ? 0 : AttributesFromMinor1);
        HashSet<string> names = new(StringComparer.Ordinal);
        ulong used = 0;
        for (; entries.Length > 0; entries = entries[bytes..])
        {
            uint attributes = U32(entries, 36), first = U32(entries, 40), count = U32(entries, 44), group = U32(entries, 48);
            string name = Name(entries, (attributes & LpPartition.SlotSuffixed) != 0);
            if ((attributes & ~known) != 0) return Text($"partition {name} has unknown attributes: 0x{attributes:x}");
            if (first + (ulong)count > (ulong)extents.All.Count)
                return Text($"partition {name} has extents {first} to {first + (ulong)count} of {extents.All.Count}");
            // Limits the memory that a crafted table can take. No partition shares an entry with another.
            if ((used += count) > (ulong)extents.All.Count) return "partitions share extents";
            if (group >= groups) return Text($"partition {name} is in group {group} of {groups}");
            if (!names.Add(name)) return Text($"two partitions have the name {name}");
            for (int i = (int)first; i < (int)(first + count); i++)
                if (extents.Invalid.TryGetValue(i, out string? invalid)) return invalid;
            List<LpExtent> own = extents.All.GetRange((int)first, (int)count);
            LpPartition partition = new(name, attributes & ~LpPartition.SlotSuffixed, (int)group, own);
            if (IsTooLarge(partition)) return Text($"partition {name} has more than {TooManySectors} sectors");
            partitions.Add(partition);
        }
        return null;
    }

    private static bool IsTooLarge(LpPartition partition)
    {
        ulong sum = 0;
        foreach (LpExtent extent in partition.Extents)
        {
            sum += (ulong)extent.Sectors;
            if (sum >= TooManySectors) return true;
        }
        return false;
    }

    /// <summary>A name of up to 36 bytes, padded with zeros. Bytes that are not ASCII are shown as '?'.</summary>
    private string Name(ReadOnlySpan<byte> bytes, bool suffixed)
    {
        ReadOnlySpan<byte> name = bytes[..NameBytes];
        int end = name.IndexOf((byte)0);
        if (end >= 0) name = name[..end];
        return Encoding.ASCII.GetString(name) + (suffixed ? _suffix : "");
    }

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
