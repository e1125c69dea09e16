using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>Collects the facts of a device: the partition table on super, the files below /metadata, and misc.</summary>
public static class DeviceReader
{
    private const string StateInSuper = "scratch_ota_metadata_super";

    /// <summary>
    /// Reads all inputs of <see cref="UpdatePlan.Of"/>, for the current slot <paramref name="slot"/>: a suffix of <see cref="Slots"/>, or
    /// null if it is unknown. <paramref name="devices"/> has the block devices by their names in partition tables. The one with the name
    /// <paramref name="superName"/> has the tables; it must be among them, misc may be. Exit code 66 if the folder
    /// <paramref name="metadata"/>, which is /metadata itself, is missing; those of <see cref="MetadataFolder.ReadInto"/>; and 74 if misc
    /// cannot be read.
    /// </summary>
    public static DeviceFacts Read(string? slot, string metadata, IReadOnlyDictionary<string, IByteSource> devices,
        string superName = "super")
    {
        MetadataFolder folder = new(metadata);
        if (folder.NamesIn("") == null)
            throw new SnapuserdException(ExitCode.InputMissing, $"{metadata} does not exist; name the metadata partition with --metadata");
        return Read(slot, folder, devices, superName);
    }

    /// <summary>The same, with the state files from elsewhere.</summary>
    public static DeviceFacts Read(string? slot, IMetadataFiles files, IReadOnlyDictionary<string, IByteSource> devices,
        string superName = "super")
    {
        Dictionary<string, long> lengths = new(StringComparer.Ordinal);
        foreach ((string name, IByteSource device) in devices) lengths.Add(name, device.Length);
        IByteSource super = devices[superName];
        int number = slot == null ? 0 : Slots.Number(slot);
        string? problem = LpReader.ReadSuper(super, number, out LpTable? table, out string repaired);
        _ = LpReader.ReadSuper(super, 1 - number, out LpTable? other, out _);
        bool inSuper = other?.Find(StateInSuper) != null || (slot == null && table?.Find(StateInSuper) != null);
        DeviceFacts facts = new()
        {
            Slot = slot,
            Table = new TableFact(table, problem),
            RepairedTable = repaired,
            StateInSuper = inSuper,
            Misc = devices.TryGetValue("misc", out IByteSource? misc) ? Misc(misc) : null,
            Devices = lengths,
        };
        return MetadataFolder.ReadInto(facts, files);
    }

    private static MiscFact? Misc(IByteSource misc)
    {
        if (misc.Length < MiscPartition.EndOffset) return null;
        Span<byte> bytes = stackalloc byte[MiscPartition.Bytes];
        misc.Read(MiscPartition.Offset, bytes);
        return MiscPartition.TryRead(bytes, out BootloaderMergeStatus status, out int slot) ? new MiscFact(status, slot) : null;
    }
}
