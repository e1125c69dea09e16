using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Control;

/// <summary>
/// Starts a device over a view, with <paramref name="memory"/> bytes of buffers. The device signals <paramref name="wakeUp"/> if it fails.
/// <paramref name="device"/> is the path that readers open.
/// </summary>
public delegate IBlockServer ServerStart(SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device);

/// <summary>
/// Receives the events of a snapshot's merge, on the thread that merges. If it throws, neither the merge nor the state of the snapshot
/// changes (<see cref="ObserverGuard"/>).
/// </summary>
public interface ISnapshotObserver : IMergeObserver
{
    /// <summary>Everything is merged and durable.</summary>
    void Merged(Snapshot snapshot, MergeResult result);

    /// <summary>The merge ended before everything was merged: interrupted (75), or failed.</summary>
    void Stopped(Snapshot snapshot, Exception reason);

    /// <summary>The mapped device was moved to the base.</summary>
    void HandedOver(Snapshot snapshot)
    {
    }
}

/// <summary>The options of a snapshot.</summary>
public sealed record SnapshotOptions
{
    /// <summary>The name under which `ctl` and other clients address it.</summary>
    public required string Name { get; init; }
    /// <summary>Its devices. They are opened for writing if the snapshot may ever be merged.</summary>
    public required DeviceOptions Devices { get; init; }
    /// <summary>Decode every payload before the first write.</summary>
    public bool VerifyFirst { get; init; } = true;
    /// <summary>Ops whose payloads an earlier process has decoded (<see cref="MergeOptions.CheckedOps"/>).</summary>
    public int CheckedOps { get; init; }
    /// <summary>Size of the cache of decoded units, and of a server's buffers, in bytes.</summary>
    public required int CacheBytes { get; init; }
    /// <inheritdoc cref="CacheBytes"/>
    public required int ServerBytes { get; init; }
    /// <summary>The queue in which its merge waits for its turn; null if the merge need not wait.</summary>
    public MergeSlots? Slots { get; init; }
    /// <summary>How often its merge was resumed, if an earlier process counted; null otherwise.</summary>
    public int? TimesResumed { get; init; }
    /// <summary>Receives the events of its merge.</summary>
    public ISnapshotObserver? Observer { get; init; }
    /// <summary>Receives one message if the observer throws.</summary>
    public Action<string>? ObserverFailed { get; init; }
    /// <summary>
    /// Called on the thread that merges, with the number of leading ops whose payloads decode. It may store the number for a later process.
    /// </summary>
    public Action<int>? Checked { get; init; }
    /// <summary>
    /// Called before the mapped device moves to the base. It may change this process's root to the current root of the system, where the
    /// hand-over then looks up its paths.
    /// </summary>
    public Action? BeforeHandOver { get; init; }
    /// <summary>
    /// Name of the mapped device to create over the served device; it is moved to the base when everything is merged. Null for none. See
    /// <see cref="MappedDevice"/>.
    /// </summary>
    public string? Mapper { get; init; }
    /// <summary>
    /// Called on any thread after a merge request, pause, resume or rate change takes effect and before it is acknowledged. It may store
    /// the change for a later process.
    /// </summary>
    public Action<Snapshot>? Asked { get; init; }
    /// <summary>Receives one message for every read that fails, on any thread.</summary>
    public Action<string>? ReadFailed { get; init; }
    /// <summary>Opens the mapped device. Tests replace it with one that needs no kernel.</summary>
    internal Func<string, MappedDevice> OpenMapped { get; init; } = MappedDevice.Open;
    /// <summary>
    /// Makes the target of the mapped device from path, read-only flag and bytes (the whole device if negative). Tests use files.
    /// </summary>
    internal Func<string, bool, long, MapperTarget> TargetOf { get; init; } = MapperTarget.Of;
}

