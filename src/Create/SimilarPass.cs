using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// The last pass over the images: a pending block becomes Xor with the most similar bytes of the old image if that is smaller, else
/// Replace. Candidates are the bytes at the same position, those that continue the match of the previous block or lead up to that of the
/// next block, and those that anchors point to.
/// </summary>
internal sealed class SimilarPass : IPassWorker
{
    /// <summary>
    /// Number of differing bytes above which an Xor is not estimated. If 7 of 8 bytes differ, the payload is noise, which no codec makes
    /// smaller than the block.
    /// </summary>
    private const int Hopeless = CowOp.BlockSize / 8 * 7;

    /// <summary>
    /// Number of differing bytes at which the search ends. A payload takes about 50 bytes for 16 differing bytes and about 20 for none, so
    /// a better match is not worth a search.
    /// </summary>
    private const int GoodEnough = 16;

    /// <summary>
    /// Maximum number of positions that anchors may propose for one block. Each costs a read of 4 KiB, and one anchor in 256 bytes gives
    /// 16.
    /// </summary>
    private const int AnchorTries = 16;

    private const int SmallWindow = WorkerBuffers.WindowBytes / 4;

    private readonly Comparison _comparison;
    private readonly AnchorTable _table;
    private readonly WorkerBuffers _buffers;
    private readonly ICostEstimator _estimator;
    private readonly byte[] _best = new byte[CowOp.BlockSize];
    private readonly long[] _tried = new long[AnchorTries + 3];
    // A window's changes as they were before this pass.
    private readonly PackedChange[] _before = new PackedChange[WorkerBuffers.WindowBlocks];
    private readonly int _zeroCost;
    // Payload bytes of the Xors, by block; null if not needed.
    private readonly NativeArray<ushort>? _xorCosts;
    // Candidates of each kind lie close to the previous one of the same kind, so each kind has its own window.
    private SourceWindow _sameWindow;
    private SourceWindow _followWindow;
    private SourceWindow _anchorWindow;
    private int _triedCount;
    private int _bestDifference;
    private long _bestOffset;

    private SimilarPass(Comparison comparison, AnchorTable table, NativeArray<ushort>? xorCosts)
    {
        _comparison = comparison;
        _table = table;
        _xorCosts = xorCosts;
        _sameWindow = new SourceWindow(comparison.Source);
        _followWindow = new SourceWindow(comparison.Source);
        _anchorWindow = new SourceWindow(comparison.Source);
        _estimator = comparison.MakeEstimator();
        _zeroCost = Math.Clamp(_estimator.Cost(_best), 0, CowOp.BlockSize);
        _buffers = new WorkerBuffers(comparison.Tally);
    }

    /// <summary>
    /// Decides about every pending block. If <paramref name="xorCosts"/> is given, it receives the payload size of each Xor, by block.
    /// </summary>
    public static void Run(Comparison comparison, AnchorTable table, NativeArray<ushort>? xorCosts = null) =>
        comparison.Run(DiffStage.FindSimilar, comparison.TargetBlocks, () => new SimilarPass(comparison, table, xorCosts));

    public void Do(long task)
    {
        // The position of the next block's bytes if it continues the match. It is only known inside a task, because tasks are independent.
        long follow = -1;
        PendingWindows windows = new(_comparison, _buffers, task);
        while (windows.Next())
        {
            Span<PackedChange> changes = windows.Changes;
            Span<PackedChange> before = _before.AsSpan(0, changes.Length);
            changes.CopyTo(before);
            follow = Forward(windows.Start, changes, windows.Bytes, follow);
            Backward(windows.Start, changes, before, windows.Bytes);
        }
    }

    public void Dispose()
    {
        _estimator.Dispose();
        _buffers.Dispose();
    }

    private long Forward(long start, Span<PackedChange> changes, Span<byte> window, long follow)
    {
        for (int i = 0; i < changes.Length; i++)
        {
            if (changes[i].IsPending)
            {
                ReadOnlySpan<byte> block = window.Slice(i * CowOp.BlockSize, CowOp.BlockSize);
                Search(block, start + i, follow);
                changes[i] = Decide(block, start + i);
                if (_bestDifference <= Hopeless) follow = _bestOffset;
            }
            else if (changes[i].Type == CowOpType.Copy)
            {
                follow = changes[i].SourceByte;
            }
            if (follow >= 0) follow += CowOp.BlockSize;
        }
        return follow;
    }

