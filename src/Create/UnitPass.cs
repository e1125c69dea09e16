using System;
using System.Numerics;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Replaces Xors that save nothing compared with a unit of several blocks. <see cref="SimilarPass"/> compares an Xor with a unit of its
/// block alone. But neighbouring Replace blocks share a unit, in which repeated bytes cost only once. So this pass divides each stretch of
/// neighbouring Xor and Replace blocks into the units that the writer would make if all were Replace. If a unit costs no more than its Xors
/// and the blocks between them, its Xors become Replace. Finally the pass compares the whole stretch, with its remaining Xors and without
/// any, because an Xor moves the units that follow it.
/// </summary>
internal sealed class UnitPass : IPassWorker
{
    private readonly Comparison _comparison;
    private readonly NativeArray<PackedChange> _changes;
    private readonly NativeArray<ushort> _xorCosts;
    private readonly NativeArray<byte> _memory;
    private readonly ICostEstimator _estimator;
    private readonly StopPoll _stop;
    private readonly int _largest;
    // Bytes of the op that each unit and each Xor needs.
    private readonly int _op;
    // The current stretch, and its cost with its Xors and without them, as far as the two differ.
    private long _start;
    private long _end;
    private long _mixed;
    private long _replaced;

    private UnitPass(Comparison comparison, NativeArray<ushort> xorCosts)
    {
        _comparison = comparison;
        _changes = comparison.Changes;
        _xorCosts = xorCosts;
        _largest = comparison.Options.MaxUnitBytes / CowOp.BlockSize;
        _op = comparison.Options.XorOverhead;
        _stop = new StopPoll(comparison.Options.Stop);
        _estimator = comparison.MakeEstimator();
        _memory = new NativeArray<byte>(comparison.Tally, comparison.Options.MaxUnitBytes, "a unit");
    }

    /// <summary>Processes all stretches. <paramref name="xorCosts"/> are the payloads of the Xors in bytes, by block.</summary>
    public static void Run(Comparison comparison, NativeArray<ushort> xorCosts) =>
        BlockPass.Run(Comparison.Tasks(comparison.TargetBlocks), comparison.Threads, () => new UnitPass(comparison, xorCosts),
            comparison.Options.Stop, null);

    /// <summary>
    /// Blocks of the unit that begins at block <paramref name="at"/> if the writer cuts start … end − 1: as many of the largest as fit,
    /// then one unit per power of two in the rest (cow-format §7.3). 0 if none begins there.
    /// </summary>
    internal static int UnitAt(long start, long end, long at, int largest)
    {
        long offset = at - start, whole = (end - start) / largest * largest;
        if (offset < whole) return offset % largest == 0 ? largest : 0;
        uint rest = (uint)(end - at), beyond = (uint)(offset - whole);
        if (rest == 0) return 0;
        uint unit = 1U << BitOperations.Log2(rest);
        // The units before it are larger, so their sizes are all in higher bits.
        return (beyond & ((2 * unit) - 1)) == 0 ? (int)unit : 0;
    }

    /// <summary>
    /// Processes the stretches that begin in the task; they may end after it. Other threads may turn Xor into Replace in the surrounding
    /// blocks at the same time. This does not move the ends of a stretch, so the result does not depend on it.
    /// </summary>
    public void Do(long task)
    {
        long end = Math.Min((task + 1) * Comparison.TaskBlocks, _changes.Length), block = task * Comparison.TaskBlocks;
        if (block > 0 && IsInStretch(block - 1))
            while (block < end && IsInStretch(block)) block++;
        while (block < end)
        {
            _start = block;
            bool xors = false;
            for (; block < _changes.Length && IsInStretch(block); block++) xors |= IsXor(block);
            _end = block;
            // A single block was compared by the previous pass.
            if (xors && _end - _start > 1) Weigh();
            if (_end == _start) block++;
        }
    }

    public void Dispose()
    {
        _estimator.Dispose();
        _memory.Dispose();
    }

