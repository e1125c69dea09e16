using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>Reads the sequence list, the resume points and the op array of a v3 file (cow-format §5, §6.6, §8.2).</summary>
internal sealed class OpReaderV3(IByteSource source, CowHeader header)
{
    private const int RecordBytes = 16;

    /// <summary>
    /// Maximum number of resume points to read. Writers make 4 slots; a file that claims millions must not use up memory.
    /// </summary>
    internal const int MaxResumePoints = 64;

    private readonly ByteWindow _window = new(source);
    private readonly long _length = source.Length;

    /// <summary>
    /// Reads and checks all ops and the sequence list. <paramref name="ops"/> must have op_count entries, and <paramref name="list"/> must
    /// have sequence_data_count entries.
    /// </summary>
    public CowTally Walk(Span<PackedOp> ops, Span<int> list)
    {
        var tally = new CowTally
        {
            Compression = header.Compression,
            Sequence = list.Length,
            Rule = list.Length > 0 ? OrderRule.Listed : OrderRule.FileOrder,
        };
        for (int i = 0; i < list.Length; i++)
            list[i] = BinaryPrimitives.ReadInt32LittleEndian(_window.At(header.SequenceOffset + (4L * i), 4, 4L * (list.Length - i)));
        tally.ResumePoints = ReadResumePoints();
        tally.Labels = tally.ResumePoints.Count;
        if (tally.Labels > 0) tally.LastLabel = tally.ResumePoints[^1].Label;

        WalkOps(tally, ops.Length, ops);
        return tally;
    }

    /// <summary>Checks the first <paramref name="count"/> ops without keeping them, for a writer that continues after them.</summary>
    public CowTally Count(ulong count)
    {
        if (count > int.MaxValue)
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{source.Name}: header: op_count is {count}, more than the {int.MaxValue} this program takes");
        var tally = new CowTally { Compression = header.Compression };
        WalkOps(tally, (int)count, default);
        return tally;
    }

    /// <summary>
    /// True if the op that writes the first block of the sequence list, or without a list the first op, is a Copy or Xor. Exit code 65 if
    /// the file ends before that op; no other field is checked.
    /// </summary>
    public bool StartsOrdered()
    {
        bool listed = header.SequenceCount > 0;
        uint first = listed ? BinaryPrimitives.ReadUInt32LittleEndian(Inside(header.SequenceOffset, sizeof(uint))) : 0;
        for (ulong i = 0; i < header.OpCount; i++)
        {
            ReadOnlySpan<byte> record = Inside(header.OpsOffset + (RecordBytes * (long)i), RecordBytes);
            if (!listed || BinaryPrimitives.ReadUInt32LittleEndian(record[4..]) == first)
                return TypeOf(BinaryPrimitives.ReadUInt64LittleEndian(record[8..])) is CowOpType.Copy or CowOpType.Xor;
        }
        return false;
    }

    private ReadOnlySpan<byte> Inside(long offset, int length) => offset >= 0 && offset <= _length - length
        ? _window.At(offset, length)
        : throw new CowCutOffException($"{source.Name} ends before byte {offset + length}");

    private static CowOpType TypeOf(ulong info) => (CowOpType)(info >> 60);

