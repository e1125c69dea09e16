using System;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>The rules about the state of the update as a whole; they look at no table and no COW.</summary>
internal static class UpdateRules
{
    /// <summary>The answer if a merge is complete.</summary>
    internal const string AllMerged = "All is merged. Reboot: Android cleans up by itself.";

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
                return AllMerged;
            case UpdateState.Initiated:
                CheckNoMergeHasBegun(facts, facts.Slot == null ? null : Slots.Other(facts.Slot));
                throw new RefusedException(ExitCode.Unavailable,
                    "/metadata/ota/state is \"initiated\": the update is still being written, and a merge would destroy the running system",
                    "Boot Android; the download goes on there.");
            case UpdateState.Cancelled:
                throw new RefusedException(ExitCode.Unavailable, "/metadata/ota/state is \"cancelled\": the update was given up",
                    "Boot Android; it removes what is left of the update.");
            case UpdateState.Unverified:
                CheckNoMergeHasBegun(facts, facts.Slot);
                throw Unverified(facts);
            default:
                return CheckMerging(facts, status);
        }
    }

    /// <summary>The slot that the update is for: the other one than in snapshot-boot, or <paramref name="otherwise"/>.</summary>
    private static string? Target(DeviceFacts facts, string? otherwise) =>
        Slots.IsSlot(facts.SourceSlot) ? Slots.Other(facts.SourceSlot!) : otherwise;

    /// <summary>
    /// Android removes the snapshots, then snapshot-boot, and writes "no update" last. So a snapshot whose merge has begun, or a snapshot
    /// beside snapshot-boot, contradicts it.
    /// </summary>
    private static void CheckNoMergeIsLeft(DeviceFacts facts)
    {
        if (Target(facts, facts.Slot) is not { } target) return;
        bool switched = facts.SourceSlot != null && facts.SourceSlot != facts.Slot;
        foreach (SnapshotFile file in facts.Snapshots)
        {
            SnapshotRecordState state = file.Record.State;
            if (!file.Name.EndsWith(target, StringComparison.Ordinal)) continue;
            if (state == SnapshotRecordState.Merging || (switched && state == SnapshotRecordState.Created))
                throw RefusedException.Damaged(
                    $"/metadata/ota/state says that there is no update, but /metadata/ota/snapshots/{file.Name} is not merged");
        }
    }

    /// <summary>Before the merge, no snapshot of the update is merged or being merged.</summary>
    private static void CheckNoMergeHasBegun(DeviceFacts facts, string? otherwise)
    {
        if (Target(facts, otherwise) is not { } target) return;
        string word = UpdateStatus.Word(facts.Status!.State);
        foreach (SnapshotFile file in facts.Snapshots)
            if (file.Name.EndsWith(target, StringComparison.Ordinal)
                && file.Record.State is SnapshotRecordState.Merging or SnapshotRecordState.Merged)
                throw RefusedException.Damaged(
                    $"/metadata/ota/state is \"{word}\", but the merge of /metadata/ota/snapshots/{file.Name} has begun");
    }

    private static RefusedException Unverified(DeviceFacts facts)
    {
        const string state = "/metadata/ota/state is \"unverified\": the update is written, but its merge has not begun";
        if (facts.SourceSlot == null || facts.SourceSlot != facts.Slot)
        {
            return new RefusedException(ExitCode.Unavailable,
                state + "; until Android marks the new slot as good, the bootloader can still go back to the old one",
                "Boot Android, or let its own recovery begin the merge.");
        }
        return facts.RolledBack
            ? new RefusedException(ExitCode.Unavailable,
                state + "; the new slot did not boot, and the old slot still uses the blocks that a merge would overwrite",
                "Boot Android; it drops the update.")
            : new RefusedException(ExitCode.Unavailable,
                state + "; the current slot is the old one, which still uses the blocks that a merge would overwrite",
                "Boot Android. If the new slot starts, Android begins the merge; if the old slot starts, Android drops the update.");
    }

    /// <summary>
    /// The rules for a merge that Android has begun. Returns a sentence if all is merged and Android had begun to clean up.
    /// </summary>
    private static string? CheckMerging(DeviceFacts facts, UpdateStatus status)
    {
        if (facts.WithoutSlotSwitch)
            throw new RefusedException(ExitCode.Unavailable,
                "/metadata/ota/snapshot-boot-without-slot-switch exists: a developer put snapshots over the running slot", BootAndroid);
        if (facts.SourceSlot == null && facts.Snapshots.Count == 0) return AllMerged;
        CheckFormat(facts, status);
        CheckSlot(facts, "merge");
        CheckMisc(facts, status);
        return null;
    }

    private static void CheckSlot(DeviceFacts facts, string then)
    {
        if (facts.SourceSlot is not { } source)
            throw RefusedException.Damaged(
                $"the merge has begun (/metadata/ota/state), but /metadata/ota/snapshot-boot is missing: it is unknown which slot is new");
        if (!Slots.IsSlot(source))
            throw RefusedException.Damaged($"/metadata/ota/snapshot-boot has {source.Length} bytes that name no slot; expected _a or _b");
        if (!Slots.IsSlot(facts.Slot))
            throw new RefusedException(ExitCode.Usage,
                "the current slot is unknown: neither the kernel's command line nor bootconfig has androidboot.slot_suffix",
                "Say which slot is current with --slot a or --slot b.");
        if (source != facts.Slot) return;
        char current = source[1], target = Slots.Other(source)[1];
        throw new RefusedException(ExitCode.Unavailable,
            $"the current slot is {current}, but the update that is being merged is for slot {target} (/metadata/ota/snapshot-boot is "
            + $"{source}); slot {current} is partly overwritten and will not boot",
            string.Create(CultureInfo.InvariantCulture,
                $"Make slot {target} active (in the menu of the recovery, or `bootctl set-active-boot-slot {1 - Slots.Number(source)}`), ")
            + $"restart the recovery, then {then}. fastboot refuses to change the slot while the merge is open.");
    }

    /// <summary>The merge must be one that snapuserd itself orders; the kernel's merges take the ops in another order.</summary>
    private static void CheckFormat(DeviceFacts facts, UpdateStatus status)
    {
        string? made = null;
        if (!status.UserspaceSnapshots)
        {
            made = status.UsingSnapuserd
                ? "/metadata/ota/state: the snapshots were made by Android 12, whose kernel merges in another order than this program"
                : "/metadata/ota/state: the snapshots were made for the kernel (dm-snapshot), not for snapuserd";
        }
        else if (!status.UsingSnapuserd)
        {
            throw RefusedException.Damaged($"/metadata/ota/state has userspace_snapshots without using_snapuserd");
        }
        else if (status.LegacySnapuserd && !facts.SnapuserdFromSystem)
        {
            made = "/metadata/ota/state: snapuserd of an Android 12 vendor partition merges, in another order than this program";
        }
        if (made == null) return;
        // On the wrong slot, Android cannot boot either.
        if (facts.SourceSlot == facts.Slot) CheckSlot(facts, "boot Android");
        throw new RefusedException(ExitCode.Unavailable, made + "; only Android can finish this merge", BootAndroid);
    }

    private static void CheckMisc(DeviceFacts facts, UpdateStatus status)
    {
        if (facts.Misc is not { } misc) return;
        string word = UpdateStatus.Word(status.State);
        if (misc.Status == BootloaderMergeStatus.Snapshotted)
            throw RefusedException.Damaged(
                $"/metadata/ota/state is \"{word}\", but misc says that the merge has not begun (snapshotted); Android writes misc first");
        if (misc.Status == BootloaderMergeStatus.Merging && misc.Slot != Slots.Number(facts.Slot!))
            throw RefusedException.Damaged(
                $"misc says that slot number {misc.Slot} was current when the merge began, but the current slot is {facts.Slot![1]}");
    }
}
