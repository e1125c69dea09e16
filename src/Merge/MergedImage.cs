using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The new image, read from beginning to end without writing anything. Counted ops and blocks without an op are read from Base; a valid
/// window in scratch from there; all other ops from COW and source. Correct in every state in which a merge can stop.
/// </summary>
public sealed class MergedImage : IDisposable
{
    /// <summary>
    /// Bytes per read, unless memory is short: large enough for a disk to stream, small enough to leave most of 8 MiB to the ops.
    /// </summary>
    private const int MostChunk = 1 << 20;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly MergePlan _plan;
    private readonly MetadataImage? _metadata;
    private readonly Pipeline _pipeline;
    private readonly Slice _chunk;
    private readonly int _count;
    private readonly int _windowEnd;

    private MergedImage(MergeSetup setup, CowFile cow, MergePlan plan)
    {
        _setup = setup;
        _cow = cow;
        _plan = plan;
        _count = _windowEnd = (int)cow.Header.NumMergeOps;
        RecoveredWindow left = default;
        ScratchLayout layout = new(cow.Header.HeaderBytes, cow.Header.ScratchBytes);
        if (layout.Window > 0)
        {
            _metadata = new MetadataImage(setup, layout, plan.LongestWindowFrom(_count));
            foreach (IoGroup transfers in _metadata.Load())
                while (!transfers.IsDone) setup.Io.Wait();
            left = RecoveredWindow.Read(cow, plan, _metadata, _count);
            if (!left.IsStale) _windowEnd = _count + left.Entries;
        }
        plan.CheckSources(_count, left, setup);
        int chunk = Math.Clamp(setup.Arena.Free / 8, CowOp.BlockSize, MostChunk) & -CowOp.BlockSize;
        _chunk = setup.Arena.Take(chunk)
            ?? throw new SnapuserdException(ExitCode.OutOfResources, "the buffer memory is too small; try a larger --memory");
        _pipeline = Pipeline.InRestOf(setup, cow);
    }

    /// <summary>Reads and validates the COW against the devices. Exit code 65 if it is corrupt or does not fit.</summary>
    public static MergedImage Open(MergeSetup setup)
    {
        CowFile? cow = null;
        MergePlan? plan = null;
        try
        {
            cow = setup.ReadCow();
            setup.Marker?.Check(cow);
            cow.CheckDevices(setup.Base.Length, setup.Source.Length);
            int window = new ScratchLayout(cow.Header.HeaderBytes, cow.Header.ScratchBytes).Window;
            plan = new MergePlan(cow, window, setup.SharedBlocks, setup.SourceIsBase, setup.Overlap);
            return new MergedImage(setup, cow, plan);
        }
        catch
        {
            plan?.Dispose();
            cow?.Dispose();
            throw;
        }
    }

    /// <summary>The COW.</summary>
    public CowFile Cow => _cow;

    /// <summary>Length of the image in bytes, equal to that of Base.</summary>
    public long Length => _setup.Base.Length;

    /// <summary>
    /// Decodes every payload of the COW, including those of counted ops, and reports to <paramref name="observer"/>. Exit code 65 at the
    /// first payload that does not decode, 75 if asked to stop.
    /// </summary>
    public void VerifyPayloads(IMergeObserver? observer = null) => _pipeline.VerifyPayloads(observer);

    /// <summary>
    /// Reads one chunk of the image at <paramref name="offset"/> (a multiple of 4096); empty at the end. Valid until the next call. Exit
    /// code 74 if a device fails, 65 if a payload does not decode.
    /// </summary>
    public ReadOnlySpan<byte> Read(long offset)
    {
        int length = (int)Math.Min(_chunk.Length, Length - offset);
        Slice chunk = _chunk.Part(0, Math.Max(0, length));
        Batch batch = _pipeline.TryOpen(0)!;
        try
        {
            _setup.Io.Read(_setup.Base.Number, offset, chunk);
            if (_setup.Io.Drain() is { } failure) throw batch.Explain(failure);

            long block = offset / CowOp.BlockSize, end = (offset + length + CowOp.BlockSize - 1) / CowOp.BlockSize;
            while (block < end)
            {
                int position = _cow.Order.PositionWriting(block);
                if (position < 0)
                {
                    block++;
                    continue;
                }
                CowOp op = _plan[position];
                if (position < _count)
                {
                    // Counted: the contents are in Base.
                }
                else if (position < _windowEnd)
                {
                    _setup.Arena[_metadata!.Slot(position - _count)]
                        .CopyTo(_setup.Arena[chunk.Part((int)((block * CowOp.BlockSize) - offset), CowOp.BlockSize)]);
                }
                else if (!batch.TryAddAt(position))
                {
                    Overlay(batch, offset, chunk);
                    continue;
                }
                block = op.NewBlock + op.Blocks;
            }
            Overlay(batch, offset, chunk);
            return _setup.Arena[chunk];
        }
        catch
        {
            _pipeline.Abandon();
            throw;
        }
        finally
        {
            _pipeline.Release();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _plan.Dispose();
        _cow.Dispose();
    }

    private void Overlay(Batch batch, long offset, Slice chunk)
    {
        _pipeline.Produce(batch);
        foreach (ref readonly Batch.Item item in batch.Items)
        {
            long start = (long)item.Op.NewBlock * CowOp.BlockSize;
            long from = Math.Max(start, offset), to = Math.Min(start + item.Data.Length, offset + chunk.Length);
            _setup.Arena[item.Data.Part((int)(from - start), (int)(to - from))]
                .CopyTo(_setup.Arena[chunk.Part((int)(from - offset), (int)(to - from))]);
        }
        batch.Clear(0);
    }
}
