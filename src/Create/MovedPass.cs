using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>The second pass: a pending block that exists elsewhere in the old image becomes Copy.</summary>
internal sealed class MovedPass : IPassWorker
{
    /// <summary>
    /// Maximum number of blocks with the same hash that are compared. With 64-bit hashes the first one normally matches. The limit is for
    /// images that were made to collide: it bounds the time per block.
    /// </summary>
    private const int Tries = 8;

    private readonly Comparison _comparison;
    private readonly SourceIndex _index;
    private readonly WorkerBuffers _buffers;
    private SourceWindow _source;

    private MovedPass(Comparison comparison, SourceIndex index)
    {
        _comparison = comparison;
        _index = index;
        _source = new SourceWindow(comparison.Source);
        _buffers = new WorkerBuffers(comparison.Tally);
    }

    public static void Run(Comparison comparison, SourceIndex index) =>
        comparison.Run(DiffStage.FindMoved, comparison.TargetBlocks, () => new MovedPass(comparison, index));

    public void Do(long task)
    {
        // The expected source of the next block if it continues a run. A run never continues from one task to the next, because tasks are
        // independent.
        long follow = -1;
        PendingWindows windows = new(_comparison, _buffers, task);
        while (windows.Next())
        {
            Span<PackedChange> changes = windows.Changes;
            for (int i = 0; i < changes.Length; i++)
            {
                if (!changes[i].IsPending)
                {
                    follow = -1;
                    continue;
                }
                long found = Find(windows.Bytes.Slice(i * CowOp.BlockSize, CowOp.BlockSize), windows.Start + i, follow);
                if (found >= 0) changes[i] = PackedChange.Copy(found);
                follow = found < 0 ? -1 : found + 1;
            }
        }
    }

    public void Dispose() => _buffers.Dispose();

    /// <summary>The block of the old image with these bytes that continues the run, else the nearest one; -1 if none is found.</summary>
    private long Find(ReadOnlySpan<byte> block, long near, long follow)
    {
        if (follow >= 0 && IsSame(follow, block)) return follow;
        ulong hash = _comparison.Options.Hash(block);
        for (int rank = 0; rank < Tries; rank++)
        {
            long candidate = _index.Nearest(hash, near, rank);
            if (candidate < 0) return -1;
            if (IsSame(candidate, block)) return candidate;
        }
        return -1;
    }

    private bool IsSame(long sourceBlock, ReadOnlySpan<byte> block) =>
        sourceBlock < _comparison.SourceBlocks && _source.Read(_buffers.Source, sourceBlock * CowOp.BlockSize).SequenceEqual(block);
}
