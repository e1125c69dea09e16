using System;
using System.Buffers.Binary;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Walks the op records of a v1 or v2 file (cow-format §4, §6.1–6.4). Their number is not known before the footer, so the file is walked
/// twice: first to count them, then to fill memory of exactly that size. Positions only increase, so a walk of any file ends.
/// </summary>
internal sealed class OpReaderV2(IByteSource source, CowHeader header)
{
    /// <summary>Bytes of a record.</summary>
    internal const int RecordBytes = 20;
    /// <summary>Bytes of the footer: a record, and 64 bytes without meaning.</summary>
    internal const int FooterBytes = 84;

    /// <summary>
    /// Where the walk is: the next record is at byte <paramref name="Op"/>, and the data of an Xor there would be at byte
    /// <paramref name="Data"/> (§6.3). The cluster has <paramref name="SlotsLeft"/> op slots from this record on, and its ops so far have
    /// <paramref name="ClusterData"/> bytes of data; both are 0 in a file without clusters. In a hostile file the data position may lie
    /// anywhere ahead, so it is checked at each use.
    /// </summary>
    private readonly record struct Place(long Op, long Data, long SlotsLeft, long ClusterData);

    private readonly ByteWindow _window = new(source);
    private readonly ByteWindow _listWindow = new(source);
    private readonly long _length = source.Length;
    /// <summary>The algorithm that the records of this walk have named so far.</summary>
    private CowCompression? _compression;

    /// <summary>Called with every record in file order, including the footer, before it is checked.</summary>
    public Action<CowRecord>? Seen { get; init; }

    /// <summary>
    /// Walks the file and checks it. Data ops go to <paramref name="ops"/> and listed blocks to <paramref name="list"/>; if both are
    /// empty, they are only counted.
    /// </summary>
    public CowTally Walk(Span<PackedOp> ops, Span<int> list) => Walk(ops, list, append: false, null);

    /// <summary>
    /// Walks up to and including the first op of <paramref name="label"/>, or to the footer if it is null, and records where a writer
    /// continues. That is after the label or at the footer. A Cluster op that closed an incomplete cluster only for the footer is dropped
    /// as well.
    /// </summary>
    public CowTally WalkTo(ulong? label) => Walk(default, default, append: true, label);

    private bool Clustered => header.ClusterOps != 0;

    /// <summary>Bytes of the op slots of a cluster, or of one record in a file without clusters.</summary>
    private long SlotBytes => Clustered ? header.ClusterOps * (long)RecordBytes : RecordBytes;

    private CowTally Walk(Span<PackedOp> ops, Span<int> list, bool append, ulong? label)
    {
        bool fill = ops.Length > 0 || list.Length > 0;
        var tally = new CowTally { Rule = OrderRule.OrderedFirst };
        _compression = null;
        Place place = new(header.ScratchEnd, header.ScratchEnd + SlotBytes, header.ClusterOps, 0);
        // Place of the last record if it is a Cluster op that closed its cluster before it was full.
        Place? closedEarly = null;
        while (true)
        {
            if (_length - place.Op < RecordBytes) throw NoRecord(place, label);
            CowRecord record = ReadRecord(place);
            Seen?.Invoke(record);
            if (record.Type == CowOpType.Footer)
            {
                CheckFooter(tally, record);
                if (label != null) throw Bad($"cannot continue at label {label}: there is no such label before the footer");
                tally.Footer = record.Position;
                if (closedEarly is { } open)
                {
                    place = open;
                    tally.Records--;
                }
                break;
            }
            if (Clustered && place.SlotsLeft == 0)
                throw Bad($"the cluster of {header.ClusterOps} ops that ends at byte {record.Position} has no Cluster op");
            Count(tally, record, fill, ops, list, label);
            if (append) closedEarly = record.Type == CowOpType.Cluster && place.SlotsLeft > 1 ? place : null;
            place = After(record, place);
            tally.Records++;
            if (record.Type == CowOpType.Label && label == record.Source) break;
        }
        tally.Compression = _compression ?? CowCompression.None;
        if (append) EndAt(tally, place);
        return tally;
    }

    /// <summary>
    /// Checks and counts a record that is not the footer. With <paramref name="fill"/>, also stores its op or its part of the list.
    /// </summary>
    private void Count(CowTally tally, in CowRecord record, bool fill, Span<PackedOp> ops, Span<int> list, ulong? label)
    {
        if (record.Compression != 0 && !record.HasData) CheckAlgorithm(record);
        switch (record.Type)
        {
            case CowOpType.Copy or CowOpType.Replace or CowOpType.Zero or CowOpType.Xor:
                CowOp op = Check(tally.Ops, record);
                if (fill) Store(op, tally.Ops, ops);
                if (tally.Ops == int.MaxValue) throw Bad("there are more than 2^31 ops");
                tally.Count(op);
                break;
            case CowOpType.Label:
                tally.Labels++;
                tally.LastLabel = record.Source;
                break;
            case CowOpType.Cluster:
                CheckCluster(record);
                tally.Clusters++;
                break;
            case CowOpType.Sequence:
                ReadList(tally, record, fill, list);
                break;
            default:
                throw UnknownType(tally.Ops, record, label);
        }
    }

