using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Daemon;

/// <summary>Starts a device over a view: <paramref name="memory"/> bytes of buffers, <paramref name="wakeUp"/> is signalled when it is in trouble. <paramref name="device"/> is what readers open.</summary>
public delegate IBlockServer ServerStart(SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device);

/// <summary>Hears what becomes of a snapshot's merge, on the thread that merges.</summary>
public interface ISnapshotObserver : IMergeObserver
{
    /// <summary>Everything is merged and durable.</summary>
    void Merged(Snapshot snapshot, MergeResult result);

    /// <summary>The merge ended before that: interrupted (75), or for good.</summary>
    void Stopped(Snapshot snapshot, Exception reason);

    /// <summary>The mapped device stands on the base from now on.</summary>
    void HandedOver(Snapshot snapshot)
    {
    }
}

/// <summary>What a snapshot is made of.</summary>
public sealed record SnapshotOptions
{
    /// <summary>What it is called by those who control it.</summary>
    public required string Name { get; init; }
    /// <summary>Its devices. They are opened for writing if it may ever be merged.</summary>
    public required DeviceOptions Devices { get; init; }
    /// <summary>Decode every payload before the first write.</summary>
    public bool VerifyFirst { get; init; } = true;
    /// <summary>Ops whose payloads an earlier process has decoded (<see cref="MergeOptions.CheckedOps"/>).</summary>
    public int CheckedOps { get; init; }
    /// <summary>Bytes of the cache of decoded units, and of a server's buffers.</summary>
    public required int CacheBytes { get; init; }
    /// <inheritdoc cref="CacheBytes"/>
    public required int ServerBytes { get; init; }
    /// <summary>Where its merge waits for its turn; null if it need not.</summary>
    public MergeSlots? Slots { get; init; }
    /// <summary>How often its merge was taken up again, if somebody counted before this process began.</summary>
    public int? TimesResumed { get; init; }
    /// <summary>Hears what becomes of its merge.</summary>
    public ISnapshotObserver? Observer { get; init; }
    /// <summary>
    /// Name of the mapped device that is to stand over it, and on the base when all is merged; null for none. See <see cref="MappedDevice"/>.
    /// </summary>
    public string? Mapper { get; init; }
    /// <summary>
    /// Hears that its merge was asked for, paused, resumed or given a rate, which somebody may want to outlast this process; from any thread, before whoever asked is told that it was done.
    /// </summary>
    public Action<Snapshot>? Asked { get; init; }
    /// <summary>Takes a sentence for every read that fails, from any thread.</summary>
    public Action<string>? ReadFailed { get; init; }
    /// <summary>Opens the mapped device. Tests have one that is no kernel's.</summary>
    internal Func<string, MappedDevice> OpenMapped { get; init; } = MappedDevice.Open;
    /// <summary>What the mapped device stands on: path, read-only, bytes (all of them if negative). Tests have files.</summary>
    internal Func<string, bool, long, MapperTarget> TargetOf { get; init; } = MapperTarget.Of;
}

/// <summary>
/// A COW and its base while a process serves and merges them. One thread owns it: it opens, starts to serve, and runs, which is where the merge happens; what others want of it they
/// ask for from any thread, and it is done at the next occasion.
/// <code>
///   Open -> Serve -> Run:  Serving -- RequestMerge --> Queued -> Merging -> Merged
///                                                                       \-> Failed, or interrupted: Serving
///   merged before Open:    Merged, or Failed if that cannot be made durable
///   with a mapped device:  Merged -> Plain, and Run ends
///   RequestStop ends Run in any state; Dispose removes the device.
/// </code>
/// </summary>
public sealed class Snapshot : IDisposable, IMergeObserver
{
    /// <summary>Between two looks for a stop where none is announced: short for whoever sends a SIGTERM, and no load.</summary>
    private const int LookMilliseconds = 100;

    private readonly object _gate = new();
    private readonly SnapshotOptions _options;
    private readonly StopFlag _stop;
    private readonly StopFlag _mergeStop = new();
    private readonly WakeUp _wakeUp;
    private readonly MonotonicClock _clock = new();
    private readonly MergePace _pace = new();
    private DeviceSet? _devices;
    private MergeSetup? _setup;
    private MergeEngine? _engine;
    private SnapshotView? _view;
    private IBlockServer? _server;
    private MappedDevice? _mapped;
    private bool _handOverTried;
    /// <summary>Why it may not be durable that an earlier process merged everything; null if it is, or was not merged.</summary>
    private SnapuserdException? _undurable;

