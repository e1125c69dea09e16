using System;
using System.Buffers.Binary;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Walks the op records of a v1 or v2 file (cow-format §4, §6.1–6.4). Their number is not stored, so the file is walked twice: once to
/// count, once to fill memory of exactly that size. Positions only grow, so a walk ends whatever the file holds.
/// </summary>
internal sealed class OpReaderV2(IByteSource source, CowHeader header)
{
    /// <summary>Bytes of a record.</summary>
    internal const int RecordBytes = 20;
    /// <summary>Bytes of the footer: a record, and 64 bytes without meaning.</summary>
    internal const int FooterBytes = 84;

    private readonly ByteWindow _window = new(source);
    private readonly ByteWindow _listWindow = new(source);
    private readonly long _length = source.Length;

    /// <summary>Called with every record in file order, including the footer, before it is checked.</summary>
    public Action<CowRecord>? Seen { get; init; }

    /// <summary>
    /// Walks the file and checks it. Data ops go to <paramref name="ops"/> and listed blocks to <paramref name="list"/>; if both are
    /// empty, they are only counted.
    /// </summary>
    public CowTally Walk(Span<PackedOp> ops, Span<int> list) => Walk(ops, list, append: false, null);

    /// <summary>
    /// Walks up to and including the first <paramref name="label"/>, or without one to the footer, and records where a writer continues.
    /// That is after the label, or at the footer and the Cluster op that only the footer required.
    /// </summary>
    public CowTally WalkTo(ulong? label) => Walk(default, default, append: true, label);

    private CowTally Walk(Span<PackedOp> ops, Span<int> list, bool append, ulong? label)
    {
        bool fill = ops.Length > 0 || list.Length > 0;
        bool clustered = header.ClusterOps != 0;
        long clusterBytes = clustered ? header.ClusterOps * (long)RecordBytes : RecordBytes;
        var tally = new CowTally { Rule = OrderRule.OrderedFirst };
        CowCompression? compression = null;
        long position = header.ScratchEnd;
        // The running data position of §6.3. In a hostile file it may lie anywhere ahead, so it is checked at each use.
        long dataPosition = position + clusterBytes;
        long slotsLeft = header.ClusterOps;
        long clusterData = 0;
        // Location of the last record if it is a Cluster op that closed its cluster before it was full.
        (long Op, long Data, long SlotsLeft, long ClusterData)? closedEarly = null;

        while (true)
        {
            if (_length - position < RecordBytes && label != null) throw Bad($"cannot go on at label {label}: the ops end at byte {position} of {_length} without it");
            if (_length - position < RecordBytes)
                throw CutOff($"the footer is missing: the ops end at byte {position} of {_length}, so the file was not finished or is cut off");
            long ahead = clustered ? slotsLeft * RecordBytes : long.MaxValue;
            ReadOnlySpan<byte> record = _window.At(position, RecordBytes, ahead);
            var type = (CowOpType)record[0];
            byte algorithm = record[1];
            int dataLength = BinaryPrimitives.ReadUInt16LittleEndian(record[2..]);
            ulong newBlock = BinaryPrimitives.ReadUInt64LittleEndian(record[4..]);
            ulong from = BinaryPrimitives.ReadUInt64LittleEndian(record[12..]);

            Seen?.Invoke(new CowRecord(position, type, algorithm, dataLength, newBlock, from, type switch
            {
                CowOpType.Xor => dataPosition,
                CowOpType.Replace or CowOpType.Sequence => (long)from,
                _ => -1,
            }));
            if (type == CowOpType.Footer)
            {
                CheckFooter(tally, position, opsSize: newBlock, numOps: from);
                tally.Compression = compression ?? CowCompression.None;
                tally.Footer = position;
                if (label != null) throw Bad($"cannot go on at label {label}: the footer comes without it");
                if (closedEarly is { } open)
                {
                    (position, dataPosition, slotsLeft, clusterData) = open;
                    tally.Records--;
                }
                if (append) EndAt(tally, position, dataPosition, slotsLeft, clusterData);
                return tally;
            }
            if (clustered && slotsLeft-- == 0)
                throw Bad($"the cluster of {header.ClusterOps} ops that ends at byte {position} has no Cluster op");

            if (algorithm != 0 && type is not (CowOpType.Replace or CowOpType.Xor)) CheckAlgorithm(position, type, algorithm, ref compression);
            long next = position + RecordBytes;
            switch (type)
            {
                case CowOpType.Copy or CowOpType.Replace or CowOpType.Zero or CowOpType.Xor:
                    bool hasData = type is CowOpType.Replace or CowOpType.Xor;
                    ulong dataOffset = type == CowOpType.Replace ? from : type == CowOpType.Xor ? (ulong)dataPosition : 0;
                    CowOp op = Check(tally.Ops, type, algorithm, dataLength, newBlock, from, dataOffset, ref compression);
                    if (fill)
                    {
                        if (tally.Ops >= ops.Length) throw Changed();
                        ops[tally.Ops] = new PackedOp(type, op.NewBlock, 0, (ulong)op.Source, (ulong)op.DataOffset, (uint)op.DataLength);
                    }
                    if (tally.Ops == int.MaxValue) throw Bad("there are more than 2^31 ops");
                    tally.Count(op);
                    if (!clustered && hasData) next += dataLength;
                    break;
                case CowOpType.Label:
                    tally.Labels++;
                    tally.LastLabel = from;
                    break;
                case CowOpType.Cluster:
                    if (!clustered) throw Bad($"a Cluster op at byte {position}, but header field cluster_ops is 0");
                    if (from > (ulong)(_length - next)) throw CutOff($"the Cluster op at byte {position}: source is {from}, but only {_length - next} bytes follow");
                    tally.Clusters++;
                    next += (long)from;
                    closedEarly = append && slotsLeft > 0 ? (position, dataPosition, slotsLeft + 1, clusterData) : null;
                    slotsLeft = header.ClusterOps;
                    break;
                case CowOpType.Sequence:
                    if (!clustered) throw Bad($"a Sequence op at byte {position} of a file without clusters, where its list has no place");
                    ReadList(tally, position, dataLength, from, fill, list);
                    break;
                case 0 when label != null:
                    throw Bad($"cannot go on at label {label}: the ops end at byte {position} without it");
                default:
                    throw Bad($"op {tally.Ops} at byte {position}: type is {(byte)type}, which is unknown");
            }

            // As in Android's reader: the length counts for every type, wherever the next record lies.
            dataPosition += dataLength;
            clusterData = type == CowOpType.Cluster ? 0 : clusterData + dataLength;
            if (type != CowOpType.Cluster) closedEarly = null;
            if (type == CowOpType.Cluster) dataPosition += clusterBytes;
            else if (!clustered) dataPosition += RecordBytes;
            position = next;
            tally.Records++;
            if (type == CowOpType.Label && label == from)
            {
                tally.Compression = compression ?? CowCompression.None;
                EndAt(tally, position, dataPosition, slotsLeft, clusterData);
                return tally;
            }
        }
    }

