using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cli.Control;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>
/// `daemon`: a <see cref="SnapshotSet"/> under the control of Android's libsnapshot, or of `ctl`. The main thread waits for signals, the socket, and the end.
/// </summary>
internal static class DaemonVerb
{
    /// <summary>
    /// Buffers of one snapshot beside those of the merges, in bytes: its decoded units, and what its server's threads read into. Four threads get 1 MiB each, which is what a file system asks
    /// for at once.
    /// </summary>
    private const int CacheBytes = 1 << 20, ServerBytes = 4 << 20;

    /// <summary>More snapshots than cores read at once only at boot; a thread to decompress with takes 200 KiB.</summary>
    private const int MostThreads = 4;

    /// <summary>Milliseconds between two looks for the proxy, which comes once in a boot.</summary>
    private const int ProxyMilliseconds = 100;

    private const string SocketFolder = "/dev/socket/", ProxySocket = "snapuserd_proxy";

    /// <summary>Milliseconds between two looks whether a verification is to be stopped.</summary>
    private const int VerifyMilliseconds = 200;

    // Where Android's init waits for the daemon that serves its root; the first folder is there when the metadata is kept in scratch space (daemon §4.3).
    private static readonly string[] s_aliveFolders = ["/mnt/scratch_ota_metadata_super/ota", "/metadata/ota"];

    internal static ExitCode Run(Invocation invocation)
    {
        StopSignals.IgnoreOthers();
        Arguments arguments = invocation.Arguments;
        bool waitsForSocket = arguments.Has("--no-socket");
        if (waitsForSocket && arguments.Has("--socket"))
            throw new SnapuserdException(ExitCode.Usage, "daemon: --no-socket and --socket: it serves what the command line names or what clients of a socket ask for, not both; see snapuserd daemon --help");
        if (arguments.Has("--socket-handoff")) return HandOver(invocation);
        if (!waitsForSocket && arguments.Text("--socket") == null) throw new SnapuserdException(ExitCode.Usage, "daemon: it takes --socket PATH, or --no-socket; see snapuserd daemon --help");
        if (!waitsForSocket && arguments.Operands.Count > 0) throw new SnapuserdException(ExitCode.Usage, "daemon: NAME,COW,SOURCE,BASE goes with --no-socket; with a socket, clients say what to serve");
        foreach (string word in arguments.Operands)
        {
            if (!AndroidWords.IsSnapshot(word)) throw new SnapuserdException(ExitCode.Usage, $"daemon: '{word}' is not of the form NAME,COW,SOURCE,BASE");
            FileName.Check(word[..word.IndexOf(',')], "a snapshot");
        }
        bool forKernel = arguments.Text("--socket-folder") == null;
        if (!forKernel && arguments.Choice("--device") != "nbd") throw new SnapuserdException(ExitCode.Usage, "daemon: --socket-folder takes --device nbd beside it");
        if (forKernel) RootStorage.TakeName();
        MergeSlots slots = Slots(arguments);

        using var stop = new StopSignals();
        Daemon daemon = new(invocation, slots, stop, isForeign: arguments.Choice("--device") == "dm-user");
        return daemon.Run(waitsForSocket);
    }

    /// <summary>What `--socket` names: a socket that init has opened for us, or a path.</summary>
    internal static (int Inherited, string Path) SocketOf(string name)
    {
        if (Inherited(name) is { } fd) return (fd, "");
        if (name.Contains('/')) return (-1, name);
        FileName.Check(name, $"a socket in {SocketFolder}");
        return (-1, SocketFolder + name);
    }

    private static int? Inherited(string name) =>
        int.TryParse(OwnProcess.Variable(AndroidWords.SocketVariable + name), NumberStyles.None, CultureInfo.InvariantCulture, out int fd) ? fd : null;