/// <summary>
/// A COW and its base while a process serves and merges them. One thread owns the snapshot: it opens it, starts the server and calls Run,
/// which also merges. Any thread may make requests; the owner acts on them at the next safe point.
/// <code>
///   Open -> Serve -> Run:  Serving -- RequestMerge --> Queued -> Merging -> Merged
///                                                                       \-> Failed, or interrupted: Serving
///   merged before Open:    Merged, or Failed if that cannot be made durable
///   with a mapped device:  Merged -> Plain, and Run ends
///   RequestStop ends Run in any state; Dispose removes the device.
/// </code>
/// Its lock is taken before that of <see cref="MergeSlots"/>, whose summary gives the lock order.
/// </summary>
public sealed class Snapshot : IDisposable, IMergeObserver
{
    /// <summary>
    /// Interval between two checks for a stop when no event announces one, in milliseconds. Short enough for SIGTERM, long enough to cost
    /// nothing.
    /// </summary>
    private const int LookMilliseconds = 100;

    private readonly object _gate = new();
    private readonly SnapshotOptions _options;
    private readonly StopFlag _stop;
    private readonly StopFlag _mergeStop = new();
    private readonly WakeUp _wakeUp;
    private readonly MonotonicClock _clock = new();
    private readonly MergeThrottle _throttle = new();
    private DeviceSet? _devices;
    private MergeSetup? _setup;
    private readonly ObserverGuard? _guard;
    private MergeLifecycle? _merge;
    private SnapshotView? _view;
    private IBlockServer? _server;
    private MappedDevice? _mapped;
    private bool _handOverTried;
    /// <summary>
    /// Why the result of an earlier, complete merge may not be durable; null if it is durable, or if there was no such merge.
    /// </summary>
    private SnapuserdException? _undurable;

    // State that any thread may request or read; guarded by _gate.
    private SnapshotStatus _status;
    private MergeProgress _progress;
    private MergeProgress? _check;
    private readonly RateMeter _rate = new();
    private bool _mergeRequested;
    private bool _mergesEnded;
    private bool _disposed;
    private long _mergeBegan = -1;

    /// <summary>
    /// Opens nothing yet. <paramref name="stop"/> and <paramref name="wakeUp"/> must belong to this snapshot alone and outlive it.
    /// </summary>
    public Snapshot(SnapshotOptions options, StopFlag stop, WakeUp wakeUp)
    {
        (_options, _stop, _wakeUp) = (options, stop, wakeUp);
        if (options.Observer is { } observer) _guard = new ObserverGuard(observer, options.ObserverFailed);
        _mergeStop.StopAlsoWhen(() => stop.Requested);
        _status = new SnapshotStatus
        {
            Name = options.Name,
            Cow = options.Devices.CowName ?? options.Devices.Cow,
            Base = options.Devices.BaseName ?? options.Devices.Base ?? "",
        };
    }

    /// <summary>The name under which `ctl` and other clients address it.</summary>
    public string Name => _options.Name;

    /// <summary>True if the snapshot can be merged at all.</summary>
    public bool CanMerge => _options.Devices.Writes;

    /// <summary>The merge engine; only for the thread that owns the snapshot.</summary>
    public MergeEngine Engine => Lifecycle.Engine;

    /// <summary>The devices; only for the thread that owns the snapshot.</summary>
    public DeviceSet Devices => _devices ?? throw new InvalidOperationException("the snapshot was not opened");

    /// <summary>Bytes of the image; valid after Open.</summary>
    public long Length => _setup?.Base.Length ?? throw new InvalidOperationException("the snapshot was not opened");

    /// <summary>Why the device failed, or null.</summary>
    public string? Failure => _server?.Failure;

    /// <summary>
    /// Why its device cannot be removed now, as a clause: clients are connected to its socket, or the block device is mounted or held by
    /// another program. Null if there is no such reason. Any thread.
    /// </summary>
    public string? Holder()
    {
        if (_server is { Clients: > 0 and int clients }) return clients == 1 ? "a client is connected" : $"{clients} clients are connected";
        string device = Status.Device;
        return BlockDeviceUse.IsHeld(device) ? $"{device} is mounted, or another program has it open exclusively" : null;
    }

