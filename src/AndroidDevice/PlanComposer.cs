using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// Chooses the snapshots to merge, composes their devices, and puts them into order (android-device §3, §6, §7). Throws
/// <see cref="RefusedException"/> for everything that does not fit together.
/// </summary>
internal sealed class PlanComposer
{
    /// <summary>Android requires the first block device of the table to have this name, or it makes no snapshots.</summary>
    private const string Super = "super";

    private const string UserData = "userdata";
    private const ulong MostBytes = 1ul << 60;

    private readonly DeviceFacts _facts;
    private readonly LpTable _table;
    private readonly string _slot;

    internal PlanComposer(DeviceFacts facts)
    {
        _facts = facts;
        _slot = facts.Slot!;
        _table = facts.Table.Table
            ?? throw RefusedException.Damaged($"the partition table of slot {_slot[1]} on super: {facts.Table.Problem}");
    }

    internal UpdatePlan Compose()
    {
        if (_table.Devices[0].Name != Super)
            throw RefusedException.Damaged(
                $"the first block device of the partition table is {_table.Devices[0].Name}; Android makes snapshots only on super");
        CheckTable();
        List<LeftOut> leftOut = [];
        List<PlannedMerge> merges = [];
        foreach (SnapshotFile file in _facts.Snapshots)
        {
            // Files of the other slot are left from earlier updates.
            if (!file.Name.EndsWith(_slot, StringComparison.Ordinal)) continue;
            if (file.Problem != null) throw RefusedException.Damaged($"{File(file.Name)}: {file.Problem}");
            if (WhyLeftOut(file) is { } why) leftOut.Add(new LeftOut(file.Name, why));
            else merges.Add(ComposeMerge(file.Name, file.Record));
        }
        CheckDisjoint(merges);
        List<(int, int)> constraints = Order(merges);
        return new UpdatePlan
        {
            Nothing = merges.Count == 0 ? "All is merged. Reboot: Android cleans up by itself." : null,
            Merges = merges,
            LeftOut = leftOut,
            Constraints = constraints,
        };
    }

    /// <summary>Every extent of the table lies inside its device, after the tables, and in no other partition.</summary>
    private void CheckTable()
    {
        List<DevicePiece> all = [];
        foreach (LpPartition partition in _table.Partitions)
        {
            foreach (LpExtent extent in partition.Extents)
            {
                if (extent.IsZero) continue;
                LpBlockDevice device = _table.Devices[extent.Device];
                if (extent.Start < device.FirstSector || extent.End * LpGeometry.SectorBytes > device.Bytes)
                    throw RefusedException.Damaged(
                        $"partition {partition.Name} has sectors {extent.Start} to {extent.End}, outside of the area of {device.Name}");
            }
            all.AddRange(Pieces(partition, _table));
        }
        if (DevicePiece.OverlapWithin(all) is { } shared)
            throw RefusedException.Damaged($"two partitions of slot {_slot[1]} share sectors: {Owners(shared)} have {shared}");
    }

    private string Owners(DevicePiece shared)
    {
        List<string> names = [];
        foreach (LpPartition partition in _table.Partitions)
            if (DevicePiece.Overlap(Pieces(partition, _table), [shared]) != null) names.Add(partition.Name);
        return string.Join(" and ", names);
    }

