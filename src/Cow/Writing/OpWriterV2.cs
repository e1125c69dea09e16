using System;
using System.Buffers.Binary;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Lays out a v2 file (cow-format §4, §6.1–6.4). A label or footer is written only after everything that it covers is durable. An op is
/// accepted only if the file could still be finished after it.
/// </summary>
internal sealed class OpWriterV2 : IOpWriter
{
    private const int HeaderBytes = 38;
    private const int RecordBytes = 20;
    private const int FooterBytes = 84;

    /// <summary>Largest list of a Sequence op in bytes: two blocks, as Android has it (cow-format §9).</summary>
    private const int ListBytes = 2 * CowOp.BlockSize;

    /// <summary>
    /// Where the next op goes. It is a value, so that <see cref="Finish"/> can restore it: more ops overwrite the footer.
    /// </summary>
    private record struct Place(long NextOp, long NextData, long Slots, long ClusterData, long Records);

    private readonly ICowOutput _output;
    private readonly WriteRun _ops;
    private readonly WriteRun _data;
    private readonly long _clusterOps;
    private readonly byte _compression;
    private Place _place;

    private OpWriterV2(ICowOutput output, uint clusterOps, CowCompression compression, WriteRun ops, WriteRun data, Place place)
    {
        _output = output;
        _clusterOps = clusterOps;
        _compression = (byte)compression;
        _data = data;
        // Without clusters, ops and data alternate in the file, so one run collects both.
        _ops = clusterOps == 0 ? data : ops;
        _place = place;
    }

    /// <inheritdoc/>
    public long Size => (_place.ClusterData > 0 ? _place.NextData : _place.NextOp) + FooterBytes;

    /// <inheritdoc/>
    public ulong OpCountMax => ulong.MaxValue;

    private bool Clustered => _clusterOps != 0;

    /// <summary>Creates an empty file, durably: a header, and a scratch of zeros.</summary>
    public static OpWriterV2 Create(ICowOutput output, CowWriterOptions options, WriteRun ops, WriteRun data)
    {
        var header = new CowHeader
        {
            Major = 2,
            HeaderBytes = HeaderBytes,
            FooterBytes = FooterBytes,
            OpBytes = RecordBytes,
            BlockSize = CowOp.BlockSize,
            ClusterOps = (uint)options.ClusterOps,
            ScratchBytes = options.ScratchBytes,
        };
        long first = header.ScratchEnd;
        var writer = new OpWriterV2(output, header.ClusterOps, options.Compression, ops, data,
            new Place(first, first + (RecordBytes * Math.Max(1L, header.ClusterOps)), 0, 0, 0));
        output.RequireSpace(writer.Size);
        output.Truncate(0);
        output.Truncate(first);
        if (output.Capacity != null)
        {
            // Also zeroes the first op, so that the ops of an older file do not follow the new header.
            writer.DropFooter();
            data.AddZeros(header.ScratchOffset, header.ScratchBytes + RecordBytes);
        }
        writer.Send();
        Span<byte> bytes = stackalloc byte[HeaderBytes];
        header.Write(bytes);
        output.Write(0, bytes);
        output.Flush();
        return writer;
    }

    /// <summary>
    /// Continues at the footer; or, with <paramref name="label"/>, after that label, and durably drops everything after it. Exit code 65 if
    /// there is no such label or footer, or if a record before it is invalid.
    /// </summary>
    public static OpWriterV2 Append(ICowOutput output, CowHeader header, CowCompression compression, ulong? label, WriteRun ops,
        WriteRun data, out CowTally tally)
    {
        if (header.Major != 2)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{output.Name}: version {header.Major} cannot be appended to");
        tally = new OpReaderV2(output, header).WalkTo(label);
        if (tally.Replace + tally.Xor > 0 && tally.Compression != compression)
            throw CowWriterOptions.Misuse($"{output.Name}: its payloads are {tally.Compression.ToString().ToLowerInvariant()}, so "
                + $"{compression.ToString().ToLowerInvariant()} cannot be appended");
        Place place = new(tally.NextOp, tally.NextData, tally.ClusterSlots, tally.ClusterData, tally.Records);
        var writer = new OpWriterV2(output, header.ClusterOps, compression, ops, data, place);
        if (label != null) writer.DropFooter();
        writer.CloseFullCluster();
        if (label != null) writer.DropRest();
        return writer;
    }

    /// <inheritdoc/>
    public void Add(in PendingOp op, ReadOnlySpan<byte> stored)
    {
        switch (op.Type)
        {
            case CowOpType.Copy:
                for (int i = 0; i < op.Blocks; i++) Put(op.Type, 0, op.NewBlock + (uint)i, op.Source + (ulong)i, default);
                break;
            case CowOpType.Zero:
                for (int i = 0; i < op.Blocks; i++) Put(op.Type, 0, op.NewBlock + (uint)i, 0, default);
                break;
            default:
                Put(op.Type, _compression, op.NewBlock, op.Type == CowOpType.Replace ? (ulong)_place.NextData : op.Source, stored);
                break;
        }
    }