    /// <summary>The current status. Any thread.</summary>
    public SnapshotStatus Status
    {
        get
        {
            lock (_gate)
            {
                ReadTimes times = _view?.Times ?? default;
                return _status with
                {
                    OpsDone = _progress.OpsDone,
                    OpsTotal = _progress.OpsTotal,
                    BytesDone = _progress.BytesDone,
                    BytesTotal = _progress.BytesTotal,
                    Paused = _throttle.IsPaused,
                    BytesPerSecond = _throttle.BytesPerSecond,
                    CheckPercent = _check is { } check && _status.State == SnapshotState.Merging
                        ? (check.BytesTotal == 0 ? 100 : 100.0 * check.BytesDone / check.BytesTotal)
                        : null,
                    Rate = _status.State == SnapshotState.Merging && !_throttle.IsPaused ? _rate.BytesPerSecond : 0,
                    FailedReads = _view?.Failures ?? 0,
                    Reads = times.Reads,
                    WorstReadSeconds = times.WorstMicroseconds / 1e6,
                    MergeSeconds = _status.State == SnapshotState.Merging ? SecondsOfMerge : _status.MergeSeconds,
                };
            }
        }
    }

    /// <summary>True once the merge was requested. Any thread.</summary>
    public bool MergeRequested
    {
        get
        {
            lock (_gate) return _mergeRequested;
        }
    }

    /// <summary>The mapped device is on the base, so there is nothing to serve.</summary>
    public bool IsPlain => Status.State == SnapshotState.Plain;

    /// <summary>
    /// Opens the devices and reads the COW. Exit codes of <see cref="DeviceSet"/>, <see cref="MergeEngine.Open(MergeSetup)"/> and
    /// <see cref="MappedDevice"/>. <see cref="IsPlain"/> is true afterwards if an earlier process moved the mapped device to the base and
    /// was killed before it ended.
    /// </summary>
    public void Open()
    {
        bool handedOver = _options.Mapper is { } name && OpenMapped(name);
        // After the hand-over the mapped device holds the base exclusively, so it cannot be opened exclusively here.
        _devices = new DeviceSet(handedOver ? _options.Devices with { Writes = false } : _options.Devices, _stop, _wakeUp);
        _setup = _devices.Setup with
        {
            Observer = this,
            Stop = _mergeStop,
            Throttle = _throttle,
            Readers = new ReaderGate(_wakeUp),
            // While an Xor op is written in place without scratch, readers can find its contents nowhere. So such a COW can be served or
            // merged, but not both.
            Options = new MergeOptions { VerifyFirst = _options.VerifyFirst, CheckedOps = _options.CheckedOps, AllowUnsafe = !CanMerge },
        };
        _merge = MergeLifecycle.Open(_setup, _options.ObserverFailed);
        // Before the first read: a COW other than the one that changed the base would produce an image that never existed.
        _merge.Check();
        Engine.Open();
        MergeResult result = Engine.Result;
        if (handedOver && !result.AlreadyMerged)
            throw new SnapuserdException(ExitCode.InUse, $"{_mapped!.Path} stands on {_options.Devices.Base} itself, and "
                + $"{_options.Devices.Cow} is not merged: a merge would change the old image under its readers; "
                + $"remove the mapped device (dmsetup remove {_options.Mapper}) and start again");
        lock (_gate) _progress = Engine.Progress;
        // A killed server may have left the last count in the page cache only. A client that is told "merged" may write to the base. If a
        // power cut then restored a lower count, the next merge would overwrite those writes.
        _undurable = result.AlreadyMerged && !handedOver ? MakeMergedDurable() : null;
        // A second flush would report success although the first one failed.
        if (_undurable != null) RefuseMerges();
        Change(status => status with
        {
            State = handedOver ? SnapshotState.Plain : _undurable != null ? SnapshotState.Failed
                : _mergeRequested ? SnapshotState.Queued : result.AlreadyMerged ? SnapshotState.Merged : SnapshotState.Serving,
            Error = _undurable?.Message ?? "",
            EndedWith = _undurable?.Code ?? ExitCode.Done,
            ResumedFrom = result.ResumedFrom,
            Device = handedOver ? _mapped!.Path : "",
            TimesResumed = _options.TimesResumed ?? (result.WasResumed ? 1 : 0),
        });
    }

