using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Recovery;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`android map` and `android unmap`: read-only mapped devices for the partitions of the current slot.</summary>
internal static class AndroidMapping
{
    internal static ExitCode Run(Invocation invocation, RecoveryDevice device, UpdateMerge merge, bool maps)
    {
        if (!maps)
        {
            Unmap(invocation, device.Facts);
            return ExitCode.Done;
        }
        if (device.Plan.Refusal == null) merge.Read();
        SlotPartitions slot = SlotPartitions.Of(device.Facts, device.Plan, name => IsMerged(merge, name));
        if (slot.Refusal is { } refusal) throw new SnapuserdException(refusal.Code, $"{refusal.Sentence}. {refusal.Remedy}");
        foreach (LeftOut one in slot.LeftOut)
            invocation.Output.Write(Priority.Warning, one.Name,
                $"{one.Name} is left out: {one.Why}, so that it would not be what Android sees");
        Map(invocation, device, slot.Partitions);
        return ExitCode.Done;
    }

    private static bool IsMerged(UpdateMerge merge, string name)
    {
        foreach (PartitionProgress one in merge.Partitions)
            if (one.Name == name) return one.IsComplete;
        return false;
    }

    /// <summary>Maps all of them, or none if one fails.</summary>
    private static void Map(Invocation invocation, RecoveryDevice device, IReadOnlyList<ReadablePartition> partitions)
    {
        Dictionary<string, MapperTarget> targets = new(StringComparer.Ordinal);
        List<MappedDevice> mapped = [];
        try
        {
            foreach (ReadablePartition partition in partitions)
            {
                List<MapperPiece> pieces = [];
                foreach (DevicePiece piece in partition.Pieces)
                {
                    if (!piece.IsZero && !targets.ContainsKey(piece.Device))
                        targets.Add(piece.Device, MapperTarget.Of(device.Devices[piece.Device].Path, readOnly: true));
                    MapperTarget target = targets.GetValueOrDefault(piece.Device);
                    if (piece.Sectors > 0) pieces.Add(new MapperPiece(target.Major, target.Minor, piece.Start, piece.Sectors));
                }
                MappedDevice one = MappedDevice.Open(partition.Name);
                try
                {
                    one.CreateFrom(pieces.ToArray());
                }
                catch
                {
                    one.Dispose();
                    throw;
                }
                mapped.Add(one);
            }
            foreach (MappedDevice one in mapped) Tell(invocation, "mapped", one.Name, one.Path);
        }
        catch
        {
            foreach (MappedDevice one in mapped) TryRemove(one);
            throw;
        }
        finally
        {
            foreach (MappedDevice one in mapped) one.Dispose();
        }
    }

    private static void TryRemove(MappedDevice device)
    {
        try
        {
            device.Remove();
        }
        catch (SnapuserdException)
        {
            // The caller has an error to report already; unmap removes the rest.
        }
    }

    /// <summary>Removes the mapped devices of `map`: all that are not in use. Exit code 76 if one is.</summary>
    private static void Unmap(Invocation invocation, DeviceFacts facts)
    {
        if (facts.Slot is not { } slot)
            throw new SnapuserdException(ExitCode.Usage, "the current slot is unknown; say which one it is with --slot a or --slot b");
        string? busy = null;
        foreach (LpPartition partition in facts.Table.Table?.Partitions ?? [])
        {
            if (!partition.Name.EndsWith(slot, StringComparison.Ordinal)) continue;
            // A device of that name that another program has made is not ours to remove.
            using MappedDevice? one = MappedDevice.OpenOwn(partition.Name);
            if (one is not { Exists: true }) continue;
            string path = one.Path;
            if (one.OpenCount > 0)
            {
                busy ??= path;
                continue;
            }
            one.Remove();
            Tell(invocation, "unmapped", partition.Name, path);
        }
        if (busy != null)
            throw new SnapuserdException(ExitCode.InUse,
                $"{busy} is mounted or open in another program; unmount it, then run the same again");
    }

    private static void Tell(Invocation invocation, string what, string name, string path) => invocation.Output.Result(
        invocation.Arguments.Has("--json") ? JsonLine.Event(what).Add("name", name).Add("path", path).ToString() : path);
}
