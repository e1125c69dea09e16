using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// The order in which ops are merged. num_merge_ops is an index into it, so every start, and Android's daemon, must derive the same order
/// (cow-format §9; ops for which that leaves the order open are sorted by block, ascending). Also finds the position that writes a block.
/// </summary>
public sealed class MergeOrder
{
    private readonly CowFile _cow;
    private int _conflictFirst = -1, _conflictSecond = -1;

    private MergeOrder(CowFile cow) => _cow = cow;

    /// <summary>Positions in the order, duplicates included: Android's "total".</summary>
    public int Count { get; private set; }

    /// <summary>
    /// Index of the data op at <paramref name="position"/>. If several Replace and Zero ops write one block, all their positions return the
    /// first of these ops in the file.
    /// </summary>
    public int OpIndex(int position)
    {
        int index = Slots[position];
        GC.KeepAlive(_cow);
        return index;
    }

    /// <summary>The first position whose op writes <paramref name="block"/>; -1 if none does.</summary>
    public int PositionWriting(long block)
    {
        int cursor = 0;
        return PositionWriting(block, ref cursor);
    }

    /// <summary>
    /// As <see cref="PositionWriting(long)"/>, but faster for a series of nearby blocks. <paramref name="cursor"/>, initially 0, remembers
    /// where the previous block was found.
    /// </summary>
    public int PositionWriting(long block, ref int cursor)
    {
        int position = Writer(_cow.BlockIndex[..Count], _cow.Ops, Slots, block, ref cursor);
        GC.KeepAlive(_cow);
        return position;
    }

    /// <summary>
    /// The position with the given <paramref name="rank"/> when all are sorted by the first block that they write. Rank 0 writes the lowest
    /// block. Positions of duplicates are adjacent.
    /// </summary>
    public int PositionByBlock(int rank)
    {
        int position = (int)(uint)_cow.BlockIndex[rank];
        GC.KeepAlive(_cow);
        return position;
    }

    /// <summary>
    /// The lowest block, not below <paramref name="block"/>, that an op writes; <see cref="long.MaxValue"/> if there is none.
    /// </summary>
    public long NextWritten(long block)
    {
        if (PositionWriting(block) >= 0) return block;
        Span<ulong> index = _cow.BlockIndex[..Count];
        int at = block > uint.MaxValue ? index.Length : LowerBound(index, (ulong)Math.Max(0, block) << 32);
        long next = at == index.Length ? long.MaxValue : (long)(index[at] >> 32);
        GC.KeepAlive(_cow);
        return next;
    }

    /// <summary>
    /// Checks how ops affect one another. Exit code 65, with both ops and the block, if two ops write one block. Replace and Zero ops that
    /// start at the same block are allowed: all of them count as the first one. With <paramref name="sharedDevices"/>, exit code 65 also if
    /// an op reads a block that an earlier op writes.
    /// <para>
    /// <paramref name="limits"/> is empty or has <see cref="Count"/> entries. It receives the safe-from count of each position p: one more
    /// than the highest position whose op reads a block that p writes, or 0 if no op does. The durable count must reach it before p may
    /// write (design §5, rule 1). An Xor that reads its own destination gets p + 1. A Copy of a block onto itself does not count as a
    /// reader, because the block keeps its content. Without <paramref name="sharedDevices"/>, no op reads a block that another op writes.
    /// </para>
    /// <para>
    /// The count is −1 if p has nothing to write. This is so for every position of a duplicate but the first. It is also so for a Copy of a
    /// block onto itself, if <paramref name="sharedDevices"/> and <paramref name="sourceIsBase"/> are true. The latter says that Source is
    /// Base itself and does not merely share blocks with it.
    /// </para>
    /// </summary>
    public void Check(bool sharedDevices, Span<int> limits, bool sourceIsBase = true)
    {
        if (limits.Length != 0 && limits.Length != Count)
            throw new ArgumentException($"{limits.Length} limits for {Count} positions", nameof(limits));
        limits.Clear();
        CheckWrites();
        if (limits.Length > 0) MarkDuplicates(_cow.BlockIndex[..Count], limits);
        if (!sharedDevices) return;

        Span<PackedOp> ops = _cow.Ops;
        Span<int> slots = Slots;
        Span<ulong> index = _cow.BlockIndex[..Count];
        int cursor = 0;
        for (int position = 0; position < slots.Length; position++)
        {
            if (!ops[slots[position]].IsOrdered) continue;
            CowOp op = ops[slots[position]].Unpack();
            if (IsNoOp(op))
            {
                if (limits.Length > 0 && sourceIsBase) limits[position] = -1;
                continue;
            }
            for (long block = op.SourceBlock; block < op.SourceBlock + op.SourceBlocks; block++)
            {
                int writer = Writer(index, ops, slots, block, ref cursor);
                if (writer < 0 || IsNoOp(ops[slots[writer]].Unpack())) continue;
                if (writer < position)
                    throw Bad($"{_cow.Describe(slots[position])} reads block {block}, which {_cow.Describe(slots[writer])} overwrites "
                        + "before it in the merge order");
                if (limits.Length > 0) limits[writer] = Math.Max(limits[writer], position + 1);
            }
        }
        GC.KeepAlive(_cow);
    }

