using System;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>The rules about the state of the update as a whole; they look at no table and no COW.</summary>
internal static class UpdateRules
{
    private const string BootAndroid = "Boot Android; it continues by itself.";

    /// <summary>
    /// Returns null if the state allows a merge, or a sentence if nothing is left to merge. Throws if nothing may be merged.
    /// </summary>
    internal static string? CheckState(DeviceFacts facts)
    {
        if (facts.StateInSuper)
            throw new RefusedException(ExitCode.Unavailable,
                "the files of this update are in partition scratch_ota_metadata_super, as debug builds keep them, and not in /metadata/ota",
                BootAndroid);
        if (facts.Status is not { } status) throw RefusedException.Damaged($"/metadata/ota/state: {facts.StatusProblem}");
        switch (status.State)
        {
            case UpdateState.None:
                CheckNoMergeIsLeft(facts);
                return "There is no update to merge.";
            case UpdateState.MergeNeedsReboot or UpdateState.MergeCompleted:
                return "All is merged. Reboot: Android cleans up by itself.";
            case UpdateState.Initiated:
                throw new RefusedException(ExitCode.Unavailable,
                    "/metadata/ota/state is initiated: the update is still being written, and a merge would destroy the running system",
                    "Boot Android; the download goes on there.");
            case UpdateState.Cancelled:
                throw new RefusedException(ExitCode.Unavailable, "/metadata/ota/state is cancelled: the update was given up",
                    "Boot Android; it removes what is left of the update.");
            case UpdateState.Unverified:
                throw Unverified(facts);
            default:
                CheckMerging(facts, status);
                return null;
        }
    }

    /// <summary>
    /// Android removes the snapshots, then snapshot-boot, and writes "no update" last. So a snapshot whose merge has begun, or a snapshot
    /// beside snapshot-boot, contradicts it.
    /// </summary>
    private static void CheckNoMergeIsLeft(DeviceFacts facts)
    {
        bool switched = facts.SourceSlot != null && facts.Slot != null && facts.SourceSlot != facts.Slot;
        foreach (SnapshotFile file in facts.Snapshots)
        {
            if (facts.Slot == null || !file.Name.EndsWith(facts.Slot, StringComparison.Ordinal)) continue;
            SnapshotRecordState state = file.Record.State;
            if (state == SnapshotRecordState.Merging || (switched && state == SnapshotRecordState.Created))
                throw RefusedException.Damaged(
                    $"/metadata/ota/state says that there is no update, but /metadata/ota/snapshots/{file.Name} is not merged");
        }
    }

    private static RefusedException Unverified(DeviceFacts facts)
    {
        const string state = "/metadata/ota/state is unverified: the update is written, but its merge has not begun";
        if (facts.SourceSlot != null && facts.SourceSlot == facts.Slot)
        {
            return facts.RolledBack
                ? new RefusedException(ExitCode.Unavailable,
                    state + "; the new slot did not boot, and the old slot lives on the blocks that a merge would overwrite",
                    "Boot Android; it drops the update.")
                : new RefusedException(ExitCode.Unavailable,
                    state + "; the current slot is the old one, which lives on the blocks that a merge would overwrite",
                    "Boot Android; after its restart it begins the merge.");
        }
        return new RefusedException(ExitCode.Unavailable,
            state + "; until Android marks the new slot as good, the bootloader can still go back to the old one",
            "Boot Android, or let its own recovery begin the merge: only they know whether the new slot is good.");
    }

    /// <summary>The rules for a merge that Android has begun.</summary>
    private static void CheckMerging(DeviceFacts facts, UpdateStatus status)
    {
        if (facts.WithoutSlotSwitch)
            throw new RefusedException(ExitCode.Unavailable,
                "/metadata/ota/snapshot-boot-without-slot-switch exists: a developer put snapshots over the running slot", BootAndroid);
        CheckSlot(facts);
        CheckFormat(facts, status);
        CheckMisc(facts, status);
    }

    private static void CheckSlot(DeviceFacts facts)
    {
        if (facts.Slot is not { } slot)
            throw new RefusedException(ExitCode.Usage,
                "the current slot is unknown: neither the kernel's command line nor bootconfig has androidboot.slot_suffix",
                "Say which slot is current with --slot a or --slot b.");
        if (facts.SourceSlot is not { } source)
            throw RefusedException.Damaged(
                $"the merge has begun (/metadata/ota/state), but /metadata/ota/snapshot-boot is missing: it is unknown which slot is new");
        if (source is not ("_a" or "_b"))
            throw RefusedException.Damaged($"/metadata/ota/snapshot-boot has {source.Length} bytes that name no slot; expected _a or _b");
        if (source != slot) return;
        string target = slot == "_a" ? "b" : "a";
        throw new RefusedException(ExitCode.Unavailable, string.Create(CultureInfo.InvariantCulture,
            $"the current slot is {slot[1]}, but the update that is being merged is for slot {target} (/metadata/ota/snapshot-boot is "
            + $"{source}); slot {slot[1]} is partly overwritten and will not boot"),
            $"Make slot {target} active (in the menu of the recovery, or `bootctl set-active-boot-slot {(target == "b" ? 1 : 0)}`), "
            + "restart the recovery, then merge. fastboot refuses to change the slot while the merge is open.");
    }

    private static void CheckFormat(DeviceFacts facts, UpdateStatus status)
    {
        if (!status.UserspaceSnapshots)
        {
            string made = status.UsingSnapuserd
                ? "by snapuserd of Android 12, whose order the kernel determined" : "for the kernel (dm-snapshot)";
            throw new RefusedException(ExitCode.Unavailable,
                $"/metadata/ota/state: the snapshots were made {made}; only the kernel that began this merge can finish it", BootAndroid);
        }
        if (status.LegacySnapuserd && !facts.SnapuserdFromSystem)
            throw new RefusedException(ExitCode.Unavailable,
                "/metadata/ota/state: the merge runs with snapuserd of an Android 12 vendor partition, whose order the kernel determined",
                BootAndroid);
    }

    private static void CheckMisc(DeviceFacts facts, UpdateStatus status)
    {
        if (facts.Misc is not { } misc) return;
        string word = UpdateStatus.Word(status.State);
        if (misc.Status == BootloaderMergeStatus.Snapshotted)
            throw RefusedException.Damaged(
                $"/metadata/ota/state is {word}, but misc says that the merge has not begun (snapshotted); Android writes misc first");
        if (misc.Status == BootloaderMergeStatus.Merging && misc.Slot != (facts.Slot == "_a" ? 0 : 1))
            throw RefusedException.Damaged(
                $"misc says that slot number {misc.Slot} was current when the merge began, but the current slot is {facts.Slot![1]}");
    }
}
