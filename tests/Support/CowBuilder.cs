using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>
/// One call made on a <see cref="CowBuilder"/>. <paramref name="Source"/> is a block for Copy, a byte offset for Xor, the label for Label.
/// <paramref name="Plain"/> is the uncompressed payload of Replace (whole blocks) and Xor (one block, before the XOR).
/// <paramref name="Blocks"/> is the list of a Sequence.
/// </summary>
public sealed record BuiltOp(CowOpType Type, uint NewBlock = 0, ulong Source = 0, byte[]? Plain = null, uint[]? Blocks = null);

/// <summary>
/// A simple writer of v1, v2 and v3 COW files for tests, written from cow-format and independent of src/Cow. Its files equal those of
/// Android's writers (checked against their golden files). <see cref="Patch"/> can change the finished bytes.
/// </summary>
public sealed class CowBuilder
{
    private const int BlockBytes = 4096;
    private readonly List<BuiltOp> _ops = new();
    private readonly List<long> _offsets = new();
    private readonly List<long> _dataOffsets = new();

    /// <summary>1, 2 or 3.</summary>
    public int Version { get; init; } = 3;

    /// <summary>One algorithm for all payloads.</summary>
    public CowCompression Compression { get; init; } = CowCompression.None;

    /// <summary>Level for the compressor; null is the writer's default.</summary>
    public int? Level { get; init; }

    /// <summary>v3: max_compression_size in bytes.</summary>
    public int MaxUnitBytes { get; init; } = 64 * 1024;

    /// <summary>
    /// v1 and v2: op slots per cluster; 0 for no clusters, the default, which keeps files short. Android's writer uses 1024 or 200.
    /// </summary>
    public int ClusterOps { get; init; }

    /// <summary>Scratch bytes, zero-filled; ignored in v1.</summary>
    public int ScratchBytes { get; init; } = 2 * 1024 * 1024;

    /// <summary>v3: op slots beyond the ops written.</summary>
    public int OpCountMaxSlack { get; init; }

    /// <summary>v3: resume point slots.</summary>
    public int ResumeMax { get; init; } = 4;

    /// <summary>num_merge_ops: the count at offset 26.</summary>
    public ulong NumMergeOps { get; init; }

    /// <summary>v1 and v2: writes a footer at the end. False leaves the file as an unfinished writer would.</summary>
    public bool Footer { get; init; } = true;

    /// <summary>Changes the finished bytes: called at the end of <see cref="Build"/> with the file as written.</summary>
    public Action<byte[]>? Patch { get; set; }

    /// <summary>The calls so far, in order; the input of <see cref="NaiveMerger"/>.</summary>
    public IReadOnlyList<BuiltOp> Ops => _ops;

    /// <summary>
    /// After <see cref="Build"/>: file offset of each op record, including Label, Cluster and Sequence records; the footer last (v1 and
    /// v2).
    /// </summary>
    public IReadOnlyList<long> OpOffsets => _offsets;

    /// <summary>
    /// After <see cref="Build"/>: file offset of the payload of each op record, -1 for those without; same index as
    /// <see cref="OpOffsets"/>.
    /// </summary>
    public IReadOnlyList<long> DataOffsets => _dataOffsets;

    /// <summary>Block <paramref name="newBlock"/> becomes the source's block <paramref name="sourceBlock"/>.</summary>
    public CowBuilder Copy(uint newBlock, ulong sourceBlock) => Add(new BuiltOp(CowOpType.Copy, newBlock, sourceBlock));

    /// <summary>
    /// Block <paramref name="newBlock"/> becomes the 4096 source bytes at <paramref name="sourceByte"/> XOR <paramref name="payload"/>.
    /// </summary>
    public CowBuilder Xor(uint newBlock, ulong sourceByte, ReadOnlySpan<byte> payload) =>
        Add(new BuiltOp(CowOpType.Xor, newBlock, sourceByte, payload.ToArray()));

    /// <summary>
    /// The blocks from <paramref name="newBlock"/> on become <paramref name="unit"/>: 1 &lt;&lt; f blocks, f = 0 before v3.
    /// </summary>
    public CowBuilder Replace(uint newBlock, ReadOnlySpan<byte> unit) => Add(new BuiltOp(CowOpType.Replace, newBlock, 0, unit.ToArray()));

    /// <summary>Block <paramref name="newBlock"/> becomes zeros.</summary>
    public CowBuilder Zero(uint newBlock) => Add(new BuiltOp(CowOpType.Zero, newBlock));

    /// <summary>A Label op (v1 and v2) or a resume point (v3).</summary>
    public CowBuilder Label(ulong label) => Add(new BuiltOp(CowOpType.Label, 0, label));