    /// <summary>
    /// As <see cref="Check"/>, for a source that is not Base itself but shares storage with it. <paramref name="map"/> tells which blocks
    /// have the same storage. The safe-from count of p is one more than the highest position whose op reads storage that p writes; this
    /// position may be before or after p. A count above p + 1 means that a later op reads storage that p destroys. A Copy of storage onto
    /// itself gets −1. Exit code 65 if two ops write one block.
    /// </summary>
    public void CheckOverlap(StorageMap map, Span<int> limits)
    {
        if (limits.Length != Count) throw new ArgumentException($"{limits.Length} limits for {Count} positions", nameof(limits));
        limits.Clear();
        CheckWrites();
        Span<PackedOp> ops = _cow.Ops;
        Span<int> slots = Slots;
        Span<ulong> index = _cow.BlockIndex[..Count];
        MarkDuplicates(index, limits);
        int place = 0;
        for (int position = 0; position < slots.Length; position++)
        {
            if (!ops[slots[position]].IsOrdered) continue;
            CowOp op = ops[slots[position]].Unpack();
            if (IsNoOp(op, map))
            {
                limits[position] = -1;
                continue;
            }
            for (int cursor = 0; map.Next(op.SourceByte, CowOp.BlockSize, ref cursor, out SharedRange part);)
            {
                long last = (part.BaseOffset + part.Length - 1) / CowOp.BlockSize;
                for (long block = part.BaseOffset / CowOp.BlockSize; block <= last; block++)
                {
                    int writer = Writer(index, ops, slots, block, ref place);
                    if (writer >= 0 && !IsNoOp(ops[slots[writer]].Unpack(), map)) limits[writer] = Math.Max(limits[writer], position + 1);
                }
            }
        }
        GC.KeepAlive(_cow);
    }

    /// <summary>
    /// The first range that the op at <paramref name="reader"/> reads and the op at <paramref name="writer"/> overwrites; null if there
    /// is none.
    /// </summary>
    public SharedRange? Destroyed(StorageMap map, int writer, int reader)
    {
        CowOp op = _cow[OpIndex(reader)], other = _cow[OpIndex(writer)];
        if (!op.IsOrdered) return null;
        long from = (long)other.NewBlock * CowOp.BlockSize, to = from + other.UnitBytes;
        for (int cursor = 0; map.Next(op.SourceByte, CowOp.BlockSize, ref cursor, out SharedRange part);)
        {
            long start = Math.Max(part.BaseOffset, from), end = Math.Min(part.BaseOffset + part.Length, to);
            if (start < end) return new SharedRange(start - part.Shift, start, end - start);
        }
        return null;
    }

    /// <summary>
    /// Sets the count of every duplicate but the first to −1. One write suffices, and two of them in flight at once would race, even with
    /// equal data.
    /// </summary>
    private static void MarkDuplicates(Span<ulong> index, Span<int> limits)
    {
        int first = 0;
        for (int i = 1; i < index.Length; i++)
        {
            if (index[i] >> 32 != index[first] >> 32) first = i;
            else limits[(int)(uint)index[i]] = -1;
        }
    }

