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
/// A <see cref="SnapshotSet"/> controlled by Android's libsnapshot, or by `ctl`. The thread that calls <see cref="Run"/> waits for signals,
/// the socket, and the end.
/// </summary>
public sealed class SnapshotDaemon
{
    /// <summary>
    /// Bytes of one snapshot besides the buffers of the merges: for its decoded units, and for its server's threads. Four threads get
    /// 1 MiB each, the largest request of a file system.
    /// </summary>
    private const int CacheBytes = 1 << 20, ServerBytes = 4 << 20;

    /// <summary>
    /// The most decoding threads of a snapshot. Each takes 200 KiB, and only at boot do more snapshots than cores read at the same time.
    /// </summary>
    private const int MostThreads = 4;

    /// <summary>Milliseconds between two checks for the proxy, which comes once in a boot.</summary>
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

    /// <summary>Serves nothing yet. <paramref name="stop"/> outlives the daemon.</summary>
    public SnapshotDaemon(DaemonOptions options, StopSignals stop)
    {
        (_options, _stop) = (options, stop);
        // As in Android: snapshots that a client adds by socket belong to an installation, and nothing is mounted on them.
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

    /// <summary>The devices are dm-user's: another process makes and removes them.</summary>
    private bool IsForeign => _options.Device == DaemonDevice.DmUser;

    /// <summary>
    /// Serves until it is told to end, or all snapshots have ended. Exit code 69 for a snapshot of <see cref="DaemonOptions.Snapshots"/>
    /// that cannot be served; those of <see cref="ControlServer"/> for the socket.
    /// </summary>
    public ExitCode Run()
    {
        RateTicks ticks = new(() => _set.Snapshots);
        try
        {
            Begin();
            bool told = false;
            while (true)
            {
                if (_stop.Flag.Requested && !told)
                {
                    told = true;
                    EndSnapshots();
                }
                if (_set.IsTerminating)
                {
                    _server?.StopAccepting();
                    if (_set.IsEmpty) return ExitCode.Done;
                }
                else
                {
                    // Check the state before the next wait: the renewal may have consumed signals.
                    if (Renew()) continue;
                    // A server ticks for rate-limited merges; without a server this thread must do so, or they would stop.
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
        // First, so that an unusable socket is reported before there is a snapshot.
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
    /// Opens a control socket at the same path again, or takes the one from the proxy; null if there is none yet. After an error the daemon
    /// continues without a socket, because the whole system may depend on its snapshots.
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
        // `ctl stop` acts like a delete of Android's client: a foreign device is removed by its owner first, and a snapshot that is not
        // served ends at once.
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
    /// Serves the snapshots of the command line, all at the same time. If one cannot be served, the daemon ends: the starting system needs
    /// them all.
    /// </summary>
    private void StartAll()
    {
        string? failed = _set.ServeAll(_options.Snapshots, () => _stop.Flag.Requested);
        // After a stop signal, none of them is needed.
        if (_stop.Flag.Requested) return;
        if (failed != null)
            throw new SnapuserdException(ExitCode.Unavailable, $"{failed} cannot be served; the daemon ends with all others");
        TellAlive();
    }

    /// <summary>Writes the file for which init waits before it reads from the served devices.</summary>
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
            // One thread with a socket: during an installation, memory counts and speed does not (daemon §4.2).
            _ => new DmUserServer(view, devices,
                new DmUserOptions { Name = name, Threads = _verifies ? _options.Workers : 1, MemoryBytes = memory, Report = report },
                wakeUp),
        };
        return IBlockServer.Started(server, out device);
    }

    private bool Verify(string name, StopFlag stop)
    {
        // Android waits at most five times this long; a request that comes earlier waits for ten seconds per snapshot.
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