    /// <summary>
    /// Records where a writer continues. In files of any writer the op and data positions agree; a hostile file must not redirect writes.
    /// </summary>
    private void EndAt(CowTally tally, long position, long dataPosition, long slotsLeft, long clusterData)
    {
        bool clustered = header.ClusterOps != 0;
        if (dataPosition != position + (clustered ? (slotsLeft * RecordBytes) + clusterData : RecordBytes))
            throw Bad($"cannot go on at byte {position}: by the lengths of the ops their data ends at byte {dataPosition}, which does not fit the clusters");
        (tally.NextOp, tally.NextData, tally.ClusterData) = (position, dataPosition, clustered ? clusterData : 0);
        tally.ClusterSlots = clustered ? header.ClusterOps - slotsLeft : 0;
    }

    private CowOp Check(int index, CowOpType type, byte algorithm, int dataLength, ulong newBlock, ulong from, ulong dataOffset, ref CowCompression? compression)
    {
        string Field(string field, ulong value, string rule) => $"op {index} ({type} of block {newBlock}): {field} is {value}, {rule}";
        SnapuserdException Wrong(string field, ulong value, string rule) => Bad(Field(field, value, rule));

        if (newBlock > uint.MaxValue) throw Wrong("new_block", newBlock, $"must be at most {uint.MaxValue}");
        if (type is CowOpType.Copy or CowOpType.Xor && from > PackedOp.Max48) throw Wrong("source", from, "must fit 48 bits");
        if (type is not (CowOpType.Replace or CowOpType.Xor)) return new CowOp(type, (uint)newBlock, 1, type == CowOpType.Copy ? (long)from : 0, 0, 0);

        if (algorithm > (byte)CowCompression.Zstd) throw Wrong("compression", algorithm, "which is unknown");
        // Android uses the first non-zero value for the whole file and would decode a raw payload with it, so a mix is rejected
        // (cow-format §7.1).
        compression ??= (CowCompression)algorithm;
        if ((byte)compression != algorithm) throw Wrong("compression", algorithm, $"but earlier ops have {(byte)compression}: one file has one algorithm");
        if (algorithm == 0 ? dataLength != CowOp.BlockSize : dataLength == 0)
            throw Wrong("data_length", (ulong)dataLength, algorithm == 0 ? $"must be {CowOp.BlockSize} without compression" : "must be at least 1");
        string field = type == CowOpType.Replace ? "source" : "data position";
        if (dataOffset < (ulong)header.ScratchEnd) throw Wrong(field, dataOffset, $"but data begins at byte {header.ScratchEnd}");
        if (dataOffset > (ulong)_length || (ulong)dataLength > (ulong)_length - dataOffset || dataOffset > PackedOp.Max48)
            throw CutOff(Field(field, dataOffset, $"so {dataLength} bytes of data reach beyond the file of {_length}"));
        return new CowOp(type, (uint)newBlock, 1, type == CowOpType.Xor ? (long)from : 0, (long)dataOffset, dataLength);
    }

