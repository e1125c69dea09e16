using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>Decompression and XOR for consecutive ops of one batch.</summary>
public readonly struct DecodeJob
{
    private readonly Batch _batch;
    private readonly int _from;
    private readonly int _to;

    internal DecodeJob(Batch batch, int from, int to) => (_batch, _from, _to) = (batch, from, to);

    /// <summary>
    /// Produces the contents. Returns 0, or the first negative <see cref="UnitError"/>. <paramref name="block"/> is 4096 bytes that belong
    /// to the worker.
    /// </summary>
    internal int Do(UnitDecoder decoder, Span<byte> block) => _batch.Decode(_from, _to, decoder, block);
}

/// <summary>A worker that runs <see cref="DecodeJob"/>s, with its own codec contexts.</summary>
public sealed class DecodeWorker : IWorker<DecodeJob>
{
    private readonly UnitDecoder _decoder = new();
    private readonly byte[] _block = new byte[CowOp.BlockSize];

    /// <inheritdoc/>
    public int Do(in DecodeJob job) => job.Do(_decoder, _block);

    /// <inheritdoc/>
    public void Dispose() => _decoder.Dispose();
}
