using System;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`inspect`: shows the contents of a COW (design §7), and whether it can be merged.</summary>
internal sealed class Inspect
{
    // Blocks of the sequence list per line, as Android's tool prints them.
    private const int SequencePerLine = 10;
    private const int SequencePerPiece = 1024;

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
        if (arguments.Has("--raw")) inspect.Records(json);
        if (arguments.Has("--ops"))
        {
            inspect.Sequence(json);
            inspect.Ops(arguments.Choice("--order"), json);
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
        Line("Compression", Name(_cow.Compression));
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
            .Add("op_count_max", (long)header.OpCountMax).Add("compression", Name(_cow.Compression))
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

    /// <summary>The sequence list: the blocks of the first ops in merge order.</summary>
    private void Sequence(bool json)
    {
        int count = _cow.SequenceCount;
        var line = new StringBuilder();
        if (json)
        {
            // In pieces: a list has an entry for every block of an image.
            line.Append("{\"event\":\"sequence\",\"blocks\":[");
            for (int i = 0; i < count; i++)
            {
                if (i > 0) line.Append(',');
                line.Append(CultureInfo.InvariantCulture, $"{SequenceBlock(i)}");
                if ((i + 1) % SequencePerPiece != 0) continue;
                _output.ResultPiece(line.ToString());
                line.Clear();
            }
            _output.Result(line.Append("]}").ToString());
            return;
        }
        if (count > 0) _output.Result("Sequence list:");
        for (int i = 0; i < count; i++)
        {
            line.Append(CultureInfo.InvariantCulture, $" {SequenceBlock(i),6}");
            if ((i + 1) % SequencePerLine != 0 && i + 1 < count) continue;
            _output.Result(line.ToString());
            line.Clear();
        }
    }

    private uint SequenceBlock(int position) => _cow[_cow.Order.OpIndex(position)].NewBlock;

    /// <summary>Prints every record of formats 1 and 2, with the fields as stored.</summary>
    private void Records(bool json)
    {
        if (!json) _output.Result("Records in file order (byte, record):");
        CowFile.WalkRecords(_source, _cow.Header, record => _output.Result(json ? RecordAsJson(record) : RecordAsText(record)));
    }

    private static string RecordAsText(in CowRecord record)
    {
        string text = string.Create(CultureInfo.InvariantCulture,
            $"{record.Position,10}  {record.Type,-9} compression {record.Compression}, length {record.DataLength}, block "
            + $"{record.NewBlock}, source {record.Source}");
        return record.DataPosition < 0 ? text : string.Create(CultureInfo.InvariantCulture, $"{text}, data at {record.DataPosition}");
    }

    private static string RecordAsJson(in CowRecord record)
    {
        // The last field of a record is a label with 64 bits, or a value that fits 48.
        JsonLine line = JsonLine.Event("record").Add("offset", record.Position).Add("type", TypeName(record.Type))
            .Add("compression", record.Compression)
            .Add("data_length", record.DataLength).Add("block", (long)record.NewBlock)
            .Add("source", record.Source.ToString(CultureInfo.InvariantCulture));
        if (record.DataPosition >= 0) line.Add("data_offset", record.DataPosition);
        return line.ToString();
    }

    private void Ops(string order, bool json)
    {
        bool mergeOrder = order != "file";
        int count = mergeOrder ? _cow.Order.Count : _cow.OpCount;
        if (!json) _output.Result(mergeOrder ? $"Ops in {order} order (position, op):" : "Ops in file order:");
        for (int i = 0; i < count; i++)
        {
            int place = order == "reverse-merge" ? count - 1 - i : i;
            int index = mergeOrder ? _cow.Order.OpIndex(place) : place;
            CowOp op = _cow[index];
            bool merged = mergeOrder && (ulong)place < _cow.Header.NumMergeOps;
            _output.Result(
                json ? OpAsJson(op, index, mergeOrder ? place : -1, merged) : OpAsText(op, index, mergeOrder ? place : -1, merged));
        }
    }

    private string OpAsText(in CowOp op, int index, int position, bool merged)
    {
        var text = new StringBuilder();
        if (position >= 0) text.Append(CultureInfo.InvariantCulture, $"{position,8}");
        text.Append(CultureInfo.InvariantCulture, $"{index,8}  {op.Type,-8}{op.NewBlock,10}");
        if (op.Blocks > 1) text.Append(CultureInfo.InvariantCulture, $" to {op.NewBlock + op.Blocks - 1}");
        if (op.Type == CowOpType.Copy) text.Append(CultureInfo.InvariantCulture, $" from block {op.Source}");
        if (op.Type == CowOpType.Xor) text.Append(CultureInfo.InvariantCulture, $" from byte {op.Source}");
        if (op.HasData)
            text.Append(CultureInfo.InvariantCulture, $", {op.DataLength} bytes at {op.DataOffset}, {Name(_cow.AlgorithmOf(op))}");
        if (merged) text.Append(" (merged)");
        return text.ToString();
    }

    private string OpAsJson(in CowOp op, int index, int position, bool merged)
    {
        JsonLine line = JsonLine.Event("op").Add("index", index);
        if (position >= 0) line.Add("position", position).Add("merged", merged);
        line.Add("type", TypeName(op.Type)).Add("block", op.NewBlock).Add("blocks", op.Blocks);
        if (op.Type == CowOpType.Copy) line.Add("source_block", op.Source);
        if (op.Type == CowOpType.Xor) line.Add("source_byte", op.Source);
        if (op.HasData)
            line.Add("data_offset", op.DataOffset).Add("data_length", op.DataLength).Add("compression", Name(_cow.AlgorithmOf(op)));
        return line.ToString();
    }

    private static string TypeName(CowOpType type) => type switch
    {
        CowOpType.Copy => "copy",
        CowOpType.Replace => "replace",
        CowOpType.Zero => "zero",
        CowOpType.Xor => "xor",
        CowOpType.Label => "label",
        CowOpType.Cluster => "cluster",
        CowOpType.Sequence => "sequence",
        CowOpType.Footer => "footer",
        _ => "other",
    };

    private static string Name(CowCompression compression) => compression switch
    {
        CowCompression.None => "none",
        CowCompression.Gz => "gz",
        CowCompression.Brotli => "brotli",
        CowCompression.Lz4 => "lz4",
        CowCompression.Zstd => "zstd",
        _ => "unknown",
    };

    private static string Number(long number) => number.ToString(CultureInfo.InvariantCulture);

    private void Line(string label, string value) => _output.Result(label.Length == 0 ? $"{"",16}{value}" : $"{label + ":",-16}{value}");
}
