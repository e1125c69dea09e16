using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// Chooses the snapshots to merge, composes their devices, and puts them into order (android-device §3, §6, §7). Throws
/// <see cref="RefusedException"/> for everything that does not fit together.
/// </summary>
internal sealed class PlanComposer
{
    /// <summary>A device has about 15 partitions with snapshots.</summary>
    private const int MostMerges = 128;

    private const ulong MaxBytes = 1ul << 60;

    private readonly DeviceFacts _facts;
    private readonly PieceFinder _current;
    private readonly PieceFinder? _old;
    private readonly PieceFinder? _images;
    private readonly string _slot;
    private readonly string _otherSlot;

    internal PlanComposer(DeviceFacts facts)
    {
        _facts = facts;
        _slot = facts.Slot!;
        _otherSlot = Slots.Other(_slot);
        LpTable table = facts.Table.Table
            ?? throw RefusedException.Damaged($"the partition table of slot {_slot[1]} on super: {facts.Table.Problem}");
        _current = PieceFinder.OnSuper(table, facts.Devices, $"the partition table of slot {_slot[1]}");
        if (facts.OldTable.Table is { } old) _old = PieceFinder.OnSuper(old, facts.Devices, "/metadata/ota/old-partition-metadata");
        if (facts.Images.Table is { } images) _images = PieceFinder.OnData(images, facts.Devices);
    }

    internal UpdatePlan Compose()
    {
        _current.Check();
        List<LeftOut> leftOut = [];
        List<PlannedMerge> merges = [];
        List<CompleteCow> complete = [];
        foreach (SnapshotFile file in _facts.Snapshots)
        {
            // Files of the other slot are left from earlier updates.
            if (!file.Name.EndsWith(_slot, StringComparison.Ordinal)) continue;
            if (file.Problem != null) throw RefusedException.Damaged($"{File(file.Name)}: {file.Problem}");
            if (WhyLeftOut(file) is not { } why)
            {
                merges.Add(ComposeMerge(file.Name, file.Record));
                continue;
            }
            leftOut.Add(new LeftOut(file.Name, why));
            if (CompleteCowOf(file) is { } cow) complete.Add(cow);
        }
        if (merges.Count > MostMerges) throw RefusedException.Damaged($"{merges.Count} snapshots are too many for one update");
        MergeOrder.Sort(merges);
        MergeOrder.Check(merges);
        return new UpdatePlan
        {
            Nothing = merges.Count == 0 ? WhyNothing(leftOut) : null,
            Merges = merges,
            LeftOut = leftOut,
            MustBeComplete = complete,
        };
    }

    /// <summary>
    /// The COWs of all snapshots that are still there, for a device whose state file says that all is merged. Leaves out what does not fit
    /// together, because Android has begun to remove it.
    /// </summary>
    internal IReadOnlyList<CompleteCow> AllComplete()
    {
        List<CompleteCow> complete = [];
        foreach (SnapshotFile file in _facts.Snapshots)
            if (file.Name.EndsWith(_slot, StringComparison.Ordinal) && file.Problem == null && CompleteCowOf(file) is { } cow)
                complete.Add(cow);
        return complete;
    }

    private static string WhyNothing(List<LeftOut> leftOut)
    {
        foreach (LeftOut one in leftOut)
            if (one.Why != Merged) return $"No snapshot is left to merge ({one.Name}: {one.Why}). Reboot: Android cleans up by itself.";
        return UpdateRules.AllMerged;
    }

    private const string Merged = "merged";

    private string? WhyLeftOut(SnapshotFile file)
    {
        (string name, SnapshotRecord record) = (file.Name, file.Record);
        if (record.DeviceBytes == 0) throw RefusedException.Damaged($"{File(name)} has no device_size");
        if (!record.UsingSnapuserd)
            throw RefusedException.Damaged(
                $"/metadata/ota/state says that snapuserd merges, but {File(name)} is for the kernel (using_snapuserd is false)");
        if (record is { CowPartitionBytes: 0, CowFileBytes: 0 })
        {
            if (_current.Table.Find(name + "-cow") is { Bytes: > 0 } || _images?.Table.Find(name + "-cow-img") is { Bytes: > 0 })
                throw RefusedException.Damaged($"{File(name)} says that there is no COW, but {name} has one");
            return "it has no COW";
        }
        if (record.State is SnapshotRecordState.None) return "its file says that there is no snapshot";
        if (record.State is SnapshotRecordState.Merged) return Merged;
        if (_current.Table.Find(name) is not { } partition) return $"slot {_slot[1]} has no partition of that name";
        if (!partition.Has(LpPartition.Updated)) return "the partition was flashed after the update was written";
        return partition.Bytes == 0 ? "the partition is empty" : null;
    }

