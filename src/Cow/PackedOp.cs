using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Cow;

/// <summary>
/// A <see cref="CowOp"/> in 20 bytes: a system partition has a million of them. The limits are the format's: blocks 32 bits, sources and
/// offsets 48 bits (cow-format §12); payloads are at most 256 KiB, or 65535 bytes in v2.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PackedOp
{
    /// <summary>Size in bytes.</summary>
    public const int Bytes = 20;
    /// <summary>Largest source or data offset.</summary>
    public const ulong Max48 = (1UL << 48) - 1;
    /// <summary>Largest length of a payload, type and factor.</summary>
    public const uint MaxDataLength = (1u << TypeShift) - 1, MaxType = 7, MaxFactor = 7;

    private const int TypeShift = 20, FactorShift = 23;
    private const uint ListedBit = 1u << 31;

    public readonly uint NewBlock;
    private uint _bits; // data length 0-19, type 20-22, factor 23-25, listed 31
    private readonly uint _sourceLow;
    private readonly uint _dataLow;
    private readonly ushort _sourceHigh;
    private readonly ushort _dataHigh;

    public PackedOp(CowOpType type, uint newBlock, int factor, ulong source, ulong dataOffset, uint dataLength)
    {
        // The readers reject such values before this, with exit code 65. Packing them would silently lose bits.
        if (source > Max48 || dataOffset > Max48 || dataLength > MaxDataLength || (uint)type > MaxType || (uint)factor > MaxFactor)
        {
            throw new ArgumentOutOfRangeException(
                nameof(source),
                $"{type} of block {newBlock}: source {source}, factor {factor}, {dataLength} bytes at {dataOffset} do not fit");
        }
        NewBlock = newBlock;
        _bits = dataLength | ((uint)type << TypeShift) | ((uint)factor << FactorShift);
        _sourceLow = (uint)source;
        _sourceHigh = (ushort)(source >> 32);
        _dataLow = (uint)dataOffset;
        _dataHigh = (ushort)(dataOffset >> 32);
    }

    public readonly CowOpType Type => (CowOpType)((_bits >> TypeShift) & 7);

    public readonly bool IsOrdered => Type is CowOpType.Copy or CowOpType.Xor;

    public readonly int Blocks => 1 << (int)((_bits >> FactorShift) & 7);

    /// <summary>The block after the last one written. The reader has checked that it is at most 2^32.</summary>
    public readonly ulong EndBlock => NewBlock + (ulong)Blocks;

    /// <summary>True if the sequence list names this op; used while the merge order is built.</summary>
    public bool Listed
    {
        readonly get => (_bits & ListedBit) != 0;
        set => _bits = value ? _bits | ListedBit : _bits & ~ListedBit;
    }

    public readonly CowOp Unpack() => new(
        Type,
        NewBlock,
        Blocks,
        ((long)_sourceHigh << 32) | _sourceLow,
        ((long)_dataHigh << 32) | _dataLow,
        (int)(_bits & ((1u << TypeShift) - 1)));
}