    /// <summary>
    /// A record without data needs no algorithm, but Android uses the first that any record names for the whole file (cow-format §7.1).
    /// </summary>
    private void CheckAlgorithm(long position, CowOpType type, byte algorithm, ref CowCompression? compression)
    {
        string what = $"the {type} op at byte {position}: compression is {algorithm}";
        if (algorithm > (byte)CowCompression.Zstd) throw Bad($"{what}, which is unknown");
        compression ??= (CowCompression)algorithm;
        if ((byte)compression != algorithm) throw Bad($"{what}, but earlier ops have {(byte)compression}: one file has one algorithm");
    }

    private void ReadList(CowTally tally, long position, int dataLength, ulong from, bool fill, Span<int> list)
    {
        SnapuserdException Wrong(string field, ulong value, string rule) => Bad($"the Sequence op at byte {position}: {field} is {value}, {rule}");

        if (tally.Ops > 0) throw Bad($"the Sequence op at byte {position} follows {tally.Ops} data ops, but must come before the first");
        if (dataLength % 4 != 0) throw Wrong("data_length", (ulong)dataLength, "must be a multiple of 4");
        if (from < (ulong)header.ScratchEnd) throw Wrong("source", from, $"but data begins at byte {header.ScratchEnd}");
        if (from > (ulong)_length || (ulong)dataLength > (ulong)_length - from)
            throw CutOff($"the Sequence op at byte {position}: source is {from}, so a list of {dataLength} bytes lies outside the file of {_length}");
        int count = dataLength / 4;
        if (fill)
        {
            if (count > list.Length - tally.Sequence) throw Changed();
            ReadOnlySpan<byte> bytes = _listWindow.At((long)from, dataLength, dataLength);
            for (int i = 0; i < count; i++) list[tally.Sequence + i] = BinaryPrimitives.ReadInt32LittleEndian(bytes[(4 * i)..]);
        }
        if (tally.Sequence > int.MaxValue - count) throw Bad("the sequence list has more than 2^31 entries");
        tally.Sequence += count;
        tally.SequenceOps++;
        tally.Rule = OrderRule.Listed;
    }

    private void CheckFooter(CowTally tally, long position, ulong opsSize, ulong numOps)
    {
        if (_length - position < FooterBytes) throw CutOff($"the footer at byte {position} is cut off: {_length - position} of {FooterBytes} bytes are there");
        if (numOps != (ulong)tally.Records) throw Bad($"footer: num_ops is {numOps}, but there are {tally.Records} ops");
        if (opsSize != (ulong)tally.Records * RecordBytes) throw Bad($"footer: ops_size is {opsSize}, must be {tally.Records * RecordBytes} for {tally.Records} ops");
    }

    private CowCutOffException CutOff(string what) => new($"{source.Name}: {what}");

    private SnapuserdException Bad(string what) => new(ExitCode.CowCorrupt, $"{source.Name}: {what}");

    private SnapuserdException Changed() => Bad("the file changed while it was read");
}
