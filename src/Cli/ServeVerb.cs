using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>`serve`.</summary>
internal static class ServeVerb
{
    /// <summary>Between two looks for a stop where none is announced: short for whoever sends a SIGTERM, and no load.</summary>
    private const int LookMilliseconds = 100;

    internal static ExitCode Run(Invocation invocation)
    {
        BlockServers.Check(invocation);
        // A client of the socket is a program among others; what the kernel serves may be all there is.
        bool mayBeRoot = invocation.Arguments.Text("--socket") == null;
        if (mayBeRoot) RootStorage.TakeName();
        if (invocation.Arguments.Has("--supervise")) return Supervisor.Run(invocation, BlockServers.SupervisedDevice(invocation));
        var ready = new Readiness(invocation);
        bool merges = invocation.Arguments.Has("--merge");
        int memory = (int)invocation.Arguments.Number("--memory", Verbs.DefaultMemory);
        var observer = new ProgressObserver(invocation, "merge");
        using var stop = new StopSignals();
        using var devices = new DeviceSet(invocation, writes: merges, stop, memory / 2);
        MergeSetup setup = devices.Setup with
        {
            Observer = merges ? observer : null,
            Readers = new ReaderGate(stop.WakeUp),
            // An Xor in place without scratch has no home for readers while it is written: such a COW is served or merged, not both.
            Options = new MergeOptions { VerifyFirst = !invocation.Arguments.Has("--no-verify-first"), AllowUnsafe = !merges },
        };
        using MergeEngine engine = MergeEngine.Open(setup);
        engine.Open();
        if (mayBeRoot) RootStorage.StayInMemory(invocation.Output);
        using var view = new SnapshotView(engine, setup, memory / 8, new ReadFailures(invocation).Tell);
        using IBlockServer server = BlockServers.Start(invocation, view, devices.Devices, memory / 8 * 3, stop.WakeUp, out string device);

        if (!merges) MergeVerb.WarnOfHiddenDamage(invocation, engine);
        ready.Tell(device, view.Length);
        // Those who read a ublk device wait for the next server by then, and that one for the end of this process.
        stop.Flag.StopAlsoWhen(() => server.Trouble != null);
        ExitCode code = merges ? Merge(invocation, engine, devices, observer) : ExitCode.Done;
        // Whatever became of the merge, the device stays as long as somebody wants it.
        while (!stop.Flag.Requested) Rest(setup.Io);
        ready.TellStopping();
        string? trouble = server.Trouble;
        server.Stop();
        if (trouble != null) throw new SnapuserdException(ExitCode.InputOutput, trouble);
        if (invocation.Arguments.Has("--json")) invocation.Output.Result(JsonLine.Event("closed").Add("device", device).Add("failed_reads", view.Failures).ToString());
        return code;
    }

    /// <summary>Waits until there may be something to look at. A merge may have ended because its queue broke, which nothing wakes any more; the servers have queues of their own.</summary>
    private static void Rest(Transfers io)
    {
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

    private static ExitCode Merge(Invocation invocation, MergeEngine engine, DeviceSet devices, ProgressObserver observer)
    {
        try
        {
            return MergeVerb.Run(invocation, engine, devices, observer);
        }
        catch (Exception e)
        {
            // Also a defect of ours: readers find every block where they found it before.
            return CommandLine.Report(invocation.Output, invocation.Arguments.Has("--json"), e);
        }
    }
}