    /// <summary>The proxy of daemon §4.4.</summary>
    private static ExitCode HandOver(Invocation invocation)
    {
        string name = invocation.Arguments.Text("--socket") ?? AndroidWords.Socket;
        if (Inherited(name) is not { } socket || Inherited(ProxySocket) is not { } proxy)
            throw new SnapuserdException(ExitCode.Usage, $"daemon: --socket-handoff takes two sockets from init, in {AndroidWords.SocketVariable}{name} and {AndroidWords.SocketVariable}{ProxySocket}");
        using var stop = new StopSignals();
        SocketHandOver.Give(proxy, socket, () => SetProperty(invocation.Output, "snapuserd.proxy_ready"), stop.WakeUp, () => stop.Flag.Requested);
        return ExitCode.Done;
    }

    private static void SetProperty(Output output, string name)
    {
        if (PropertyService.Set(name, "true") is { } why) output.Write(Priority.Warning, "property", why);
    }

    private static MergeSlots Slots(Arguments arguments)
    {
        const int leastPerMerge = 8 << 20;
        long memory = arguments.Number("--memory", Verbs.DefaultMemory);
        int merges = (int)arguments.Number("--merges", 2);
        if (memory < (long)merges * leastPerMerge) throw new SnapuserdException(ExitCode.Usage, $"daemon: {merges} merges at a time take {Units.Bytes((long)merges * leastPerMerge)} of --memory at the least");
        return new MergeSlots(new MemoryBudget(memory, merges), merges);
    }

    private sealed class Daemon
    {
        private readonly Invocation _invocation;
        private readonly Arguments _arguments;
        private readonly MergeSlots _slots;
        private readonly StopSignals _stop;
        private readonly SnapshotSet _set;
        private readonly bool _isForeign;
        private readonly bool _verifies;
        private CtlRequests? _requests;
        private string _path = "";
        private string _lastTrouble = "";

        internal Daemon(Invocation invocation, MergeSlots slots, StopSignals stop, bool isForeign)
        {
            (_invocation, _arguments, _slots, _stop, _isForeign) = (invocation, invocation.Arguments, slots, stop, isForeign);
            // As Android: what a client with a socket adds is part of an installation, and nothing is mounted over it.
            _verifies = _arguments.Has("--no-socket");
            _set = new SnapshotSet(new SnapshotSetOptions
            {
                Make = Make,
                Server = name => (SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device) => Serve(name, view, devices, memory, wakeUp, out device),
                DeviceIsForeign = isForeign,
                Check = isForeign ? CheckNode : null,
                Verify = _verifies ? Verify : null,
                Report = sentence => Output.Write(Priority.Error, "snapshot_failed", sentence),
            }, stop.WakeUp);
        }

        private Output Output => _invocation.Output;

        internal ExitCode Run(bool waitsForSocket)
        {
            ControlServer? server = null;
            RateTicks ticks = new(() => _set.Snapshots);
            try
            {
                // Before anything else, so that a socket that cannot be had is known before there is a snapshot.
                if (!waitsForSocket)
                {
                    CtlVerb.MakeFolder(_arguments.Text("--socket"));
                    (int inherited, _path) = SocketOf(_arguments.Required("--socket"));
                    server = Listen((inherited, _path));
                }
                if (_arguments.Text("--socket-folder") == null) RootStorage.StayInMemory(Output);
                if (waitsForSocket) StartAll();
                bool told = false;
                while (true)
                {
                    if (_stop.Flag.Requested && !told)
                    {
                        told = true;
                        // Somebody may have the devices mounted; those that are not ours end when they are removed, as under Android's daemon.
                        if (_isForeign) _set.Detach();
                        else _set.StopAll();
                    }
                    if (_set.IsTerminating)
                    {
                        server?.StopAccepting();
                        if (_set.IsEmpty) return ExitCode.Done;
                    }
                    else
                    {
                        if (server?.Trouble != null)
                        {
                            // It has said so.
                            server.Dispose();
                            server = null;
                        }
                        // What was signalled meanwhile is looked at before anything is waited for.
                        if (server == null && (server = Renew()) != null) continue;
                        // A server does it for those whose merges have a rate; without one they must not stand still.
                        if (server == null) ticks.Tick(0);
                    }
                    _ = _stop.WakeUp.Wait(server == null && !_set.IsTerminating ? ProxyMilliseconds : -1);
                }
            }
            finally
            {
                _set.Dispose();
                // The snapshots have ended: who watches them is told how.
                _requests?.EndWatches();
                server?.Dispose();
            }
        }