    // What others may ask for and see, under the gate.
    private SnapshotStatus _status;
    private MergeProgress _progress;
    private MergeProgress? _check;
    private readonly RateMeter _rate = new();
    private bool _mergeRequested;
    private bool _mergesEnded;
    private bool _disposed;
    private long _mergeBegan = -1;

    /// <summary>Opens nothing yet. <paramref name="stop"/> and <paramref name="wakeUp"/> are its own, and outlive it.</summary>
    public Snapshot(SnapshotOptions options, StopFlag stop, WakeUp wakeUp)
    {
        (_options, _stop, _wakeUp) = (options, stop, wakeUp);
        _mergeStop.StopAlsoWhen(() => stop.Requested);
        _status = new SnapshotStatus { Name = options.Name, Cow = options.Devices.CowName ?? options.Devices.Cow, Base = options.Devices.BaseName ?? options.Devices.Base ?? "" };
    }

    /// <summary>What it is called by those who control it.</summary>
    public string Name => _options.Name;

    /// <summary>Whether it may be merged at all.</summary>
    public bool CanMerge => _options.Devices.Writes;

    /// <summary>What its merge has done so far; for the thread that owns it.</summary>
    public MergeEngine Engine => _engine ?? throw new InvalidOperationException("the snapshot was not opened");

    /// <summary>Its devices; for the thread that owns it.</summary>
    public DeviceSet Devices => _devices ?? throw new InvalidOperationException("the snapshot was not opened");

    /// <summary>Bytes of the image; once it was opened.</summary>
    public long Length => _setup?.Base.Length ?? throw new InvalidOperationException("the snapshot was not opened");

    /// <summary>Why the device is gone, or null.</summary>
    public string? Trouble => _server?.Trouble;

    /// <summary>Why its device cannot go now, as a clause: clients of a socket are connected, or a block device is mounted or held by another program. Null if there is no such reason. Any thread.</summary>
    public string? Holder()
    {
        if (_server is { Clients: > 0 and int clients }) return clients == 1 ? "a client is connected" : $"{clients} clients are connected";
        string device = Status.Device;
        return BlockDeviceUse.IsHeld(device) ? $"{device} is mounted, or another program has it for itself" : null;
    }

