using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Text;

namespace Snapuserd.Images;

/// <summary>Lists the records, the ops and the sequence list of a COW: as text for people, or as JSON for programs.</summary>
public static class CowListing
{
    // Blocks of the sequence list per line, as Android's tool prints them.
    private const int SequencePerLine = 10;
    private const int SequencePerPiece = 1024;

    /// <summary>
    /// Lists every record of formats 1 and 2, in file order, with the fields as stored. <paramref name="line"/> receives each line of the
    /// list.
    /// </summary>
    public static void Records(CowFile cow, IByteSource source, bool json, Action<string> line)
    {
        if (!json) line("Records in file order (byte, record):");
        CowFile.WalkRecords(source, cow.Header, record => line(json ? RecordAsJson(record) : RecordAsText(record)));
    }

    /// <summary>
    /// Lists the blocks of the sequence list, which are those of the first ops in merge order. <paramref name="line"/> receives each line;
    /// <paramref name="piece"/> receives a part of a long line, whose end follows later.
    /// </summary>
    public static void Sequence(CowFile cow, bool json, Action<string> piece, Action<string> line)
    {
        int count = cow.SequenceCount;
        uint Block(int position) => cow[cow.Order.OpIndex(position)].NewBlock;
        var text = new StringBuilder();
        if (json)
        {
            // In pieces: a list has an entry for every block of an image.
            text.Append("{\"event\":\"sequence\",\"blocks\":[");
            for (int i = 0; i < count; i++)
            {
                if (i > 0) text.Append(',');
                text.Append(CultureInfo.InvariantCulture, $"{Block(i)}");
                if ((i + 1) % SequencePerPiece != 0) continue;
                piece(text.ToString());
                text.Clear();
            }
            line(text.Append("]}").ToString());
            return;
        }
        if (count > 0) line("Sequence list:");
        for (int i = 0; i < count; i++)
        {
            text.Append(CultureInfo.InvariantCulture, $" {Block(i),6}");
            if ((i + 1) % SequencePerLine != 0 && i + 1 < count) continue;
            line(text.ToString());
            text.Clear();
        }
    }

    /// <summary>
    /// Lists the ops. <paramref name="order"/> is "file", "merge" or "reverse-merge"; <paramref name="line"/> receives each line of the
    /// list.
    /// </summary>
    public static void Ops(CowFile cow, string order, bool json, Action<string> line)
    {
        bool mergeOrder = order != "file";
        int count = mergeOrder ? cow.Order.Count : cow.OpCount;
        if (!json) line(mergeOrder ? $"Ops in {order} order (position, op):" : "Ops in file order:");
        for (int i = 0; i < count; i++)
        {
            int place = order == "reverse-merge" ? count - 1 - i : i;
            int index = mergeOrder ? cow.Order.OpIndex(place) : place;
            bool merged = mergeOrder && (ulong)place < cow.Header.NumMergeOps;
            int position = mergeOrder ? place : -1;
            line(json ? OpAsJson(cow, index, position, merged) : OpAsText(cow, index, position, merged));
        }
    }

    /// <summary>The name of a compression: "none", "gz", "brotli", "lz4", "zstd" or "unknown".</summary>
    internal static string Name(CowCompression compression) => compression switch
    {
        CowCompression.None => "none",
        CowCompression.Gz => "gz",
        CowCompression.Brotli => "brotli",
        CowCompression.Lz4 => "lz4",
        CowCompression.Zstd => "zstd",
        _ => "unknown",
    };

    private static string RecordAsText(in CowRecord record)
    {
        string text = string.Create(CultureInfo.InvariantCulture,
            $"{record.Position,10}  {record.Type,-9} compression {record.Compression}, length {record.DataLength}, block "
            + $"{record.NewBlock}, source {record.Source}");
        return record.DataPosition < 0 ? text : string.Create(CultureInfo.InvariantCulture, $"{text}, data at {record.DataPosition}");
    }

    private static string RecordAsJson(in CowRecord record)
    {
        // The source is written as a string, because a label has 64 bits, more than many JSON parsers keep in a number.
        JsonLine line = JsonLine.Event("record").Add("offset", record.Position).Add("type", TypeName(record.Type))
            .Add("compression", record.Compression)
            .Add("data_length", record.DataLength).Add("block", (long)record.NewBlock)
            .Add("source", record.Source.ToString(CultureInfo.InvariantCulture));
        if (record.DataPosition >= 0) line.Add("data_offset", record.DataPosition);
        return line.ToString();
    }

    private static string OpAsText(CowFile cow, int index, int position, bool merged)
    {
        CowOp op = cow[index];
        var text = new StringBuilder();
        if (position >= 0) text.Append(CultureInfo.InvariantCulture, $"{position,8}");
        text.Append(CultureInfo.InvariantCulture, $"{index,8}  {op.Type,-8}{op.NewBlock,10}");
        if (op.Blocks > 1) text.Append(CultureInfo.InvariantCulture, $" to {op.NewBlock + op.Blocks - 1}");
        if (op.Type == CowOpType.Copy) text.Append(CultureInfo.InvariantCulture, $" from block {op.Source}");
        if (op.Type == CowOpType.Xor) text.Append(CultureInfo.InvariantCulture, $" from byte {op.Source}");
        if (op.HasData)
            text.Append(CultureInfo.InvariantCulture, $", {op.DataLength} bytes at {op.DataOffset}, {Name(cow.AlgorithmOf(op))}");
        if (merged) text.Append(" (merged)");
        return text.ToString();
    }

    private static string OpAsJson(CowFile cow, int index, int position, bool merged)
    {
        CowOp op = cow[index];
        JsonLine line = JsonLine.Event("op").Add("index", index);
        if (position >= 0) line.Add("position", position).Add("merged", merged);
        line.Add("type", TypeName(op.Type)).Add("block", op.NewBlock).Add("blocks", op.Blocks);
        if (op.Type == CowOpType.Copy) line.Add("source_block", op.Source);
        if (op.Type == CowOpType.Xor) line.Add("source_byte", op.Source);
        if (op.HasData)
            line.Add("data_offset", op.DataOffset).Add("data_length", op.DataLength).Add("compression", Name(cow.AlgorithmOf(op)));
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
}