    /// <inheritdoc/>
    public void Sequence(ReadOnlySpan<uint> blocks)
    {
        // Without clusters, neither Android's reader nor its writer skips the list, so the next op would overwrite it.
        if (!Clustered) throw CowWriterOptions.Misuse($"{_output.Name}: version 2 without clusters cannot hold a sequence list");
        Span<byte> list = stackalloc byte[ListBytes];
        while (blocks.Length > 0)
        {
            int count = Math.Min(blocks.Length, ListBytes / sizeof(uint));
            for (int i = 0; i < count; i++) BinaryPrimitives.WriteUInt32LittleEndian(list[(sizeof(uint) * i)..], blocks[i]);
            Put(CowOpType.Sequence, 0, 0, (ulong)_place.NextData, list[..(sizeof(uint) * count)]);
            blocks = blocks[count..];
        }
    }

    /// <inheritdoc/>
    public void Label(ulong label)
    {
        Send();
        _output.Flush();
        Put(CowOpType.Label, 0, 0, label, default);
        Send();
        _output.Flush();
    }

    /// <inheritdoc/>
    public void Finish()
    {
        Place open = _place;
        ZeroSlots();
        Send();
        _output.Flush();
        // The footer is the end of the file, so the data of the open cluster must lie before it.
        if (_place.ClusterData > 0) PutCluster();
        Span<byte> footer = stackalloc byte[FooterBytes];
        footer.Clear();
        Encode(footer, CowOpType.Footer, 0, FooterBytes - RecordBytes, (ulong)_place.Records * RecordBytes, (ulong)_place.Records);
        _ops.Add(_place.NextOp, footer);
        Send();
        _output.Truncate(_place.NextOp + FooterBytes);
        _output.Flush();
        _place = open;
    }

    private static void Encode(Span<byte> record, CowOpType type, byte compression, int dataLength, ulong newBlock, ulong source)
    {
        record[0] = (byte)type;
        record[1] = compression;
        BinaryPrimitives.WriteUInt16LittleEndian(record[2..], (ushort)dataLength);
        BinaryPrimitives.WriteUInt64LittleEndian(record[4..], newBlock);
        BinaryPrimitives.WriteUInt64LittleEndian(record[12..], source);
    }

    private void Put(CowOpType type, byte compression, uint newBlock, ulong source, ReadOnlySpan<byte> data)
    {
        RequireFinishable(data.Length);
        Span<byte> record = stackalloc byte[RecordBytes];
        Encode(record, type, compression, data.Length, newBlock, source);
        _ops.Add(_place.NextOp, record);
        if (data.Length > 0) _data.Add(_place.NextData, data);
        _place.Records++;
        _place.NextOp += RecordBytes;
        _place.NextData += data.Length;
        if (Clustered)
        {
            _place.Slots++;
            _place.ClusterData += data.Length;
            CloseFullCluster();
        }
        else
        {
            _place.NextOp += data.Length;
            _place.NextData += RecordBytes;
        }
    }

    /// <summary>Closes the cluster if only its last slot, which is reserved for the Cluster op, is free.</summary>
    private void CloseFullCluster()
    {
        if (Clustered && _place.Slots + 1 >= _clusterOps) PutCluster();
    }

    private void PutCluster()
    {
        long skip = _place.ClusterData + ((_clusterOps - _place.Slots - 1) * RecordBytes);
        Span<byte> record = stackalloc byte[RecordBytes];
        Encode(record, CowOpType.Cluster, 0, 0, 0, (ulong)skip);
        _ops.Add(_place.NextOp, record);
        long next = _place.NextOp + RecordBytes + skip;
        _place = new Place(next, next + (_clusterOps * RecordBytes), 0, 0, _place.Records + 1);
    }

    /// <summary>Zeroes op slots that may hold ops of the file's previous contents.</summary>
    private void ZeroSlots()
    {
        if (!Clustered) return;
        long end = _place.NextOp + ((_clusterOps - _place.Slots) * RecordBytes);
        _ops.AddZeros(_place.NextOp, Math.Min(end, _output.Capacity ?? end) - _place.NextOp);
    }

    /// <summary>
    /// Drops the file's contents after a label. Without this, an interrupted writer could leave new ops that end exactly where an old op
    /// begins. A reader would then continue with the old ops.
    /// </summary>
    private void DropRest()
    {
        if (Clustered) ZeroSlots();
        else if (_output.Capacity is { } capacity) _ops.AddZeros(_place.NextOp, Math.Min(RecordBytes, capacity - _place.NextOp));
        Send();
        _output.Truncate(Clustered ? _place.NextData : _place.NextOp);
        _output.Flush();
    }

    /// <summary>
    /// Zeroes the old footer on a device. The device keeps the rest of the old contents, which this footer would make a complete file. A
    /// regular file is truncated instead. If the old ops do not lead to a footer, there is nothing to zero.
    /// </summary>
    private void DropFooter()
    {
        if (_output.Capacity == null) return;
        try
        {
            CowHeader header = CowHeader.Parse(_output, unfinished: true);
            if (header.Major == 2) _ops.AddZeros(new OpReaderV2(_output, header).WalkTo(null).Footer, RecordBytes);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            // Not a COW, or a COW that was never finished.
        }
    }

    private void Send()
    {
        _data.Send();
        _ops.Send();
    }

    /// <summary>
    /// Requires space for a closing Cluster op and the footer after one more op with <paramref name="dataLength"/> bytes of data.
    /// </summary>
    private void RequireFinishable(int dataLength)
    {
        long op = _place.NextOp + RecordBytes, data = _place.NextData + dataLength;
        bool closes = Clustered && (_place.ClusterData + dataLength > 0 || _place.Slots + 2 >= _clusterOps);
        _output.RequireSpace((closes ? data : Clustered ? op : op + dataLength) + FooterBytes);
    }
}
