using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>Whether the merge can be completed from some count on when source and base overlap.</summary>
public enum OverlapVerdict
{
    /// <summary>Some sequence of checkpoints and windows completes the merge, and each of them is safe against a crash.</summary>
    Mergeable,
    /// <summary>As <see cref="Mergeable"/>, but at least one op without scratch overwrites data that it reads itself.</summary>
    WithUnsafeOps,
    /// <summary>Every op's source is still intact, but no safe sequence of checkpoints and windows exists.</summary>
    NoWay,
    /// <summary>An op after the count reads what an op before the count has overwritten.</summary>
    SourceGone,
}

/// <summary>
/// Applies rule 1 to sectors, by an exhaustive search of the counts that are reachable from a count. A step writes and counts one op, or a
/// window of exactly the next min(W, run of ordered ops) ops. <paramref name="source"/> gives, for each sector of the source, its sector of
/// the base; −1 for none. Independent of the product and not optimized.
/// </summary>
public sealed class NaiveOverlap
{
    private const int Sector = 512;
    private const int SectorsPerBlock = 8;

    private readonly List<HashSet<int>> _reads = [];
    private readonly List<HashSet<int>> _writes = [];
    private readonly List<bool> _ordered = [];
    private readonly List<uint> _blocks = [];
    private readonly int _window;

    public NaiveOverlap(CowBuilder cow, int window, int[] source)
    {
        _window = window;
        BuiltOp[] ops = [.. cow.Ops.Where(op => op.Type is not (CowOpType.Label or CowOpType.Sequence))];
        HashSet<int> met = [];
        foreach (int index in NaiveOrder.Of(cow))
        {
            BuiltOp op = ops[index];
            bool ordered = op.Type is CowOpType.Copy or CowOpType.Xor;
            int blocks = op.Type == CowOpType.Replace ? op.Plain!.Length / (SectorsPerBlock * Sector) : 1;
            List<int> writes = [.. Enumerable.Range((int)op.NewBlock * SectorsPerBlock, blocks * SectorsPerBlock)];
            List<int> reads = [];
            if (ordered)
            {
                long from = op.Type == CowOpType.Copy ? (long)op.Source * SectorsPerBlock * Sector : (long)op.Source;
                for (long sector = from / Sector; sector * Sector < from + (SectorsPerBlock * Sector); sector++) reads.Add(source[sector]);
            }
            // Of several ops for one block, only the first has an effect. A copy of storage onto itself changes nothing.
            bool nothing = !met.Add(index) || (op.Type == CowOpType.Copy && reads.SequenceEqual(writes));
            _blocks.Add(op.NewBlock);
            _ordered.Add(ordered);
            _reads.Add(nothing ? [] : [.. reads.Where(sector => sector >= 0)]);
            _writes.Add(nothing ? [] : [.. writes]);
        }
    }

    public int Count => _ordered.Count;

    /// <summary>The sectors of the base that the op at a position writes and reads; empty if the op does nothing.</summary>
    public (IReadOnlySet<int> Writes, IReadOnlySet<int> Reads) At(int position) => (_writes[position], _reads[position]);

    /// <summary>The block that the op at a position writes first.</summary>
    public uint BlockAt(int position) => _blocks[position];

    /// <summary>How many ops a window that starts at a count has.</summary>
    public int WindowAt(int count)
    {
        int end = count;
        while (end < Count && end < count + _window && _ordered[end]) end++;
        return end - count;
    }

    /// <summary>Whether the merge can be completed from a count.</summary>
    public OverlapVerdict From(int count)
    {
        for (int writer = 0; writer < count; writer++)
            if (IsReadFrom(count, _writes[writer])) return OverlapVerdict.SourceGone;
        return Reaches(count, allowUnsafe: false) ? OverlapVerdict.Mergeable
            : Reaches(count, allowUnsafe: true) ? OverlapVerdict.WithUnsafeOps : OverlapVerdict.NoWay;
    }

    private bool Reaches(int from, bool allowUnsafe)
    {
        bool[] reached = new bool[Count + 1];
        reached[from] = true;
        for (int at = from; at < Count; at++)
        {
            if (!reached[at]) continue;
            // One op, written and counted by itself: after a crash in between, this op and all later ops run again.
            if (!IsReadFrom(at, _writes[at])) reached[at + 1] = true;
            if (allowUnsafe && _window == 0 && !IsReadFrom(at + 1, _writes[at])) reached[at + 1] = true;
            // A window: after a crash its ops come from scratch, and all later ops run again.
            int end = at + WindowAt(at);
            bool fits = end > at;
            for (int position = at; position < end; position++) fits &= !IsReadFrom(end, _writes[position]);
            if (fits) reached[end] = true;
        }
        return reached[Count];
    }

    private bool IsReadFrom(int position, HashSet<int> sectors)
    {
        for (; position < Count; position++)
            if (_reads[position].Overlaps(sectors)) return true;
        return false;
    }
}
