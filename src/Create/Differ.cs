using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>Computes the ops that turn one image into another.</summary>
public static class Differ
{
    /// <summary>Largest image in bytes: its blocks have 32-bit numbers (cow-format §12).</summary>
    public const long MaximumImageBytes = (1L << 32) * CowOp.BlockSize;

    /// <summary>
    /// Compares <paramref name="target"/> with <paramref name="source"/>. Neither may change while this runs. Exit code 64 for an image
    /// that is too large or not a multiple of the block size, or for options out of range; 71 without memory, 74 if a read fails, 75 if
    /// stopped.
    /// </summary>
    public static DiffPlan Compare(IImageReader source, IImageReader target, DiffOptions options)
    {
        CheckLength(source);
        CheckLength(target);
        CheckOptions(options);
        using var comparison = new Comparison(source, target, options);
        Classify(comparison);

        var stop = new StopPoll(options.Stop);
        stop.Look();
        Counts counts = Count(comparison.Changes, stop);
        long broken = CycleBreaker.Run(comparison, counts.Ordered);
        if (broken > 0) counts = Count(comparison.Changes, stop);
        using NativeArray<uint> order = MergeSequence.Order(comparison.Tally, comparison.Changes, counts.Ordered, stop);
        NativeArray<PackedRun> runs = MakeRuns(comparison, order, stop);
        options.Progress?.Invoke(new DiffProgress(DiffStage.Order, target.Length, target.Length));
        return new DiffPlan(runs)
        {
            UnchangedBlocks = comparison.TargetBlocks - counts.Changed,
            CopyBlocks = counts.Copy,
            XorBlocks = counts.Xor,
            ReplaceBlocks = counts.Replace,
            ZeroBlocks = counts.Zero,
            CyclesBroken = broken,
            PeakNativeBytes = comparison.Tally.Peak,
        };
    }

    /// <summary>Assigns a kind to every changed block of the new image.</summary>
    private static void Classify(Comparison comparison)
    {
        SourceIndex index;
        using (NativeArray<ulong> hashes = ComparePass.Run(comparison)) index = new SourceIndex(comparison.Tally, hashes);
        using (index) MovedPass.Run(comparison, index);
        long pending = CountPending(comparison.Changes);
        if (pending == 0) return;
        if (comparison.Options.Xor && comparison.SourceBlocks > 0) FindSimilar(comparison, pending);
        else ReplacePending(comparison.Changes);
    }

    private static void FindSimilar(Comparison comparison, long pending)
    {
        using var anchors = new AnchorTable(comparison.Tally, comparison.Options.MemoryBytes / 2, pending);
        AnchorPass.Run(comparison, anchors);
        PlacePass.Run(comparison, anchors);
        if (comparison.Options.MaxUnitBytes == CowOp.BlockSize)
        {
            SimilarPass.Run(comparison, anchors);
            return;
        }
        // 2 bytes per block; the hashes, which took 8, are already freed.
        using var xorCosts = new NativeArray<ushort>(comparison.Tally, comparison.TargetBlocks, "the costs of similar blocks");
        SimilarPass.Run(comparison, anchors, xorCosts);
        UnitPass.Run(comparison, xorCosts);
    }

    private static long CountPending(NativeArray<PackedChange> changes)
    {
        long count = 0;
        for (long block = 0; block < changes.Length; block++)
            if (changes[block].IsPending) count++;
        return count;
    }

    private static void ReplacePending(NativeArray<PackedChange> changes)
    {
        for (long block = 0; block < changes.Length; block++)
            if (changes[block].IsPending) changes[block] = PackedChange.Replace;
    }

    private static NativeArray<PackedRun> MakeRuns(Comparison comparison, NativeArray<uint> order, StopPoll stop)
    {
        var counter = new PlanWriter(null);
        AddAll(ref counter, comparison.Changes, order, stop);
        if (counter.Runs > int.MaxValue)
            throw new SnapuserdException(ExitCode.Usage, $"the images differ in {counter.Runs} runs, more than a COW can describe");
        var runs = new NativeArray<PackedRun>(comparison.Tally, counter.Runs, "the plan");
        var writer = new PlanWriter(runs);
        try
        {
            AddAll(ref writer, comparison.Changes, order, stop);
            return runs;
        }
        catch
        {
            runs.Dispose();
            throw;
        }
    }

    private static void AddAll(ref PlanWriter writer, NativeArray<PackedChange> changes, NativeArray<uint> order, StopPoll stop)
    {
        for (long i = 0; i < order.Length; i++)
        {
            stop.Step();
            writer.Add(order[i], changes[order[i]]);
        }
        for (long block = 0; block < changes.Length; block++)
        {
            stop.Step();
            PackedChange change = changes[block];
            if (!change.IsUnchanged && !change.IsOrdered) writer.Add(block, change);
        }
        writer.End();
    }

    private static Counts Count(NativeArray<PackedChange> changes, StopPoll stop)
    {
        Counts counts = default;
        for (long block = 0; block < changes.Length; block++)
        {
            stop.Step();
            switch (changes[block].Type)
            {
                case CowOpType.Copy: counts.Copy++; break;
                case CowOpType.Xor: counts.Xor++; break;
                case CowOpType.Replace: counts.Replace++; break;
                case CowOpType.Zero: counts.Zero++; break;
            }
        }
        return counts;
    }

    private static void CheckOptions(DiffOptions options)
    {
        if (options.Threads < 1) throw new SnapuserdException(ExitCode.Usage, $"{options.Threads} threads cannot compare anything");
        if (!int.IsPow2(options.MaxUnitBytes) || options.MaxUnitBytes is < CowOp.BlockSize or > DiffOptions.MostUnitBytes)
            throw new SnapuserdException(ExitCode.Usage,
                $"a unit of {options.MaxUnitBytes} bytes is not a power of two from {CowOp.BlockSize} to {DiffOptions.MostUnitBytes}");
        if (options.MemoryBytes < DiffOptions.MinimumMemoryBytes)
            throw new SnapuserdException(ExitCode.Usage,
                $"comparing images needs at least {DiffOptions.MinimumMemoryBytes} bytes of memory, not {options.MemoryBytes}");
    }

    private static void CheckLength(IImageReader image)
    {
        if (image.Length % CowOp.BlockSize != 0)
            throw new SnapuserdException(ExitCode.Usage,
                $"{image.Name} has {image.Length} bytes, which is not a multiple of {CowOp.BlockSize}");
        if (image.Length > MaximumImageBytes)
            throw new SnapuserdException(ExitCode.Usage,
                $"{image.Name} has {image.Length} bytes, more than the 16 TiB that a COW can describe");
    }

    private struct Counts
    {
        public long Copy, Xor, Replace, Zero;

        public readonly long Ordered => Copy + Xor;

        public readonly long Changed => Copy + Xor + Replace + Zero;
    }
}