        /// <summary>A socket in the place of one that there is not yet, or no longer: ours once more, or that from the proxy, once there is one. Whatever is wrong with it: what is served here may be all the system there is, so it goes on without.</summary>
        private ControlServer? Renew()
        {
            try
            {
                if (_path.Length > 0) return Listen((-1, _path));
                int socket = SocketHandOver.Take(SocketFolder + ProxySocket, _stop.WakeUp, () => _stop.Flag.Requested || _set.IsTerminating);
                return socket < 0 ? null : Listen((socket, ""));
            }
            catch (SnapuserdException e)
            {
                if (_lastTrouble != e.Message) Output.Write(Priority.Error, "socket_failed", e.Message);
                _lastTrouble = e.Message;
                return null;
            }
        }

        private ControlServer Listen((int Inherited, string Path) socket)
        {
            // As if Android's client had said so: whoever has made a device removes it first, and one that is not served yet goes at once.
            CtlRequests requests = _requests = new CtlRequests(() => _set.Snapshots, one => _set.Delete(one.Name, () => { })) { Attachments = _set };
            ControlOptions options = new()
            {
                Messages = new AndroidRequests(_set),
                Lines = requests,
                Ticks = [requests, new RateTicks(() => _set.Snapshots)],
                AnyPeer = socket.Inherited >= 0,
                Report = sentence => Output.Write(Priority.Warning, "control", sentence),
                WakeUp = _stop.WakeUp,
            };
            ControlServer server = socket.Inherited >= 0 ? ControlServer.Adopt(socket.Inherited, options) : ControlServer.Start(socket.Path, options);
            SetProperty(Output, "snapuserd.ready");
            return server;
        }

        /// <summary>Serves what the command line names, all at a time; one that cannot be served is the end, because the system that is about to start needs them all.</summary>
        private void StartAll()
        {
            List<SnapshotRequest> requests = [];
            foreach (string word in _arguments.Operands)
            {
                string[] parts = word.Split(',');
                requests.Add(new SnapshotRequest(parts[0], parts[1], parts[2], parts[3]));
            }
            string? failed = _set.ServeAll(requests, () => _stop.Flag.Requested);
            // Whoever has sent a signal wants none of them.
            if (_stop.Flag.Requested) return;
            if (failed != null) throw new SnapuserdException(ExitCode.Unavailable, $"{failed} cannot be served; the daemon ends with all others");
            TellAlive();
        }

        /// <summary>Init waits for this file before it reads from what is served here.</summary>
        private void TellAlive()
        {
            int result = -Errno.ENOENT;
            foreach (string folder in s_aliveFolders)
            {
                int fd = Libc.OpenAt(Libc.AT_FDCWD, folder + "/daemon-alive-indicator", Libc.O_WRONLY | Libc.O_CREAT | Libc.O_TRUNC | Libc.O_CLOEXEC, 0x180);
                result = fd < 0 ? fd : (int)Libc.Write(fd, "1"u8);
                if (fd >= 0) _ = Libc.Close(fd);
                if (fd != -Errno.ENOENT) break;
            }
            if (result < 0 && result != -Errno.ENOENT) Output.Write(Priority.Warning, "alive_indicator", $"daemon-alive-indicator cannot be written: {Reason.Of(result)}");
        }

