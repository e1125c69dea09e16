using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// The result for one block of the new image, in 8 bytes. The all-zero value is an unchanged block, so memory for the holes of a sparse
/// image is never touched. Bits 0–47: source (a block for Copy, a byte offset for Xor); 48–60: extra cost of a Replace, in bytes; 61–63:
/// the kind, which is <see cref="CowOpType"/>'s value, 0 for unchanged and 7 for pending.
/// </summary>
internal readonly record struct PackedChange(ulong Bits)
{
    /// <summary>Largest source: 48 bits (cow-format §5).</summary>
    public const ulong SourceMask = (1UL << 48) - 1;

    /// <summary>Stands for an extra cost that is not estimated yet. Real costs are at most 4096.</summary>
    public const int UnknownCost = (1 << 13) - 1;

    private const int CostShift = 48, KindShift = 61;
    private const ulong PendingKind = 7;

    public static PackedChange Unchanged => default;
    public static PackedChange Pending => new(PendingKind << KindShift);
    public static PackedChange Zero => new((ulong)CowOpType.Zero << KindShift);
    public static PackedChange Replace => new((ulong)CowOpType.Replace << KindShift);
    public static PackedChange Copy(long block) => Pack(CowOpType.Copy, UnknownCost, block);
    public static PackedChange Xor(long offset, int extraCost) => Pack(CowOpType.Xor, extraCost, offset);

    public CowOpType Type => (CowOpType)(Bits >> KindShift);
    public bool IsUnchanged => Bits == 0;
    public bool IsPending => Bits >> KindShift == PendingKind;
    public bool IsOrdered => Type is CowOpType.Copy or CowOpType.Xor;
    public long Source => (long)(Bits & SourceMask);
    public int ExtraCost => (int)(Bits >> CostShift) & UnknownCost;

    public PackedChange WithExtraCost(int cost) => Pack(Type, cost, Source);

    /// <summary>
    /// Packs the fields. Images have at most 2^32 blocks (<see cref="Differ.MaximumImageBytes"/>), so a source that does not fit is a bug.
    /// Its high bits would change the kind of the op.
    /// </summary>
    private static PackedChange Pack(CowOpType type, int cost, long source)
    {
        if ((ulong)source > SourceMask || (uint)cost > UnknownCost)
            throw new ArgumentOutOfRangeException(nameof(source), $"{type}: source {source} and cost {cost} do not fit");
        return new PackedChange(((ulong)type << KindShift) | ((ulong)cost << CostShift) | (ulong)source);
    }

    /// <summary>Byte offset of the bytes that an ordered op reads.</summary>
    public long SourceByte => Type == CowOpType.Copy ? Source * CowOp.BlockSize : Source;

    /// <summary>First block that an ordered op reads.</summary>
    public long FirstRead => Type == CowOpType.Copy ? Source : Source / CowOp.BlockSize;

    /// <summary>Last block that an ordered op reads: the next one if the offset is not on a block boundary.</summary>
    public long LastRead => Type == CowOpType.Copy ? Source : (Source + CowOp.BlockSize - 1) / CowOp.BlockSize;
}