    // The messages of the checks of every record are in methods of their own: a method with an interpolated string clears its handler at
    // every call.

    /// <summary>The file ends within the record at <paramref name="place"/>.</summary>
    private SnapuserdException NoRecord(in Place place, ulong? label)
    {
        string end = $"the ops end at byte {place.Op} of {_length}";
        return label != null
            ? Bad($"cannot continue at label {label}: {end}, and none of them is this label")
            : CutOff($"the footer is missing: {end}, so the file was not finished or is cut off");
    }

    private SnapuserdException UnknownType(int index, in CowRecord record, ulong? label) => record.Type == 0 && label != null
        ? Bad($"cannot continue at label {label}: the ops end at byte {record.Position}, and none of them is this label")
        : Bad($"op {index} at byte {record.Position}: type is {(byte)record.Type}, which is unknown");

    private CowRecord ReadRecord(in Place place)
    {
        ReadOnlySpan<byte> bytes = _window.At(place.Op, RecordBytes, Clustered ? place.SlotsLeft * RecordBytes : long.MaxValue);
        var type = (CowOpType)bytes[0];
        ulong from = BinaryPrimitives.ReadUInt64LittleEndian(bytes[12..]);
        return new CowRecord(
            place.Op,
            type,
            Compression: bytes[1],
            DataLength: BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]),
            NewBlock: BinaryPrimitives.ReadUInt64LittleEndian(bytes[4..]),
            from,
            DataPosition: type switch
            {
                CowOpType.Xor => place.Data,
                CowOpType.Replace or CowOpType.Sequence => (long)from,
                _ => -1,
            });
    }

    /// <summary>The place of the record that follows <paramref name="record"/>, which is at <paramref name="place"/>.</summary>
    private Place After(in CowRecord record, in Place place)
    {
        long next = place.Op + RecordBytes;
        // As in Android's reader, data_length advances the data position for every type, even if the type has no data.
        long data = place.Data + record.DataLength;
        if (record.Type == CowOpType.Cluster) return new Place(next + (long)record.Source, data + SlotBytes, header.ClusterOps, 0);
        if (Clustered) return new Place(next, data, place.SlotsLeft - 1, place.ClusterData + record.DataLength);
        return new Place(record.HasData ? next + record.DataLength : next, data + RecordBytes, 0, 0);
    }

    /// <summary>
    /// Records where a writer continues. Op and data positions agree in the files of every known writer. They are checked because a hostile
    /// file must not redirect writes.
    /// </summary>
    private void EndAt(CowTally tally, in Place place)
    {
        if (place.Data != place.Op + (Clustered ? (place.SlotsLeft * RecordBytes) + place.ClusterData : RecordBytes))
        {
            throw Bad($"cannot continue at byte {place.Op}: by the lengths of the ops their data ends at byte {place.Data}, " +
                "which does not fit the clusters");
        }
        (tally.NextOp, tally.NextData, tally.ClusterData) = (place.Op, place.Data, place.ClusterData);
        tally.ClusterSlots = header.ClusterOps - place.SlotsLeft;
    }

    /// <summary>Checks a record of a Copy, Replace, Zero or Xor, and returns its op, which is number <paramref name="index"/>.</summary>
    private CowOp Check(int index, in CowRecord record)
    {
        (CowOpType type, byte algorithm, int length, ulong from) = (record.Type, record.Compression, record.DataLength, record.Source);
        if (record.NewBlock > uint.MaxValue) throw Wrong(index, record, "new_block", record.NewBlock, "must be at most 4294967295");
        if (type is CowOpType.Copy or CowOpType.Xor && from > PackedOp.Max48)
            throw Wrong(index, record, "source", from, "must fit 48 bits");
        uint block = (uint)record.NewBlock;
        if (!record.HasData) return new CowOp(type, block, 1, type == CowOpType.Copy ? (long)from : 0, 0, 0);

        if (algorithm > (byte)CowCompression.Zstd) throw Wrong(index, record, "compression", algorithm, "which is unknown");
        // Android uses the first non-zero value for the whole file and would decode a raw payload with it, so a mix is rejected
        // (cow-format §7.1).
        _compression ??= (CowCompression)algorithm;
        if ((byte)_compression != algorithm)
            throw OtherAlgorithm(index, record);
        if (algorithm == 0 && length != CowOp.BlockSize)
            throw Wrong(index, record, "data_length", (ulong)length, "must be 4096 without compression");
        if (length == 0) throw Wrong(index, record, "data_length", (ulong)length, "must be at least 1");
        CheckData(index, record);
        return new CowOp(type, block, 1, type == CowOpType.Xor ? (long)from : 0, record.DataPosition, length);
    }

    /// <summary>Requires that the data of a Replace or Xor lies in the file, after the scratch.</summary>
    private void CheckData(int index, in CowRecord record)
    {
        // A stored position may have any value. Taken as unsigned, a negative one is too large.
        ulong offset = (ulong)record.DataPosition;
        if (offset < (ulong)header.ScratchEnd || offset > (ulong)_length || (ulong)record.DataLength > (ulong)_length - offset
            || offset > PackedOp.Max48)
        {
            throw DataOutside(index, record, offset);
        }
    }

    private SnapuserdException DataOutside(int index, in CowRecord record, ulong offset)
    {
        string field = record.Type == CowOpType.Replace ? "source" : "data position";
        return offset < (ulong)header.ScratchEnd
            ? Wrong(index, record, field, offset, $"but data begins at byte {header.ScratchEnd}")
            : CutOff(Field(index, record, field, offset, $"so {record.DataLength} bytes of data reach beyond the file of {_length}"));
    }

    private SnapuserdException OtherAlgorithm(int index, in CowRecord record) => Wrong(index, record, "compression", record.Compression,
        $"but earlier ops have {(byte?)_compression}: one file has one algorithm");

    /// <summary>
    /// A record without data needs no algorithm, but Android uses the first that any record names for the whole file (cow-format §7.1).
    /// </summary>
    private void CheckAlgorithm(in CowRecord record)
    {
        string what = $"the {record.Type} op at byte {record.Position}: compression is {record.Compression}";
        if (record.Compression > (byte)CowCompression.Zstd) throw Bad($"{what}, which is unknown");
        _compression ??= (CowCompression)record.Compression;
        if ((byte)_compression != record.Compression)
            throw Bad($"{what}, but earlier ops have {(byte)_compression}: one file has one algorithm");
    }

    private void CheckCluster(in CowRecord record)
    {
        if (!Clustered) throw Bad($"a Cluster op at byte {record.Position}, but header field cluster_ops is 0");
        long follow = _length - (record.Position + RecordBytes);
        if (record.Source > (ulong)follow)
            throw CutOff($"the Cluster op at byte {record.Position}: source is {record.Source}, but only {follow} bytes follow");
    }

    private void Store(in CowOp op, int index, Span<PackedOp> ops)
    {
        if (index >= ops.Length) throw Changed();
        ops[index] = new PackedOp(op.Type, op.NewBlock, 0, (ulong)op.Source, (ulong)op.DataOffset, (uint)op.DataLength);
    }

    private void ReadList(CowTally tally, in CowRecord record, bool fill, Span<int> list)
    {
        if (!Clustered) throw Bad($"a Sequence op at byte {record.Position} of a file without clusters, where its list has no place");
        string where = $"the Sequence op at byte {record.Position}";
        if (tally.Ops > 0) throw Bad($"{where} follows {tally.Ops} data ops, but must come before the first");
        if (record.DataLength % 4 != 0) throw Bad($"{where}: data_length is {record.DataLength}, must be a multiple of 4");
        if (record.Source < (ulong)header.ScratchEnd)
            throw Bad($"{where}: source is {record.Source}, but data begins at byte {header.ScratchEnd}");
        if (record.Source > (ulong)_length || (ulong)record.DataLength > (ulong)_length - record.Source)
        {
            throw CutOff($"{where}: source is {record.Source}, " +
                $"so a list of {record.DataLength} bytes lies outside the file of {_length}");
        }
        int count = record.DataLength / 4;
        if (fill)
        {
            if (count > list.Length - tally.Sequence) throw Changed();
            ReadOnlySpan<byte> bytes = _listWindow.At((long)record.Source, record.DataLength, record.DataLength);
            for (int i = 0; i < count; i++) list[tally.Sequence + i] = BinaryPrimitives.ReadInt32LittleEndian(bytes[(4 * i)..]);
        }
        if (tally.Sequence > int.MaxValue - count) throw Bad("the sequence list has more than 2^31 entries");
        tally.Sequence += count;
        tally.SequenceOps++;
        tally.Rule = OrderRule.Listed;
    }

    private void CheckFooter(CowTally tally, in CowRecord footer)
    {
        long left = _length - footer.Position;
        (ulong opsSize, ulong numOps) = (footer.NewBlock, footer.Source);
        if (left < FooterBytes) throw CutOff($"the footer at byte {footer.Position} is cut off: {left} of {FooterBytes} bytes are there");
        if (numOps != (ulong)tally.Records) throw Bad($"footer: num_ops is {numOps}, but there are {tally.Records} ops");
        if (opsSize != (ulong)tally.Records * RecordBytes)
            throw Bad($"footer: ops_size is {opsSize}, must be {tally.Records * RecordBytes} for {tally.Records} ops");
    }

    private SnapuserdException Wrong(int index, in CowRecord record, string field, ulong value, string rule) =>
        Bad(Field(index, record, field, value, rule));

    private static string Field(int index, in CowRecord record, string field, ulong value, string rule) =>
        $"op {index} ({record.Type} of block {record.NewBlock}): {field} is {value}, {rule}";

    private CowCutOffException CutOff(string what) => new($"{source.Name}: {what}");

    private SnapuserdException Bad(string what) => new(ExitCode.CowCorrupt, $"{source.Name}: {what}");

    private SnapuserdException Changed() => Bad("the file changed while it was read");
}
