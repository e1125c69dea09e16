using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// Buffers, queue and workers of one merge or view over open devices. The caller keeps the devices, and closes them after
/// <see cref="Dispose"/>: with <see cref="BlockDevice.CloseInUse"/> if <see cref="IsInUse"/> is true.
/// </summary>
public sealed class EngineResources : IDisposable
{
    // With more threads the codecs outrun the devices. Each thread takes about 200 KiB for its contexts.
    private const int MostThreads = 16;

    // More jobs than all buffers of a merge without windows hold, so that no worker waits for the merge thread to post the next one.
    private const int JobsUnderWay = 64;

    private readonly IBlockQueue _below;
    private readonly IBlockQueue _queue;
    private readonly WorkQueue<DecodeJob> _workers;

    /// <summary>
    /// Allocates everything. With <paramref name="maps"/>, the devices of the engine consist of pieces of <paramref name="devices"/>.
    /// <paramref name="wakeUp"/> must outlive it. Exit codes 69 and 71 if no queue can be created.
    /// </summary>
    public EngineResources(BlockDevice[] devices, DeviceOptions options, WakeUp wakeUp, PieceMap[]? maps = null)
    {
        Arena = new Arena(options.ArenaBytes);
        try
        {
            IBlockQueue queue = MakeQueue(devices, options, wakeUp);
            IsRing = queue is RingQueue;
            _below = queue;
            _queue = maps == null ? queue : new PieceQueue(queue, maps, Arena);
            int threads = options.Threads > 0 ? options.Threads : Math.Clamp(Environment.ProcessorCount, 1, MostThreads);
            // Even a single worker gets its own thread: if the merge thread decoded, the devices would idle meanwhile.
            _workers = new WorkQueue<DecodeJob>(threads, JobsUnderWay, () => new DecodeWorker(), wakeUp);
            Io = new IoScheduler(_queue, maps == null ? Array.ConvertAll(devices, device => device.Granule) : Granules(devices, maps));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>All buffer memory.</summary>
    public Arena Arena { get; }

    /// <summary>Transfers to and from the engine's devices.</summary>
    public IoScheduler Io { get; }

    /// <summary>The threads that decode.</summary>
    public IWorkQueue<DecodeJob> Workers => _workers;

    /// <summary>The queue is io_uring's, not that of system calls.</summary>
    public bool IsRing { get; }

    /// <summary>
    /// The kernel may still write to buffers whose requests could not be reaped. They stay mapped: the process ends soon.
    /// </summary>
    public bool IsInUse => Io is { Broken: true } || _below is RingQueue { Leaked: true };

    /// <inheritdoc/>
    public void Dispose()
    {
        _workers?.Dispose();
        _queue?.Dispose();
        if (!IsInUse) Arena.Dispose();
    }

    /// <summary>Pieces are used through the page cache, whose requests have no alignment.</summary>
    private static int[] Granules(BlockDevice[] devices, PieceMap[] maps)
    {
        foreach (BlockDevice device in devices)
            if (device.Granule != 1) throw new ArgumentException($"{device.Path} is direct", nameof(devices));
        int[] granules = new int[maps.Length];
        Array.Fill(granules, 1);
        return granules;
    }

    private IBlockQueue MakeQueue(BlockDevice[] devices, DeviceOptions options, WakeUp wakeUp)
    {
        if (options.Io != IoChoice.Sync)
        {
            UringUnavailable? refusal = RingQueue.TryCreate(devices, Arena, wakeUp, options.QueueDepth, out RingQueue? ring);
            if (refusal is not { } why) return ring!;
            if (options.Io == IoChoice.Uring)
                throw new SnapuserdException(Errno.IsOutOfResources(why.Errno) ? ExitCode.OutOfResources : ExitCode.Unavailable,
                    why.Sentence);
            options.Report($"going on without io_uring: {why.Sentence}");
        }
        return new SyncQueue(devices, Arena, wakeUp, options.QueueDepth);
    }
}
