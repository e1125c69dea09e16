using System.Globalization;
using Snapuserd.Daemon;

namespace Snapuserd.Cli.Control;

/// <summary>The status of a snapshot as people and programs read it.</summary>
internal static class StatusText
{
    /// <summary>"root: merging, 42 %, 12.3 MiB of 30 MiB, 1234 of 2903 ops; /dev/ublkb0".</summary>
    internal static string Short(SnapshotStatus status) =>
        $"{status.Name}: {Head(status)}{(status.Device.Length > 0 ? $"; {status.Device}" : "")}";

    /// <summary>The same and everything else there is, on one line for a snapshot.</summary>
    internal static string Long(SnapshotStatus status)
    {
        string text = $"{Short(status)}; cow {status.Cow}, base {status.Base}";
        if (status.TimesResumed > 0) text += $"; resumed {Units.Count(status.TimesResumed, "time")}, at op {status.ResumedFrom}";
        if (status.MergeSeconds > 0) text += string.Create(CultureInfo.InvariantCulture, $"; {status.MergeSeconds:0.0} s");
        if (status.BytesPerSecond > 0) text += $"; at most {Units.Bytes(status.BytesPerSecond)}/s";
        if (status.Reads > 0) text += $"; {Units.Count(status.Reads, "read")}, the slowest in {Units.Milliseconds(status.WorstReadSeconds)}";
        if (status.FailedReads > 0) text += $"; {Units.Count(status.FailedReads, "read")} failed";
        return status.Error.Length > 0 ? $"{text}; {status.Error}" : text;
    }

    /// <summary>One JSON object with stable keys.</summary>
    internal static string Json(SnapshotStatus status) => JsonLine.Event("snapshot")
        .Add("name", status.Name).Add("state", Word(status)).Add("paused", status.Paused).Add("device", status.Device).Add("cow", status.Cow).Add("base", status.Base)
        .Add("percent", status.Percent).Add("ops", status.OpsDone).Add("total_ops", status.OpsTotal).Add("bytes", status.BytesDone).Add("total_bytes", status.BytesTotal)
        .Add("resumed_from", status.ResumedFrom).Add("seconds", status.MergeSeconds).Add("bytes_per_second_limit", status.BytesPerSecond)
        .Add("times_resumed", status.TimesResumed).Add("reads", status.Reads).Add("worst_read_seconds", status.WorstReadSeconds)
        .Add("failed_reads", status.FailedReads).Add("error", status.Error.Length > 0 ? status.Error : null).ToString();

    private static string Head(SnapshotStatus status)
    {
        string word = Word(status) + (status.Paused && status.State is not (SnapshotState.Merged or SnapshotState.Plain or SnapshotState.Failed) ? ", paused" : "");
        return status.OpsTotal == 0 || status.State is SnapshotState.Merged or SnapshotState.Plain ? word
            // Cut, not rounded: 100 % is said only when nothing is left.
            : string.Create(CultureInfo.InvariantCulture, $"{word}, {(int)status.Percent} %, {Units.Bytes(status.BytesDone)} of {Units.Bytes(status.BytesTotal)}, {status.OpsDone} of {status.OpsTotal} ops");
    }

    private static string Word(SnapshotStatus status) => status.State switch
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
