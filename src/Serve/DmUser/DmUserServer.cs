using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Answers the requests of Android's device-mapper target "user" at /dev/dm-user/NAME. Another program makes the target and the block
/// device that contains it. The target must exist before <see cref="Start"/>. The server ends when the target is removed. After the
/// server's end the kernel fails all requests.
/// </summary>
public sealed class DmUserServer : IBlockServer
{
    /// <summary>
    /// The longest part of a reply: as long as the largest request of a file system (256 pages), and as the parts that Android's daemon
    /// sends.
    /// </summary>
    private const int LongestPart = 1 << 20;

    /// <summary>Parts shorter than this need so many system calls that they cost more than another thread gains.</summary>
    private const int ShortestPart = 64 << 10;

    /// <summary>
    /// Milliseconds after which a signal is repeated: a signal that arrives before its thread has entered the system call has no effect.
    /// </summary>
    private const int SignalAgain = 10;

    private readonly SnapshotView _view;
    private readonly BlockDevice[] _devices;
    private readonly DmUserOptions _options;
    private readonly WakeUp _wakeUp;
    private readonly StopFlag _stop = new();
    private readonly object _gate = new();
    private DmUserWorker[] _workers = [];
    private int _preparing;
    private int _serving;
    private SnapuserdException? _refusal;
    private string? _failure;

    /// <summary>
    /// A server of <paramref name="view"/>; <paramref name="devices"/> are the devices of the view's engine, indexed by device number.
    /// <paramref name="wakeUp"/> is signalled when <see cref="Failure"/> is set. The caller keeps ownership of all three, which must
    /// outlive the server.
    /// </summary>
    public DmUserServer(SnapshotView view, BlockDevice[] devices, DmUserOptions options, WakeUp wakeUp)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.Threads);
        (_view, _devices, _options, _wakeUp) = (view, devices, options, wakeUp);
        Path = $"/dev/dm-user/{options.Name}";
    }

    /// <summary>The control device.</summary>
    public string Path { get; }

    /// <inheritdoc/>
    public string? Failure => Volatile.Read(ref _failure);

    /// <summary>
    /// Opens a channel for each thread and starts to serve, including the requests that are already waiting. Returns the control device's
    /// path.
    /// </summary>
    public string Start()
    {
        FileName.Check(_options.Name, "a dm-user device in /dev/dm-user");
        (int threads, int part) = Share();
        ChannelSignal.Prepare();
        DmUserWorker[] workers = new DmUserWorker[threads];
        for (int i = 0; i < threads; i++)
        {
            int channel = Open();
            if (channel < 0)
            {
                for (int made = 0; made < i; made++) workers[made].CloseUnused();
                throw Refusal(channel);
            }
            workers[i] = new DmUserWorker(_view, _devices, part, channel, Open, _stop)
            {
                Report = _options.Report,
                Patience = _options.Patience,
                Ready = OnReady,
                Ended = OnEnded,
            };
        }
        lock (_gate) (_workers, _preparing, _serving) = (workers, threads, threads);
        for (int i = 0; i < threads; i++)
        {
            if (workers[i].TryStart(i)) continue;
            for (int rest = i; rest < threads; rest++)
            {
                workers[rest].CloseUnused();
                OnReady(null);
                OnEnded(null);
            }
            lock (_gate) _refusal ??= WorkerThread.CannotStart($"dm-user {i}");
            break;
        }
        lock (_gate)
        {
            while (_preparing > 0) Monitor.Wait(_gate);
        }
        if (_refusal is null) return Path;
        Stop();
        throw _refusal;
    }

    /// <summary>Answers the requests in flight and closes the channels. The device stays, but the kernel fails later requests.</summary>
    public void Stop()
    {
        _stop.Request();
        DmUserWorker[] workers;
        lock (_gate) workers = _workers;
        foreach (DmUserWorker worker in workers)
        {
            // The driver has no poll: only a signal reaches a thread that waits for a request.
            do ChannelSignal.Send(worker.ThreadId);
            while (!worker.Join(SignalAgain));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Stop();

    /// <summary>The number of threads, and the length in bytes of a part of a reply, that fit into the memory.</summary>
    private (int Threads, int Part) Share()
    {
        int fixedBytes = ReadContext.Bytes(_view, 1, DmUserWorker.HeadRoom);
        for (int threads = _options.Threads; ; threads--)
        {
            int part = Math.Min(LongestPart, Sizes.RoundDown((_options.MemoryBytes / threads) - fixedBytes, Sizes.Block));
            if (part >= ShortestPart) return (threads, part);
            if (threads == 1)
                throw new SnapuserdException(ExitCode.OutOfResources, $"serving by dm-user takes {fixedBytes + ShortestPart} bytes of "
                    + $"buffer memory, but only {_options.MemoryBytes} are available; try a larger --memory");
        }
    }

    private int Open() => _options.Open is { } open ? open() : Libc.OpenAt(Libc.AT_FDCWD, Path, Libc.O_RDWR | Libc.O_CLOEXEC);

    private SnapuserdException Refusal(int errno)
    {
        SnapuserdException refusal = ErrnoPolicy.Failure(FailedCall.OpenDriver, errno, $"{Path} cannot be opened");
        return refusal.Code != ExitCode.Unavailable ? refusal : new SnapuserdException(refusal.Code,
            $"{refusal.Message}; it appears when a device-mapper table with a line '… user 0 SECTORS {_options.Name}' is loaded, which "
            + "requires an Android kernel");
    }

    private void OnReady(SnapuserdException? refusal)
    {
        lock (_gate)
        {
            _refusal ??= refusal;
            _preparing--;
            Monitor.PulseAll(_gate);
        }
    }

    private void OnEnded(string? failure)
    {
        lock (_gate)
        {
            _serving--;
            if (_serving == 0 && !_stop.Requested) failure ??= $"{Path}: the device-mapper device was removed";
            if (failure is null || _failure is not null) return;
            Volatile.Write(ref _failure, failure);
        }
        _wakeUp.Signal();
    }

    /// <summary>Uses SIGUSR2 to interrupt a thread's system call; the signal has no other effect.</summary>
    private static class ChannelSignal
    {
        private static readonly object s_gate = new();
        // Never disposed of: a signal that arrives after its handler was removed would end the process.
        private static PosixSignalRegistration? s_registration;

        public static void Prepare()
        {
            lock (s_gate)
            {
                if (s_registration is not null) return;
                try
                {
                    s_registration = PosixSignalRegistration.Create((PosixSignal)Libc.SIGUSR2, context => context.Cancel = true);
                }
                catch (TypeInitializationException)
                {
                    throw new SnapuserdException(ExitCode.OutOfResources,
                        "cannot listen for signals: no descriptor or no memory is left, try to raise the limit (ulimit -n)");
                }
                // The runtime installs handlers that restart system calls.
                int error = Libc.SigInterrupt(Libc.SIGUSR2);
                if (error < 0) throw new SnapuserdException(ExitCode.Internal, $"siginterrupt failed: {ErrnoText.Of(error)}");
            }
        }

        public static void Send(int thread)
        {
            if (thread != 0) _ = Libc.TgKill(Libc.GetPid(), thread, Libc.SIGUSR2);
        }
    }
}