    /// <summary>Sequence ops of at most 2048 entries (v1 and v2), or the sequence list (v3: one call, at any point).</summary>
    public CowBuilder Sequence(params uint[] blocks) => Add(new BuiltOp(CowOpType.Sequence, Blocks: blocks));

    /// <summary>Adds a call unchanged, for hostile files.</summary>
    public CowBuilder Add(BuiltOp op)
    {
        _ops.Add(op);
        return this;
    }

    /// <summary>The bytes of the file.</summary>
    public byte[] Build()
    {
        _offsets.Clear();
        _dataOffsets.Clear();
        byte[] file = Version == 3 ? BuildV3() : BuildV2();
        Patch?.Invoke(file);
        return file;
    }

    /// <summary>The payload as stored: compressed, or raw where the writer falls back (cow-format §7).</summary>
    private byte[] Store(byte[] plain)
    {
        byte[] packed = Compressors.Compress(Compression, plain, Version == 3 ? MaxUnitBytes : BlockBytes, Level);
        bool fallsBack = Version == 3 || Compression is CowCompression.Lz4 or CowCompression.Zstd;
        return fallsBack && packed.Length >= plain.Length ? plain : packed;
    }

    private static void Put(List<byte> file, long offset, ReadOnlySpan<byte> bytes)
    {
        int end = checked((int)offset + bytes.Length), before = file.Count;
        if (before < end)
        {
            CollectionsMarshal.SetCount(file, end);
            CollectionsMarshal.AsSpan(file)[before..].Clear();
        }
        bytes.CopyTo(CollectionsMarshal.AsSpan(file)[(int)offset..]);
    }

