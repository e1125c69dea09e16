using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>`merge`.</summary>
internal static class MergeVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        var observer = new ProgressObserver(invocation, "merge");
        using var devices = new DeviceSet(invocation, writes: true);
        MergeOptions options = new()
        {
            VerifyFirst = !invocation.Arguments.Has("--no-verify-first"),
            AllowUnsafe = invocation.Arguments.Has("--allow-unsafe"),
        };
        using MergeEngine engine = MergeEngine.Open(devices.Setup with { Options = options, Observer = observer });
        try
        {
            MergeResult result = engine.Run();
            Tell(invocation, result, devices.Io, observer.Seconds);
            return ExitCode.Done;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Interrupted)
        {
            if (!invocation.Arguments.Has("--json")) throw;
            invocation.Output.Result(Line("stopped", engine.Result, devices.Io, observer.Seconds).Add("count", engine.DurableCount).ToString());
            invocation.Output.Diagnose($"snapuserd: {e.Message}");
            return e.Code;
        }
    }

    private static void Tell(Invocation invocation, MergeResult result, string io, double seconds)
    {
        if (invocation.Arguments.Has("--json"))
        {
            invocation.Output.Result(Line("done", result, io, seconds).ToString());
            return;
        }
        if (result.AlreadyMerged)
        {
            invocation.Output.Result($"already merged: all {result.OpsTotal} ops");
            return;
        }
        string resumed = result.ResumedFrom + result.Replayed > 0 ? $" (resumed at op {result.ResumedFrom}, {result.Replayed} replayed from scratch)" : "";
        invocation.Output.Result(string.Create(CultureInfo.InvariantCulture,
            $"merged {result.OpsTotal - result.ResumedFrom} of {result.OpsTotal} ops{resumed}: {result.Blocks} blocks, {Units.Bytes(result.BaseBytesWritten)} to the base, "
            + $"{Units.Bytes(result.CowBytesWritten)} to the COW, {result.Journaled} ops journaled, {result.Checkpoints} checkpoints, {result.Flushes} flushes, {seconds:0.000} s, {io}"));
    }

    private static JsonLine Line(string name, MergeResult result, string io, double seconds) => JsonLine.Event(name)
        .Add("ops", result.OpsTotal).Add("blocks", result.Blocks).Add("bytes_written", result.BaseBytesWritten).Add("seconds", seconds)
        .Add("resumed_from", result.ResumedFrom).Add("io", io).Add("replayed", result.Replayed).Add("journaled", result.Journaled)
        .Add("cow_bytes_written", result.CowBytesWritten).Add("checkpoints", result.Checkpoints).Add("flushes", result.Flushes)
        .Add("already_merged", result.AlreadyMerged).Add("peak_memory", PeakMemory());

    /// <summary>Peak of resident memory in bytes, or −1.</summary>
    private static long PeakMemory() => Libc.GetRUsage(Libc.RUSAGE_SELF, out ResourceUsage usage) < 0 ? -1 : usage.PeakKibibytes * 1024;
}
