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
        string cow = options.Cow, cowName = options.CowName ?? cow;
        string? basePath = options.Base, sourcePath = options.Source;
        DeviceAccess access = options.Writes ? DeviceAccess.Write | DeviceAccess.Exclusive : DeviceAccess.Shared;
        if (options.WithoutLock) access |= DeviceAccess.WithoutLock;
        try
        {
            bool ownSource = Relate(options, out ReadOnlyMemory<SharedRange>? overlap);
            _cow = BlockDevice.Open(cow, access);
            if (basePath != null) _base = BlockDevice.Open(basePath, access);
            if (ownSource) _source = BlockDevice.Open(sourcePath!, DeviceAccess.Shared, _base);
            CheckUnmoved(options, ownSource, overlap);
            foreach (BlockDevice? device in (ReadOnlySpan<BlockDevice?>)[_cow, _base, _source])
                if (device?.NotLocked is { } sentence) options.Report(sentence);
            if (overlap is { Length: > 0 }) SharedCaches.MakeCoherent(_source!, _base!);
            _arena = new Arena(options.ArenaBytes);
            Devices = _source != null ? [_cow, _base!, _source] : _base != null ? [_cow, _base] : [_cow];
            _queue = MakeQueue(options, Devices);
            int threads = options.Threads > 0 ? options.Threads : Math.Clamp(Environment.ProcessorCount, 1, MostThreads);
            // Also with a single one: the devices are not to wait while the engine decodes.
            _workers = new WorkQueue<DecodeJob>(threads, JobsUnderWay, () => new DecodeWorker(), _wakeUp);
            MergeDevice baseDevice = _base == null ? new MergeDevice(0, cowName, _cow.Length) : new MergeDevice(1, options.BaseName ?? basePath!, _base.Length);
            Setup = new MergeSetup
            {
                Io = new Transfers(_queue, Array.ConvertAll(Devices, device => device.Granule)),
                Arena = _arena,
                Workers = _workers,
                Time = new MonotonicClock(),
                Cow = new MergeDevice(0, cowName, _cow.Length),
                Base = baseDevice,
                Source = _source == null ? baseDevice : new MergeDevice(2, sourcePath!, _source.Length),
                SharedBlocks = !options.SourceSeparate,
                Overlap = overlap,
                Stop = stop,
                Mark = basePath != null && (options.CowName == null || IsAt(_cow, cowName)) ? new MergingMark(cowName) : null,
                Storage = options.Writes ? new StorageReserver(Devices, stop, options.Report) : null,
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

    /// <summary>
    /// Looks at which bytes the devices have in common, before anything is locked: a lock that this process holds itself would be taken for another merge's. Exit code 64 for devices that do not go together,
    /// 65 for an Android sparse image. True if the source is a
    /// device of its own; <paramref name="overlap"/> then is what it shares with the base, or null if that is nothing.
    /// </summary>
    private static bool Relate(DeviceOptions options, out ReadOnlyMemory<SharedRange>? overlap)
    {
        using BlockDevice cow = BlockDevice.Open(options.Cow, DeviceAccess.Read);
        using BlockDevice? target = options.Base == null ? null : BlockDevice.Open(options.Base, DeviceAccess.Read);
        using BlockDevice? source = options.Source == null ? null : BlockDevice.Open(options.Source, DeviceAccess.Read);
        ForeignFormat.RefuseSparse(target);
        ForeignFormat.RefuseSparse(source);
        return Relate(options, cow, target, source, out overlap);
    }

    /// <summary>
    /// What was opened and locked must relate as what was looked at before: a link may have been moved, or a loop device set up again, while a lock was waited for. Exit code 76 if not.
    /// </summary>
    private void CheckUnmoved(DeviceOptions options, bool ownSource, ReadOnlyMemory<SharedRange>? overlap)
    {
        // A source that is the base itself is not opened; what it leads to now is looked at.
        using BlockDevice? looked = options.Source != null && !ownSource ? BlockDevice.Open(options.Source, DeviceAccess.Read) : null;
        bool own = Relate(options, _cow, _base, looked ?? _source, out ReadOnlyMemory<SharedRange>? now);
        if (own != ownSource || now.HasValue != overlap.HasValue || !now.GetValueOrDefault().Span.SequenceEqual(overlap.GetValueOrDefault().Span))
            throw new SnapuserdException(ExitCode.InUse, "COW, base or source was exchanged for another file or device while it was opened; nothing was written");
    }

    private static bool Relate(DeviceOptions options, BlockDevice cow, BlockDevice? target, BlockDevice? source, out ReadOnlyMemory<SharedRange>? overlap)
    {
        overlap = null;
        if (target != null) RefuseShared(cow, target, "its own base", options.Writes);
        if (options.Writes && target is { Storage.OverlapsItself: true }) throw new SnapuserdException(ExitCode.Usage, $"{target.Path} has the same storage at two places; it cannot be written as a base");
        if (source == null) return false;
        RefuseShared(cow, source, "the source as well", options.Writes);
        if (target == null) return true;
        switch (source.Storage.RelationTo(target.Storage, out string layer))
        {
            case StorageRelation.Equal when options.SourceSeparate:
                // Believing it would let the merge overwrite blocks that it still has to read.
                throw new SnapuserdException(ExitCode.Usage, $"--source-separate is given, but {source.Path} is the base itself");
            case StorageRelation.Equal:
                // One device, one number: what is written to the base is what the source reads.
                return false;
            case StorageRelation.Overlapping when options.Writes && options.SourceSeparate:
                throw new SnapuserdException(ExitCode.Usage, $"--source-separate is given, but {source.Path} and {target.Path} share storage");
            case StorageRelation.Overlapping:
                // Readers take it into account as well: what they need may be gone.
                overlap = source.Storage.SharedWith(target.Storage).ToArray();
                return true;
            case StorageRelation.Unknown when options.Writes && !options.SourceSeparate:
                throw new SnapuserdException(ExitCode.Usage,
                    $"cannot tell which bytes {source.Path} and {target.Path} share: {layer} stands between them and a device below both; --source-separate says that they share none");
            case StorageRelation.Unknown:
                // Nothing is written, so no order of writes can be wrong.
                overlap = ReadOnlyMemory<SharedRange>.Empty;
                return true;
            default:
                return true;
        }
    }

    /// <summary>Exit code 64 if the COW has a byte in common with <paramref name="other"/>, or may have one and is to be written.</summary>
    private static void RefuseShared(BlockDevice cow, BlockDevice other, string role, bool writes)
    {
        StorageRelation relation = cow.Storage.RelationTo(other.Storage, out string layer);
        if (relation is StorageRelation.Equal or StorageRelation.Overlapping)
            throw new SnapuserdException(ExitCode.Usage, $"{cow.Path} and {other.Path} are the same or share storage; the COW cannot be {role}");
        if (relation == StorageRelation.Unknown && writes)
            throw new SnapuserdException(ExitCode.Usage, $"cannot tell which bytes {cow.Path} and {other.Path} share: {layer} stands between them and a device below both; use another place for the COW");
    }

    /// <summary>The path leads to the file: a name from another root, or of a file that was deleted, may lead to another, whose mark is none of ours.</summary>
    private static bool IsAt(BlockDevice file, string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData there) == 0 && Libc.Statx(file.Fd, Libc.STATX_BASIC_STATS, out StatxData here) == 0
            && (there.DevMajor, there.DevMinor, there.Ino) == (here.DevMajor, here.DevMinor, here.Ino);

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