    /// <summary>
    /// Whether Android's daemon can merge this file; if not, <paramref name="why"/> is the reason as a clause. Applies the daemon's
    /// VerifyMergeOps rules (cow-format §9) and its requirements for the header.
    /// </summary>
    public bool AndroidCanMerge(out string why)
    {
        CowHeader header = _cow.Header;
        if (header.Major == 1) { why = "its daemon aborts on version 1 headers"; return false; }
        if (header.ScratchBytes is not (0 or 2 * 1024 * 1024))
        {
            why = $"buffer_size is {header.ScratchBytes}, and it takes only 0 or 2097152";
            return false;
        }

        Span<PackedOp> ops = _cow.Ops;
        Span<int> slots = Slots;
        Span<ulong> index = _cow.BlockIndex[..Count];
        int plain = -1, cursor = 0;
        for (int position = 0; position < slots.Length; position++)
        {
            CowOp op = ops[slots[position]].Unpack();
            if (!op.IsOrdered) { plain = position; continue; }
            if (plain >= 0)
            {
                why = $"{_cow.Describe(slots[position])} comes after {_cow.Describe(slots[plain])} in the merge order";
                return false;
            }
            for (long block = op.SourceBlock; block < op.SourceBlock + op.SourceBlocks; block++)
            {
                int writer = Writer(index, ops, slots, block, ref cursor);
                if (writer < 0 || writer >= position || !ops[slots[writer]].IsOrdered) continue;
                why = $"{_cow.Describe(slots[position])} reads block {block}, which {_cow.Describe(slots[writer])} overwrites before it";
                return false;
            }
        }
        GC.KeepAlive(_cow);
        why = "";
        return true;
    }

    /// <summary>
    /// Builds the order from the ops and from the sequence list, which the op reader has stored in the memory of the order. Exit code 65
    /// for a listed block that no op writes, or that is listed twice.
    /// </summary>
    internal static MergeOrder Build(CowFile cow)
    {
        var order = new MergeOrder(cow);
        Span<PackedOp> ops = cow.Ops;
        Span<ulong> index = cow.BlockIndex;
        for (int i = 0; i < ops.Length; i++) index[i] = Key(ops[i].NewBlock, i);
        BlockSort.Sort(index);
        order.FindConflict(ops, index);
        order.Count = cow.Rule switch
        {
            OrderRule.FileOrder => InFileOrder(ops, index, cow.OrderSlots),
            OrderRule.OrderedFirst => OrderedFirst(ops, index, cow.OrderSlots, distinct: order._conflictFirst < 0),
            _ => Listed(cow, ops, index, cow.OrderSlots),
        };

        // From here on the index holds positions instead of op indexes; in file order these are equal. One op may have several positions;
        // the lowest comes first.
        if (cow.Rule == OrderRule.FileOrder) return order;
        Span<int> slots = order.Slots;
        index = cow.BlockIndex[..order.Count];
        for (int i = 0; i < slots.Length; i++) index[i] = Key(ops[slots[i]].NewBlock, i);
        BlockSort.Sort(index);
        return order;
    }

    private Span<int> Slots => _cow.OrderSlots[..Count];

    private static ulong Key(uint block, int value) => ((ulong)block << 32) | (uint)value;

    /// <summary>Copies a block onto itself: nothing to read and nothing to write when source and base are one device.</summary>
    private static bool IsNoOp(in CowOp op) => op.Type == CowOpType.Copy && op.Source == op.NewBlock;

    /// <summary>True for a Copy that reads exactly the storage that it writes, where source and base share storage.</summary>
    private static bool IsNoOp(in CowOp op, StorageMap map) =>
        op.Type == CowOpType.Copy && map.LiesExactlyAt(op.SourceByte, CowOp.BlockSize, (long)op.NewBlock * CowOp.BlockSize);

    private static int InFileOrder(Span<PackedOp> ops, Span<ulong> index, Span<int> slots)
    {
        int first = 0;
        for (int i = 0; i < index.Length; i++)
        {
            if (index[i] >> 32 != index[first] >> 32) first = i;
            slots[(int)(uint)index[i]] = (int)(uint)index[first];
        }
        return ops.Length;
    }

    /// <summary>
    /// <paramref name="distinct"/> means that no ordered op shares its block with another op, so the first op of its block need not be
    /// searched.
    /// </summary>
    private static int OrderedFirst(Span<PackedOp> ops, Span<ulong> index, Span<int> slots, bool distinct)
    {
        int count = 0, first = 0;
        for (int i = 0; i < ops.Length; i++)
            if (ops[i].IsOrdered) slots[count++] = distinct ? i : (int)(uint)index[LowerBound(index, (ulong)ops[i].NewBlock << 32)];
        for (int i = 0; i < index.Length; i++)
        {
            if (index[i] >> 32 != index[first] >> 32) first = i;
            if (!ops[(int)(uint)index[i]].IsOrdered) slots[count++] = (int)(uint)index[first];
        }
        return count;
    }