    /// <summary>Starts the server; returns the path that readers open.</summary>
    public string Serve(ServerStart start)
    {
        SnapshotView view = new(Engine, _setup!, _options.CacheBytes, _options.ReadFailed);
        lock (_gate) _view = view;
        _server = start(view, Devices.Devices, _options.ServerBytes, _wakeUp, out string device);
        if (_mapped is { } mapped)
        {
            mapped.StandOn(_options.TargetOf(device, true, Length));
            device = mapped.Path;
        }
        string path = device;
        Change(status => status with { Device = path });
        return path;
    }

    /// <summary>
    /// Serves, and merges on request, until a stop is requested, the device fails, or the mapped device is on the base. Returns the exit
    /// code of the merge and of the hand-over that follows it; 0 if there was no merge.
    /// </summary>
    public ExitCode Run()
    {
        // When a ublk device fails, its readers wait for the next server, which can start only after this process ends.
        if (_server is { } server) _stop.StopAlsoWhen(() => server.Failure != null);
        ExitCode code = ExitCode.Done;
        if (_undurable != null)
        {
            // Reported only now, because the server must report first that it is ready.
            _guard?.Tell(() => _options.Observer!.Stopped(this, _undurable));
            code = _undurable.Code;
        }
        // Whatever the result of the merge, the device stays until a stop is requested.
        while (!_stop.Requested && !IsPlain)
        {
            if (IsMyTurn(out MemoryQuota? share)) code = Merge(share);
            else if (_mapped != null && !_handOverTried && Status.State == SnapshotState.Merged) code = HandOver(_mapped);
            else Rest();
        }
        if (RefuseMerges())
        {
            SnapuserdException reason = new(ExitCode.Interrupted, "stopped before the merge began");
            _guard?.Tell(() => _options.Observer!.Stopped(this, reason));
            code = reason.Code;
        }
        // If the stop arrives just after the merge completes, the hand-over still runs: without it a mount would lose its device. It needs
        // a working server, because it waits for outstanding reads. A failed hand-over is not repeated: after a failed flush, a second
        // flush would report success.
        if (_mapped != null && !_handOverTried && Failure == null && Status.State == SnapshotState.Merged) code = HandOver(_mapped);
        return code;
    }

    /// <summary>
    /// Requests the merge. False if the snapshot cannot be merged, the merge was requested before, or nothing is left to merge. Any thread.
    /// </summary>
    public bool RequestMerge()
    {
        lock (_gate)
        {
            // A snapshot that is not served yet does not run, and would block those after it in the queue.
            if (!CanMerge || _view == null || _mergeRequested || _mergesEnded
                || _status.State is not (SnapshotState.Serving or SnapshotState.Opening or SnapshotState.Merged))
                return false;
            _mergeRequested = true;
            if (_status.State == SnapshotState.Serving) _status = _status with { State = SnapshotState.Queued };
            _options.Slots?.Queue(this);
        }
        NoteRequest();
        return true;
    }

    /// <summary>
    /// Pauses the merge as soon as the writes in flight are complete and counted. A merge that has not begun does not begin, so that base
    /// and COW stay unchanged. Any thread.
    /// </summary>
    public void Pause()
    {
        _throttle.Pause();
        NoteRequest();
        // The snapshots after it in the queue need not wait for it.
        _options.Slots?.WakeFirst();
    }

    /// <summary>Resumes the merge. Any thread.</summary>
    public void Resume()
    {
        _throttle.Resume();
        NoteRequest();
    }

    /// <summary>True while the merge is paused. Any thread.</summary>
    internal bool IsPaused => _throttle.IsPaused;

    /// <summary>
    /// Limits the merge's writes, in bytes per second; 0 for no limit. While <see cref="NeedsTicks"/> is true, the caller wakes the
    /// snapshot every few milliseconds. Any thread.
    /// </summary>
    public void SetRate(long bytesPerSecond)
    {
        _throttle.BytesPerSecond = bytesPerSecond;
        NoteRequest();
    }

    /// <summary>
    /// True if a rate-limited merge runs or may begin. It must be woken at intervals, because no event announces that it may write again.
    /// </summary>
    public bool NeedsTicks
    {
        get
        {
            if (!_throttle.IsLimited || _throttle.IsPaused) return false;
            lock (_gate)
                return _mergeRequested && !_mergesEnded && !_disposed && (_mergeBegan < 0 || _status.State == SnapshotState.Merging);
        }
    }