    private string? WhyLeftOut(SnapshotFile file)
    {
        SnapshotRecord record = file.Record;
        if (record.State is SnapshotRecordState.None) return "no snapshot";
        if (record.State is SnapshotRecordState.Merged) return "merged";
        if (!record.UsingSnapuserd)
            throw RefusedException.Damaged(
                $"/metadata/ota/state says that snapuserd merges, but /metadata/ota/snapshots/{file.Name} is a snapshot of the kernel");
        if (record.CowPartitionBytes == 0 && record.CowFileBytes == 0) return "it has no COW";
        if (_table.Find(file.Name) is not { } partition) return $"there is no partition of that name in slot {_slot[1]}";
        if (!partition.Has(LpPartition.Updated)) return "the partition was flashed after the update was written";
        return partition.Extents.Count == 0 ? "the partition is empty" : null;
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
        LpPartition target = _table.Find(name)!;
        IReadOnlyList<DevicePiece> whole = Inside(name, Pieces(target, _table));
        if ((ulong)target.Bytes != record.DeviceBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: device_size is {record.DeviceBytes}, but the partition has {target.Bytes} bytes");
        foreach (DevicePiece piece in whole)
            if (piece.IsZero) throw RefusedException.Damaged($"partition {name} has an extent of zeros, which cannot be written");
        return new PlannedMerge(name, record, whole, Source(name, record, whole), Cow(name, record));
    }

    private static void CheckBytes(string name, string field, ulong bytes)
    {
        if (bytes >= MostBytes || bytes % LpGeometry.SectorBytes != 0)
            throw RefusedException.Damaged($"{File(name)}: {field} is {bytes}, no possible size");
    }

    /// <summary>
    /// The device that copy and xor ops read: the old partition in the table before the update, or the base if the partition is new.
    /// </summary>
    private IReadOnlyList<DevicePiece> Source(string name, SnapshotRecord record, IReadOnlyList<DevicePiece> target)
    {
        string oldName = name[..^_slot.Length] + (_slot == "_a" ? "_b" : "_a");
        if (record.OldPartitionBytes == 0)
        {
            if (_facts.OldTable.Table?.Find(oldName) is { Bytes: > 0 } unnamed)
                throw RefusedException.Damaged(
                    $"{File(name)}: old_partition_size is 0, but {oldName} had {unnamed.Bytes} bytes");
            return target;
        }
        if (_facts.OldTable.Table is not { } old)
            throw RefusedException.Damaged(
                $"/metadata/ota/old-partition-metadata, which has the extents of {oldName}: {_facts.OldTable.Problem}");
        if (old.Find(oldName) is not { } partition)
            throw RefusedException.Damaged($"/metadata/ota/old-partition-metadata has no partition {oldName}, from which {name} is made");
        if ((ulong)partition.Bytes != record.OldPartitionBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: old_partition_size is {record.OldPartitionBytes}, but {oldName} had {partition.Bytes} bytes");
        return Inside(oldName, Pieces(partition, old));
    }

    private IReadOnlyList<DevicePiece> Cow(string name, SnapshotRecord record)
    {
        List<DevicePiece> pieces = [];
        if (record.CowPartitionBytes > 0)
        {
            string cow = name + "-cow";
            if (_table.Find(cow) is not { } partition)
                throw RefusedException.Damaged($"the table of slot {_slot[1]} has no partition {cow}, in which the COW of {name} begins");
            if ((ulong)partition.Bytes != record.CowPartitionBytes)
                throw RefusedException.Damaged(
                    $"{File(name)}: cow_partition_size is {record.CowPartitionBytes}, but {cow} has {partition.Bytes} bytes");
            pieces.AddRange(Inside(cow, Pieces(partition, _table)));
        }
        if (record.CowFileBytes > 0) pieces.AddRange(CowImage(name, record));
        foreach (DevicePiece piece in pieces)
            if (piece.IsZero) throw RefusedException.Damaged($"the COW of {name} has an extent of zeros, which cannot be written");
        return pieces;
    }

    /// <summary>The part of a COW that is an image on the data partition.</summary>
    private IReadOnlyList<DevicePiece> CowImage(string name, SnapshotRecord record)
    {
        string image = name + "-cow-img";
        if (_facts.Images.Table is not { } images)
            throw RefusedException.Damaged($"/metadata/gsi/ota/lp_metadata, which has the extents of {image}: {_facts.Images.Problem}");
        if (images.Find(image) is not { } partition)
            throw RefusedException.Damaged($"/metadata/gsi/ota/lp_metadata has no image {image}, in which the COW of {name} lies");
        if (partition.Has(LpPartition.Disabled))
            throw RefusedException.Damaged($"/metadata/gsi/ota/lp_metadata: image {image} is disabled; a recovery cancelled the update");
        if (images.Devices[0].Name != UserData)
            throw RefusedException.Damaged(
                $"/metadata/gsi/ota/lp_metadata: the images are on {images.Devices[0].Name}, expected {UserData}");
        if ((ulong)partition.Bytes != record.CowFileBytes)
            throw RefusedException.Damaged(
                $"{File(name)}: cow_file_size is {record.CowFileBytes}, but {image} has {partition.Bytes} bytes");
        return Inside(image, Pieces(partition, images));
    }

    private static string File(string name) => "/metadata/ota/snapshots/" + name;

    private static DevicePiece[] Pieces(LpPartition partition, LpTable table)
    {
        DevicePiece[] pieces = new DevicePiece[partition.Extents.Count];
        for (int i = 0; i < pieces.Length; i++)
        {
            LpExtent extent = partition.Extents[i];
            pieces[i] = new DevicePiece(extent.IsZero ? "" : table.Devices[extent.Device].Name, extent.Start, extent.Sectors);
        }
        return pieces;
    }

    /// <summary>Checks that the pieces lie inside devices that are there, and share no sector with each other.</summary>
    private DevicePiece[] Inside(string owner, DevicePiece[] pieces)
    {
        foreach (DevicePiece piece in pieces)
        {
            if (piece.IsZero) continue;
            if (!_facts.Devices.TryGetValue(piece.Device, out long bytes))
                throw new RefusedException(ExitCode.InputMissing, $"{owner} lies on partition {piece.Device}, which cannot be found",
                    $"Name it with --{(piece.Device is UserData ? "userdata" : "by-name")}.");
            if (piece.End * LpGeometry.SectorBytes > bytes)
                throw RefusedException.Damaged($"{owner} lies on {piece}, but {piece.Device} has {bytes / LpGeometry.SectorBytes} sectors");
        }
        if (DevicePiece.OverlapWithin(pieces) is { } twice) throw RefusedException.Damaged($"{owner} has the sectors {twice} twice");
        return pieces;
    }

    /// <summary>No COW shares a sector with a base, a source, another COW or any other partition.</summary>
    private void CheckDisjoint(List<PlannedMerge> merges)
    {
        foreach (PlannedMerge merge in merges)
        {
            foreach (PlannedMerge other in merges)
            {
                Refuse(merge.Name, "the base", other.Name, DevicePiece.Overlap(merge.Cow, other.Base));
                Refuse(merge.Name, "the source", other.Name, DevicePiece.Overlap(merge.Cow, other.Source));
                if (merge != other) Refuse(merge.Name, "the COW", other.Name, DevicePiece.Overlap(merge.Cow, other.Cow));
                if (merge != other && DevicePiece.Overlap(merge.Base, other.Base) is { } shared)
                    throw RefusedException.Damaged($"{merge.Name} and {other.Name} share {shared}");
            }
        }
    }

    private static void Refuse(string name, string role, string other, DevicePiece? shared)
    {
        if (shared is { } piece) throw RefusedException.Damaged($"the COW of {name} and {role} of {other} share {piece}");
    }

    /// <summary>
    /// Puts the merges into order: first phase, second phase; within one, a merge that reads sectors before the merge that overwrites
    /// them; then system and product, as Android does; then by name. Returns the pairs that had to be in this order.
    /// </summary>
    private static List<(int First, int Then)> Order(List<PlannedMerge> merges)
    {
        List<PlannedMerge> waiting = [.. merges];
        waiting.Sort(Compare);
        merges.Clear();
        while (waiting.Count > 0)
        {
            int phase = waiting[0].Phase;
            int next = waiting.FindIndex(one => one.Phase == phase && waiting.TrueForAll(other =>
                other == one || other.Phase != phase || DevicePiece.Overlap(one.Base, other.Source) == null));
            if (next < 0) throw Circle(waiting, phase);
            merges.Add(waiting[next]);
            waiting.RemoveAt(next);
        }
        List<(int, int)> constraints = [];
        for (int then = 1; then < merges.Count; then++)
        {
            for (int first = 0; first < then; first++)
            {
                if (DevicePiece.Overlap(merges[first].Base, merges[then].Source) is { } lost)
                    throw RefusedException.Damaged(
                        $"{merges[first].Name}, which is merged first, overwrites {lost}, which {merges[then].Name} has still to read");
                if (merges[first].Phase == merges[then].Phase && DevicePiece.Overlap(merges[then].Base, merges[first].Source) != null)
                    constraints.Add((first, then));
            }
        }
        return constraints;
    }

    private static RefusedException Circle(List<PlannedMerge> waiting, int phase)
    {
        List<string> names = [];
        foreach (PlannedMerge one in waiting)
            if (one.Phase == phase) names.Add(one.Name);
        return RefusedException.Damaged($"each of {string.Join(", ", names)} overwrites sectors that another of them has still to read");
    }

    private static int Compare(PlannedMerge a, PlannedMerge b) =>
        a.Phase != b.Phase ? a.Phase - b.Phase : Rank(a) != Rank(b) ? Rank(a) - Rank(b) : string.CompareOrdinal(a.Name, b.Name);

    /// <summary>Android merges system and product first.</summary>
    private static int Rank(PlannedMerge merge) => merge.Name[..^2] switch { "system" => 0, "product" => 1, _ => 2 };
}