    private static int Listed(CowFile cow, Span<PackedOp> ops, Span<ulong> index, Span<int> slots)
    {
        int count = cow.SequenceCount;
        for (int i = 0; i < count; i++)
        {
            uint block = (uint)slots[i];
            int at = LowerBound(index, (ulong)block << 32);
            if (at == index.Length || (uint)(index[at] >> 32) != block)
                throw new SnapuserdException(ExitCode.CowCorrupt, $"{cow.Name}: sequence entry {i} is block {block}, which no op writes");
            int op = (int)(uint)index[at];
            if (ops[op].Listed)
                throw new SnapuserdException(ExitCode.CowCorrupt,
                    $"{cow.Name}: sequence entry {i} is block {block}, which is listed twice");
            ops[op].Listed = true;
            slots[i] = op;
        }
        int first = 0;
        for (int i = 0; i < index.Length; i++)
        {
            if (index[i] >> 32 != index[first] >> 32) first = i;
            int op = (int)(uint)index[first];
            if (!ops[op].Listed) slots[count++] = op;
        }
        return count;
    }

    /// <summary>
    /// Finds the first two ops with the same new_block of which at least one is ordered, for <see cref="CheckWrites"/>. The finished order
    /// no longer shows this, because the positions of both refer to the first op.
    /// </summary>
    private void FindConflict(Span<PackedOp> ops, Span<ulong> index)
    {
        int first = 0;
        for (int i = 1; i < index.Length; i++)
        {
            if (index[i] >> 32 != index[first] >> 32) { first = i; continue; }
            int a = (int)(uint)index[first], b = (int)(uint)index[i];
            if (!ops[a].IsOrdered && !ops[b].IsOrdered) continue;
            (_conflictFirst, _conflictSecond) = (a, b);
            return;
        }
    }

    private void CheckWrites()
    {
        if (_conflictFirst >= 0)
            throw Bad($"{_cow.Describe(_conflictFirst)} and {_cow.Describe(_conflictSecond)} both write block "
                + $"{_cow[_conflictFirst].NewBlock}");
        Span<PackedOp> ops = _cow.Ops;
        Span<int> slots = Slots;
        Span<ulong> index = _cow.BlockIndex[..Count];
        for (int i = 1; i < index.Length; i++)
        {
            // Comparing neighbours suffices: if no unit reaches its successor's start, none reaches further.
            int a = slots[(int)(uint)index[i - 1]], b = slots[(int)(uint)index[i]];
            if (a != b && ops[a].EndBlock > ops[b].NewBlock)
                throw Bad($"{_cow.Describe(a)} and {_cow.Describe(b)} both write block {ops[b].NewBlock}");
        }
    }

    /// <summary>
    /// The first position that writes <paramref name="block"/>, or -1. <paramref name="cursor"/> is the index entry found by the previous
    /// call, and is updated. Sources come in runs, so the same entry or a neighbour usually fits; a binary search would touch 20 cache
    /// lines.
    /// </summary>
    private static int Writer(Span<ulong> index, Span<PackedOp> ops, Span<int> slots, long block, ref int cursor)
    {
        if (block is < 0 or > uint.MaxValue || index.IsEmpty) return -1;
        ulong key = (ulong)block << 32;
        int at = -1;
        for (int near = Math.Max(0, cursor - 1); near <= cursor + 1 && near < index.Length; near++)
            if ((uint)(index[near] >> 32) == (uint)block) { at = near; break; }
        if (at < 0)
        {
            at = LowerBound(index, key);
            // The block is not the start of a unit, but the previous unit may contain it.
            if (at == index.Length || (uint)(index[at] >> 32) != (uint)block) at--;
            if (at < 0) return -1;
        }
        uint start = (uint)(index[at] >> 32);
        if (at > 0 && (uint)(index[at - 1] >> 32) == start) at = LowerBound(index, (ulong)start << 32);
        int position = (int)(uint)index[at];
        if ((ulong)block >= ops[slots[position]].EndBlock) return -1;
        cursor = at;
        return position;
    }

    private static int LowerBound(Span<ulong> sorted, ulong key)
    {
        int low = 0, high = sorted.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (sorted[middle] < key) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    private SnapuserdException Bad(string what) => new(ExitCode.CowCorrupt, $"{_cow.Name}: {what}");
}