    private byte[] Header(int headerBytes)
    {
        byte[] header = new byte[headerBytes];
        Span<byte> h = header;
        BinaryPrimitives.WriteUInt64LittleEndian(h, 0x436f77634f572121);
        BinaryPrimitives.WriteUInt16LittleEndian(h[8..], (ushort)Version);
        BinaryPrimitives.WriteUInt16LittleEndian(h[12..], (ushort)headerBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(h[14..], (ushort)(Version == 3 ? 0 : 84));
        BinaryPrimitives.WriteUInt16LittleEndian(h[16..], (ushort)(Version == 3 ? 16 : 20));
        BinaryPrimitives.WriteUInt32LittleEndian(h[18..], BlockBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(h[22..], Version == 3 ? 0 : (uint)ClusterOps);
        BinaryPrimitives.WriteUInt64LittleEndian(h[26..], NumMergeOps);
        if (Version >= 2) BinaryPrimitives.WriteUInt32LittleEndian(h[34..], (uint)ScratchBytes);
        return header;
    }

    private static byte[] SequenceBytes(ReadOnlySpan<uint> blocks)
    {
        byte[] bytes = new byte[blocks.Length * 4];
        for (int i = 0; i < blocks.Length; i++) BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(i * 4), blocks[i]);
        return bytes;
    }

    private byte[] BuildV2()
    {
        int headerBytes = Version == 1 ? 34 : 38;
        var file = new List<byte>(Header(headerBytes));
        long opPosition = headerBytes + (Version == 1 ? 0 : ScratchBytes);
        long dataPosition = opPosition + (ClusterOps == 0 ? 20 : ClusterOps * 20L);
        Put(file, opPosition, default);
        int inCluster = 0;
        long clusterData = 0;
        int count = 0;

        void Emit(byte type, byte compression, uint newBlock, ulong source, ReadOnlySpan<byte> data)
        {
            byte[] op = new byte[20];
            op[0] = type;
            op[1] = compression;
            BinaryPrimitives.WriteUInt16LittleEndian(op.AsSpan(2), (ushort)data.Length);
            BinaryPrimitives.WriteUInt64LittleEndian(op.AsSpan(4), newBlock);
            BinaryPrimitives.WriteUInt64LittleEndian(op.AsSpan(12), source);
            _offsets.Add(opPosition);
            _dataOffsets.Add(data.Length > 0 ? dataPosition : -1);
            Put(file, opPosition, op);
            Put(file, dataPosition, data);
            count++;
            if (ClusterOps == 0)
            {
                opPosition += 20 + data.Length;
                dataPosition = opPosition + 20;
                return;
            }
            opPosition += 20;
            dataPosition += data.Length;
            clusterData += data.Length;
            inCluster++;
        }

        void EndCluster()
        {
            Emit(5, 0, 0, (ulong)(clusterData + (ClusterOps * 20L) - (inCluster * 20L) - 20), default);
            opPosition = dataPosition;
            dataPosition = opPosition + (ClusterOps * 20L);
            inCluster = 0;
            clusterData = 0;
        }

        void Write(byte type, byte compression, uint newBlock, ulong source, ReadOnlySpan<byte> data)
        {
            Emit(type, compression, newBlock, source, data);
            if (ClusterOps != 0 && inCluster + 1 >= ClusterOps) EndCluster();
        }

        foreach (BuiltOp op in _ops)
        {
            switch (op.Type)
            {
                case CowOpType.Sequence:
                    for (int from = 0; from < op.Blocks!.Length; from += 2048)
                    {
                        byte[] list = SequenceBytes(op.Blocks.AsSpan(from, Math.Min(2048, op.Blocks.Length - from)));
                        Write((byte)op.Type, 0, 0, (ulong)dataPosition, list);
                    }
                    break;
                case CowOpType.Replace:
                    Write((byte)op.Type, (byte)Compression, op.NewBlock, (ulong)dataPosition, Store(op.Plain!));
                    break;
                case CowOpType.Xor:
                    Write((byte)op.Type, (byte)Compression, op.NewBlock, op.Source, Store(op.Plain!));
                    break;
                default:
                    Write((byte)op.Type, 0, op.NewBlock, op.Source, default);
                    break;
            }
        }

        if (clusterData > 0) EndCluster();
        if (Footer)
        {
            byte[] footer = new byte[84];
            footer[0] = 255;
            BinaryPrimitives.WriteUInt16LittleEndian(footer.AsSpan(2), 64);
            BinaryPrimitives.WriteUInt64LittleEndian(footer.AsSpan(4), (ulong)count * 20);
            BinaryPrimitives.WriteUInt64LittleEndian(footer.AsSpan(12), (ulong)count);
            _offsets.Add(opPosition);
            _dataOffsets.Add(-1);
            Put(file, opPosition, footer);
        }
        return file.ToArray();
    }

    private byte[] BuildV3()
    {
        uint[] sequence = Array.Empty<uint>();
        int opCount = 0;
        foreach (BuiltOp op in _ops)
        {
            if (op.Type == CowOpType.Sequence) sequence = op.Blocks!;
            else if (op.Type != CowOpType.Label) opCount++;
        }
        int opCountMax = opCount + OpCountMaxSlack;
        byte[] header = Header(78);
        long sequenceAt = 78 + ScratchBytes;
        long resumeAt = sequenceAt + (4L * sequence.Length);
        long opsAt = resumeAt + (16L * ResumeMax);
        long dataAt = opsAt + (16L * opCountMax);
        var file = new List<byte>((int)dataAt);
        Put(file, sequenceAt, SequenceBytes(sequence));
        Put(file, dataAt, default);

        var points = new List<(ulong Label, int Ops)>();
        int resumeCount = 0, index = 0;
        foreach (BuiltOp op in _ops)
        {
            switch (op.Type)
            {
                case CowOpType.Sequence:
                    continue;
                case CowOpType.Label:
                    // Does the same as Android's writer, including stale slots and an unlimited count (cow-format §8.2).
                    points.RemoveAll(point => point.Label >= op.Source);
                    points.Add((op.Source, index));
                    resumeCount++;
                    while (points.Count > ResumeMax) points.RemoveAt(0);
                    for (int i = 0; i < points.Count; i++)
                    {
                        byte[] slot = new byte[16];
                        BinaryPrimitives.WriteUInt64LittleEndian(slot, points[i].Label);
                        BinaryPrimitives.WriteUInt64LittleEndian(slot.AsSpan(8), (ulong)points[i].Ops);
                        Put(file, resumeAt + (16L * i), slot);
                    }
                    continue;
            }
            byte[] data = op.Plain == null ? Array.Empty<byte>() : Store(op.Plain);
            ulong source = op.Type == CowOpType.Replace ? (ulong)dataAt : op.Source;
            ulong factor = op.Type == CowOpType.Replace ? (ulong)int.Log2(op.Plain!.Length / BlockBytes) : 0;
            byte[] record = new byte[16];
            BinaryPrimitives.WriteUInt32LittleEndian(record, (uint)data.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(4), op.NewBlock);
            BinaryPrimitives.WriteUInt64LittleEndian(record.AsSpan(8), source | (factor << 57) | ((ulong)op.Type << 60));
            long at = opsAt + (16L * index++);
            _offsets.Add(at);
            _dataOffsets.Add(data.Length > 0 ? dataAt : -1);
            Put(file, at, record);
            Put(file, dataAt, data);
            dataAt += data.Length;
        }

        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(38), (ulong)sequence.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(46), (uint)resumeCount);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(50), (uint)ResumeMax);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(54), (ulong)opCount);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(62), (ulong)opCountMax);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(70), (uint)Compression);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(74), (uint)MaxUnitBytes);
        Put(file, 0, header);
        return file.ToArray();
    }
}
