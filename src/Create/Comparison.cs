using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>What all passes over a pair of images share: the images, the options, and what is known about each block of the new one.</summary>
internal sealed class Comparison : IDisposable
{
    /// <summary>
    /// Blocks per task: 16 MiB. Inside a task a block may lean on what was found for its neighbours; a larger task gives longer runs,
    /// a smaller one more threads something to do.
    /// </summary>
    public const int TaskBlocks = 16 * WorkerBuffers.WindowBlocks;

    public Comparison(IImageReader source, IImageReader target, DiffOptions options)
    {
        Source = source;
        Target = target;
        Options = options;
        SourceBlocks = source.Length / CowOp.BlockSize;
        TargetBlocks = target.Length / CowOp.BlockSize;
        // Half of the memory for windows: the other half belongs to the anchors, whose number must not depend on the threads.
        Threads = (int)Math.Clamp(options.MemoryBytes / 2 / WorkerBuffers.Bytes, 1, options.Threads);
        Changes = new NativeArray<PackedChange>(Tally, TargetBlocks, "the changes");
    }

    public IImageReader Source { get; }
    public IImageReader Target { get; }
    public DiffOptions Options { get; }
    public NativeTally Tally { get; } = new();
    public int Threads { get; }
    public long SourceBlocks { get; }
    public long TargetBlocks { get; }

    /// <summary>8 bytes per block of the new image; freed when the plan is made.</summary>
    public NativeArray<PackedChange> Changes { get; }

    /// <summary>Tasks that cover so many blocks.</summary>
    public static long Tasks(long blocks) => (blocks + TaskBlocks - 1) / TaskBlocks;

    /// <summary>Runs a pass over the blocks of an image, a task each; <paramref name="blocks"/> are what progress counts.</summary>
    public void Run(DiffStage stage, long blocks, Func<IPassWorker> makeWorker) =>
        BlockPass.Run(Tasks(blocks), Threads, makeWorker, Options.Stop, Progress(stage, TaskBlocks, blocks));

    /// <summary>An estimator for one worker.</summary>
    public ICostEstimator MakeEstimator() => Options.Estimator?.Invoke() ?? new EntropyEstimator();

    /// <inheritdoc/>
    public void Dispose() => Changes.Dispose();

    private Action<long>? Progress(DiffStage stage, long taskBlocks, long blocks)
    {
        if (Options.Progress is not { } progress) return null;
        return done => progress(new DiffProgress(stage, Math.Min(done * taskBlocks, blocks) * CowOp.BlockSize, blocks * CowOp.BlockSize));
    }
}