        private SnapshotOptions Make(SnapshotRequest request)
        {
            IoChoice io = _arguments.Choice("--io") switch { "sync" => IoChoice.Sync, "uring" => IoChoice.Uring, _ => IoChoice.Auto };
            DeviceOptions devices = new()
            {
                Cow = request.Cow,
                Base = request.Base,
                Source = request.Source == request.Base ? null : request.Source,
                CowName = request.Attached?.CowName,
                BaseName = request.Attached?.BaseName,
                Writes = true,
                WithoutLock = _arguments.Has("--no-lock"),
                Io = io,
                ArenaBytes = _slots.MostBytes,
                Threads = (int)_arguments.Number("--threads", Math.Clamp(Environment.ProcessorCount, 1, MostThreads)),
                Report = sentence => Output.Write(Priority.Warning, "snapshot", $"{request.Name}: {request.Attached?.Named(sentence) ?? sentence}"),
            };
            return new SnapshotOptions
            {
                Name = request.Name,
                Devices = devices,
                VerifyFirst = !_arguments.Has("--no-verify-first"),
                CacheBytes = CacheBytes,
                ServerBytes = ServerBytes,
                Slots = _slots,
                Observer = new Observer(Output),
                ReadFailed = new ReadFailures(_invocation).Tell,
            };
        }

        private static void CheckNode(string name)
        {
            string path = $"/dev/dm-user/{name}";
            int found = Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _);
            if (found < 0) throw new SnapuserdException(ExitCode.Unavailable, $"{path}: {Reason.Of(found)}");
        }

        private IBlockServer Serve(string name, SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
        {
            Action<string> report = sentence => Output.Write(Priority.Warning, "server", $"{name}: {sentence}");
            IBlockServer server = _arguments.Choice("--device") switch
            {
                "ublk" => new UblkServer(view, devices, new UblkOptions { Id = -1, MemoryBytes = memory, Report = report }, wakeUp),
                "nbd" when _arguments.Text("--socket-folder") is { } folder =>
                    new NbdServer(view, devices, new NbdOptions { SocketPath = $"{folder}/{name}", ExportName = name, MemoryBytes = memory, Report = report }, wakeUp),
                "nbd" => new NbdDevice(view, devices, new NbdOptions { MemoryBytes = memory, Report = report }, wakeUp),
                // One thread where there is a socket: during an installation, memory counts and speed does not (daemon §4.2).
                _ => new DmUserServer(view, devices, new DmUserOptions { Name = name, Threads = _verifies ? (int)_arguments.Number("--worker-count", 4) : 1, MemoryBytes = memory, Report = report }, wakeUp),
            };
            try
            {
                device = server.Start();
                return server;
            }
            catch
            {
                server.Dispose();
                throw;
            }
        }

        private bool Verify(string name, StopFlag stop)
        {
            // Android asks for five times that long at the most; who is asked earlier waits for ten seconds per snapshot.
            if (!UpdateVerifier.IsVerified(name)) return false;
            if (UpdateVerifier.FindDevice(name) is not { } path)
            {
                Output.Write(Priority.Warning, "not_verified", $"{name} is not verified: there is no mapped device of that partition");
                return false;
            }
            using UpdateVerifier verifier = new(path, sentence => Output.Write(Priority.Warning, "not_verified", sentence));
            verifier.Start();
            UpdateVerdict verdict;
            while ((verdict = verifier.Wait(VerifyMilliseconds)) == UpdateVerdict.Unknown && !stop.Requested) { }
            return verdict == UpdateVerdict.Success;
        }
    }

    /// <summary>Tells of the merges.</summary>
    private sealed class Observer(Output output) : ISnapshotObserver
    {
        public void Progress(in MergeProgress progress)
        {
            // Whoever wants to know asks.
        }

        public void Merged(Snapshot snapshot, MergeResult result) => Tell(snapshot, Priority.Notice, "merged", "all is merged");

        public void Stopped(Snapshot snapshot, Exception reason)
        {
            bool interrupted = reason is SnapuserdException { Code: ExitCode.Interrupted };
            Tell(snapshot, interrupted ? Priority.Notice : Priority.Error, interrupted ? "stopped" : "failed", reason.Message);
        }

        private void Tell(Snapshot snapshot, Priority priority, string name, string what)
        {
            SnapshotStatus status = snapshot.Status;
            output.Write(priority, name, string.Create(CultureInfo.InvariantCulture, $"{snapshot.Name}: {what}; {status.OpsDone} of {Units.Count(status.OpsTotal, "op")} in {status.MergeSeconds:0.000} s"),
                new("ops", status.OpsTotal), new("count", status.OpsDone), new("seconds", status.MergeSeconds));
        }
    }
}
