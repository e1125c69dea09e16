using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`daemon`: checks the command line and runs a <see cref="SnapshotDaemon"/>, or hands a socket over.</summary>
internal static class DaemonVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        StopSignals.IgnoreOthers();
        invocation.Output.NeverWait();
        Arguments arguments = invocation.Arguments;
        bool waitsForSocket = arguments.Has("--no-socket");
        if (waitsForSocket && arguments.Has("--socket"))
            throw new SnapuserdException(ExitCode.Usage, "daemon: --no-socket and --socket: it serves what the command line names or what "
                + "clients of a socket ask for, not both; see snapuserd daemon --help");
        if (arguments.Has("--socket-handoff")) return HandOver(invocation);
        if (!waitsForSocket && arguments.Text("--socket") == null)
            throw new SnapuserdException(ExitCode.Usage, "daemon: it takes --socket PATH, or --no-socket; see snapuserd daemon --help");
        if (!waitsForSocket && arguments.Operands.Count > 0)
            throw new SnapuserdException(ExitCode.Usage,
                "daemon: NAME,COW,SOURCE,BASE goes with --no-socket; with a socket, clients say what to serve");
        foreach (string word in arguments.Operands)
        {
            if (!AndroidArguments.IsSnapshot(word))
                throw new SnapuserdException(ExitCode.Usage, $"daemon: '{word}' is not of the form NAME,COW,SOURCE,BASE");
            FileName.Check(word[..word.IndexOf(',')], "a snapshot");
        }
        bool forKernel = arguments.Text("--socket-folder") == null;
        if (!forKernel && arguments.Choice("--device") != "nbd")
            throw new SnapuserdException(ExitCode.Usage, "daemon: --socket-folder needs --device nbd");
        if (forKernel) RootStorage.TakeName();
        MergeSlots slots = Slots(arguments);

        using var stop = new StopSignals();
        if (!waitsForSocket) ControlFolder.MakeFor(arguments.Text("--socket"));
        return new SnapshotDaemon(Options(invocation, slots), stop).Run();
    }

    /// <summary>The options of the daemon from the command line.</summary>
    internal static DaemonOptions Options(Invocation invocation, MergeSlots slots)
    {
        Arguments arguments = invocation.Arguments;
        List<SnapshotRequest> snapshots = [];
        foreach (string word in arguments.Operands)
        {
            string[] parts = word.Split(',');
            snapshots.Add(new SnapshotRequest(parts[0], parts[1], parts[2], parts[3]));
        }
        return new DaemonOptions
        {
            Socket = arguments.Has("--no-socket") ? null : arguments.Required("--socket"),
            Snapshots = snapshots,
            Device = arguments.Choice("--device") switch
            {
                "ublk" => DaemonDevice.Ublk,
                "nbd" => DaemonDevice.Nbd,
                _ => DaemonDevice.DmUser,
            },
            SocketFolder = arguments.Text("--socket-folder"),
            Io = DeviceArguments.Io(arguments),
            WithoutLock = arguments.Has("--no-lock"),
            Threads = (int)arguments.Number("--threads", 0),
            Workers = (int)arguments.Number("--worker-count", 4),
            VerifyFirst = !arguments.Has("--no-verify-first"),
            Slots = slots,
            Observer = new Observer(invocation.Output),
            ReadFailed = () => ServeVerb.FailedReadReporter(invocation),
            SetProperty = name => SetProperty(invocation.Output, name),
            Log = invocation.Output,
        };
    }

    /// <summary>Whether an option of `daemon` takes a value; null if it has no such option.</summary>
    internal static bool? TakesValue(string option) =>
        Array.Find(Array.Find(Verbs.All, verb => verb.Name == "daemon")!.Options, one => one.Name == option) is { } known
            ? known.Kind != OptionKind.Flag : null;

    /// <summary>Acts as the proxy of daemon §4.4: hands the control socket to the daemon.</summary>
    private static ExitCode HandOver(Invocation invocation)
    {
        string name = invocation.Arguments.Text("--socket") ?? AndroidArguments.Socket;
        if (InitSocket.Inherited(name) is not { } socket || InitSocket.Inherited(InitSocket.Proxy) is not { } proxy)
            throw new SnapuserdException(ExitCode.Usage, "daemon: --socket-handoff takes two sockets from init, in "
                + $"{AndroidArguments.SocketVariable}{name} and {AndroidArguments.SocketVariable}{InitSocket.Proxy}");
        using var stop = new StopSignals();
        SocketHandOver.Give(proxy, socket, () => SetProperty(invocation.Output, "snapuserd.proxy_ready"), stop.WakeUp,
            () => stop.Flag.Requested);
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
        if (memory < (long)merges * leastPerMerge)
            throw new SnapuserdException(ExitCode.Usage,
                $"daemon: {merges} merges at the same time need a --memory of at least {Units.Bytes((long)merges * leastPerMerge)}");
        return new MergeSlots(new MemoryBudget(memory, merges), merges);
    }

    /// <summary>Reports the end of each merge.</summary>
    private sealed class Observer(Output output) : ISnapshotObserver
    {
        public void Progress(in MergeProgress progress)
        {
            // Progress is reported on request only.
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
            output.Write(priority, name, string.Create(CultureInfo.InvariantCulture, $"{snapshot.Name}: {what}; {status.OpsDone} of "
                + $"{Units.Count(status.OpsTotal, "op")} in {status.MergeSeconds:0.000} s"),
                new("ops", status.OpsTotal), new("count", status.OpsDone), new("seconds", status.MergeSeconds));
        }
    }
}
