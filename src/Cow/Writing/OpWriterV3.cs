using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Lays out a v3 file (cow-format §5, §6.6, §8.2). An op counts only once the header includes it. The header is written only after ops,
/// data and resume points are durable: after a crash the file is as it was at the last label or finish.
/// </summary>
internal sealed class OpWriterV3 : IOpWriter
{
    private const int RecordBytes = 16;
    private const int PointBytes = 16;

    /// <summary>Android's resume_point_max (cow-format §1).</summary>
    private const uint ResumeSlots = 4;

    /// <summary>The smallest unit that a disk writes atomically; nothing larger is assumed to be atomic.</summary>
    private const int SectorBytes = 512;

    private readonly ICowOutput _output;
    private readonly WriteRun _ops;
    private readonly WriteRun _data;
    private readonly bool _estimates;
    /// <summary>The resume points, in the order of their slots; all are durable between calls.</summary>
    private readonly List<ResumePoint> _points;
    private CowHeader _header;
    private ulong _opCount;
    private ulong _opCountMax;
    private long _dataBytes;

    private OpWriterV3(ICowOutput output, CowHeader header, WriteRun ops, WriteRun data, List<ResumePoint> points)
    {
        _output = output;
        _header = header;
        _ops = ops;
        _data = data;
        _points = points;
        _opCount = header.OpCount;
        _opCountMax = header.OpCountMax;
        _estimates = output is NullCowOutput;
    }

    /// <inheritdoc/>
    public long Size => DataOffset + _dataBytes;

    /// <inheritdoc/>
    public ulong OpCountMax => _estimates ? uint.MaxValue : _opCountMax;

    /// <summary>Slots of the op array; in an estimate, the slots needed so far.</summary>
    public ulong Slots => _opCountMax;

    private long DataOffset => _header.OpsOffset + (RecordBytes * (long)_opCountMax);

    /// <summary>Creates an empty file, durably: a header, and zeros in scratch and resume points.</summary>
    public static OpWriterV3 Create(ICowOutput output, CowWriterOptions options, WriteRun ops, WriteRun data)
    {
        ulong slots = options.OpCountMax ?? 0;
        if (slots == 0 && output is not NullCowOutput)
            slots = options.MaxBlocks ?? throw CowWriterOptions.Misuse($"{output.Name}: version 3 needs the number of ops or of blocks "
                + "beforehand, to leave room for the ops");
        var header = new CowHeader
        {
            Major = 3,
            HeaderBytes = CowHeader.MaxHeaderBytes,
            OpBytes = RecordBytes,
            BlockSize = CowOp.BlockSize,
            ScratchBytes = options.ScratchBytes,
            ResumeMax = ResumeSlots,
            OpCountMax = slots,
            Compression = options.Compression,
            MaxUnitBytes = (uint)options.MaxUnitBytes,
        };
        var writer = new OpWriterV3(output, header, ops, data, []);
        output.RequireSpace(writer.Size);
        // Truncating a file to 0 first makes its zeros a hole.
        output.Truncate(0);
        output.Truncate(header.ScratchEnd);
        if (output.Capacity != null) data.AddZeros(header.ScratchOffset, header.OpsOffset - header.ScratchOffset);
        data.Send();
        writer.WriteHeader();
        return writer;
    }

