using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Images;

/// <summary>Summarizes a COW for `inspect`: its header, its state, and whether this engine and Android's can merge it.</summary>
public sealed class CowSummary
{
    private readonly CowFile _cow;
    private readonly IByteSource _source;
    private readonly double _parseMilliseconds;
    private readonly MergeForecast? _forecast;

    /// <summary>
    /// Checks the merge order of <paramref name="cow"/>, which was read from <paramref name="source"/>, and predicts the rest of its merge.
    /// </summary>
    public CowSummary(CowFile cow, IByteSource source, double parseMilliseconds)
    {
        (_cow, _source, _parseMilliseconds) = (cow, source, parseMilliseconds);
        try
        {
            cow.Order.Check(sharedDevices: true, default);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            Inconsistency = e;
        }
        if (Inconsistency == null && cow.Header.Major >= 2) _forecast = MergeForecast.Of(cow, from: (int)cow.Header.NumMergeOps);
    }

    /// <summary>Why the merge order is inconsistent; null if it is consistent.</summary>
    public SnapuserdException? Inconsistency { get; }

    /// <summary>Passes the summary to <paramref name="line"/>, line by line, as text for people.</summary>
    public void AsText(Action<string> line)
    {
        CowHeader header = _cow.Header;
        bool v3 = header.Major == 3;
        bool android = _cow.Order.AndroidCanMerge(out string why);
        void Field(string label, string value) => line(label.Length == 0 ? $"{"",16}{value}" : $"{label + ":",-16}{value}");
        Field("Version", $"{header.Major}.{header.Minor}");
        Field("Header size", Number(header.HeaderBytes));
        Field("Footer size", Number(header.FooterBytes));
        Field("Block size", Number(header.BlockSize));
        if (!v3) Field("Cluster ops", Number(header.ClusterOps));
        Field("Merge ops", $"{header.NumMergeOps} of {_cow.Order.Count}");
        Field("Scratch", header.ScratchBytes == 0 ? "none"
            : $"{header.ScratchBytes} bytes, state {StateName(ScratchState(), header.NumMergeOps == (ulong)_cow.Order.Count)}");
        if (!v3) Field("Footer", $"{Units.Count(RecordCount, "op")}, {(long)RecordCount * header.OpBytes} bytes");
        else Field("Op slots", $"{header.OpCount} of {header.OpCountMax}, {(long)header.OpCount * header.OpBytes} bytes");
        Field("Compression", CowListing.Name(_cow.Compression));
        Field("Largest unit", $"{_cow.MaxUnitBytes} bytes; {header.MaxUnitBytes} by the header");
        Field("Sequence list", _cow.SequenceCount == 0 ? "none" : v3 ? $"{_cow.SequenceCount} blocks"
            : $"{_cow.SequenceCount} blocks in {_cow.SequenceOpCount} ops");
        if (v3)
        {
            Field("Resume points", $"{_cow.ResumePoints.Count} of {header.ResumeMax}");
            foreach (ResumePoint point in _cow.ResumePoints) Field("", $"label {point.Label} after op {point.OpIndex}");
        }
        else
        {
            Field("Labels", _cow.LastLabel is { } last ? $"{_cow.LabelCount}, the last is {last}" : "none");
            Field("Clusters", Number(_cow.ClusterCount));
        }
        Field("Parse time", $"{_parseMilliseconds.ToString("0.0", CultureInfo.InvariantCulture)} ms");
        Field("Data ops", Number(_cow.OpCount));
        Field("  Replace", $"{_cow.ReplaceCount} ops, {_cow.ReplaceBlocks} blocks");
        Field("  Zero", Number(_cow.ZeroCount));
        Field("  Copy", Number(_cow.CopyCount));
        Field("  Xor", Number(_cow.XorCount));
        Field("Base needs", $"{_cow.BaseBytes} bytes");
        Field("Source needs", $"{_cow.SourceBytes} bytes");
        Field("Merge order", Inconsistency == null ? "consistent" : $"inconsistent: {Inconsistency.Message}");
        if (_forecast is { } left)
            Field("Left to merge", $"{Units.Count(_cow.Order.Count - (long)header.NumMergeOps, "op")}, {left.Journaled} of them through "
                + $"scratch in {Units.Count(left.Windows, "window")}; {Units.Count(left.Checkpoints, "checkpoint")} at least");
        if (header.Major < 2) line("This cannot be merged because version 1 has no room to merge safely; it can be extracted.");
        if (Unprotected() is { } risk) line($"This cannot be merged without --allow-unsafe: {risk}.");
        line(android ? "Android can merge this." : $"Android cannot merge this because {why}.");
    }

