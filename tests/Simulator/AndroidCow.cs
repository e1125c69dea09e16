using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Simulator;

/// <summary>Android rejects this file.</summary>
public sealed class AndroidRefusesException(string why) : Exception(why);

/// <summary>
/// A COW as Android's reader sees it: ops in merge order and their payloads, by cow-format §2–§7 and the table of merge.md §2. It parses
/// the bytes itself; from the product it uses only the numbers of op types and algorithms, and the decoder of one compressed payload.
/// </summary>
public sealed class AndroidCow
{
    private readonly Image _image;
    private readonly bool _isV3;
    private readonly CowCompression _compression;
    private readonly Dictionary<long, byte[]> _units = [];

    /// <summary>Reads the whole file; throws if Android rejects it.</summary>
    public AndroidCow(Image image)
    {
        _image = image.Copy();
        if (U64(0) != 0x436f77634f572121) throw new AndroidRefusesException("the magic is not a COW's");
        int major = U16(8);
        if (major is not (2 or 3)) throw new AndroidRefusesException($"its daemon does not merge version {major}");
        _isV3 = major == 3;
        HeaderBytes = U16(12);
        if (HeaderBytes < 38) throw new AndroidRefusesException($"its daemon aborts on a header of {HeaderBytes} bytes");
        if (U32(18) != Page.Size) throw new AndroidRefusesException($"blocks of {U32(18)} bytes");
        ScratchBytes = (int)U32(34);

        List<AndroidOp> ops = [];
        List<uint>? sequence = _isV3 ? ReadV3(ops) : ReadV2(ops);
        foreach (AndroidOp op in ops)
            if (op.Compression != CowCompression.None) _compression = op.Compression;
        if (_isV3) _compression = (CowCompression)U32(70);
        Order = InMergeOrder(ops, sequence);
    }

    /// <summary>H: the header size in bytes.</summary>
    public int HeaderBytes { get; }

    /// <summary>Bytes of scratch; 0 without scratch.</summary>
    public int ScratchBytes { get; }

    /// <summary>The merge order. If several ops write one block, each entry for it is the first of them in the file.</summary>
    public List<AndroidOp> Order { get; }

    /// <summary>
    /// Whether header fields, ops and payloads of <paramref name="image"/> equal those read here: everything except num_merge_ops and
    /// scratch.
    /// </summary>
    public bool Describes(Image image)
    {
        if (image.Length != _image.Length) return false;
        Span<byte> a = stackalloc byte[Page.Size], b = stackalloc byte[Page.Size];
        if (!Same(0, 26) || !Same(34, HeaderBytes)) return false;
        for (long at = HeaderBytes + ScratchBytes; at < image.Length; at = ((at / Page.Size) + 1) * Page.Size)
        {
            int page = (int)(at / Page.Size);
            if (_image[page] != image[page] && !Same(at, Math.Min(image.Length, (page + 1L) * Page.Size))) return false;
        }
        return true;

        bool Same(long from, long to)
        {
            Span<byte> a = stackalloc byte[(int)(to - from)], b = stackalloc byte[(int)(to - from)];
            _image.Read(from, a);
            image.Read(from, b);
            return a.SequenceEqual(b);
        }
    }

    /// <summary>The payload of a Replace or Xor, decoded: one block of data for each block of the op.</summary>
    public byte[] Unit(AndroidOp op)
    {
        lock (_units)
        {
            if (_units.TryGetValue(op.DataOffset, out byte[]? unit)) return unit;
            unit = new byte[op.Blocks * Page.Size];
            byte[] stored = new byte[op.DataLength];
            _image.Read(op.DataOffset, stored);
            // cow-format §7.1: v3 and the block codecs store data unchanged if compression does not shrink it; gz and brotli in v2 never
            // do.
            bool raw = _compression == CowCompression.None
                || (stored.Length == unit.Length && (_isV3 || _compression is CowCompression.Lz4 or CowCompression.Zstd));
            using UnitDecoder decoder = new();
            if (decoder.Decode(raw ? CowCompression.None : _compression, stored, unit) != 0)
                throw new AndroidRefusesException($"the payload for block {op.NewBlock} does not decode");
            return _units[op.DataOffset] = unit;
        }
    }

