using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>Kinds of op, with their on-disk values (cow-format §3).</summary>
public enum CowOpType : byte
{
    Copy = 1,
    Replace = 2,
    Zero = 3,
    Label = 4,
    Cluster = 5,
    Xor = 6,
    Sequence = 7,
    Footer = 255,
}

/// <summary>How payloads are stored, with the on-disk values (cow-format §7).</summary>
public enum CowCompression : byte
{
    None = 0,
    Gz = 1,
    Brotli = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// <summary>
/// One data op as a value. <paramref name="NewBlock"/> is the first block written and <paramref name="Blocks"/> the number of blocks (1,
/// except for a v3 Replace). <paramref name="Source"/> is a block number for Copy and a byte offset for Xor, else 0.
/// <paramref name="DataOffset"/> and <paramref name="DataLength"/> locate the payload of a Replace or Xor in the COW, in bytes.
/// </summary>
public readonly record struct CowOp(CowOpType Type, uint NewBlock, int Blocks, long Source, long DataOffset, int DataLength)
{
    /// <summary>Bytes per block; the only size that Android's daemon accepts.</summary>
    public const int BlockSize = Sizes.Block;

    /// <summary>Copy or Xor: reads the source, so it must run in the COW's order.</summary>
    public bool IsOrdered => Type is CowOpType.Copy or CowOpType.Xor;

    /// <summary>Replace or Xor: has a payload in the COW.</summary>
    public bool HasData => Type is CowOpType.Replace or CowOpType.Xor;

    /// <summary>Byte offset in the source of the block that an ordered op reads.</summary>
    public long SourceByte => Type == CowOpType.Copy ? Source * BlockSize : Source;

    /// <summary>First source block that an ordered op reads.</summary>
    public long SourceBlock => Type == CowOpType.Copy ? Source : Source / BlockSize;

    /// <summary>Blocks of the source that the op reads: 0, 1, or 2 for an Xor whose byte offset is not on a block boundary.</summary>
    public int SourceBlocks => !IsOrdered ? 0 : SourceByte % BlockSize == 0 ? 1 : 2;

    /// <summary>Bytes that the op writes.</summary>
    public int UnitBytes => Blocks * BlockSize;
}
