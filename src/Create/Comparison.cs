using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// The state shared by all passes over a pair of images: the images, the options, and the result so far for each block of the new one.
/// </summary>
internal sealed class Comparison : IDisposable
{
    /// <summary>
    /// Blocks per task: 16 MiB. Within a task a block may use the results of its neighbours. A larger task gives longer runs; a smaller one
    /// keeps more threads busy.
    /// </summary>
    public const int TaskBlocks = 16 * WorkerBuffers.WindowBlocks;

    public Comparison(IImageReader source, IImageReader target, DiffOptions options)
    {
        Source = source;
        Target = target;
        Options = options;
        SourceBlocks = source.Length / CowOp.BlockSize;
        TargetBlocks = target.Length / CowOp.BlockSize;
        // Half of the memory is for windows. The other half is for anchors, whose number must not depend on the number of threads.
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

    /// <summary>8 bytes per block of the new image; freed after the plan is made.</summary>
    public NativeArray<PackedChange> Changes { get; }

    /// <summary>The number of tasks that cover <paramref name="blocks"/> blocks.</summary>
    public static long Tasks(long blocks) => (blocks + TaskBlocks - 1) / TaskBlocks;

    /// <summary>Runs a pass over the blocks of an image, in tasks. Progress is counted in <paramref name="blocks"/>.</summary>
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
