using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`merge`.</summary>
internal static class MergeVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        var observer = new ProgressObserver(invocation, "merge");
        using var stop = new StopSignals();
        DeviceSet devices;
        try
        {
            devices = DeviceArguments.Open(invocation, writes: true, stop);
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.InUse or ExitCode.Permission || e is LargeSectorException)
        {
            // An init script may run the same command again after the merge, when the base is mounted or the COW cannot be written. A merge
            // that is finished must still succeed then.
            if (FinishedMerge.Confirm(invocation.Arguments.Required("--cow"), invocation.Arguments.Required("--base")) is not { } finished)
                throw;
            Tell(invocation, finished, "sync", observer.Seconds);
            return ExitCode.Done;
        }
        using (devices) return Run(invocation, devices, observer, () => observer.Seconds, stop.WakeUp);
    }

    /// <summary>
    /// Merges, and reports the result when the whole merge is durable. An observer that throws does not end the merge.
    /// </summary>
    internal static ExitCode Run(Invocation invocation, DeviceSet devices, IMergeObserver? observer, Func<double> seconds, WakeUp wakeUp)
    {
        MergeOptions options = new()
        {
            VerifyFirst = !invocation.Arguments.Has("--no-verify-first"),
            AllowUnsafe = invocation.Arguments.Has("--allow-unsafe"),
        };
        MergeThrottle throttle = new() { BytesPerSecond = invocation.Arguments.Number("--rate", 0) };
        using MergeLifecycle merge = MergeLifecycle.Open(devices.Setup with { Options = options, Observer = observer, Throttle = throttle },
            sentence => ObserverFailed(invocation, sentence));
        using RateClock? clock = throttle.IsLimited ? new RateClock(wakeUp) : null;
        WarnOfHiddenDamage(invocation, merge.Engine);
        MergeResult result;
        try
        {
            result = merge.Run();
        }
        catch (SnapuserdException e)
        {
            if (e.Code == ExitCode.InputOutput) devices.TakeErrors();
            return TellStopped(invocation, merge.Engine, devices.Io, seconds(), e);
        }
        Tell(invocation, result, devices.Io, seconds());
        return ExitCode.Done;
    }

    /// <summary>Reports that the observer of a merge has thrown.</summary>
    internal static void ObserverFailed(Invocation invocation, string sentence) =>
        invocation.Output.Write(Priority.Warning, "observer", sentence);

    /// <summary>Reports why a merge has stopped. Returns its exit code.</summary>
    internal static ExitCode TellStopped(Invocation invocation, MergeEngine engine, string io, double seconds, Exception reason,
        SnapshotStatus? served = null)
    {
        bool json = invocation.Arguments.Has("--json");
        SnapuserdException? interrupted = reason is SnapuserdException { Code: ExitCode.Interrupted } known ? known : null;
        if (json && interrupted != null)
        {
            invocation.Output.Result(Line("stopped", engine.Result, io, seconds).Add("count", engine.DurableCount).ToString());
            invocation.Output.Write(Priority.Warning, "error", interrupted.Message, new LogValue("exit_code", (int)interrupted.Code));
        }
        ExitCode code = json && interrupted != null ? interrupted.Code : CommandLine.Report(invocation.Output, json, reason);
        Summarize(invocation, interrupted != null ? "stopped" : "failed",
            $"the merge stands at op {engine.DurableCount} of {engine.Result.OpsTotal}", engine.Result, seconds, served);
        return code;
    }

    /// <summary>Warns if an interrupted merge by Android's engine may have damaged the base, and the COW cannot show it.</summary>
    internal static void WarnOfHiddenDamage(Invocation invocation, MergeEngine engine)
    {
        if (engine.MayHideDamage)
            invocation.Output.Write(Priority.Warning, "hidden_damage", $"{engine.Cow.Name} has no scratch: if Android's own engine was "
                + "killed while merging it, the base may be damaged already, and nothing in the COW can show it");
    }

    /// <summary>Reports the result of a merge.</summary>
    internal static void Tell(Invocation invocation, MergeResult result, string io, double seconds, SnapshotStatus? served = null)
    {
        Summarize(invocation, "merged", result.AlreadyMerged ? $"all {result.OpsTotal} ops were merged already" : "merged", result,
            seconds, served);
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
        string resumed = result.ResumedFrom
            + result.Replayed > 0 ? $" (resumed at op {result.ResumedFrom}, {result.Replayed} replayed from scratch)" : "";
        invocation.Output.Result(string.Create(CultureInfo.InvariantCulture,
            $"merged {result.OpsTotal - result.ResumedFrom} of {Units.Count(result.OpsTotal, "op")}{resumed}: "
            + $"{Units.Count(result.Blocks, "block")}, {Units.Bytes(result.BaseBytesWritten)} to the base, "
            + $"{Units.Bytes(result.CowBytesWritten)} to the COW, {Units.Count(result.Journaled, "op")} journaled, "
            + $"{Units.Count(result.Checkpoints, "checkpoint")}, "
            + $"{Units.Count(result.Flushes, "flush", "flushes")}, {seconds:0.000} s, {io}"));
    }

    private static JsonLine Line(string name, MergeResult result, string io, double seconds) => JsonLine.Event(name)
        .Add("ops", result.OpsTotal).Add("blocks", result.Blocks).Add("bytes_written", result.BaseBytesWritten).Add("seconds", seconds)
        .Add("resumed_from", result.ResumedFrom).Add("io", io).Add("replayed", result.Replayed).Add("journaled", result.Journaled)
        .Add("cow_bytes_written", result.CowBytesWritten).Add("checkpoints", result.Checkpoints).Add("flushes", result.Flushes)
        .Add("already_merged", result.AlreadyMerged).Add("peak_memory", ProcessMemory.Peak())
        .Add("times_resumed", ResumeCount.Times(result));

    /// <summary>Writes the last record about a merge, for every result.</summary>
    private static void Summarize(Invocation invocation, string name, string what, MergeResult result, double seconds,
        SnapshotStatus? served)
    {
        int resumed = ResumeCount.Times(result);
        string readers = served is { Reads: > 0 } ? $", {Units.Count(served.Reads, "read")} served, the slowest in "
            + $"{Units.Milliseconds(served.WorstReadSeconds)}" : "";
        invocation.Output.Write(Priority.Notice, name, string.Create(CultureInfo.InvariantCulture,
            $"{what}: {Units.Count(result.OpsTotal, "op")} in all, {Units.Count(result.Blocks, "block")} and "
            + $"{Units.Bytes(result.BaseBytesWritten)} written in {seconds:0.000} s, resumed {Units.Count(resumed, "time")}{readers}"),
            new("ops", result.OpsTotal), new("resumed_from", result.ResumedFrom), new("blocks", result.Blocks),
            new("bytes_written", result.BaseBytesWritten), new("seconds", seconds),
            new("times_resumed", resumed), new("reads", served?.Reads ?? 0), new("worst_read_seconds", served?.WorstReadSeconds ?? 0));
    }
}
