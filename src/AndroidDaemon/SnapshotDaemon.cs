using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// Runs a <see cref="SnapshotSet"/> for Android's libsnapshot or for `ctl`. The thread that calls <see cref="Run"/> handles stop signals,
/// replaces a failed control socket, and returns when all snapshots have ended.
/// </summary>
public sealed class SnapshotDaemon
{
    /// <summary>
    /// Bytes that one snapshot needs besides the buffers of its merge: for its decoded units, and for its server's threads. Each of four
    /// threads gets 1 MiB, the largest request of a file system.
    /// </summary>
    private const int CacheBytes = 1 << 20, ServerBytes = 4 << 20;

    /// <summary>
    /// The most decoding threads of a snapshot. Each takes 200 KiB. More snapshots than cores are read at the same time only at boot.
    /// </summary>
    private const int MostThreads = 4;

    /// <summary>Milliseconds between two checks for the proxy, which starts once in a boot.</summary>
    private const int ProxyMilliseconds = 100;

    /// <summary>Milliseconds between two checks whether a verification must stop.</summary>
    private const int VerifyMilliseconds = 200;

    // The folders in which Android's init waits for the daemon that serves its root; the first exists if the metadata is in scratch space
    // (daemon §4.3).
    private static readonly string[] s_aliveFolders = ["/mnt/scratch_ota_metadata_super/ota", "/metadata/ota"];

    private readonly DaemonOptions _options;
    private readonly StopSignals _stop;
    private readonly SnapshotSet _set;
    private readonly bool _verifies;
    private ControlServer? _server;
    private CtlRequests? _requests;
    private string _path = "";
    private string _lastFailure = "";

    /// <summary>Creates a daemon; <see cref="Run"/> starts to serve. <paramref name="stop"/> must outlive the daemon.</summary>
    public SnapshotDaemon(DaemonOptions options, StopSignals stop)
    {
        (_options, _stop) = (options, stop);
        // As in Android, snapshots that a client adds by socket are not verified: they belong to an installation, and nothing is mounted on
        // them.
        _verifies = options.Socket == null;
        _set = new SnapshotSet(new SnapshotSetOptions
        {
            Make = Make,
            Server = name => (SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device) =>
                Serve(name, view, devices, memory, wakeUp, out device),
            DeviceIsForeign = IsForeign,
            Check = IsForeign ? CheckNode : null,
            Verify = _verifies ? Verify : null,
            Report = sentence => Log.Write(Priority.Error, "snapshot_failed", sentence),
        }, stop.WakeUp);
    }

    private ILog Log => _options.Log;

    /// <summary>True for dm-user devices, which another process makes and removes.</summary>
    private bool IsForeign => _options.Device == DaemonDevice.DmUser;

    /// <summary>
    /// Serves until a stop signal or a client ends the daemon and all snapshots have ended. Throws with exit code 69 if a snapshot of
    /// <see cref="DaemonOptions.Snapshots"/> cannot be served. If the socket cannot be opened, throws with the exit codes of
    /// <see cref="ControlServer"/>.
    /// </summary>
    public ExitCode Run()
    {
        RateTicks ticks = new(() => _set.Snapshots);
        try
        {
            Begin();
            bool isStopping = false;
            while (true)
            {
                if (_stop.Flag.Requested && !isStopping)
                {
                    isStopping = true;
                    EndSnapshots();
                }
                if (_set.IsTerminating)
                {
                    _server?.StopAccepting();
                    if (_set.IsEmpty) return ExitCode.Done;
                }
                else
                {
                    // Renew may have consumed wake-ups, so check the state again before the next wait.
                    if (Renew()) continue;
                    // Rate-limited merges need regular ticks. Without a control server, which gives them, this thread must.
                    if (_server == null) ticks.Tick(0);
                }
                _ = _stop.WakeUp.Wait(_server == null && !_set.IsTerminating ? ProxyMilliseconds : -1);
            }
        }
        finally
        {
            _set.Dispose();
            // The snapshots have ended: report their results to the watching clients.
            _requests?.EndWatches();
            _server?.Dispose();
        }
    }

