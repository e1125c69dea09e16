using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Daemon;

/// <summary>
/// The devices of one merge or view, opened and locked, with everything the engine needs to move their bytes: queue, buffers, workers, clock.
/// </summary>
public sealed class DeviceSet : IDisposable
{
    // Beyond this many the devices are slower than the codecs; each takes some 200 KiB for its contexts.
    private const int MostThreads = 16;

    // More than all rooms of a merge without windows hold: no thread waits for the engine to come round.
    private const int JobsUnderWay = 64;

    private readonly BlockDevice _cow;
    private readonly BlockDevice? _base;
    private readonly BlockDevice? _source;
    private readonly WakeUp _wakeUp;
    private readonly Arena _arena;
    private readonly IBlockQueue _queue;
    private readonly WorkQueue<DecodeJob> _workers;

    /// <summary>
    /// Opens what the options name. <paramref name="stop"/> and <paramref name="wakeUp"/> outlive it. Exit codes as <see cref="BlockDevice.Open"/> has them, 64 for paths
    /// that do not go together, 69 and 71 for a queue that cannot be had.
    /// </summary>
    public DeviceSet(DeviceOptions options, StopFlag stop, WakeUp wakeUp)
    {
        _wakeUp = wakeUp;
        string cow = options.Cow;
        string? basePath = options.Base, sourcePath = options.Source;
        DeviceAccess access = options.Writes ? DeviceAccess.Write | DeviceAccess.Exclusive : DeviceAccess.Shared;
        try
        {
            if (basePath != null) RefuseSame(cow, basePath);
            _cow = BlockDevice.Open(cow, access);
            if (basePath != null) _base = BlockDevice.Open(basePath, access);
            if (sourcePath != null) _source = OpenSource(sourcePath, options.SourceSeparate);
            _arena = new Arena(options.ArenaBytes);
            Devices = _source != null ? [_cow, _base!, _source] : _base != null ? [_cow, _base] : [_cow];
            _queue = MakeQueue(options, Devices);
            int threads = options.Threads > 0 ? options.Threads : Math.Clamp(Environment.ProcessorCount, 1, MostThreads);
            // Also with a single one: the devices are not to wait while the engine decodes.
            _workers = new WorkQueue<DecodeJob>(threads, JobsUnderWay, () => new DecodeWorker(), _wakeUp);
            MergeDevice baseDevice = _base == null ? new MergeDevice(0, cow, _cow.Length) : new MergeDevice(1, basePath!, _base.Length);
            Setup = new MergeSetup
            {
                Io = new Transfers(_queue, Array.ConvertAll(Devices, device => device.Granule)),
                Arena = _arena,
                Workers = _workers,
                Time = new MonotonicClock(),
                Cow = new MergeDevice(0, cow, _cow.Length),
                Base = baseDevice,
                Source = _source == null ? baseDevice : new MergeDevice(2, sourcePath!, _source.Length),
                SharedBlocks = !options.SourceSeparate,
                Stop = stop,
            };
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The devices by number: COW, base, source if it is another.</summary>
    public BlockDevice[] Devices { get; }

    /// <summary>What the engine takes.</summary>
    public MergeSetup Setup { get; }

    /// <summary>"uring" or "sync".</summary>
    public string Io => _queue is RingQueue ? "uring" : "sync";

    /// <summary>True if <paramref name="path"/> is one of the devices, whatever it is called.</summary>
    public bool Contains(BlockDevice device) =>
        device.SameFileAs(_cow) || (_base?.SameFileAs(device) ?? false) || (_source?.SameFileAs(device) ?? false);

    /// <summary>
    /// After an I/O error: what was written beside the request that failed is still in the page cache, and its write-back may fail as well. The
    /// kernel tells that once, to whoever flushes next; it is to be this run, which ends anyway, and not the one that goes on. Nobody believes a success here.
    /// </summary>
    public void TakeErrors()
    {
        if (_base != null) _ = Libc.FSync(_base.Fd);
        _ = Libc.FSync(_cow.Fd);
    }

    /// <summary>Closes them, unless the kernel may still write to the buffers.</summary>
    public void Dispose()
    {
        _workers?.Dispose();
        _queue?.Dispose();
        // The kernel may still write to buffers that could not be reaped; the process is about to end, and they stay mapped until then.
        bool inUse = Setup is { Io.Broken: true } || _queue is RingQueue { Leaked: true };
        if (!inUse) _arena?.Dispose();
        foreach (BlockDevice? device in (ReadOnlySpan<BlockDevice?>)[_source, _base, _cow])
        {
            if (inUse) device?.CloseInUse();
            else device?.Dispose();
        }
    }

    /// <summary>Before anything is locked: a lock that this process holds itself would be taken for another merge.</summary>
    private static void RefuseSame(string cowPath, string basePath)
    {
        using BlockDevice cow = BlockDevice.Open(cowPath, DeviceAccess.Read);
        using BlockDevice other = BlockDevice.Open(basePath, DeviceAccess.Read);
        if (cow.SameFileAs(other)) throw new SnapuserdException(ExitCode.Usage, $"{cowPath} and {basePath} are the same; the COW cannot be its own base");
    }

    private BlockDevice? OpenSource(string path, bool separate)
    {
        BlockDevice source = BlockDevice.Open(path, DeviceAccess.Read);
        if (source.SameFileAs(_cow))
        {
            source.Dispose();
            throw new SnapuserdException(ExitCode.Usage, $"{path} is the COW; it cannot be the source as well");
        }
        if (_base == null || !source.SameFileAs(_base)) return source;
        if (separate)
        {
            // Believing it would let the merge overwrite blocks that it still has to read.
            source.Dispose();
            throw new SnapuserdException(ExitCode.Usage, $"--source-separate is given, but {path} is the base itself");
        }
        // One device, one number: what is written to the base is what the source reads.
        source.Dispose();
        return null;
    }

    private IBlockQueue MakeQueue(DeviceOptions options, BlockDevice[] devices)
    {
        if (options.Io != IoChoice.Sync)
        {
            RingRefusal? refusal = RingQueue.TryCreate(devices, _arena, _wakeUp, options.QueueDepth, out RingQueue? ring);
            if (refusal is not { } why) return ring!;
            if (options.Io == IoChoice.Uring)
            {
                bool exhausted = why.Errno is -Errno.ENOMEM or -Errno.EMFILE or -Errno.ENFILE;
                throw new SnapuserdException(exhausted ? ExitCode.OutOfResources : ExitCode.Unavailable, why.Sentence);
            }
            options.Report($"going on without io_uring: {why.Sentence}");
        }
        return new SyncQueue(devices, _arena, _wakeUp, options.QueueDepth);
    }
}