    private void WalkOps(CowTally tally, int count, Span<PackedOp> ops)
    {
        long dataPosition = header.DataOffset;
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> record = _window.At(header.OpsOffset + (16L * i), RecordBytes, 16L * (count - i));
            uint dataLength = BinaryPrimitives.ReadUInt32LittleEndian(record);
            uint newBlock = BinaryPrimitives.ReadUInt32LittleEndian(record[4..]);
            ulong info = BinaryPrimitives.ReadUInt64LittleEndian(record[8..]);
            CowOp op = Check(i, TypeOf(info), (int)(info >> 57) & 7, dataLength, newBlock, info & PackedOp.Max48, dataPosition);
            if (ops.Length > 0)
                ops[i] = new PackedOp(op.Type, newBlock, int.Log2(op.Blocks), (ulong)op.Source, (ulong)op.DataOffset, (uint)op.DataLength);
            tally.Count(op);
            // data_length advances the position for every type (cow-format §6.6). 2^31 ops of 2^32 bytes would overflow it.
            if (dataLength > (ulong)long.MaxValue - (ulong)dataPosition)
                throw Wrong(i, op.Type, newBlock, "data_length", dataLength, "beyond any file");
            dataPosition += dataLength;
        }
        tally.DataEnd = dataPosition;
    }

    private CowOp Check(int index, CowOpType type, int factor, uint dataLength, uint newBlock, ulong from, long dataPosition)
    {
        if (type is not (CowOpType.Copy or CowOpType.Replace or CowOpType.Zero or CowOpType.Xor))
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{source.Name}: op {index} (block {newBlock}): type is {(byte)type}, which version 3 does not have");
        if (type != CowOpType.Replace && factor != 0)
            throw Wrong(index, type, newBlock, "compression factor", (ulong)factor, "only a Replace may have one");
        if (type is CowOpType.Copy or CowOpType.Zero) return new CowOp(type, newBlock, 1, type == CowOpType.Copy ? (long)from : 0, 0, 0);

        int blocks = 1 << factor, unit = blocks * CowOp.BlockSize;
        if ((uint)unit > header.MaxUnitBytes)
            throw Wrong(index, type, newBlock, "compression factor", (ulong)factor,
                $"a unit of {unit} bytes, but max_compression_size is {header.MaxUnitBytes}");
        if (newBlock > uint.MaxValue - (uint)(blocks - 1))
            throw Wrong(index, type, newBlock, "new_block", newBlock, $"so {blocks} blocks reach beyond 2^32");
        if (dataLength == 0 || dataLength > (uint)unit || (header.Compression == CowCompression.None && dataLength != (uint)unit))
            throw Wrong(index, type, newBlock, "data_length", dataLength,
                header.Compression == CowCompression.None ? $"must be {unit} without compression" : $"must be 1 to {unit}");
        if (type == CowOpType.Replace && from != (ulong)dataPosition)
            throw Wrong(index, type, newBlock, "source", from, $"but its data must follow that of the op before at byte {dataPosition}");
        if (dataPosition > _length || dataLength > _length - dataPosition || (ulong)dataPosition > PackedOp.Max48)
            throw new CowCutOffException(Field(index, type, newBlock, "data_length", dataLength,
                $"so data from byte {dataPosition} on reaches beyond the file of {_length}"));
        return new CowOp(type, newBlock, blocks, type == CowOpType.Xor ? (long)from : 0, dataPosition, (int)dataLength);
    }

    /// <summary>
    /// Reads the valid resume points. Android's count is unreliable: it grows with every label, and slots may be stale or never written. So
    /// reading stops after the last slot, or before a slot whose label is not larger than the previous one, or whose op index is smaller
    /// than the previous one or exceeds op_count (cow-format §8.2).
    /// </summary>
    public List<ResumePoint> ReadResumePoints()
    {
        List<ResumePoint> points = [];
        uint count = Math.Min(Math.Min(header.ResumeCount, header.ResumeMax), MaxResumePoints);
        for (int i = 0; i < count && header.ResumeOffset + (16L * (i + 1)) <= _length; i++)
        {
            ReadOnlySpan<byte> slot = _window.At(header.ResumeOffset + (16L * i), 16);
            var point = new ResumePoint(BinaryPrimitives.ReadUInt64LittleEndian(slot), BinaryPrimitives.ReadUInt64LittleEndian(slot[8..]));
            if (point.OpIndex > header.OpCount) break;
            if (points.Count > 0 && (point.Label <= points[^1].Label || point.OpIndex < points[^1].OpIndex)) break;
            points.Add(point);
        }
        return points;
    }

    private SnapuserdException Wrong(int index, CowOpType type, uint newBlock, string field, ulong value, string rule) =>
        new(ExitCode.CowCorrupt, Field(index, type, newBlock, field, value, rule));

    private string Field(int index, CowOpType type, uint newBlock, string field, ulong value, string rule) =>
        $"{source.Name}: op {index} ({type} of block {newBlock}): {field} is {value}, {rule}";
}