    /// <summary>Opens the socket, or serves the snapshots that the options name.</summary>
    private void Begin()
    {
        // Open the socket first, so that an unusable one is reported before there is a snapshot.
        if (_options.Socket is { } socket)
        {
            (int inherited, _path) = InitSocket.Of(socket);
            _server = Listen((inherited, _path));
        }
        if (_options.SocketFolder == null) RootStorage.StayInMemory(Log);
        if (_options.Socket == null) StartAll();
    }

    private void EndSnapshots()
    {
        // Another program may have the devices mounted; foreign devices end when they are removed, as under Android's daemon.
        if (IsForeign) _set.Detach();
        else _set.StopAll();
    }

    /// <summary>Replaces a missing or failed control server. True if there is a new one.</summary>
    private bool Renew()
    {
        if (_server?.Failure != null)
        {
            // The server has reported the reason.
            _server.Dispose();
            _server = null;
        }
        if (_server != null) return false;
        _server = Reopen();
        return _server != null;
    }

    /// <summary>
    /// Opens a control socket at the same path again, or takes the socket from the proxy; returns null if there is none yet. After an error
    /// the daemon continues without a socket, because the whole system may depend on its snapshots.
    /// </summary>
    private ControlServer? Reopen()
    {
        try
        {
            if (_path.Length > 0) return Listen((-1, _path));
            int socket = SocketHandOver.Take(InitSocket.Folder + InitSocket.Proxy, _stop.WakeUp,
                () => _stop.Flag.Requested || _set.IsTerminating);
            return socket < 0 ? null : Listen((socket, ""));
        }
        catch (SnapuserdException e)
        {
            if (_lastFailure != e.Message) Log.Write(Priority.Error, "socket_failed", e.Message);
            _lastFailure = e.Message;
            return null;
        }
    }

    private ControlServer Listen((int Inherited, string Path) socket)
    {
        // `ctl stop` acts like a delete by Android's client: if another process owns the device, the snapshot ends after that process has
        // removed it; a snapshot that is not served ends at once.
        CtlRequests requests = _requests =
            new CtlRequests(() => _set.Snapshots, one => _set.Delete(one.Name, () => { })) { Attachments = _set };
        ControlOptions options = new()
        {
            Messages = new AndroidRequests(_set),
            Lines = requests,
            Ticks = [requests, new RateTicks(() => _set.Snapshots)],
            AnyPeer = socket.Inherited >= 0,
            Report = sentence => Log.Write(Priority.Warning, "control", sentence),
            WakeUp = _stop.WakeUp,
        };
        ControlServer server =
            socket.Inherited >= 0 ? ControlServer.Adopt(socket.Inherited, options) : ControlServer.Start(socket.Path, options);
        _options.SetProperty("snapuserd.ready");
        return server;
    }

    /// <summary>
    /// Starts to serve the snapshots of the command line, all at the same time. If one cannot be served, the daemon ends, because the
    /// starting system needs them all.
    /// </summary>
    private void StartAll()
    {
        string? failed = _set.ServeAll(_options.Snapshots, () => _stop.Flag.Requested);
        // After a stop signal, no snapshot is needed any more, so a failure does not matter.
        if (_stop.Flag.Requested) return;
        if (failed != null)
            throw new SnapuserdException(ExitCode.Unavailable, $"{failed} cannot be served; the daemon ends with all others");
        TellAlive();
    }