    /// <summary>
    /// Stops the merge permanently for this process, at the next checkpoint or before it begins; the next process may resume it. Serving
    /// continues. Any thread.
    /// </summary>
    public void EndMerge()
    {
        _mergeStop.Request();
        RefuseMerges();
        Wake();
    }

    /// <summary>Makes <see cref="Run"/> return. Any thread.</summary>
    public void RequestStop()
    {
        _stop.Request();
        Wake();
    }

    /// <summary>Makes the snapshot's thread check for requests. Any thread.</summary>
    public void Wake()
    {
        lock (_gate)
            if (!_disposed) _wakeUp.Signal();
    }

    /// <inheritdoc/>
    void IMergeObserver.Progress(in MergeProgress progress)
    {
        // Called for every batch, so it does not replace the status object: that would be the merge's only garbage.
        lock (_gate)
        {
            (_progress, _check) = (progress, null);
            _ = _rate.Measure(progress.BytesDone, _clock.Milliseconds / 1000.0);
        }
        _guard?.Progress(progress);
    }

    /// <inheritdoc/>
    void IMergeObserver.Checking(in MergeProgress progress)
    {
        lock (_gate) _check = progress;
        _options.Checked?.Invoke(progress.OpsDone);
        _guard?.Checking(progress);
    }

    /// <summary>
    /// Answers the outstanding requests and removes the device. Also removes the mapped device, unless it is on the base or another program
    /// has it open. Only for the thread that owns the snapshot.
    /// </summary>
    public void StopServing()
    {
        if (_mapped is { } mapped && _server != null && !IsPlain)
        {
            try
            {
                mapped.Look();
                if (mapped.OpenCount == 0) mapped.Remove();
            }
            catch (SnapuserdException)
            {
                // A program that still has it open gets read errors, as it would from the served device.
            }
        }
        _server?.Stop();
    }

    /// <summary>Removes the device if it still exists, and closes everything.</summary>
    public void Dispose()
    {
        RefuseMerges();
        _server?.Dispose();
        _view?.Dispose();
        _merge?.Dispose();
        _devices?.Dispose();
        _mapped?.Dispose();
        lock (_gate)
        {
            _disposed = true;
            _status = _status with { State = SnapshotState.Ended, Device = "" };
        }
    }

    private MergeLifecycle Lifecycle => _merge ?? throw new InvalidOperationException("the snapshot was not opened");

    private double SecondsOfMerge => _mergeBegan < 0 ? 0 : (_clock.Milliseconds - _mergeBegan) / 1000.0;

    /// <summary>
    /// Refuses merge requests from here on and leaves the queue: a snapshot that never takes its turn would block the others. True if it
    /// was queued.
    /// </summary>
    private bool RefuseMerges()
    {
        bool queued;
        lock (_gate)
        {
            _mergesEnded = true;
            queued = _status.State == SnapshotState.Queued;
            if (queued) _status = _status with { State = SnapshotState.Serving, EndedWith = ExitCode.Interrupted };
        }
        _options.Slots?.GiveUp(this);
        return queued;
    }

    private bool IsMyTurn(out MemoryQuota? share)
    {
        share = null;
        lock (_gate)
        {
            if (!_mergeRequested || _mergesEnded || _mergeBegan >= 0) return false;
            // A paused merge must not begin: its start is recorded in the COW, and from then on a rollback may be impossible.
            if (_status.State == SnapshotState.Queued && _throttle.IsPaused) return false;
        }
        return _options.Slots == null || (share = _options.Slots.TryEnter(this)) != null;
    }

    /// <summary>Stores a request that has taken effect, and wakes the snapshot even if it cannot be stored.</summary>
    private void NoteRequest()
    {
        try
        {
            _options.Asked?.Invoke(this);
        }
        finally
        {
            Wake();
        }
    }