    /// <summary>How it is at this moment. Any thread.</summary>
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
                    Paused = _pace.IsPaused,
                    BytesPerSecond = _pace.BytesPerSecond,
                    CheckPercent = _check is { } check && _status.State == SnapshotState.Merging ? (check.BytesTotal == 0 ? 100 : 100.0 * check.BytesDone / check.BytesTotal) : null,
                    Rate = _status.State == SnapshotState.Merging && !_pace.IsPaused ? _rate.BytesPerSecond : 0,
                    FailedReads = _view?.Failures ?? 0,
                    Reads = times.Reads,
                    WorstReadSeconds = times.WorstMicroseconds / 1e6,
                    MergeSeconds = _status.State == SnapshotState.Merging ? SecondsOfMerge : _status.MergeSeconds,
                };
            }
        }
    }

    /// <summary>Somebody has asked for its merge. Any thread.</summary>
    public bool MergeRequested
    {
        get
        {
            lock (_gate) return _mergeRequested;
        }
    }

    /// <summary>The mapped device stands on the base: there is nothing to serve.</summary>
    public bool IsPlain => Status.State == SnapshotState.Plain;

    /// <summary>
    /// Opens the devices and reads the COW. Exit codes as <see cref="DeviceSet"/>, <see cref="MergeEngine.Open(MergeSetup)"/> and <see cref="MappedDevice"/> have them. Afterwards it <see cref="IsPlain"/> if an earlier
    /// process has handed over and was killed before its end.
    /// </summary>
    public void Open()
    {
        bool handedOver = _options.Mapper is { } name && OpenMapped(name);
        // The base is the mapped device's by then, which has the only claim on it.
        _devices = new DeviceSet(handedOver ? _options.Devices with { Writes = false } : _options.Devices, _stop, _wakeUp);
        _setup = _devices.Setup with
        {
            Observer = this,
            Stop = _mergeStop,
            Pace = _pace,
            Readers = new ReaderGate(_wakeUp),
            // An Xor in place without scratch has no home for readers while it is written: such a COW is served or merged, not both.
            Options = new MergeOptions { VerifyFirst = _options.VerifyFirst, CheckedOps = _options.CheckedOps, AllowUnsafe = !CanMerge },
        };
        _engine = MergeEngine.Open(_setup);
        // Before anyone reads: a COW that is not the one which has written to the base shows an image that never was.
        _setup.Mark?.Check(_engine.Cow);
        _engine.Open();
        MergeResult result = _engine.Result;
        if (handedOver && !result.AlreadyMerged)
            throw new SnapuserdException(ExitCode.InUse, $"{_mapped!.Path} stands on {_options.Devices.Base} itself, and {_options.Devices.Cow} is not merged: whoever reads it sees the old image, and is not to see another from one moment to the next");
        lock (_gate) _progress = _engine.Progress;
        // A killed server may have left the last count in the page cache. A client that is told "merged" may write to the base; with a lower
        // count after a power cut the next merge would overwrite those writes.
        _undurable = result.AlreadyMerged && !handedOver ? MakeMergedDurable() : null;
        // The second flush would seem to succeed.
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

    /// <summary>Makes it readable; returns what readers open.</summary>
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
    /// Serves, and merges when it is asked to, until it is asked to stop, or its device is gone, or nobody needs it any more. Returns what became of the merge and of what came behind it: 0 if there was none.
    /// </summary>
    public ExitCode Run()
    {
        // Those who read a ublk device wait for the next server by then, and that one for the end of this process.
        if (_server is { } server) _stop.StopAlsoWhen(() => server.Trouble != null);
        ExitCode code = ExitCode.Done;
        if (_undurable != null)
        {
            // Only now: the first thing that a server reports is that it is ready.
            _options.Observer?.Stopped(this, _undurable);
            code = _undurable.Code;
        }
        // Whatever became of the merge, the device stays as long as somebody wants it.
        while (!_stop.Requested && !IsPlain)
        {
            if (IsMyTurn(out MemoryShare? share)) code = Merge(share);
            else if (_mapped != null && !_handOverTried && Status.State == SnapshotState.Merged) code = HandOver(_mapped);
            else Rest();
        }
        if (RefuseMerges())
        {
            SnapuserdException reason = new(ExitCode.Interrupted, "stopped before the merge began");
            _options.Observer?.Stopped(this, reason);
            code = reason.Code;
        }
        // A stop that comes just when all is merged must not take the device away under a mount that could have the base. (Without a server nobody answers the reads that the swap waits for.)
        // One that failed before is not tried again: of a flush that failed the second would seem to succeed.
        if (_mapped != null && !_handOverTried && Trouble == null && Status.State == SnapshotState.Merged) code = HandOver(_mapped);
        return code;
    }

    /// <summary>Asks for the merge, once. False if it cannot be merged, was asked before, or there is nothing left to do. Any thread.</summary>
    public bool RequestMerge()
    {
        lock (_gate)
        {
            // Who is not served yet does not run, and would hold up those behind it in the line.
            if (!CanMerge || _view == null || _mergeRequested || _mergesEnded || _status.State is not (SnapshotState.Serving or SnapshotState.Opening or SnapshotState.Merged)) return false;
            _mergeRequested = true;
            if (_status.State == SnapshotState.Serving) _status = _status with { State = SnapshotState.Queued };
            _options.Slots?.Queue(this);
        }
        _options.Asked?.Invoke(this);
        Wake();
        return true;
    }

    /// <summary>Holds the merge as soon as what is being written is written and counted; one that has not begun does not begin, so that the base and the COW stay as they are. Any thread.</summary>
    public void Pause()
    {
        _pace.Pause();
        _options.Asked?.Invoke(this);
        Wake();
        // Those behind it need not wait for it.
        _options.Slots?.WakeFirst();
    }

    /// <summary>Lets it go on. Any thread.</summary>
    public void Resume()
    {
        _pace.Resume();
        _options.Asked?.Invoke(this);
        Wake();
    }

    /// <summary>It is paused. Any thread.</summary>
    internal bool IsPaused => _pace.IsPaused;

    /// <summary>Limits what the merge writes, in bytes per second; 0 for no limit. Whoever sets one wakes the snapshot every few milliseconds, as long as <see cref="NeedsTicks"/>. Any thread.</summary>
    public void SetRate(long bytesPerSecond)
    {
        _pace.BytesPerSecond = bytesPerSecond;
        _options.Asked?.Invoke(this);
        Wake();
    }

    /// <summary>Its merge goes on by the time that passes, or soon will: nobody is told when its turn comes.</summary>
    public bool NeedsTicks
    {
        get
        {
            if (!_pace.IsLimited || _pace.IsPaused) return false;
            lock (_gate) return _mergeRequested && !_mergesEnded && !_disposed && (_mergeBegan < 0 || _status.State == SnapshotState.Merging);
        }
    }

    /// <summary>Stops its merge at the next checkpoint, or before it begins, for good: the next process may go on. It is served as before. Any thread.</summary>
    public void EndMerge()
    {
        _mergeStop.Request();
        RefuseMerges();
        Wake();
    }

    /// <summary>Ends <see cref="Run"/>. Any thread.</summary>
    public void RequestStop()
    {
        _stop.Request();
        Wake();
    }

    /// <summary>Has its thread look at what there is to look at. Any thread.</summary>
    public void Wake()
    {
        lock (_gate)
            if (!_disposed) _wakeUp.Signal();
    }

    /// <inheritdoc/>
    void IMergeObserver.Progress(in MergeProgress progress)
    {
        // Comes with every batch: a new status each time would be the only garbage of a merge.
        lock (_gate)
        {
            (_progress, _check) = (progress, null);
            _ = _rate.Measure(progress.BytesDone, _clock.Milliseconds / 1000.0);
        }
        _options.Observer?.Progress(progress);
    }

    /// <inheritdoc/>
    void IMergeObserver.Checking(in MergeProgress progress)
    {
        lock (_gate) _check = progress;
        _options.Observer?.Checking(progress);
    }

    /// <summary>Answers the requests that came, and removes the device, and the mapped one above it unless that stands on the base or somebody has it open. For the thread that owns it.</summary>
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
                // Whoever has it open gets errors, as without it.
            }
        }
        _server?.Stop();
    }

    /// <summary>Removes the device if it is still there, and closes everything.</summary>
    public void Dispose()
    {
        RefuseMerges();
        _server?.Dispose();
        _view?.Dispose();
        _engine?.Dispose();
        _devices?.Dispose();
        _mapped?.Dispose();
        lock (_gate)
        {
            _disposed = true;
            _status = _status with { State = SnapshotState.Ended, Device = "" };
        }
    }

    private double SecondsOfMerge => _mergeBegan < 0 ? 0 : (_clock.Milliseconds - _mergeBegan) / 1000.0;

    /// <summary>From here on nobody queues it; who stands in line without ever coming to its turn would hold up the others. True if it stood in line.</summary>
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

    private bool IsMyTurn(out MemoryShare? share)
    {
        share = null;
        lock (_gate)
        {
            if (!_mergeRequested || _mergesEnded || _mergeBegan >= 0) return false;
            // A merge that begins says so in the COW, and from then on there may be no way back.
            if (_status.State == SnapshotState.Queued && _pace.IsPaused) return false;
        }
        return _options.Slots == null || (share = _options.Slots.TryEnter(this)) != null;
    }

    private ExitCode Merge(MemoryShare? share)
    {
        // Both at once: between them it would need no ticks, and nobody who has seen that looks again.
        lock (_gate) (_mergeBegan, _status) = (_clock.Milliseconds, _status with { State = SnapshotState.Merging });
        try
        {
            MergeResult result = Engine.Run(share);
            End(SnapshotState.Merged, "", ExitCode.Done);
            _options.Observer?.Merged(this, result);
            return ExitCode.Done;
        }
        catch (Exception e)
        {
            // Also a defect of ours: readers find every block where they found it before.
            SnapuserdException? known = e as SnapuserdException;
            if (known?.Code == ExitCode.InputOutput) Devices.TakeErrors();
            ExitCode code = known?.Code ?? (e is OutOfMemoryException ? ExitCode.OutOfResources : ExitCode.Internal);
            End(code == ExitCode.Interrupted ? SnapshotState.Serving : SnapshotState.Failed, e.Message, code);
            _options.Observer?.Stopped(this, e);
            return code;
        }
        finally
        {
            if (share != null) _options.Slots!.Leave(share);
        }
    }

    /// <summary>Finds what there is of the mapped device. True if it stands on the base.</summary>
    private bool OpenMapped(string name)
    {
        string path = _options.Devices.Base ?? throw new SnapuserdException(ExitCode.Usage, "a mapped device takes a base");
        _mapped = _options.OpenMapped(name);
        // What a process has left that was killed between its last two steps claims the base.
        _mapped.Discard();
        return _options.TargetOf(path, false, -1).IsUnder(_mapped.Table);
    }

    /// <summary>Puts the mapped device on the base. If that fails it goes on as it is: served, and merged.</summary>
    private ExitCode HandOver(MappedDevice mapped)
    {
        _handOverTried = true;
        try
        {
            BlockDevice target = Devices.Devices[1];
            // Behind switch_root a process of the ramdisk is left with an empty root, and the system's lies on top of it. Where nothing does, this changes nothing.
            _ = Libc.ChRoot("/..");
            // Whoever writes to the base from now on must not find those writes undone because a count was lower on the disk than in a page cache.
            if (FlushDevices(withoutFlush: false) is (BlockDevice device, int error))
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"{device.Path} cannot be flushed, so {mapped.Path} stays where it is: {Reason.Of(error)}");
            target.GiveUpHold();
            mapped.StandOn(_options.TargetOf(target.Path, false, Length));
            Change(status => status with { State = SnapshotState.Plain });
            _options.Observer?.HandedOver(this);
            return ExitCode.Done;
        }
        catch (SnapuserdException e)
        {
            Change(status => status with { Error = e.Message, HandOverFailed = true });
            _options.Observer?.Stopped(this, e);
            return e.Code;
        }
    }

    /// <summary>Makes durable that everything was merged before this process opened the devices. Returns why that failed, or null.</summary>
    private SnapuserdException? MakeMergedDurable()
    {
        try
        {
            if (CanMerge) Engine.MakeMergedDurable();
            else if (FlushDevices(withoutFlush: true) is (BlockDevice device, int error))
                throw new SnapuserdException(ExitCode.InputOutput, $"{device.Path} cannot be flushed: {Reason.Of(error)}");
            return null;
        }
        catch (SnapuserdException e)
        {
            return new SnapuserdException(e.Code, $"everything is merged, but that may not be durable: {e.Message}");
        }
    }

    /// <summary>
    /// Flushes base and COW. Returns the first that cannot be flushed, with the errno. <paramref name="withoutFlush"/>: either may be on a
    /// file system that is read-only or has no flush.
    /// </summary>
    private (BlockDevice Device, int Error)? FlushDevices(bool withoutFlush)
    {
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[Devices.Devices[1], Devices.Devices[0]])
        {
            int flushed = FileFlush.Of(device.Fd);
            if (flushed < 0 && !(withoutFlush && FileFlush.IsLacking(flushed))) return (device, flushed);
        }
        return null;
    }

    private void End(SnapshotState state, string error, ExitCode code) =>
        Change(status => status with { State = state, Error = error, EndedWith = code, MergeSeconds = SecondsOfMerge });

    private void Change(Func<SnapshotStatus, SnapshotStatus> change)
    {
        lock (_gate) _status = change(_status);
    }

    /// <summary>Waits until there may be something to look at. A merge may have ended because its queue broke, which nothing wakes any more; the servers have queues of their own.</summary>
    private void Rest()
    {
        Transfers io = _setup!.Io;
        try
        {
            if (io.Broken) _ = Libc.Poll(default, LookMilliseconds);
            else io.Wait();
        }
        catch (SnapuserdException) when (io.Broken)
        {
            // It broke just now.
        }
    }
}