    /// <summary>Writes the file that init waits for before it reads from the served devices.</summary>
    private void TellAlive()
    {
        int result = -Errno.ENOENT;
        foreach (string folder in s_aliveFolders)
        {
            int fd = Libc.OpenAt(Libc.AT_FDCWD, folder + "/daemon-alive-indicator",
                Libc.O_WRONLY | Libc.O_CREAT | Libc.O_TRUNC | Libc.O_CLOEXEC, Modes.PrivateFile);
            result = fd < 0 ? fd : (int)Libc.Write(fd, "1"u8);
            if (fd >= 0) _ = Libc.Close(fd);
            if (fd != -Errno.ENOENT) break;
        }
        if (result < 0 && result != -Errno.ENOENT)
            Log.Write(Priority.Warning, "alive_indicator", $"daemon-alive-indicator cannot be written: {ErrnoText.Of(result)}");
    }

    private SnapshotOptions Make(SnapshotRequest request)
    {
        DeviceOptions devices = new()
        {
            Cow = request.Cow,
            Base = request.Base,
            Source = request.Source == request.Base ? null : request.Source,
            CowName = request.Attached?.CowName,
            BaseName = request.Attached?.BaseName,
            Writes = true,
            WithoutLock = _options.WithoutLock,
            Io = _options.Io,
            ArenaBytes = _options.Slots.MostBytes,
            Threads = _options.Threads > 0 ? _options.Threads : Math.Clamp(Environment.ProcessorCount, 1, MostThreads),
            Report = sentence => Log.Write(Priority.Warning, "snapshot",
                $"{request.Name}: {request.Attached?.Named(sentence) ?? sentence}"),
        };
        return new SnapshotOptions
        {
            Name = request.Name,
            Devices = devices,
            VerifyFirst = _options.VerifyFirst,
            CacheBytes = CacheBytes,
            ServerBytes = ServerBytes,
            Slots = _options.Slots,
            Observer = _options.Observer,
            ObserverFailed = sentence => Log.Write(Priority.Warning, "observer", $"{request.Name}: {sentence}"),
            ReadFailed = _options.ReadFailed(),
        };
    }

    private static void CheckNode(string name)
    {
        string path = $"/dev/dm-user/{name}";
        int found = Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _);
        if (found < 0) throw ErrnoPolicy.Failure(FailedCall.OpenDriver, found, path);
    }

    private IBlockServer Serve(string name, SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
    {
        Action<string> report = sentence => Log.Write(Priority.Warning, "server", $"{name}: {sentence}");
        IBlockServer server = _options.Device switch
        {
            DaemonDevice.Ublk => new UblkServer(view, devices, new UblkOptions { Id = -1, MemoryBytes = memory, Report = report }, wakeUp),
            DaemonDevice.Nbd when _options.SocketFolder is { } folder =>
                new NbdServer(view, devices,
                    new NbdOptions { SocketPath = $"{folder}/{name}", ExportName = name, MemoryBytes = memory, Report = report }, wakeUp),
            DaemonDevice.Nbd => new NbdDevice(view, devices, new NbdOptions { MemoryBytes = memory, Report = report }, wakeUp),
            // A daemon with a socket serves with one thread: during an installation, memory matters and speed does not (daemon §4.2).
            _ => new DmUserServer(view, devices,
                new DmUserOptions { Name = name, Threads = _verifies ? _options.Workers : 1, MemoryBytes = memory, Report = report },
                wakeUp),
        };
        return IBlockServer.Started(server, out device);
    }

    private bool Verify(string name, StopFlag stop)
    {
        // A client's update-verify waits for this result, at most ten seconds per snapshot.
        if (!UpdateVerifier.IsVerified(name)) return false;
        if (UpdateVerifier.FindDevice(name) is not { } path)
        {
            Log.Write(Priority.Warning, "not_verified", $"{name} is not verified: there is no mapped device of that partition");
            return false;
        }
        using UpdateVerifier verifier = new(path, sentence => Log.Write(Priority.Warning, "not_verified", sentence));
        verifier.Start();
        UpdateVerdict verdict;
        while ((verdict = verifier.Wait(VerifyMilliseconds)) == UpdateVerdict.Unknown && !stop.Requested) { }
        return verdict == UpdateVerdict.Success;
    }
}
