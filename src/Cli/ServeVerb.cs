using System;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>`serve`.</summary>
internal static class ServeVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
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
        var failures = new ReadFailures(invocation);
        using var view = new SnapshotView(engine, setup, memory / 8, failures.Tell);
        using IBlockServer server = BlockServers.Start(invocation, view, devices.Devices, memory / 8 * 3, stop.WakeUp, out string device);

        ready.Tell(device, view.Length);
        ExitCode code = merges ? Merge(invocation, engine, devices, observer) : ExitCode.Done;
        // Whatever became of the merge, the device stays as long as somebody wants it.
        while (!stop.Flag.Requested && server.Trouble == null) setup.Io.Wait();
        ready.TellStopping();
        string? trouble = server.Trouble;
        server.Stop();
        if (trouble != null) throw new SnapuserdException(ExitCode.InputOutput, trouble);
        if (invocation.Arguments.Has("--json")) invocation.Output.Result(JsonLine.Event("closed").Add("device", device).Add("failed_reads", failures.Count).ToString());
        return code;
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