    /// <summary>
    /// Extends matches backward. An insertion usually ends inside a block, so the end of the block before the first match may still equal
    /// the bytes that precede the match.
    /// </summary>
    private void Backward(long start, Span<PackedChange> changes, ReadOnlySpan<PackedChange> before, Span<byte> window)
    {
        for (int i = changes.Length - 2; i >= 0; i--)
        {
            if (!before[i].IsPending || changes[i].IsOrdered || !changes[i + 1].IsOrdered) continue;
            ReadOnlySpan<byte> block = window.Slice(i * CowOp.BlockSize, CowOp.BlockSize);
            Forget();
            Try(block, changes[i + 1].SourceByte - CowOp.BlockSize, ref _followWindow, 1);
            changes[i] = Decide(block, start + i);
        }
    }

    private void Search(ReadOnlySpan<byte> block, long number, long follow)
    {
        Forget();
        Try(block, number * CowOp.BlockSize, ref _sameWindow, 0);
        if (_bestDifference > GoodEnough) Try(block, follow, ref _followWindow, 1);
        if (_bestDifference > GoodEnough) TryAnchors(block);
    }

    private void TryAnchors(ReadOnlySpan<byte> block)
    {
        ulong hash = 0, last = 0;
        int shift = _table.Shift;
        ReadOnlySpan<ulong> words = GearHash.Words;
        for (int i = 0; i < block.Length; i++)
        {
            hash = GearHash.Roll(words, hash, block[i]);
            if (hash >> shift != 0 || hash == last || i < GearHash.Window - 1) continue;
            last = hash;
            long place = _table.Find(hash);
            if (place < 0) continue;
            Try(block, place - (i + 1), ref _anchorWindow, 2);
            if (_bestDifference <= GoodEnough || _triedCount == _tried.Length) return;
        }
    }

    private void Forget()
    {
        _triedCount = 0;
        _bestDifference = int.MaxValue;
        _bestOffset = -1;
    }

    /// <summary>Compares the block with the old image's bytes at an offset, if these are inside the image and not compared yet.</summary>
    private void Try(ReadOnlySpan<byte> block, long offset, ref SourceWindow window, int windowNumber)
    {
        if (offset < 0 || offset > _comparison.Source.Length - CowOp.BlockSize || _tried.AsSpan(0, _triedCount).Contains(offset)) return;
        if (_triedCount < _tried.Length) _tried[_triedCount++] = offset;
        ReadOnlySpan<byte> candidate = window.Read(_buffers.Source.Slice(windowNumber * SmallWindow, SmallWindow), offset);
        int difference = DifferenceKernel.Count(candidate, block);
        if (difference >= _bestDifference) return;
        _bestDifference = difference;
        _bestOffset = offset;
        candidate.CopyTo(_best);
    }

    /// <summary>Decides the result for a block from the best candidate. Overwrites the candidate with the payload of the Xor.</summary>
    private PackedChange Decide(ReadOnlySpan<byte> block, long number)
    {
        if (_bestDifference > Hopeless) return PackedChange.Replace;
        if (_bestDifference == 0 && _bestOffset % CowOp.BlockSize == 0) return PackedChange.Copy(_bestOffset / CowOp.BlockSize);
        int replace = Math.Clamp(_estimator.Cost(block), 0, CowOp.BlockSize);
        if (_bestDifference > 0) XorKernel.XorInto(_best, block);
        int xor = _bestDifference == 0 ? _zeroCost : Math.Clamp(_estimator.Cost(_best), 0, CowOp.BlockSize);
        if (xor + _comparison.Options.XorOverhead >= replace) return PackedChange.Replace;
        if (_xorCosts != null) _xorCosts[number] = (ushort)xor;
        return PackedChange.Xor(_bestOffset, replace - xor);
    }
}
