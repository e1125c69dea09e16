using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Control;

/// <summary>Formats the status of a snapshot for people and programs.</summary>
public static class StatusText
{
    /// <summary>"root: merging, 42 %, 12.3 MiB of 30 MiB, 1234 of 2903 ops; /dev/ublkb0".</summary>
    public static string Short(SnapshotStatus status) =>
        $"{status.Name}: {Head(status)}{(status.Device.Length > 0 ? $"; {status.Device}" : "")}";

    /// <summary>The short form, followed on the same line by the other details that apply.</summary>
    public static string Long(SnapshotStatus status)
    {
        string text = $"{Short(status)}; cow {status.Cow}, base {status.Base}";
        if (status.TimesResumed > 0) text += $"; resumed {Units.Count(status.TimesResumed, "time")}, at op {status.ResumedFrom}";
        if (status.MergeSeconds > 0) text += string.Create(CultureInfo.InvariantCulture, $"; {status.MergeSeconds:0.0} s");
        if (status.BytesPerSecond > 0) text += $"; at most {Units.Bytes(status.BytesPerSecond)}/s";
        if (status.Reads > 0)
            text += $"; {Units.Count(status.Reads, "read")}, the slowest in {Units.Milliseconds(status.WorstReadSeconds)}";
        if (status.HandOverFailed) text += "; handover: failed, retried at next start";
        if (status.FailedReads > 0) text += $"; {Units.Count(status.FailedReads, "read")} failed";
        return status.Error.Length > 0 ? $"{text}; {status.Error}" : text;
    }

    /// <summary>One JSON object with stable keys.</summary>
    public static string Json(SnapshotStatus status) => JsonLine.Event("snapshot")
        .Add("name", status.Name).Add("state", Word(status)).Add("paused", status.Paused).Add("device", status.Device)
        .Add("cow", status.Cow).Add("base", status.Base)
        .Add("percent", status.Percent).Add("ops", status.OpsDone).Add("total_ops", status.OpsTotal).Add("bytes", status.BytesDone)
        .Add("total_bytes", status.BytesTotal)
        .Add("resumed_from", status.ResumedFrom).Add("seconds", status.MergeSeconds).Add("bytes_per_second_limit", status.BytesPerSecond)
        .Add("bytes_per_second", status.Rate).Add("handover", status.HandOverFailed ? "failed, retried at next start" : null)
        .Add("exit_code", (int)status.EndedWith)
        .Add("phase", status.State != SnapshotState.Merging ? null : status.CheckPercent == null ? "merge" : "check")
        .Add("check_percent", status.CheckPercent ?? double.NaN)
        .Add("times_resumed", status.TimesResumed).Add("reads", status.Reads).Add("worst_read_seconds", status.WorstReadSeconds)
        .Add("failed_reads", status.FailedReads).Add("error", status.Error.Length > 0 ? status.Error : null).ToString();

    /// <summary>
    /// The status in an object that <see cref="Json"/> wrote. It has everything that <see cref="Short"/> and the progress bar show; some
    /// other properties keep their defaults.
    /// </summary>
    public static SnapshotStatus Parse(JsonFields fields) => new()
    {
        Name = fields.Text("name"),
        Cow = fields.Text("cow"),
        Base = fields.Text("base"),
        Device = fields.Text("device"),
        State = Array.Find(Enum.GetValues<SnapshotState>(), state => Word(state) == fields.Text("state")),
        Paused = fields.Text("paused") == "true",
        OpsDone = (int)fields.Integer("ops"),
        OpsTotal = (int)fields.Integer("total_ops"),
        BytesDone = fields.Integer("bytes"),
        BytesTotal = fields.Integer("total_bytes"),
        Rate = fields.Integer("bytes_per_second"),
        EndedWith = (ExitCode)fields.Integer("exit_code"),
        CheckPercent = fields.Text("check_percent").Length > 0 ? fields.Integer("check_percent") : null,
        Error = fields.Text("error"),
    };

    private static string Head(SnapshotStatus status)
    {
        string word = Word(status) + (status.Paused
            && status.State is not (SnapshotState.Merged or SnapshotState.Plain or SnapshotState.Failed) ? ", paused" : "");
        if (status.CheckPercent is { } check) return string.Create(CultureInfo.InvariantCulture, $"{word}, check {(int)check} %");
        return status.OpsTotal == 0 || status.State is SnapshotState.Merged or SnapshotState.Plain ? word
            // Truncated, not rounded: 100 % means that nothing is left.
            : string.Create(CultureInfo.InvariantCulture, $"{word}, {(int)status.Percent} %, {Units.Bytes(status.BytesDone)} of "
                + $"{Units.Bytes(status.BytesTotal)}{Rate(status)}, {status.OpsDone} of {status.OpsTotal} ops");
    }

    /// <summary>Remaining time and rate, as `merge` shows them.</summary>
    private static string Rate(SnapshotStatus status) =>
        status.Rate > 0 && status.BytesDone < status.BytesTotal
            ? $", {Units.Duration((status.BytesTotal - status.BytesDone) / status.Rate)} left, {Units.Bytes(status.Rate)}/s"
            : "";

    private static string Word(SnapshotStatus status) => Word(status.State);

    private static string Word(SnapshotState state) => state switch
    {
        SnapshotState.Opening => "opening",
        SnapshotState.Serving => "serving",
        SnapshotState.Queued => "queued",
        SnapshotState.Merging => "merging",
        SnapshotState.Merged => "merged",
        SnapshotState.Plain => "plain",
        SnapshotState.Failed => "failed",
        _ => "ended",
    };
}
