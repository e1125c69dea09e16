using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// The first pass: reads both images in parallel, once. After it, each block of the new image is unchanged, zero or pending. Each block of
/// the old image has a hash, or 0 if it is all zeros: zeros are never copied, because a Zero op has no payload and reads nothing.
/// </summary>
internal sealed class ComparePass : IPassWorker
{
    private readonly Comparison _comparison;
    private readonly NativeArray<ulong> _hashes;
    private readonly WorkerBuffers _buffers;
    private HoleCursor _sourceHoles;
    private HoleCursor _targetHoles;

    private ComparePass(Comparison comparison, NativeArray<ulong> hashes)
    {
        _comparison = comparison;
        _hashes = hashes;
        _sourceHoles = new HoleCursor(comparison.Source);
        _targetHoles = new HoleCursor(comparison.Target);
        _buffers = new WorkerBuffers(comparison.Tally);
    }

    /// <summary>Fills <see cref="Comparison.Changes"/> and returns the hashes, 8 bytes per block of the old image.</summary>
    public static NativeArray<ulong> Run(Comparison comparison)
    {
        var hashes = new NativeArray<ulong>(comparison.Tally, comparison.SourceBlocks, "the hashes");
        try
        {
            long blocks = Math.Max(comparison.SourceBlocks, comparison.TargetBlocks);
            comparison.Run(DiffStage.Compare, blocks, () => new ComparePass(comparison, hashes));
            return hashes;
        }
        catch
        {
            hashes.Dispose();
            throw;
        }
    }

    public void Do(long task)
    {
        long start = task * Comparison.TaskBlocks;
        for (long window = start; window < start + Comparison.TaskBlocks; window += WorkerBuffers.WindowBlocks) CompareWindow(window);
    }

    public void Dispose() => _buffers.Dispose();

    private void CompareWindow(long start)
    {
        int olds = (int)Math.Clamp(_comparison.SourceBlocks - start, 0, WorkerBuffers.WindowBlocks);
        int news = (int)Math.Clamp(_comparison.TargetBlocks - start, 0, WorkerBuffers.WindowBlocks);
        long offset = start * CowOp.BlockSize;
        bool oldZero = olds == 0 || _sourceHoles.Covers(offset, (long)olds * CowOp.BlockSize);
        bool newZero = news == 0 || _targetHoles.Covers(offset, (long)news * CowOp.BlockSize);
        Span<PackedChange> changes = _comparison.Changes.Slice(start, news);
        if (oldZero && newZero)
        {
            // After the end of the old image the base device has undefined contents, so zeros must be written there.
            if (news > olds) changes[olds..].Fill(PackedChange.Zero);
            return;
        }

        Span<byte> old = _buffers.Source[..(olds * CowOp.BlockSize)];
        Span<byte> now = _buffers.Target[..(news * CowOp.BlockSize)];
        Fill(_comparison.Source, oldZero, offset, old);
        Fill(_comparison.Target, newZero, offset, now);
        Span<ulong> hashes = _hashes.Slice(start, olds);
        for (int i = 0; i < hashes.Length && !oldZero; i++)
        {
            ReadOnlySpan<byte> block = old.Slice(i * CowOp.BlockSize, CowOp.BlockSize);
            hashes[i] = ZeroKernel.IsZero(block) ? 0 : _comparison.Options.Hash(block);
        }
        for (int i = 0; i < changes.Length; i++)
        {
            ReadOnlySpan<byte> block = now.Slice(i * CowOp.BlockSize, CowOp.BlockSize);
            if (i < olds && block.SequenceEqual(old.Slice(i * CowOp.BlockSize, CowOp.BlockSize))) continue;
            changes[i] = ZeroKernel.IsZero(block) ? PackedChange.Zero : PackedChange.Pending;
        }
    }

    private static void Fill(IImageReader image, bool zero, long offset, Span<byte> bytes)
    {
        if (zero) bytes.Clear();
        else image.Read(offset, bytes);
    }
}
