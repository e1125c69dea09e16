using System;
using System.Globalization;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// Costs of a merge that can be counted. The waits depend on the machine's speed, and so does the number of checkpoints if they also come
/// by time. Everything else depends only on the engine and the COW. Bytes are those that passed through the block queue, whether or not the
/// page cache served them. Requests are those submitted to the ring, without wake-ups.
/// </summary>
internal sealed record MergeCounts(EngineRun Run)
{
    // Design §5: a checkpoint is two flushes, a window four.
    private const int FlushesPerWindow = 4, WindowOps = 510;
    private const double PlainBytesPerFlush = 16 << 20;

    // Every merge, even the smallest, flushes base and COW at the start and again for the last checkpoint. These are four flushes; six are
    // allowed.
    private const int FlushesOfAnyMerge = 6;

    /// <summary>Bytes read per byte of target. For a COW with only Copy ops, it is 1 plus the share of the ops themselves.</summary>
    internal double ReadPerByte => Run.BytesRead / (double)Run.TargetBytes;

    /// <summary>Bytes written, to base and COW, per byte of target.</summary>
    internal double WrittenPerByte => Run.BytesWritten / (double)Run.TargetBytes;

    /// <summary>
    /// Bytes written as a share of the allowed number: 1.05 per byte of target outside journaled windows, 2.1 inside. At most 1.
    /// </summary>
    internal double WrittenOfAllowed => Run.BytesWritten / ((1.05 * PlainBytes) + (2.1 * JournaledBytes));

    /// <summary>
    /// Flushes as a share of the allowed number: one per 16 MiB outside journaled windows, four per window, six for any merge. At most 1.
    /// </summary>
    internal double FlushesOfAllowed =>
        Run.Flushes / (FlushesOfAnyMerge + (PlainBytes / PlainBytesPerFlush)
            + (FlushesPerWindow * Math.Ceiling((double)Run.Result.Journaled / WindowOps)));

    /// <summary>Requests per block of target.</summary>
    internal double RequestsPerBlock => Run.Requests / (double)(Run.TargetBytes / CowOp.BlockSize);

    /// <summary>Waits for a completion, each at least one system call, per block of target.</summary>
    internal double WaitsPerBlock => Run.Waits / (double)(Run.TargetBytes / CowOp.BlockSize);

    /// <summary>Managed bytes allocated by the engine's thread while it runs, per op.</summary>
    internal double AllocatedPerOp => Run.RunAllocated / (double)Math.Max(1, Run.Ops);

    private double JournaledBytes => (double)Run.Result.Journaled * CowOp.BlockSize;

    private double PlainBytes => Run.TargetBytes - JournaledBytes;

    /// <summary>A number per 10⁹ bytes of target.</summary>
    internal double PerGigabyte(double count) => count * 1e9 / Run.TargetBytes;

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"read {ReadPerByte:0.000}, written {WrittenPerByte:0.000} per byte ({WrittenOfAllowed:0.000} of allowed), flushes {Run.Flushes} "
        + $"({FlushesOfAllowed:0.00} of allowed), "
        + $"requests {RequestsPerBlock:0.000}, waits {WaitsPerBlock:0.0000} per block, {AllocatedPerOp:0.00} bytes allocated per op, "
        + $"{Run.Collections} collections");
}