    /// <summary>
    /// Continues after the last op, or with <paramref name="label"/> after that resume point. The point becomes the end of the file,
    /// durably, before anything after it is overwritten. Exit code 65 if there is no such point or an op before it is invalid.
    /// </summary>
    public static OpWriterV3 Append(ICowOutput output, CowHeader header, ulong? label, WriteRun ops, WriteRun data, out CowTally tally)
    {
        if (header.HeaderBytes != CowHeader.MaxHeaderBytes)
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{output.Name}: its header of {header.HeaderBytes} bytes is too old to append to");
        var reader = new OpReaderV3(output, header);
        List<ResumePoint> points = reader.ReadResumePoints();
        ulong count = header.OpCount;
        if (label is { } wanted)
        {
            int found = points.FindIndex(point => point.Label == wanted);
            if (found < 0)
            {
                throw new SnapuserdException(ExitCode.CowCorrupt, points.Count == 0
                    ? $"{output.Name}: cannot continue at label {wanted}: the file has no labels"
                    : $"{output.Name}: cannot continue at label {wanted}: its labels are "
                        + $"{string.Join(", ", points.ConvertAll(point => point.Label))}");
            }
            points.RemoveRange(found + 1, points.Count - found - 1);
            count = points[found].OpIndex;
        }
        tally = reader.Count(count);
        var writer = new OpWriterV3(output, header with { OpCount = count }, ops, data, points)
        {
            _dataBytes = tally.DataEnd - header.DataOffset,
        };
        if (label != null) writer.WriteHeader();
        return writer;
    }

    /// <inheritdoc/>
    public void Add(in PendingOp op, ReadOnlySpan<byte> stored)
    {
        ulong type = (ulong)op.Type << 60;
        switch (op.Type)
        {
            case CowOpType.Copy:
                for (int i = 0; i < op.Blocks; i++) Put(op.NewBlock + (uint)i, type | (op.Source + (ulong)i), default);
                break;
            case CowOpType.Zero:
                for (int i = 0; i < op.Blocks; i++) Put(op.NewBlock + (uint)i, type, default);
                break;
            case CowOpType.Replace:
                Put(op.NewBlock, type | ((ulong)int.Log2(op.Blocks) << 57) | (ulong)Size, stored);
                break;
            default:
                Put(op.NewBlock, type | op.Source, stored);
                break;
        }
    }