    /// <summary>
    /// merge.md §2: sorts the ops. A null <paramref name="sequence"/> means that there is no list, which differs from an empty one in v2.
    /// </summary>
    private List<AndroidOp> InMergeOrder(List<AndroidOp> ops, List<uint>? sequence)
    {
        Dictionary<uint, AndroidOp> first = [];
        foreach (AndroidOp op in ops) first.TryAdd(op.NewBlock, op);

        List<uint> blocks = [], others = [];
        if (sequence != null)
        {
            blocks.AddRange(sequence);
            HashSet<uint> listed = [.. sequence];
            foreach (AndroidOp op in ops)
                if (!listed.Contains(op.NewBlock)) others.Add(op.NewBlock);
            others.Sort();
        }
        else if (_isV3)
        {
            foreach (AndroidOp op in ops) blocks.Add(op.NewBlock);
        }
        else
        {
            foreach (AndroidOp op in ops) (op.IsOrdered ? blocks : others).Add(op.NewBlock);
            others.Sort();
        }
        blocks.AddRange(others);

        List<AndroidOp> order = [];
        foreach (uint block in blocks)
            order.Add(first.TryGetValue(block, out AndroidOp op) ? op
                : throw new AndroidRefusesException($"the sequence list names block {block}, which no op writes"));
        return order;
    }

    /// <summary>cow-format §6.1–§6.4: consecutive records, or clusters; an Xor's payload is at the running data position.</summary>
    private List<uint>? ReadV2(List<AndroidOp> ops)
    {
        List<uint>? sequence = null;
        long clusterBytes = Math.Max(1, U32(22)) * 20L;
        bool clustered = U32(22) != 0;
        long at = HeaderBytes + ScratchBytes, data = at + clusterBytes;
        while (true)
        {
            if (at + 20 > _image.Length) throw new AndroidRefusesException("the footer is missing");
            CowOpType type = (CowOpType)Bytes(at, 1)[0];
            CowCompression compression = (CowCompression)Bytes(at + 1, 1)[0];
            int length = U16(at + 2);
            uint newBlock = (uint)U64(at + 4);
            long source = (long)U64(at + 12);
            at += 20;
            switch (type)
            {
                case CowOpType.Footer:
                    return sequence;
                case CowOpType.Cluster:
                    at += source;
                    break;
                case CowOpType.Sequence:
                    sequence ??= [];
                    for (int i = 0; i < length; i += 4) sequence.Add(U32(source + i));
                    break;
                case CowOpType.Label:
                    break;
                default:
                    long payload = type == CowOpType.Replace ? source : data;
                    ops.Add(new AndroidOp(type, newBlock, 1, source, payload, length, compression));
                    if (!clustered && type is CowOpType.Replace or CowOpType.Xor) at += length;
                    break;
            }
            data += length;
            if (type == CowOpType.Cluster) data += clusterBytes;
            else if (!clustered) data += 20;
        }
    }

    /// <summary>cow-format §5 and §6.6: an array of ops, followed by the payloads without gaps.</summary>
    private List<uint>? ReadV3(List<AndroidOp> ops)
    {
        long sequenceAt = HeaderBytes + ScratchBytes, count = (long)U64(38);
        List<uint> sequence = [];
        for (long i = 0; i < count; i++) sequence.Add(U32(sequenceAt + (4 * i)));
        long opsAt = sequenceAt + (4 * count) + (16L * U32(50)), data = opsAt + (16 * (long)U64(62));
        for (long i = 0; i < (long)U64(54); i++)
        {
            ulong info = U64(opsAt + (16 * i) + 8);
            int length = (int)U32(opsAt + (16 * i));
            ops.Add(new AndroidOp((CowOpType)(info >> 60), U32(opsAt + (16 * i) + 4), 1 << (int)(info >> 57 & 7),
                (long)(info & 0xffffffffffff), data, length, CowCompression.None));
            data += length;
        }
        return count == 0 ? null : sequence;
    }

    private byte[] Bytes(long at, int count)
    {
        byte[] bytes = new byte[count];
        _image.Read(at, bytes);
        return bytes;
    }

    private int U16(long at) => BinaryPrimitives.ReadUInt16LittleEndian(Bytes(at, 2));

    private uint U32(long at) => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(at, 4));

    private ulong U64(long at) => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(at, 8));
}

/// <summary>An op with the fields that merging needs; <paramref name="Source"/> is a block for Copy and a byte offset for Xor.</summary>
public readonly record struct AndroidOp(CowOpType Type, uint NewBlock, int Blocks, long Source, long DataOffset, int DataLength,
    CowCompression Compression)
{
    /// <summary>Copy or Xor.</summary>
    public bool IsOrdered => Type is CowOpType.Copy or CowOpType.Xor;

    /// <summary>The byte offset in the source at which an ordered op reads its 4096 bytes.</summary>
    public long SourceByte => Type == CowOpType.Copy ? Source * Page.Size : Source;
}