    private ExitCode Merge(MemoryQuota? share)
    {
        // Both change under one lock: between two changes NeedsTicks would be false, and a thread that saw that would not check again.
        lock (_gate) (_mergeBegan, _status) = (_clock.Milliseconds, _status with { State = SnapshotState.Merging });
        try
        {
            MergeResult result = Lifecycle.Run(share);
            End(SnapshotState.Merged, "", ExitCode.Done);
            _guard?.Tell(() => _options.Observer!.Merged(this, result));
            return ExitCode.Done;
        }
        catch (Exception e)
        {
            // Serving continues, even after an internal error: readers find every block where they found it before.
            SnapuserdException? known = e as SnapuserdException;
            if (known?.Code == ExitCode.InputOutput) Devices.TakeErrors();
            ExitCode code = known?.Code ?? (e is OutOfMemoryException ? ExitCode.OutOfResources : ExitCode.Internal);
            End(code == ExitCode.Interrupted ? SnapshotState.Serving : SnapshotState.Failed, e.Message, code);
            _guard?.Tell(() => _options.Observer!.Stopped(this, e));
            return code;
        }
        finally
        {
            if (share != null) _options.Slots!.Leave(share);
        }
    }

    /// <summary>Opens the mapped device. True if it is on the base.</summary>
    private bool OpenMapped(string name)
    {
        string path = _options.Devices.Base ?? throw new SnapuserdException(ExitCode.Usage, "a mapped device takes a base");
        _mapped = _options.OpenMapped(name);
        // A process that was killed between its last two steps leaves a loaded table, which claims the base.
        _mapped.Discard();
        return _options.TargetOf(path, false, -1).IsUnder(_mapped.Table);
    }

    /// <summary>Moves the mapped device to the base. If that fails, the snapshot stays merged and is served as before.</summary>
    private ExitCode HandOver(MappedDevice mapped)
    {
        _handOverTried = true;
        try
        {
            BlockDevice target = Devices.Devices[1];
            _options.BeforeHandOver?.Invoke();
            // After the hand-over, programs write to the base. If a power cut restored a lower count, the next merge would overwrite those
            // writes. So the count must be durable first.
            if (FinishedMerge.Flush(target, Devices.Devices[0]) is (BlockDevice device, int error))
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"{device.Path} cannot be flushed, so {mapped.Path} stays where it is: {ErrnoText.Of(error)}");
            target.GiveUpHold();
            mapped.StandOn(_options.TargetOf(target.Path, false, Length));
            Change(status => status with { State = SnapshotState.Plain });
            _guard?.Tell(() => _options.Observer!.HandedOver(this));
            return ExitCode.Done;
        }
        catch (SnapuserdException e)
        {
            Change(status => status with { Error = e.Message, HandOverFailed = true });
            _guard?.Tell(() => _options.Observer!.Stopped(this, e));
            return e.Code;
        }
    }

    /// <summary>Makes the result of a merge that completed before Open durable. Returns why that failed, or null.</summary>
    private SnapuserdException? MakeMergedDurable()
    {
        try
        {
            if (CanMerge) Lifecycle.ConfirmMerged();
            else if (FinishedMerge.Flush(Devices.Devices[1], Devices.Devices[0], withoutFlush: true) is (BlockDevice device, int error))
                throw new SnapuserdException(ExitCode.InputOutput, $"{device.Path} cannot be flushed: {ErrnoText.Of(error)}");
            return null;
        }
        catch (SnapuserdException e)
        {
            return new SnapuserdException(e.Code, $"everything is merged, but that may not be durable: {e.Message}");
        }
    }

    private void End(SnapshotState state, string error, ExitCode code) =>
        Change(status => status with { State = state, Error = error, EndedWith = code, MergeSeconds = SecondsOfMerge });

    private void Change(Func<SnapshotStatus, SnapshotStatus> change)
    {
        lock (_gate) _status = change(_status);
    }

    /// <summary>
    /// Waits for an event. If the merge's queue is broken, no event arrives there any more, so this polls instead; the servers have queues
    /// of their own.
    /// </summary>
    private void Rest()
    {
        IoScheduler io = _setup!.Io;
        try
        {
            if (io.Broken) Libc.Sleep(LookMilliseconds);
            else io.Wait();
        }
        catch (SnapuserdException) when (io.Broken)
        {
            // The queue broke during the wait.
        }
    }
}
