using System;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// Reads partition tables: from the two geometries and the two copies of each table on a super partition, or from a file with one table.
/// A damaged copy is replaced by its backup, never by the table of another slot, which has other extents.
/// </summary>
public static class LpReader
{
    /// <summary>Limit for a file with a table. Android reserves 256 KiB at most.</summary>
    public const int MostFileBytes = 1 << 20;

    /// <summary>
    /// Reads the table of metadata slot <paramref name="slot"/> from a super partition. Returns null, or the reason why there is no valid
    /// table. <paramref name="repaired"/> names the parts that were read from their backup; it is empty if none was.
    /// </summary>
    public static string? ReadSuper(IByteSource super, int slot, out LpTable? table, out string repaired)
    {
        table = null;
        repaired = "";
        string? first = ReadGeometry(super, LpGeometry.ReservedBytes, out LpGeometry? geometry);
        if (first != null)
        {
            if (ReadGeometry(super, LpGeometry.ReservedBytes + LpGeometry.PaddedBytes, out geometry) is { } second)
                return $"geometry: {first}; its backup: {second}";
            repaired = "geometry";
        }
        if (slot >= geometry!.Slots) return string.Create(CultureInfo.InvariantCulture, $"no table {slot}: there are {geometry.Slots}");
        string? primary = ReadTable(super, geometry.PrimaryOffset(slot), geometry, slot, out table);
        if (primary != null)
        {
            if (ReadTable(super, geometry.BackupOffset(slot), geometry, slot, out table) is { } backup)
                return string.Create(CultureInfo.InvariantCulture, $"table {slot}: {primary}; its backup: {backup}");
            repaired += repaired.Length > 0 ? " and table" : "table";
        }
        if (CheckPlace(geometry, table!) is not { } misplaced) return null;
        table = null;
        return misplaced;
    }

    /// <summary>
    /// Reads the one table of a file, which has no reserved bytes and no backup. <paramref name="slot"/> determines the suffix of names
    /// that need one. Returns null, or the reason why it is invalid.
    /// </summary>
    public static string? ReadFile(ReadOnlySpan<byte> file, int slot, out LpTable? table)
    {
        table = null;
        if (file.Length < LpGeometry.PaddedBytes + LpParser.PrefixBytes)
            return string.Create(CultureInfo.InvariantCulture, $"{file.Length} bytes are too short for a partition table");
        if (LpGeometry.Parse(file, out LpGeometry? geometry) is { } reason) return "geometry: " + reason;
        ReadOnlySpan<byte> bytes = file[LpGeometry.PaddedBytes..];
        if (LpParser.Measure(bytes, geometry!, out int header, out int tables) is { } bad) return "table: " + bad;
        if (header + tables > bytes.Length)
            return string.Create(CultureInfo.InvariantCulture, $"table: {header + tables} bytes in a file that has {bytes.Length} left");
        return LpParser.Parse(bytes[..(header + tables)], geometry!, slot, out table) is { } invalid ? "table: " + invalid : null;
    }

    private static string? ReadGeometry(IByteSource super, long offset, out LpGeometry? geometry)
    {
        geometry = null;
        if (super.Length < offset + LpGeometry.PaddedBytes) return "the device ends before it";
        byte[] bytes = new byte[LpGeometry.PaddedBytes];
        return TryRead(super, offset, bytes) ?? LpGeometry.Parse(bytes, out geometry);
    }

    private static string? ReadTable(IByteSource super, long offset, LpGeometry geometry, int slot, out LpTable? table)
    {
        table = null;
        if (super.Length < offset + geometry.MaxTableBytes) return "the device ends before it";
        byte[] bytes = new byte[geometry.MaxTableBytes];
        return TryRead(super, offset, bytes) ?? LpParser.Parse(bytes, geometry, slot, out table);
    }

    /// <summary>Returns null, or the reason why the device cannot be read there: then the backup may be readable.</summary>
    private static string? TryRead(IByteSource super, long offset, byte[] bytes)
    {
        try
        {
            super.Read(offset, bytes);
            return null;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputOutput)
        {
            return e.Message;
        }
    }

    private static string? CheckPlace(LpGeometry geometry, LpTable table) =>
        geometry.EndOffset > table.Devices[0].FirstSector * LpGeometry.SectorBytes
            ? string.Create(CultureInfo.InvariantCulture,
                $"the tables end at byte {geometry.EndOffset}, after the first sector for partitions, {table.Devices[0].FirstSector}")
            : null;
}
