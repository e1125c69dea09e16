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
    /// <summary>The slot is known, and the state is that of a merge, or of one that is concluded already.</summary>
    internal static bool IsPossible(DeviceFacts facts) => facts.Slot != null
        && facts.Status?.State is UpdateState.Merging or UpdateState.MergeFailed or UpdateState.MergeCompleted;

    /// <summary>
    /// Writes what is not written yet; <paramref name="misc"/> is null if it was not found. Returns false if the state is not that of a
    /// merge, so that there is nothing to conclude. Exit codes of <see cref="StateFile.Replace"/>, and 74 if misc fails.
    /// </summary>
    internal static bool Write(DeviceFacts facts, string metadata, BlockDevice? misc, Action<string> warn)
    {
        if (!IsPossible(facts)) return false;
        (string slot, UpdateStatus status) = (facts.Slot!, facts.Status!);
        if (status.State != UpdateState.MergeCompleted) StateFile.Replace(metadata + "/ota/state", status.Completed(), warn);
        int number = Slots.Number(slot);
        if (misc == null || facts.Misc is not { } said || said == new MiscFact(BootloaderMergeStatus.None, number)) return true;
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
