using System;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;

namespace Snapuserd.Recovery;

/// <summary>
/// Ends an update whose partitions are all merged and durable, as Android's own recovery does (android-device §10): the file
/// /metadata/ota/state says "merge-completed", then misc says that there is no update. Everything else stays; Android removes it at its
/// next boot. Interrupted between the two, the same again continues.
/// </summary>
internal static class UpdateConclusion
{
    /// <summary>
    /// The slot is known, and the state is that of a merge, or of one that is concluded already. Without snapshots, and without
    /// snapshot-boot, there is no evidence that all is merged: these files may be lost.
    /// </summary>
    internal static bool IsPossible(DeviceFacts facts) => facts.Slot != null && (facts.SourceSlot != null || facts.Snapshots.Count > 0)
        && facts.Status?.State is UpdateState.Merging or UpdateState.MergeFailed or UpdateState.MergeCompleted;

    /// <summary>
    /// Writes all of it, also what an earlier run has written, because that may not be durable. <paramref name="misc"/> is null if it was
    /// not found; <paramref name="isTold"/> is false if it has no status either. Returns false if the state is not that of a merge, so that
    /// there is nothing to conclude. Exit codes of <see cref="StateFile.Replace"/>, and 74 if misc fails.
    /// </summary>
    internal static bool Write(DeviceFacts facts, string metadata, BlockDevice? misc, Action<string> warn, out bool isTold)
    {
        isTold = misc != null && facts.Misc != null;
        if (!IsPossible(facts)) return false;
        StateFile.Replace(metadata + "/ota/state", facts.Status!.Completed(), warn);
        if (misc == null || !isTold) return true;
        int number = Slots.Number(facts.Slot!);
        Span<byte> bytes = stackalloc byte[MiscPartition.Bytes];
        new DescriptorSource(misc).Read(MiscPartition.Offset, bytes);
        byte[] changed = MiscPartition.With(bytes, BootloaderMergeStatus.None, number);
        int result = Transfer.WriteAll(misc.Fd, changed, MiscPartition.Offset);
        if (result >= 0) result = FileFlush.Of(misc.Fd);
        if (result < 0)
            throw new SnapuserdException(ExitCode.InputOutput, $"{misc.Path} cannot be written: {ErrnoText.Of(result)}; the update is "
                + "merged and /metadata/ota/state says so, but the bootloader may still refuse to wipe or to change the slot");
        return true;
    }
}
