using System;
using System.Diagnostics;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Images;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`inspect`: shows the contents of a COW (design §7), and whether it can be merged.</summary>
internal sealed class Inspect
{
    private readonly Output _output;
    private readonly IByteSource _source;
    private readonly CowFile _cow;
    private readonly double _parseMilliseconds;

    private Inspect(Output output, IByteSource source, CowFile cow, double parseMilliseconds)
    {
        _output = output;
        _source = source;
        _cow = cow;
        _parseMilliseconds = parseMilliseconds;
    }

    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        using var input = new CowInput(arguments.Operands[0]);
        long start = Stopwatch.GetTimestamp();
        using CowFile cow = CowFile.Read(input.Source);
        var inspect = new Inspect(invocation.Output, input.Source, cow, Stopwatch.GetElapsedTime(start).TotalMilliseconds);

        if (arguments.Has("--raw") && cow.Header.Major == 3)
            throw new SnapuserdException(ExitCode.Usage,
                $"inspect: {cow.Name} has format 3, which has no records; --raw lists those of formats 1 and 2, --ops the ops of any");
        SnapuserdException? inconsistent = inspect.Consistency();
        bool json = arguments.Has("--json");
        MergeForecast? forecast =
            inconsistent == null && cow.Header.Major >= 2 ? MergeForecast.Of(cow, from: (int)cow.Header.NumMergeOps) : null;
        if (json) inspect.SummaryAsJson(inconsistent, forecast); else inspect.Summary(inconsistent, forecast);
        Output output = invocation.Output;
        if (arguments.Has("--raw")) CowListing.Records(cow, input.Source, json, output.Result);
        if (arguments.Has("--ops"))
        {
            CowListing.Sequence(cow, json, piece => output.ResultPiece(piece), output.Result);
            CowListing.Ops(cow, arguments.Choice("--order"), json, output.Result);
        }
        // The summary shows the inconsistency to people; the exit code and standard error show it to scripts.
        return inconsistent == null ? ExitCode.Done : throw inconsistent;
    }

    private SnapuserdException? Consistency()
    {
        try
        {
            _cow.Order.Check(sharedDevices: true, default);
            return null;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return e;
        }
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
    private string? Unprotected(MergeForecast? forecast) => forecast is not { Unprotected: > 0 and int ops }
        ? null
        : $"{Units.Count(ops, "op")} would overwrite what {(ops == 1 ? "it reads itself" : "they read themselves")}, and there is no "
            + $"scratch to protect {(ops == 1 ? "it" : "them")}";

    private void Summary(SnapuserdException? inconsistent, MergeForecast? forecast)
    {
        CowHeader header = _cow.Header;
        bool v3 = header.Major == 3;
        bool android = _cow.Order.AndroidCanMerge(out string why);
        Line("Version", $"{header.Major}.{header.Minor}");
        Line("Header size", Number(header.HeaderBytes));
        Line("Footer size", Number(header.FooterBytes));
        Line("Block size", Number(header.BlockSize));
        if (!v3) Line("Cluster ops", Number(header.ClusterOps));
        Line("Merge ops", $"{header.NumMergeOps} of {_cow.Order.Count}");
        Line("Scratch", header.ScratchBytes == 0 ? "none"
            : $"{header.ScratchBytes} bytes, state {StateName(ScratchState(), header.NumMergeOps == (ulong)_cow.Order.Count)}");
        if (!v3) Line("Footer", $"{Units.Count(RecordCount, "op")}, {(long)RecordCount * header.OpBytes} bytes");
        else Line("Op slots", $"{header.OpCount} of {header.OpCountMax}, {(long)header.OpCount * header.OpBytes} bytes");
        Line("Compression", CowListing.Name(_cow.Compression));
        Line("Largest unit", $"{_cow.MaxUnitBytes} bytes; {header.MaxUnitBytes} by the header");
        Line("Sequence list", _cow.SequenceCount == 0 ? "none" : v3 ? $"{_cow.SequenceCount} blocks"
            : $"{_cow.SequenceCount} blocks in {_cow.SequenceOpCount} ops");
        if (v3)
        {
            Line("Resume points", $"{_cow.ResumePoints.Count} of {header.ResumeMax}");
            foreach (ResumePoint point in _cow.ResumePoints) Line("", $"label {point.Label} after op {point.OpIndex}");
        }
        else
        {
            Line("Labels", _cow.LastLabel is { } last ? $"{_cow.LabelCount}, the last is {last}" : "none");
            Line("Clusters", Number(_cow.ClusterCount));
        }
        Line("Parse time", $"{_parseMilliseconds.ToString("0.0", CultureInfo.InvariantCulture)} ms");
        Line("Data ops", Number(_cow.OpCount));
        Line("  Replace", $"{_cow.ReplaceCount} ops, {_cow.ReplaceBlocks} blocks");
        Line("  Zero", Number(_cow.ZeroCount));
        Line("  Copy", Number(_cow.CopyCount));
        Line("  Xor", Number(_cow.XorCount));
        Line("Base needs", $"{_cow.BaseBytes} bytes");
        Line("Source needs", $"{_cow.SourceBytes} bytes");
        Line("Merge order", inconsistent == null ? "consistent" : $"inconsistent: {inconsistent.Message}");
        if (forecast is { } left)
            Line("Left to merge", $"{Units.Count(_cow.Order.Count - (long)header.NumMergeOps, "op")}, {left.Journaled} of them through "
                + $"scratch in {Units.Count(left.Windows, "window")}; {Units.Count(left.Checkpoints, "checkpoint")} at least");
        if (header.Major < 2) _output.Result("This cannot be merged because version 1 has no room to merge safely; it can be extracted.");
        if (Unprotected(forecast) is { } risk) _output.Result($"This cannot be merged without --allow-unsafe: {risk}.");
        _output.Result(android ? "Android can merge this." : $"Android cannot merge this because {why}.");
    }

    private void SummaryAsJson(SnapuserdException? inconsistent, MergeForecast? forecast)
    {
        CowHeader header = _cow.Header;
        bool android = _cow.Order.AndroidCanMerge(out string why);
        JsonLine line = JsonLine.Event("inspect").Add("path", _source.Name).Add("version", $"{header.Major}.{header.Minor}")
            .Add("header_size", header.HeaderBytes).Add("footer_size", header.FooterBytes).Add("block_size", header.BlockSize)
            .Add("op_size", header.OpBytes)
            .Add("cluster_ops", header.ClusterOps).Add("num_merge_ops", (long)header.NumMergeOps).Add("total_merge_ops", _cow.Order.Count)
            .Add("scratch_bytes", header.ScratchBytes).Add("scratch_state", ScratchState()).Add("records", RecordCount)
            .Add("op_count_max", (long)header.OpCountMax).Add("compression", CowListing.Name(_cow.Compression))
            .Add("largest_unit_bytes", _cow.MaxUnitBytes)
            .Add("max_unit_bytes", header.MaxUnitBytes).Add("sequence_blocks", _cow.SequenceCount).Add("labels", _cow.LabelCount);
        if (_cow.LastLabel is { } last) line.Add("last_label", last.ToString(CultureInfo.InvariantCulture));
        else line.Add("last_label", (string?)null);
        line.Add("clusters", _cow.ClusterCount).Add("parse_seconds", _parseMilliseconds / 1000).Add("data_ops", _cow.OpCount)
            .Add("replace_ops", _cow.ReplaceCount).Add("replace_blocks", _cow.ReplaceBlocks).Add("zero_ops", _cow.ZeroCount)
            .Add("copy_ops", _cow.CopyCount).Add("xor_ops", _cow.XorCount).Add("base_bytes", _cow.BaseBytes)
            .Add("source_bytes", _cow.SourceBytes)
            .Add("consistent", inconsistent == null).Add("android_can_merge", android).Add("android_reason", android ? null : why);
        if (forecast is { } left)
            line.Add("left_journaled", left.Journaled).Add("left_windows", left.Windows).Add("left_checkpoints", left.Checkpoints)
                .Add("left_unprotected", left.Unprotected);
        else
            line.Add("left_journaled", (string?)null).Add("left_windows", (string?)null).Add("left_checkpoints", (string?)null)
                .Add("left_unprotected", (string?)null);
        line.Add("needs_allow_unsafe", Unprotected(forecast) != null);
        _output.Result(line.ToString());
        foreach (ResumePoint point in _cow.ResumePoints)
            _output.Result(JsonLine.Event("resume_point").Add("label", point.Label.ToString(CultureInfo.InvariantCulture))
                .Add("ops", (long)point.OpIndex).ToString());
    }

    private static string Number(long number) => number.ToString(CultureInfo.InvariantCulture);

    private void Line(string label, string value) => _output.Result(label.Length == 0 ? $"{"",16}{value}" : $"{label + ":",-16}{value}");
}