    private bool IsInStretch(long block) => _changes[block].Type is CowOpType.Xor or CowOpType.Replace;

    private bool IsXor(long block) => _changes[block].Type == CowOpType.Xor;

    private void Weigh()
    {
        _mixed = _replaced = 0;
        bool kept = false;
        int count;
        for (long at = _start; at < _end; at += count)
        {
            _stop.Step();
            count = UnitAt(_start, _end, at, _largest);
            kept |= WeighUnit(at, count);
        }
        if (!kept) return;
        for (long at = _start; at < _end; at++)
        {
            if (IsXor(at)) continue;
            long first = at;
            while (at < _end && !IsXor(at)) at++;
            AddRun(first, at);
        }
        if (_mixed > _replaced) Replace(_start, _end);
    }

    /// <summary>
    /// Makes all blocks of a unit Replace if that is not larger. Otherwise adds the costs of the unit to both sums, and returns true. Also
    /// returns false for a unit without Xors.
    /// </summary>
    private bool WeighUnit(long at, int count)
    {
        long xors = 0;
        int number = 0, least = 0;
        for (long block = at; block < at + count; block++)
        {
            if (!IsXor(block)) continue;
            number++;
            xors += _xorCosts[block] + _op;
            least = Math.Max(least, _xorCosts[block] + _changes[block].ExtraCost);
        }
        if (number == 0) return false;
        long unit;
        if (number == count && xors < least / 2)
        {
            // A unit takes about as much as its largest block alone, and no codec takes less than half of that. So the Xors are smaller,
            // and the unit need not be encoded. The sums count it as if it were as large as its Xors.
            unit = xors;
        }
        else
        {
            ReadOnlySpan<byte> data = Read(at, count);
            unit = Cost(data);
            if (unit <= xors || unit <= xors + Pieces(at, count, data, unit - xors))
            {
                Replace(at, at + count);
                return false;
            }
        }
        _mixed += xors;
        _replaced += unit;
        return true;
    }

    /// <summary>
    /// The cost of the Replace blocks between the Xors of a unit, as separate units. The count ends once it reaches
    /// <paramref name="limit"/>.
    /// </summary>
    private long Pieces(long at, int count, ReadOnlySpan<byte> data, long limit)
    {
        long sum = 0, end = at + count;
        for (long block = at; block < end; block++)
        {
            if (IsXor(block)) continue;
            long first = block;
            while (block < end && !IsXor(block)) block++;
            int unit;
            for (long piece = first; piece < block && sum < limit; piece += unit)
            {
                unit = UnitAt(first, block, piece, _largest);
                sum += Cost(data.Slice((int)(piece - at) * CowOp.BlockSize, unit * CowOp.BlockSize));
            }
        }
        return sum;
    }

    /// <summary>
    /// Adds a run of Replace blocks to both sums: as the writer cuts it after the preceding Xor, and as it would cut it without Xors. Units
    /// that are the same in both are left out.
    /// </summary>
    private void AddRun(long first, long end)
    {
        for (long at = first; at < end; at++)
        {
            _stop.Step();
            int real = UnitAt(first, end, at, _largest), other = UnitAt(_start, _end, at, _largest);
            if (real == other) continue;
            if (real > 0) _mixed += Cost(Read(at, real));
            // A unit that extends past the run has an Xor in it and is already counted.
            if (other > 0 && at + other <= end) _replaced += Cost(Read(at, other));
        }
    }

    private void Replace(long from, long end)
    {
        for (long block = from; block < end; block++) _changes[block] = PackedChange.Replace;
    }

    private ReadOnlySpan<byte> Read(long at, int count)
    {
        _stop.Look();
        Span<byte> data = _memory.Slice(0, count * CowOp.BlockSize);
        _comparison.Target.Read(at * CowOp.BlockSize, data);
        return data;
    }

    private long Cost(ReadOnlySpan<byte> unit) => Math.Clamp(_estimator.Cost(unit), 0, unit.Length) + _op;
}