    /// <summary>
    /// The COW of a snapshot that is not to be merged, if it is still there: its count must show that it is merged, or a damaged file would
    /// make this program leave a partition half merged. Null if Android has already removed a part of it.
    /// </summary>
    private CompleteCow? CompleteCowOf(SnapshotFile file)
    {
        SnapshotRecord record = file.Record;
        if (_current.Table.Find(file.Name) is not { } partition || !partition.Has(LpPartition.Updated) || partition.Bytes == 0) return null;
        if (record is { CowPartitionBytes: 0, CowFileBytes: 0 }) return null;
        // Android removes the COW of a merged snapshot, but never that of a snapshot without a state.
        bool removed = (record.CowPartitionBytes > 0 && _current.Table.Find(file.Name + "-cow") is not { Bytes: > 0 })
            || (record.CowFileBytes > 0 && _images?.Table.Find(file.Name + "-cow-img") is not { Bytes: > 0 });
        if (removed && record.State == SnapshotRecordState.Merged) return null;
        return new CompleteCow(file.Name, Cow(file.Name, record));
    }

    private PlannedMerge ComposeMerge(string name, SnapshotRecord record)
    {
        CheckBytes(name, "device_size", record.DeviceBytes);
        CheckBytes(name, "old_partition_size", record.OldPartitionBytes);
        CheckBytes(name, "cow_partition_size", record.CowPartitionBytes);
        CheckBytes(name, "cow_file_size", record.CowFileBytes);
        if (record.SnapshotBytes != record.DeviceBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: snapshot_size is {record.SnapshotBytes}, but device_size is {record.DeviceBytes}");
        IReadOnlyList<DevicePiece> target = _current.Writable(name);
        if ((ulong)DevicePiece.Bytes(target) != record.DeviceBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: device_size is {record.DeviceBytes}, but the partition has {DevicePiece.Bytes(target)} bytes");
        return new PlannedMerge(name, record, target, Source(name, record, target), Cow(name, record));
    }

    private static void CheckBytes(string name, string field, ulong bytes)
    {
        if (bytes >= MaxBytes || bytes % LpGeometry.SectorBytes != 0)
            throw RefusedException.Damaged($"{File(name)}: {field} is {bytes}; expected a multiple of 512 below 2^60");
    }

    /// <summary>
    /// The device that copy and xor ops read: the old partition in the table before the update, or the base if the partition is new. The
    /// update laid the new partition over the old one, so as far as both reach, they have the same sectors.
    /// </summary>
    private IReadOnlyList<DevicePiece> Source(string name, SnapshotRecord record, IReadOnlyList<DevicePiece> target)
    {
        string oldName = name[..^_slot.Length] + _otherSlot;
        // Even a new partition needs the table: without it, a lost old_partition_size would go unnoticed.
        if (_old == null)
            throw RefusedException.Damaged(
                $"/metadata/ota/old-partition-metadata, which has the partitions before the update: {_facts.OldTable.Problem}");
        _old.Check();
        long oldBytes = _old.Table.Find(oldName)?.Bytes ?? 0;
        if ((ulong)oldBytes != record.OldPartitionBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: old_partition_size is {record.OldPartitionBytes}, but {oldName} had {oldBytes} bytes");
        if (oldBytes == 0) return target;
        IReadOnlyList<DevicePiece> source = _old.Readable(oldName);
        if (!DevicePiece.AgreeUpToShorter(source, target))
            throw RefusedException.Damaged(
                $"{name} does not begin with the sectors that {oldName} has in /metadata/ota/old-partition-metadata");
        return source;
    }

    private List<DevicePiece> Cow(string name, SnapshotRecord record)
    {
        List<DevicePiece> pieces = [];
        if (record.CowPartitionBytes > 0)
            pieces.AddRange(PiecesOfCow(_current, name, "-cow", record.CowPartitionBytes, "cow_partition_size"));
        if (record.CowFileBytes > 0)
        {
            if (_images == null)
                throw RefusedException.Damaged(
                    $"/metadata/gsi/ota/lp_metadata, which says where on userdata the COW of {name} lies: {_facts.Images.Problem}");
            pieces.AddRange(PiecesOfCow(_images, name, "-cow-img", record.CowFileBytes, "cow_file_size"));
        }
        return pieces;
    }

    private static IReadOnlyList<DevicePiece> PiecesOfCow(PieceFinder finder, string name, string suffix, ulong bytes, string field)
    {
        if (finder.Table.Find(name + suffix) is not { } partition)
            throw RefusedException.Damaged($"{finder.Name} has no {name}{suffix}, in which the COW of {name} lies");
        if (partition.Has(LpPartition.Disabled))
            throw RefusedException.Damaged($"{finder.Name}: {name}{suffix} is disabled, because a recovery cancelled the update");
        if ((ulong)partition.Bytes != bytes)
            throw RefusedException.Damaged($"{File(name)}: {field} is {bytes}, but {name}{suffix} has {partition.Bytes} bytes");
        return finder.Writable(name + suffix);
    }

    private static string File(string name) => "/metadata/ota/snapshots/" + name;
}
