using System;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`serve`: one <see cref="Snapshot"/> on the main thread.</summary>
internal static class ServeVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        StopSignals.IgnoreOthers();
        BlockServers.Check(invocation);
        // With --socket only some programs depend on the server; a kernel device may be the root of the whole system.
        bool mayBeRoot = invocation.Arguments.Text("--socket") == null;
        if (mayBeRoot) RootStorage.TakeName();
        ControlFolder.MakeFor(invocation.Arguments.Text("--control"));
        Arguments arguments = invocation.Arguments;
        using var name = ServerName.Take(arguments.Text("--as"), arguments.Text("--mapper"), arguments.Text("--name"),
            arguments.Required("--cow"), arguments.Text("--control"));
        ReadyNotifier notifier = new((int)arguments.Number("--ready-fd", -1));
        if (arguments.Has("--supervise"))
        {
            invocation.Output.NeverWait();
            return Supervisor.Run(Supervised(invocation, name.Text), notifier, invocation.Output);
        }
        var ready = new ReadyReport(invocation, name.Text, notifier);
        bool merges = invocation.Arguments.Has("--merge");
        using var stop = new StopSignals();
        var persisted = PersistedControlState.Inherited(invocation.Output);
        using var snapshot = new Snapshot(Options(invocation, name.Text, persisted), stop.Flag, stop.WakeUp);
        persisted?.Restore(snapshot);
        // Listen first, so that an unusable path is reported before a device exists.
        CtlRequests requests = new(() => [snapshot], one =>
        {
            persisted?.NoteStop();
            one.RequestStop();
        });
        using ControlServer? control = Listen(invocation, snapshot, requests);
        try
        {
            return Run(invocation, ready, notifier, snapshot, requests, control, merges || persisted is { MergeAsked: true });
        }
        catch (SnapuserdException e)
        {
            // Watching clients receive the reason as well.
            requests.EndWatches(e);
            throw;
        }
    }

    /// <summary>The options for a supervisor of this server.</summary>
    private static SupervisorOptions Supervised(Invocation invocation, string name)
    {
        Arguments arguments = invocation.Arguments;
        return new SupervisorOptions
        {
            Name = name,
            Cow = arguments.Required("--cow"),
            Base = arguments.Required("--base"),
            Source = arguments.Text("--source"),
            Control = arguments.Text("--control"),
            Device = BlockServers.SupervisedDevice(invocation),
            Merges = arguments.Has("--merge"),
            MayMerge = BlockServers.Merges(arguments),
            WithoutLock = arguments.Has("--no-lock"),
        };
    }

    private static ExitCode Run(Invocation invocation, ReadyReport ready, ReadyNotifier notifier, Snapshot snapshot, CtlRequests requests,
        ControlServer? control, bool merges)
    {
        snapshot.Open();
        if (snapshot.IsPlain)
        {
            // The last server was killed after it had put the mapped device on the base. Only its unused device must still be removed.
            int left = BlockServers.UblkNumber(invocation);
            if (left >= 0) _ = UblkServer.RemoveDead(left);
            ready.Tell(snapshot.Status.Device, snapshot.Length);
            return ExitCode.Done;
        }
        if (invocation.Arguments.Text("--socket") == null) RootStorage.StayInMemory(invocation.Output);
        string device = snapshot.Serve((SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string path) =>
            BlockServers.Start(invocation, view, devices, memory, wakeUp, out path));
        MergeVerb.WarnOfHiddenDamage(invocation, snapshot.Engine);
        if (merges)
        {
            // Before anybody is told that the device exists: who then starts `ctl watch` watches the merge.
            _ = snapshot.RequestMerge();
            // A rate may have been set before the merge existed: let the control server start its ticks.
            control?.Wake();
        }
        ready.Tell(device, snapshot.Length);
        // Other programs wait for the line above, so it may block. From here on, output must not block the merge.
        invocation.Output.NeverWait();
        ExitCode code = snapshot.Run();
        requests.EndWatches();
        notifier.TellStopping();
        string? failure = snapshot.Failure;
        snapshot.StopServing();
        if (failure != null) throw new SnapuserdException(ExitCode.InputOutput, failure);
        TellClosed(invocation, device, snapshot.Status);
        return code;
    }

    private static void TellClosed(Invocation invocation, string device, SnapshotStatus status)
    {
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("closed").Add("device", device).Add("failed_reads", status.FailedReads)
                .Add("reads", status.Reads).Add("worst_read_seconds", status.WorstReadSeconds).ToString());
        invocation.Output.Write(Priority.Notice, "closed", $"{device} is closed after {Units.Count(status.Reads, "read")}, "
            + $"{status.FailedReads} of which failed; the slowest took {Units.Milliseconds(status.WorstReadSeconds)}",
            new("reads", status.Reads), new("failed_reads", status.FailedReads), new("worst_read_seconds", status.WorstReadSeconds));
    }

    private static ControlServer? Listen(Invocation invocation, Snapshot snapshot, CtlRequests requests)
    {
        if (invocation.Arguments.Text("--control") is not { } path) return null;
        ControlOptions options = new()
        {
            Lines = requests,
            Ticks = [requests, new RateTicks(() => [snapshot])],
            Report = sentence => invocation.Output.Write(Priority.Warning, "server", sentence),
        };
        return ControlServer.Start(path, options);
    }

    private static SnapshotOptions Options(Invocation invocation, string name, PersistedControlState? persisted)
    {
        Arguments arguments = invocation.Arguments;
        int memory = (int)arguments.Number("--memory", Verbs.DefaultMemory);
        return new SnapshotOptions
        {
            Name = name,
            Devices = DeviceArguments.Read(invocation, writes: BlockServers.Merges(invocation), memory / 2),
            VerifyFirst = !arguments.Has("--no-verify-first"),
            CheckedOps = persisted?.CheckedOps ?? 0,
            CacheBytes = memory / 8,
            ServerBytes = memory / 8 * 3,
            Observer = new Observer(invocation),
            ObserverFailed = sentence => MergeVerb.ObserverFailed(invocation, sentence),
            Mapper = arguments.Text("--mapper"),
            TimesResumed = ResumeCount.Counted,
            Asked = persisted == null ? null : persisted.Note,
            Checked = persisted == null ? null : persisted.NoteChecked,
            BeforeHandOver = RootStorage.EnterSystemRoot,
            ReadFailed = FailedReadReporter(invocation),
        };
    }

    /// <summary>Returns an action that reports failed reads of one snapshot, with fewer reports if there are many. Thread-safe.</summary>
    internal static Action<string> FailedReadReporter(Invocation invocation) => new ReadFailures((sentence, count) =>
    {
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("read_failed").Add("message", sentence).Add("count", count).ToString());
        invocation.Output.Write(Priority.Warning, "read_failed",
            count <= ReadFailures.InFull ? sentence : $"{sentence}; {count} reads have failed so far", new LogValue("count", count));
    }).Tell;

    /// <summary>Reports the merge in the same way as the verb `merge`.</summary>
    private sealed class Observer(Invocation invocation) : ISnapshotObserver
    {
        private readonly ProgressObserver _progress = new(invocation, "merge");

        public void Progress(in MergeProgress progress) => _progress.Progress(progress);

        public void Checking(in MergeProgress progress) => _progress.Checking(progress);

        public void Merged(Snapshot snapshot, MergeResult result) =>
            MergeVerb.Tell(invocation, result, snapshot.Devices.Io, snapshot.Status.MergeSeconds, snapshot.Status);

        public void HandedOver(Snapshot snapshot) =>
            invocation.Output.Write(Priority.Notice, "plain", $"{snapshot.Status.Device} stands on {snapshot.Status.Base} from now on");

        public void Stopped(Snapshot snapshot, Exception reason) => _ =
            MergeVerb.TellStopped(invocation, snapshot.Engine, snapshot.Devices.Io, snapshot.Status.MergeSeconds, reason, snapshot.Status);
    }
}