    /// <inheritdoc/>
    public void Sequence(ReadOnlySpan<uint> blocks)
    {
        // The list moves everything that follows it, so it can be added only while nothing follows.
        if (_opCount > 0 || _points.Count > 0 || _header.SequenceCount > 0)
            throw CowWriterOptions.Misuse($"{_output.Name}: the sequence list must come once, before the first op and the first label");
        CowHeader header = _header with { SequenceCount = (ulong)blocks.Length };
        _output.RequireSpace(header.DataOffset);
        _header = header;
        long offset = header.SequenceOffset;
        Span<byte> entry = stackalloc byte[sizeof(uint)];
        foreach (uint block in blocks)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(entry, block);
            _data.Add(offset, entry);
            offset += entry.Length;
        }
        // In a file these slots are a hole; on a device they may contain old data.
        if (_output.Capacity != null) _data.AddZeros(header.ResumeOffset, header.OpsOffset - header.ResumeOffset);
        _data.Send();
    }

    /// <inheritdoc/>
    public void Label(ulong label)
    {
        if (_header.ResumeMax == 0) throw new SnapuserdException(ExitCode.CowCorrupt, $"{_output.Name}: the file has no room for labels");
        if (_points.Count > 0 && label <= _points[^1].Label)
            throw CowWriterOptions.Misuse($"{_output.Name}: label {label} must be larger than the last label, {_points[^1].Label}");
        _data.Send();
        _ops.Send();
        int slots = (int)Math.Min(_header.ResumeMax, OpReaderV3.MaxResumePoints);
        if (_points.Count < slots || !TryPassOn(slots, new ResumePoint(label, _opCount)))
        {
            if (_points.Count == slots) KeepHead(slots);
            // Another process can read everything that the durable header counts, so the header must not count the slot that is written
            // now.
            else if (_points.Count < Math.Min(_header.ResumeCount, slots)) WriteHeader(_header with { ResumeCount = (uint)_points.Count });
            _points.Add(new ResumePoint(label, _opCount));
            WriteSlots(_points.Count - 1, _points.Count);
        }
        _output.Flush();
        WriteHeader();
    }

    /// <inheritdoc/>
    public void Finish()
    {
        _data.Send();
        _ops.Send();
        // Without data, Android's file ends after its last op; the remaining slots are not in it.
        _output.Truncate(_dataBytes > 0 ? Size : _header.OpsOffset + (RecordBytes * (long)_opCount));
        _output.Flush();
        WriteHeader();
    }

    /// <summary>
    /// All slots are taken. If the last ones, at least two, lie in one sector, <paramref name="point"/> replaces the oldest of them in a
    /// single, atomic write. The newest durable point moves down by one slot, and the new point takes the last slot. A reader with the old
    /// header ignores the new point, because that counts more ops than the old header does.
    /// </summary>
    private bool TryPassOn(int slots, ResumePoint point)
    {
        int first = slots;
        while (first > 0 && InOneSector(first - 1, slots)) first--;
        if (slots - first < 2) return false;
        _points.RemoveAt(first);
        _points.Add(point);
        WriteSlots(first, slots);
        return true;
    }

    /// <summary>
    /// All slots are taken, and the last ones do not lie in one sector. Moves the newest points to the first slots, which lie in one
    /// sector. Readers stop after them, because the label of the old point that follows is not larger. Then a header that counts only the
    /// moved points frees the other slots, durably.
    /// </summary>
    private void KeepHead(int slots)
    {
        int kept = 0;
        while (kept < slots - 1 && InOneSector(0, kept + 1)) kept++;
        if (kept == 0)
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{_output.Name}: its {slots} slots for labels are too few to replace a durable one safely");
        _points.RemoveRange(0, slots - kept);
        WriteSlots(0, kept);
        _output.Flush();
        WriteHeader(_header with { ResumeCount = (uint)kept });
    }

    /// <summary>
    /// Whether the slots from <paramref name="first"/> up to <paramref name="end"/> lie in one sector, which a power cut cannot tear.
    /// </summary>
    private bool InOneSector(int first, int end) =>
        (_header.ResumeOffset + (PointBytes * (long)first)) / SectorBytes
        == (_header.ResumeOffset + (PointBytes * (long)end) - 1) / SectorBytes;

    private void WriteSlots(int first, int end)
    {
        Span<byte> slot = stackalloc byte[PointBytes];
        for (int i = first; i < end; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(slot, _points[i].Label);
            BinaryPrimitives.WriteUInt64LittleEndian(slot[8..], _points[i].OpIndex);
            _data.Add(_header.ResumeOffset + (PointBytes * (long)i), slot);
        }
        _data.Send();
    }

    private void Put(uint newBlock, ulong info, ReadOnlySpan<byte> data)
    {
        if (_estimates) Grow();
        _output.RequireSpace(Size + data.Length);
        Span<byte> record = stackalloc byte[RecordBytes];
        BinaryPrimitives.WriteUInt32LittleEndian(record, (uint)data.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(record[4..], newBlock);
        BinaryPrimitives.WriteUInt64LittleEndian(record[8..], info);
        if (data.Length > 0) _data.Add(Size, data);
        _ops.Add(_header.OpsOffset + (RecordBytes * (long)_opCount), record);
        _opCount++;
        _dataBytes += data.Length;
    }

    private void Grow()
    {
        if (_opCount >= _opCountMax) _opCountMax = _opCount + 1;
    }

    /// <summary>
    /// Writes the header that counts everything added. resume_point_count is the actual number of points. Android's writer only increases
    /// it, beyond the number of slots.
    /// </summary>
    private void WriteHeader() =>
        WriteHeader(_header with { OpCount = _opCount, OpCountMax = _opCountMax, ResumeCount = (uint)_points.Count });

    private void WriteHeader(in CowHeader next)
    {
        _header = next;
        Span<byte> header = stackalloc byte[CowHeader.MaxHeaderBytes];
        _header.Write(header);
        _output.Write(0, header);
        _output.Flush();
    }
}
