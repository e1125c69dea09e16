using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// Finds the pieces of partitions in one table, and checks that they lie where partitions of such a table may lie. Throws
/// <see cref="RefusedException"/> if they do not.
/// </summary>
internal sealed class PieceFinder
{
    /// <summary>Android requires the first block device of the table to have this name, or it makes no snapshots.</summary>
    private const string Super = "super";

    private const string UserData = "userdata";

    // No table on super may name these as its block devices.
    private static readonly string[] s_notOfSuper = [UserData, "misc", "metadata"];

    private readonly IReadOnlyDictionary<string, long> _devices;
    private readonly bool _onData;

    private PieceFinder(LpTable table, IReadOnlyDictionary<string, long> devices, string name, bool onData)
    {
        (Table, _devices, Name, _onData) = (table, devices, name, onData);
        foreach (LpBlockDevice device in table.Devices)
            if (onData ? device.Name != UserData : Array.IndexOf(s_notOfSuper, device.Name) >= 0)
                throw RefusedException.Damaged($"{name} has partitions on {device.Name}, where they cannot lie");
        if (!onData && table.Devices[0].Name != Super)
            throw RefusedException.Damaged(
                $"the first block device of {name} is {table.Devices[0].Name}; Android makes snapshots only on {Super}");
    }

    /// <summary>The table.</summary>
    internal LpTable Table { get; }

    /// <summary>The table's name in messages.</summary>
    internal string Name { get; }

    /// <summary>For a table of logical partitions.</summary>
    internal static PieceFinder OnSuper(LpTable table, IReadOnlyDictionary<string, long> devices, string name) =>
        new(table, devices, name, onData: false);

    /// <summary>For the table of images on the data partition.</summary>
    internal static PieceFinder OnData(LpTable table, IReadOnlyDictionary<string, long> devices) =>
        new(table, devices, "/metadata/gsi/ota/lp_metadata", onData: true);

    /// <summary>Every extent lies inside its device, after the tables, and in no other partition.</summary>
    internal void Check()
    {
        List<DevicePiece> all = [];
        foreach (LpPartition partition in Table.Partitions)
        {
            foreach (LpExtent extent in partition.Extents)
            {
                if (extent.IsZero || extent.Sectors == 0) continue;
                LpBlockDevice device = Table.Devices[extent.Device];
                if ((extent.Start < device.FirstSector && !_onData) || extent.End > device.Bytes / LpGeometry.SectorBytes)
                    throw RefusedException.Damaged(
                        $"{Name}: {partition.Name} has sectors {extent.Start} to {extent.End}, outside of the area of {device.Name}");
            }
            all.AddRange(Pieces(partition));
        }
        if (DevicePiece.OverlapWithin(all) is not { } shared) return;
        List<string> owners = [];
        foreach (LpPartition partition in Table.Partitions)
            if (DevicePiece.Overlap(Pieces(partition), [shared]) != null) owners.Add(partition.Name);
        if (owners.Count > 1) throw RefusedException.Damaged($"{Name}: {string.Join(" and ", owners)} share the sectors {shared}");
        throw RefusedException.Damaged($"{Name}: two extents of {owners[0]} contain {shared}");
    }

    /// <summary>The pieces of a partition of the table.</summary>
    internal DevicePiece[] Readable(string name)
    {
        DevicePiece[] pieces = Pieces(Table.Find(name)!);
        foreach (DevicePiece piece in pieces)
        {
            if (piece.IsZero) continue;
            if (!_devices.TryGetValue(piece.Device, out long bytes))
                throw new RefusedException(ExitCode.InputMissing, $"{name} lies on partition {piece.Device}, which cannot be found",
                    _onData ? "Name it with --userdata." : "Name the folder of the partitions with --by-name.");
            if (piece.End > bytes / LpGeometry.SectorBytes)
                throw RefusedException.Damaged($"{name} lies on {piece}, but {piece.Device} has {bytes / LpGeometry.SectorBytes} sectors");
        }
        if (DevicePiece.OverlapWithin(pieces) is { } shared) throw RefusedException.Damaged($"two extents of {name} contain {shared}");
        return pieces;
    }

    /// <summary>As <see cref="Readable"/>, for a device that is written: it has no extent of zeros.</summary>
    internal DevicePiece[] Writable(string name)
    {
        DevicePiece[] pieces = Readable(name);
        foreach (DevicePiece piece in pieces)
            if (piece.IsZero) throw RefusedException.Damaged($"{name} has an extent of zeros, which cannot be written");
        return pieces;
    }

    private DevicePiece[] Pieces(LpPartition partition)
    {
        DevicePiece[] pieces = new DevicePiece[partition.Extents.Count];
        for (int i = 0; i < pieces.Length; i++)
        {
            LpExtent extent = partition.Extents[i];
            pieces[i] = new DevicePiece(extent.IsZero ? "" : Table.Devices[extent.Device].Name, extent.Start, extent.Sectors);
        }
        return pieces;
    }
}
