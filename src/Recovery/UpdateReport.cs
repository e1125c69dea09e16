using System.Collections.Generic;
using System.Globalization;
using System.Text;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Recovery;

/// <summary>
/// What there is to say about the update of a device (android-device §13): as lines for a person, and as JSON.
/// <paramref name="partitions"/> is the progress of the plan's merges; empty if their COWs were not read. <paramref name="problem"/> is why
/// that failed.
/// </summary>
public sealed class UpdateReport(DeviceFacts facts, UpdatePlan plan, IReadOnlyList<PartitionProgress> partitions,
    SnapuserdException? problem = null)
{
    internal DeviceFacts Facts => facts;

    internal UpdatePlan Plan => plan;

    internal IReadOnlyList<PartitionProgress> Partitions => partitions;

    internal SnapuserdException? Problem => problem;

    private const int BarCells = 24;

    // The order of the numbers of BootloaderMergeStatus.
    private static readonly string[] s_bootloader = ["none", "unknown", "snapshotted", "merging", "cancelled"];

    private static readonly string[] s_states =
    [
        "none", "being written", "written, not merged", "being merged", "merged, needs a reboot",
        "merged, Android cleans up at its next boot", "a merge failed and can go on", "cancelled",
    ];

    /// <summary>All partitions are merged, though Android has not noticed yet.</summary>
    private bool IsMerged => plan.Nothing == null && partitions.Count > 0 && Left == 0;

    private int Left
    {
        get
        {
            int left = 0;
            foreach (PartitionProgress one in partitions)
                if (!one.IsComplete) left++;
            return left;
        }
    }

    /// <summary>
    /// 0 if nothing is to be done, 75 if a merge would finish the update, otherwise the code with which a merge would refuse it.
    /// </summary>
    public ExitCode Code => problem?.Code ?? plan.Refusal?.Code
        ?? (plan.Nothing != null || IsMerged || plan.Merges.Count == 0 ? ExitCode.Done : ExitCode.Interrupted);

    /// <summary>What a merge would do, or why it would refuse.</summary>
    public string Sentence
    {
        get
        {
            if (problem != null) return Refused(problem.Message);
            if (plan.Refusal is { } refusal) return Refused(refusal.Sentence);
            if (plan.Nothing is { } nothing) return nothing;
            if (IsMerged || plan.Merges.Count == 0) return "All is merged. Reboot: Android concludes the update by itself.";
            long bytes = 0;
            foreach (PartitionProgress one in partitions) bytes += one.BytesTotal - one.BytesDone;
            return "`snapuserd android merge` would finish the update: "
                + $"{Units.Count(Left, "partition")} with {Units.Bytes(bytes)} are left.";
        }
    }

    /// <summary>What to do; "" if the sentence says it.</summary>
    public string Remedy => problem != null ? "Nothing was written." : plan.Refusal?.Remedy ?? "";

    private static string Refused(string why) => $"`snapuserd android merge` refuses: {why}.";

    /// <summary>The report as lines, for a screen of 80 columns.</summary>
    public string Text()
    {
        StringBuilder text = new();
        Row(text, "current slot", facts.Slot?[1..] ?? "unknown");
        Row(text, "update", State());
        if (facts.SourceSlot is { } source) Row(text, "written from", $"slot {source.TrimStart('_')}");
        if (facts.Status is { Fingerprint.Length: > 0 } status) Row(text, "by build", status.Fingerprint);
        if (facts.Misc is { } misc) Row(text, "bootloader", s_bootloader[(int)misc.Status]);
        if (facts.RepairedTable.Length > 0) Row(text, "backup used", facts.RepairedTable);
        foreach (PartitionProgress one in partitions) text.Append(Bar(one)).Append('\n');
        if (partitions.Count == 0)
            foreach (SnapshotFile file in facts.Snapshots) text.Append(CultureInfo.InvariantCulture, $"{file.Name}  {Words(file)}\n");
        foreach (LeftOut one in plan.LeftOut) text.Append(CultureInfo.InvariantCulture, $"{one.Name}  is not merged: {one.Why}\n");
        text.Append(Sentence);
        if (Remedy.Length > 0) text.Append('\n').Append(Remedy);
        return text.ToString();
    }

    /// <summary>The report as JSON objects: one for the device, and one for each partition.</summary>
    public IEnumerable<JsonLine> Json()
    {
        yield return JsonLine.Event("status").Add("slot", facts.Slot?[1..]).Add("source_slot", facts.SourceSlot?.TrimStart('_'))
            .Add("state", facts.Status is { } status ? UpdateStatus.Word(status.State) : null)
            .Add("phase", (int)(facts.Status?.Phase ?? 0)).Add("failure", (long)(facts.Status?.FailureCode ?? 0))
            .Add("fingerprint", facts.Status?.Fingerprint)
            .Add("bootloader", facts.Misc is { } misc ? s_bootloader[(int)misc.Status] : null)
            .Add("verdict", Code switch { ExitCode.Done => "nothing", ExitCode.Interrupted => "merge", _ => "refuse" })
            .Add("message", Sentence).Add("remedy", Remedy).Add("exit_code", (int)Code);
        for (int i = 0; i < partitions.Count; i++)
        {
            PartitionProgress one = partitions[i];
            yield return JsonLine.Event("partition").Add("name", one.Name).Add("phase", one.Phase).Add("ops", one.OpsDone)
                .Add("total_ops", one.OpsTotal).Add("bytes", one.BytesDone).Add("total_bytes", one.BytesTotal)
                .Add("cow", Pieces(plan.Merges[i].Cow)).Add("base", Pieces(plan.Merges[i].Base))
                .Add("source", Pieces(plan.Merges[i].Source));
        }
        foreach (LeftOut one in plan.LeftOut) yield return JsonLine.Event("left_out").Add("name", one.Name).Add("message", one.Why);
    }

    /// <summary>The steps of a merge in their order, with the pieces of each device.</summary>
    public string Steps()
    {
        StringBuilder text = new();
        for (int i = 0; i < partitions.Count; i++)
        {
            PartitionProgress one = partitions[i];
            PlannedMerge merge = plan.Merges[i];
            text.Append(CultureInfo.InvariantCulture, $"{i + 1}. {one.Name}, phase {one.Phase}: ");
            text.Append(CultureInfo.InvariantCulture, $"{one.OpsTotal - one.OpsDone} of ");
            text.Append(Units.Count(one.OpsTotal, "op")).Append(", ").Append(Units.Bytes(one.BytesTotal - one.BytesDone)).Append('\n');
            text.Append("   cow     ").Append(Pieces(merge.Cow)).Append("\n   source  ").Append(Pieces(merge.Source));
            text.Append("\n   base    ").Append(Pieces(merge.Base)).Append('\n');
        }
        return text.Append("Nothing was written.").ToString();
    }

    private string State()
    {
        if (facts.Status is not { } status) return "unknown: its state file is damaged";
        string phase = status.State is UpdateState.Merging or UpdateState.MergeFailed
            ? status.Phase switch { MergePhase.First => ", first phase", MergePhase.Second => ", second phase", _ => "" } : "";
        string failure = status.State == UpdateState.MergeFailed
            ? string.Create(CultureInfo.InvariantCulture, $" (Android's failure code {status.FailureCode})") : "";
        return s_states[(int)status.State] + phase + failure;
    }

    private static string Words(SnapshotFile file) => file.Problem ?? file.Record.State switch
    {
        SnapshotRecordState.Created => "written",
        SnapshotRecordState.Merging => "being merged",
        SnapshotRecordState.Merged => "merged",
        _ => "no snapshot",
    };

    private static string Bar(in PartitionProgress one)
    {
        double share = one.OpsTotal == 0 ? 1 : (double)one.OpsDone / one.OpsTotal;
        int full = (int)(BarCells * share);
        string bar = new string('#', full) + new string('.', BarCells - full);
        return string.Create(CultureInfo.InvariantCulture, $"{one.Name,-15} phase {one.Phase} {(int)(share * 100),3}% [{bar}] ")
            + $"{Units.Bytes(one.BytesDone)} of {Units.Bytes(one.BytesTotal)}";
    }

    private static void Row(StringBuilder text, string name, string value) =>
        text.Append(CultureInfo.InvariantCulture, $"{name,-15} {value}\n");

    private static string Pieces(IReadOnlyList<DevicePiece> pieces)
    {
        StringBuilder text = new();
        foreach (DevicePiece piece in pieces) text.Append(text.Length > 0 ? " " : "").Append(piece.ToString());
        return text.ToString();
    }
}
