using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The devices of one merge or view, opened and locked, with the queue, buffers, workers and clock that the engine needs.
/// </summary>
public sealed class DeviceSet : IDisposable
{
    private readonly BlockDevice _cow;
    private readonly BlockDevice? _base;
    private readonly BlockDevice? _source;
    private readonly EngineResources _resources;

    /// <summary>
    /// Opens the devices that the options name. <paramref name="stop"/> and <paramref name="wakeUp"/> must outlive it. Exit codes of
    /// <see cref="BlockDevice.Open"/>, 64 for paths that do not fit together, 69 and 71 if no queue can be created.
    /// </summary>
    public DeviceSet(DeviceOptions options, StopFlag stop, WakeUp wakeUp)
    {
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
                if (device?.NotLocked is { } warning) options.Report(warning);
            if (overlap is { Length: > 0 }) SharedCaches.MakeCoherent(_source!, _base!);
            Devices = _source != null ? [_cow, _base!, _source] : _base != null ? [_cow, _base] : [_cow];
            _resources = new EngineResources(Devices, options, wakeUp);
            MergeDevice baseDevice =
                _base == null ? new MergeDevice(0, cowName, _cow.Length) : new MergeDevice(1, options.BaseName ?? basePath!, _base.Length);
            Setup = new MergeSetup
            {
                Io = _resources.Io,
                Arena = _resources.Arena,
                Workers = _resources.Workers,
                Time = new MonotonicClock(),
                Cow = new MergeDevice(0, cowName, _cow.Length),
                Base = baseDevice,
                Source = _source == null ? baseDevice : new MergeDevice(2, sourcePath!, _source.Length),
                SharedBlocks = !options.SourceSeparate,
                Overlap = overlap,
                Stop = stop,
                Marker = basePath != null && (options.CowName == null || IsAt(_cow, cowName)) ? new MergeMarker(cowName) : null,
                Storage = options.Writes ? new StorageReserver(Devices, stop, options.Report) : null,
            };
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The devices by number: COW, base, and the source if it is a device of its own.</summary>
    public BlockDevice[] Devices { get; }

    /// <summary>The setup for the engine.</summary>
    public MergeSetup Setup { get; }

    /// <summary>"uring" or "sync".</summary>
    public string Io => _resources.IsRing ? "uring" : "sync";

    /// <summary>True if <paramref name="device"/> is one of the devices, under any path.</summary>
    public bool Contains(BlockDevice device) =>
        device.SameFileAs(_cow) || (_base?.SameFileAs(device) ?? false) || (_source?.SameFileAs(device) ?? false);

    /// <summary>
    /// After an I/O error: other writes of this run are still in the page cache, and their write-back may fail as well. The kernel reports
    /// such a failure once, to the next process that flushes. This run ends anyway, so it takes the report instead of the next run. The
    /// result of the flush is ignored.
    /// </summary>
    public void TakeErrors()
    {
        if (_base != null) _ = FileFlush.Of(_base.Fd);
        _ = FileFlush.Of(_cow.Fd);
    }

    /// <summary>Closes the devices, unless the kernel may still write to the buffers.</summary>
    public void Dispose()
    {
        _resources?.Dispose();
        bool inUse = _resources is { IsInUse: true };
        foreach (BlockDevice? device in (ReadOnlySpan<BlockDevice?>)[_source, _base, _cow])
        {
            if (inUse) device?.CloseInUse();
            else device?.Dispose();
        }
    }

    /// <summary>
    /// Determines which bytes the devices share, before any lock is taken: a lock of this process would look like another merge's lock.
    /// Exit code 64 for devices that do not fit together, 65 for an Android sparse image. True if the source is a device of its own;
    /// <paramref name="overlap"/> is then the storage that it shares with the base, null if they share nothing, and empty if it is unknown.
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
    /// Checks again which bytes the devices share, now that they are opened and locked. While this process waited for a lock, a link may
    /// have been moved or a loop device set up again. Exit code 76 if the result differs from the first check.
    /// </summary>
    private void CheckUnmoved(DeviceOptions options, bool ownSource, ReadOnlyMemory<SharedRange>? overlap)
    {
        // A source that is the base itself is not opened, so its path is resolved again here.
        using BlockDevice? reopened = options.Source != null && !ownSource ? BlockDevice.Open(options.Source, DeviceAccess.Read) : null;
        bool own = Relate(options, _cow, _base, reopened ?? _source, out ReadOnlyMemory<SharedRange>? now);
        if (own != ownSource || now.HasValue != overlap.HasValue
            || !now.GetValueOrDefault().Span.SequenceEqual(overlap.GetValueOrDefault().Span))
            throw new SnapuserdException(ExitCode.InUse,
                "COW, base or source was exchanged for another file or device while it was opened; nothing was written");
    }

    private static bool Relate(DeviceOptions options, BlockDevice cow, BlockDevice? target, BlockDevice? source,
        out ReadOnlyMemory<SharedRange>? overlap)
    {
        overlap = null;
        if (target != null) RefuseShared(cow, target, "its own base", options.Writes);
        if (options.Writes && target is { Storage.OverlapsItself: true })
            throw new SnapuserdException(ExitCode.Usage,
                $"{target.Path} has the same storage at two places; it cannot be written as a base");
        if (source == null) return false;
        RefuseShared(cow, source, "the source as well", options.Writes);
        if (target == null) return true;
        switch (source.Storage.RelationTo(target.Storage, out string layer))
        {
            case StorageRelation.Equal when options.SourceSeparate:
                // Accepting it would let the merge overwrite blocks that it still has to read.
                throw new SnapuserdException(ExitCode.Usage, $"--source-separate is given, but {source.Path} is the base itself");
            case StorageRelation.Equal:
                // Source and base get the same device number, so the engine knows that a write to the base changes the source.
                return false;
            case StorageRelation.Overlapping when options.Writes && options.SourceSeparate:
                throw new SnapuserdException(ExitCode.Usage,
                    $"--source-separate is given, but {source.Path} and {target.Path} share storage");
            case StorageRelation.Overlapping:
                // Readers need the overlap as well: a merge may have overwritten the data that they read.
                overlap = source.Storage.SharedWith(target.Storage).ToArray();
                return true;
            case StorageRelation.Unknown when options.Writes && !options.SourceSeparate:
                throw new SnapuserdException(ExitCode.Usage,
                    $"cannot tell which bytes {source.Path} and {target.Path} share: {layer} stands between them and a device below both; "
                    + "--source-separate says that they share none");
            case StorageRelation.Unknown:
                // Either nothing is written, so no order of writes can be wrong, or --source-separate says that they share nothing.
                overlap = ReadOnlyMemory<SharedRange>.Empty;
                return true;
            default:
                return true;
        }
    }

    /// <summary>Exit code 64 if the COW shares a byte with <paramref name="other"/>, or if it may share one and is to be written.</summary>
    private static void RefuseShared(BlockDevice cow, BlockDevice other, string role, bool writes)
    {
        StorageRelation relation = cow.Storage.RelationTo(other.Storage, out string layer);
        if (relation is StorageRelation.Equal or StorageRelation.Overlapping)
            throw new SnapuserdException(ExitCode.Usage,
                $"{cow.Path} and {other.Path} are the same or share storage; the COW cannot be {role}");
        if (relation == StorageRelation.Unknown && writes)
            throw new SnapuserdException(ExitCode.Usage, $"cannot tell which bytes {cow.Path} and {other.Path} share: {layer} stands "
                + "between them and a device below both; use another place for the COW");
    }

    /// <summary>
    /// True if the path still leads to the file. A name from another root, or of a deleted file, may lead to another file, whose marker
    /// does not apply.
    /// </summary>
    private static bool IsAt(BlockDevice file, string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData there) == 0
        && Libc.Statx(file.Fd, Libc.STATX_BASIC_STATS, out StatxData here) == 0
            && (there.DevMajor, there.DevMinor, there.Ino) == (here.DevMajor, here.DevMinor, here.Ino);
}