    /// <summary>Passes the summary to <paramref name="line"/> as one JSON object, followed by one for each resume point.</summary>
    public void AsJson(Action<string> line)
    {
        CowHeader header = _cow.Header;
        bool android = _cow.Order.AndroidCanMerge(out string why);
        JsonLine json = JsonLine.Event("inspect").Add("path", _source.Name).Add("version", $"{header.Major}.{header.Minor}")
            .Add("header_size", header.HeaderBytes).Add("footer_size", header.FooterBytes).Add("block_size", header.BlockSize)
            .Add("op_size", header.OpBytes)
            .Add("cluster_ops", header.ClusterOps).Add("num_merge_ops", (long)header.NumMergeOps).Add("total_merge_ops", _cow.Order.Count)
            .Add("scratch_bytes", header.ScratchBytes).Add("scratch_state", ScratchState()).Add("records", RecordCount)
            .Add("op_count_max", (long)header.OpCountMax).Add("compression", CowListing.Name(_cow.Compression))
            .Add("largest_unit_bytes", _cow.MaxUnitBytes)
            .Add("max_unit_bytes", header.MaxUnitBytes).Add("sequence_blocks", _cow.SequenceCount).Add("labels", _cow.LabelCount);
        if (_cow.LastLabel is { } last) json.Add("last_label", last.ToString(CultureInfo.InvariantCulture));
        else json.Add("last_label", (string?)null);
        json.Add("clusters", _cow.ClusterCount).Add("parse_seconds", _parseMilliseconds / 1000).Add("data_ops", _cow.OpCount)
            .Add("replace_ops", _cow.ReplaceCount).Add("replace_blocks", _cow.ReplaceBlocks).Add("zero_ops", _cow.ZeroCount)
            .Add("copy_ops", _cow.CopyCount).Add("xor_ops", _cow.XorCount).Add("base_bytes", _cow.BaseBytes)
            .Add("source_bytes", _cow.SourceBytes)
            .Add("consistent", Inconsistency == null).Add("android_can_merge", android).Add("android_reason", android ? null : why);
        if (_forecast is { } left)
            json.Add("left_journaled", left.Journaled).Add("left_windows", left.Windows).Add("left_checkpoints", left.Checkpoints)
                .Add("left_unprotected", left.Unprotected);
        else
            json.Add("left_journaled", (string?)null).Add("left_windows", (string?)null).Add("left_checkpoints", (string?)null)
                .Add("left_unprotected", (string?)null);
        json.Add("needs_allow_unsafe", Unprotected() != null);
        line(json.ToString());
        foreach (ResumePoint point in _cow.ResumePoints)
            line(JsonLine.Event("resume_point").Add("label", point.Label.ToString(CultureInfo.InvariantCulture))
                .Add("ops", (long)point.OpIndex).ToString());
    }

    private int RecordCount => _cow.OpCount + _cow.LabelCount + _cow.ClusterCount + _cow.SequenceOpCount;

    /// <summary>The scratch region's first byte, or -1 if there is none.</summary>
    private int ScratchState()
    {
        if (_cow.Header.ScratchBytes == 0) return -1;
        Span<byte> state = stackalloc byte[1];
        _source.Read(_cow.Header.ScratchOffset, state);
        return state[0];
    }

    private static string StateName(int state, bool finished) => state switch
    {
        _ when finished => $"{state}, the merge is finished",
        0 => "0, not started",
        1 => "1, in progress",
        2 => "2, a window is ready",
        _ => $"{state}, unknown",
    };

    /// <summary>The reason why `merge` would refuse without --allow-unsafe, or null.</summary>
    private string? Unprotected() => _forecast is not { Unprotected: > 0 and int ops }
        ? null
        : $"{Units.Count(ops, "op")} would overwrite what {(ops == 1 ? "it reads itself" : "they read themselves")}, and there is no "
            + $"scratch to protect {(ops == 1 ? "it" : "them")}";

    private static string Number(long number) => number.ToString(CultureInfo.InvariantCulture);
}
