using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>A partition of the current slot that can be read as it is, and its pieces.</summary>
public sealed class ReadablePartition(string name, IReadOnlyList<DevicePiece> pieces)
{
    /// <summary>The name, with the suffix of the slot.</summary>
    public string Name { get; } = name;
    /// <summary>Its pieces, in order.</summary>
    public IReadOnlyList<DevicePiece> Pieces { get; } = pieces;
}

/// <summary>
/// The partitions of the current slot that a mapping of their extents shows as Android sees them: those without an update, and those that
/// are merged. A pure function of <see cref="DeviceFacts"/>.
/// </summary>
public sealed class SlotPartitions
{
    /// <summary>No partition can be shown; null if some can.</summary>
    public Refusal? Refusal { get; init; }
    /// <summary>The partitions, in the order of the table.</summary>
    public IReadOnlyList<ReadablePartition> Partitions { get; init; } = [];
    /// <summary>Partitions whose extents hold old or half-merged content.</summary>
    public IReadOnlyList<LeftOut> LeftOut { get; init; } = [];

    /// <summary>
    /// Computes the partitions. <paramref name="isMerged"/> says of a partition of <paramref name="plan"/> whether its merge is complete.
    /// </summary>
    public static SlotPartitions Of(DeviceFacts facts, UpdatePlan plan, Func<string, bool> isMerged)
    {
        // What is damaged shows nothing reliable, and the old slot is partly overwritten as soon as the merge has begun.
        bool begun = facts.Status?.State is UpdateState.Merging or UpdateState.MergeFailed;
        if (plan.Refusal is { } refusal && (refusal.Code == ExitCode.CowCorrupt || begun)) return new SlotPartitions { Refusal = refusal };
        try
        {
            return Compose(facts, plan, isMerged);
        }
        catch (RefusedException e)
        {
            return new SlotPartitions { Refusal = e.Refusal };
        }
    }

    private static SlotPartitions Compose(DeviceFacts facts, UpdatePlan plan, Func<string, bool> isMerged)
    {
        if (facts.StateInSuper)
            throw new RefusedException(ExitCode.Unavailable, "the files of this update are not in /metadata/ota, as debug builds keep them",
                "Boot Android.");
        if (facts.Slot is not { } slot)
            throw new RefusedException(ExitCode.Usage, "the current slot is unknown",
                "Say which slot is current with --slot a or --slot b.");
        LpTable table = facts.Table.Table
            ?? throw RefusedException.Damaged($"the partition table of slot {slot[1]} on super: {facts.Table.Problem}");
        PieceFinder finder = PieceFinder.OnSuper(table, facts.Devices, $"the partition table of slot {slot[1]}");
        finder.Check();
        List<ReadablePartition> partitions = [];
        List<LeftOut> leftOut = [];
        foreach (LpPartition partition in table.Partitions)
        {
            if (partition.Sectors == 0 || !partition.Name.EndsWith(slot, StringComparison.Ordinal)) continue;
            if (HasUpdate(facts, plan, partition.Name, isMerged))
                leftOut.Add(new LeftOut(partition.Name, "its update is not merged"));
            else
                partitions.Add(new ReadablePartition(partition.Name, finder.Readable(partition.Name)));
        }
        return new SlotPartitions { Partitions = partitions, LeftOut = leftOut };
    }

    private static bool HasUpdate(DeviceFacts facts, UpdatePlan plan, string name, Func<string, bool> isMerged)
    {
        foreach (PlannedMerge merge in plan.Merges)
            if (merge.Name == name) return !isMerged(name);
        // Nothing may be merged yet: the partition has the blocks of the old one until then.
        if (plan.Refusal == null) return false;
        foreach (SnapshotFile file in facts.Snapshots)
            if (file.Name == name && file.Record.State != SnapshotRecordState.Merged) return true;
        return false;
    }
}
