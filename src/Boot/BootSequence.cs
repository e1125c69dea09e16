using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Boot;

/// <summary>The options of a boot.</summary>
public sealed record BootOptions
{
    /// <summary>When to merge.</summary>
    public MergePolicy Merge { get; init; }
    /// <summary>"auto", "ublk" or "nbd".</summary>
    public string Device { get; init; } = "auto";
    /// <summary>Decode every payload of an update before it is used for the first time.</summary>
    public bool Verify { get; init; } = true;
    /// <summary>Seconds to wait for all devices together.</summary>
    public int Wait { get; init; }
    /// <summary>The folder of the servers' control sockets.</summary>
    public required string ControlFolder { get; init; }
    /// <summary>Only report what would be done.</summary>
    public bool DryRun { get; init; }
    /// <summary>
    /// The word of the kernel's command line that forbids resuming, such as "noresume". A hibernation image is then discarded. Null if
    /// there is no such word.
    /// </summary>
    public string? NoResume { get; init; }
    /// <summary>The system has already tried to resume, and has waited for the device of resume=.</summary>
    public bool AfterResume { get; init; }
}

/// <summary>
/// The result of a row: <paramref name="State"/> is plain, old, served, merged or failed. <paramref name="Command"/> is the command line of
/// its server, if it is served.
/// </summary>
public sealed record RowResult(BootRow Row, string State, string Why, ExitCode Code, string[] Command)
{
    public bool IsUsable => Code == ExitCode.Done;
}

/// <summary>
/// A boot. Inspects every row in the order of the phases, decides (<see cref="BootDecision"/>), and puts /dev/mapper/NAME on the chosen
/// device.
/// <para>
/// Phases order merges: a row may be merged when all rows of earlier phases are plain or merged. Until then it is served; `ctl merge`
/// merges it, or a later boot that finds the earlier rows merged. No process waits for the earlier rows. A row whose merge has begun and
/// that cannot be served is merged in any phase: the order was already broken when its merge began.
/// </para>
/// </summary>
public sealed class BootSequence(IBootSystem system, ILog log, BootOptions options)
{
    private const int PauseMilliseconds = 50;

    /// <summary>The least milliseconds to wait for a server that is starting or ending, even if the wait for devices is over.</summary>
    private const int ServerMilliseconds = 10_000;

    private readonly List<int> _ublk = [];
    private int _index;
    private long _deadline;

    /// <summary>
    /// Processes <paramref name="rows"/>, passes each result to <paramref name="tell"/>, and returns the exit code of the first row that
    /// failed.
    /// </summary>
    public ExitCode Run(List<BootRow> rows, Action<RowResult> tell)
    {
        if (rows.Count == 0) return ExitCode.Done;
        _deadline = system.Milliseconds + (options.Wait * 1000L);
        ResumeGate gate = new(system, log, options);
        gate.Await(_deadline);
        List<(BootRow Row, RowDevices? Devices, BootDecision Decision)> plan = [];
        foreach (BootRow row in InPhases(rows))
        {
            (RowDevices? devices, BootDecision decision) = Decide(row);
            plan.Add((row, devices, decision));
        }
        // A disk with a hibernation image may have appeared during the wait for other devices. Nothing is written before this check.
        gate.Check();
        RowStorage.Check(rows);
        ExitCode code = ExitCode.Done;
        int merging = int.MaxValue;
        foreach ((BootRow row, RowDevices? devices, BootDecision decision) in plan)
        {
            RowResult result = Carry(row, devices, decision, mayMerge: row.Phase <= merging);
            // Rows of later phases must not be merged after a row that failed, uses the old image, or is still to be merged.
            if (result.State is not ("plain" or "merged")) merging = Math.Min(merging, row.Phase);
            if (!result.IsUsable && code == ExitCode.Done) code = result.Code;
            Tell(tell, result);
            _index++;
        }
        return code;
    }

    /// <summary>Reports a row. If <paramref name="tell"/> throws, logs the exception, so that the next rows are still processed.</summary>
    private void Tell(Action<RowResult> tell, RowResult result)
    {
        try
        {
            tell(result);
        }
        catch (Exception e)
        {
            log.Write(Priority.Warning, "observer", $"{result.Row.Name}: its result cannot be shown: {e.Message}");
        }
    }

    /// <summary>Sorts rows by phase; the order of the table applies within a phase.</summary>
    private static List<BootRow> InPhases(List<BootRow> rows)
    {
        List<BootRow> sorted = [];
        for (int phase = 1; phase <= BootTable.LastPhase; phase++)
            foreach (BootRow row in rows)
                if (row.Phase == phase) sorted.Add(row);
        return sorted;
    }

    private (RowDevices? Devices, BootDecision Decision) Decide(BootRow row)
    {
        try
        {
            RowDevices devices = RowDevices.Find(system, row, _deadline);
            return (devices, BootDecision.Of(row, devices.State, devices.Marker, options.Merge));
        }
        catch (SnapuserdException e)
        {
            return (null, new BootDecision(BootAction.Fail, e.Message, e.Code));
        }
    }

    private RowResult Carry(BootRow row, RowDevices? devices, BootDecision decision, bool mayMerge)
    {
        try
        {
            if (devices == null || decision.Action == BootAction.Fail) return Failed(row, decision.Code, decision.Why);
            if (options.DryRun) return CarryOut(row, devices, decision, mayMerge);
            if (Running(row) is { } running) return running;
            if (Claim(row) is not { } claim) return Taken(row);
            using (claim)
            {
                // Decide again: another process may have written before the claim.
                (devices, decision) = Decide(row);
                return devices == null || decision.Action == BootAction.Fail ? Failed(row, decision.Code, decision.Why) : CarryOut(row,
                    devices, decision, mayMerge);
            }
        }
        catch (SnapuserdException e)
        {
            return Failed(row, e.Code, e.Message);
        }
    }

    private RowResult CarryOut(BootRow row, RowDevices devices, BootDecision decision, bool mayMerge)
    {
        switch (decision.Action)
        {
            case BootAction.Direct:
                return Direct(row, devices, decision.Why);
            case BootAction.Fallback:
                return OldIfUntouched(row, RowDevices.LookAgain(system, row), decision.Why)
                    ?? Failed(row, ExitCode.InUse, $"another process has begun to merge {row.Cow} since it was inspected");
            case BootAction.Merge when mayMerge:
                if (options.DryRun) return new RowResult(row, "merged", decision.Why, ExitCode.Done, MergeCommand(row));
                return MergeNow(row, devices, "") ?? NotMerged(row, devices, decision);
            default:
                if (decision.Action == BootAction.Merge)
                    log.Write(Priority.Warning, "held",
                        $"{row.Name} is served and not merged yet, because a row of an earlier phase is not merged");
                bool verify = VerifiesFirst(devices.State);
                if (!options.DryRun && verify && Verify(row) is { } damage) return Damaged(row, damage);
                return Serve(row, devices, decision.Why, mayMerge, verify) ?? NotServed(row, devices, mayMerge);
        }
    }

    /// <summary>
    /// True if all payloads must be decoded before the server starts: this program has not begun the merge, so a rollback may still be
    /// possible.
    /// </summary>
    private bool VerifiesFirst(CowState state) =>
        options.Verify && state is { IsNotBegunHere: true, Kind: CowKind.Untouched or CowKind.Unknown };

    /// <summary>The fallback when the merge fails. Inspects the row again, because the merge may have begun.</summary>
    private RowResult NotMerged(BootRow row, RowDevices devices, BootDecision decision)
    {
        CowState state = RowDevices.LookAgain(system, row);
        if (OldIfUntouched(row, state, $"it cannot be merged, and {devices.State.Sentence}") is { } old) return old;
        bool verify = VerifiesFirst(state);
        if (verify && Verify(row) is { } damage) return Damaged(row, damage);
        return Serve(row, devices, decision.Why, mayMerge: false, verify)
            ?? Failed(row, ExitCode.InputOutput, $"{decision.Why}, and it can be neither merged nor served");
    }

    /// <summary>Handles damaged payloads in an update whose merge this program has not begun.</summary>
    private RowResult Damaged(BootRow row, string damage)
    {
        CowState state = RowDevices.LookAgain(system, row);
        if (OldIfUntouched(row, state, $"the update cannot be used, and nothing of it is merged: {damage}") is { } old) return old;
        return state.Kind == CowKind.Unknown
            ? Failed(row, ExitCode.CowCorrupt, $"{damage}; whether {row.Base} is the old image cannot be known: {state.Sentence}")
            : Failed(row, ExitCode.InUse, $"another process has begun to merge {row.Cow} since it was inspected; {damage}");
    }

    /// <summary>
    /// The fallback when no server can start. Inspects the row again, because the failed server may have begun the merge.
    /// </summary>
    private RowResult NotServed(BootRow row, RowDevices devices, bool mayMerge)
    {
        CowState state = RowDevices.LookAgain(system, row);
        if (OldIfUntouched(row, state, $"it cannot be served, and {state.Sentence}") is { } old) return old;
        // Under any policy, a merge that has begun must be finished. If it is unknown whether the merge has begun, merge only if the policy
        // is to merge.
        bool merges = state.Kind is CowKind.Begun or CowKind.Merged
            || (state.Kind == CowKind.Unknown && mayMerge && options.Merge == MergePolicy.Background);
        if (!merges)
        {
            return Failed(row, ExitCode.Unavailable, state.Kind == CowKind.Unknown
                ? $"{state.Sentence}; it cannot be served, and "
                    + $"{(mayMerge ? "no merge was requested" : "rows of earlier phases are to be merged before it")}"
                    + $"{(mayMerge ? ", and" : ";")} a merge cannot be undone: load ublk_drv or nbd, and dm_mod"
                    + (mayMerge ? ", or say snapuserd.merge=before on the kernel's command line" : "")
                : $"it cannot be served, and {state.Sentence}");
        }
        return MergeNow(row, devices, "it cannot be served, so it is merged before it is mounted")
            ?? Failed(row, ExitCode.Unavailable, $"{state.Sentence}, and it can be neither served nor merged");
    }

    /// <summary>
    /// Checks for a server of an earlier boot. A server that reports to serve exactly this row stays. Any other program on the socket may
    /// also use the row's devices, so the row fails. Null if no program listens.
    /// </summary>
    private RowResult? Running(BootRow row)
    {
        long deadline = Math.Max(_deadline, system.Milliseconds + ServerMilliseconds);
        while (system.Ask(ControlOf(row), row) is { } server)
        {
            if (server.Serves) return new RowResult(row, "served", server.Sentence, ExitCode.Done, []);
            if (!server.Changes || system.Milliseconds >= deadline) return Failed(row, ExitCode.InUse, server.Sentence);
            system.Pause(PauseMilliseconds);
        }
        return null;
    }

    /// <summary>Claims the COW and the base; returns null if another process uses one of them.</summary>
    private IDisposable? Claim(BootRow row)
    {
        try
        {
            return system.Claim(row);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InUse)
        {
            log.Write(Priority.Error, "taken", $"{row.Name}: {e.Message}");
            return null;
        }
    }

    private RowResult Direct(BootRow row, RowDevices devices, string why)
    {
        if (!options.DryRun)
        {
            if (devices.State.Kind == CowKind.Merged) system.Flush(row);
            system.StandOnBase(row, readOnly: false);
            if (devices.State.Kind == CowKind.Merged) MergeMarker.Remove(row.Cow);
        }
        return Done(row, "plain", why);
    }

    /// <summary>Provides the old image, read-only: the update is kept, and writes to the old image would make it useless.</summary>
    private RowResult Fallback(BootRow row, string why)
    {
        if (!options.DryRun)
        {
            log.Write(options.Merge == MergePolicy.Rollback ? Priority.Notice : Priority.Error, "old",
                $"{row.Name}: the OLD image is taken: {why}");
            system.StandOnBase(row, readOnly: true);
            // Nothing is merged, so remove the marker: if the COW is deleted later, a marker must not claim that its merge had begun.
            MergeMarker.Remove(row.Cow);
        }
        return Done(row, "old", why);
    }

    private RowResult? OldIfUntouched(BootRow row, CowState state, string why) =>
        state.BaseIsUntouched && state.Kind is CowKind.Untouched or CowKind.Corrupt ? Fallback(row, why) : null;

    private string? Verify(BootRow row)
    {
        try
        {
            system.Verify(row);
            return null;
        }
        catch (SnapuserdException e) when (e.Code != ExitCode.InUse)
        {
            return e.Message;
        }
    }

    /// <summary>Starts a server. Null if the row cannot be served; a failed result if another process uses its devices.</summary>
    private RowResult? Serve(BootRow row, RowDevices devices, string why, bool mayMerge, bool verified)
    {
        string? merge = mayMerge && options.Merge == MergePolicy.Background ? "--merge" : "--merge-on-request";
        if (!options.DryRun && devices.CowIsFile && MergeMarker.Make(row.Cow, devices.Says) is < 0 and int error)
        {
            log.Write(Priority.Error, "no_mark",
                $"{row.Name} is served but not merged: {MergeMarker.PathOf(row.Cow)} cannot be made: {ErrnoText.Of(error)}");
            merge = null;
        }
        bool ublk = options.Device == "ublk" || (options.Device == "auto" && system.HasUblk);
        if (!ublk && options.Device == "auto")
            log.Write(Priority.Notice, "no_ublk",
                $"{row.Name} is served over NBD, because there is no ublk (ublk_drv): a server that is killed takes the device with it");
        while (true)
        {
            string[] command = ServeCommand(row, ublk, merge, verified);
            if (options.DryRun) return new RowResult(row, "served", why, ExitCode.Done, command);
            ExitCode code;
            try
            {
                code = system.Serve(command);
            }
            catch (SnapuserdException e)
            {
                log.Write(Priority.Error, "not_served", $"{row.Name}: {e.Message}");
                code = e.Code;
            }
            if (code == ExitCode.Done) return Done(row, "served", why) with { Command = command };
            if (code == ExitCode.InUse) return Taken(row);
            log.Write(Priority.Error, "not_served",
                $"{row.Name} cannot be served over {(ublk ? "ublk" : "NBD")}: the server ended with {(int)code}{Module(code, ublk)}");
            if (!ublk || options.Device != "auto" || code != ExitCode.Unavailable) return null;
            ublk = false;
        }
    }

    /// <summary>
    /// Another process holds the COW or the base, so the base's content is undefined: the row fails. It does not fail if an earlier boot
    /// has put the row's device on the old image, because that device keeps other processes from the base.
    /// </summary>
    private RowResult Taken(BootRow row) =>
        (system.IsOld(row) ? OldIfUntouched(row, RowDevices.LookAgain(system, row), "an earlier boot has taken it") : null)
        ?? Failed(row, ExitCode.InUse, $"a merge, a server, a mount or another process uses {row.Cow}, {row.Base} or the device over which "
            + "the row would be served (the reason is above, or in the kernel's log)");

    private static string Module(ExitCode code, bool ublk) =>
        code != ExitCode.Unavailable ? "" : $"; the modules are {(ublk ? "ublk_drv" : "nbd")} and dm_mod (modprobe)";

    private string[] ServeCommand(BootRow row, bool ublk, string? merge, bool verified)
    {
        List<string> arguments = ["@snapuserd", "serve", "--cow", row.Cow, "--base", row.Base];
        if (row.Source != null) arguments.AddRange(["--source", row.Source]);
        arguments.AddRange(["--mapper", row.Name, "--control", ControlOf(row)]);
        if (ublk) arguments.AddRange(["--device", "ublk", "--name", $"ublkb{UblkNumber()}", "--supervise"]);
        else arguments.AddRange(["--device", "nbd"]);
        if (merge != null)
        {
            arguments.Add(merge);
            if (verified) arguments.Add("--no-verify-first");
        }
        arguments.AddRange(["--progress", "never", "--log", "kmsg"]);
        return [.. arguments];
    }

    /// <summary>
    /// The number of the row's ublk device: its position in the order of the phases, so that a later boot finds the device of a dead
    /// server. If another server has that number, the next free one.
    /// </summary>
    private string UblkNumber()
    {
        int number = _index;
        while (_ublk.Contains(number) || system.IsUblkTaken(number)) number++;
        _ublk.Add(number);
        return number.ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>Merges the row now. Null if the merge fails; a failed result if another process uses its devices.</summary>
    private RowResult? MergeNow(BootRow row, RowDevices devices, string warning)
    {
        if (warning.Length > 0) log.Write(Priority.Warning, "merge_before", $"{row.Name}: {warning}");
        if (MissingMapper(row) is { } missing)
        {
            // Without a device mapper the merged row could not be used either. Do not begin its merge, so that a rollback stays possible.
            if (RowDevices.LookAgain(system, row).Kind is not (CowKind.Begun or CowKind.Merged))
                return Failed(row, missing.Code, $"it is not merged, because there could be no {row.Path} then: {missing.Message}");
            log.Write(Priority.Error, "no_mapper",
                $"{row.Name}: its merge has begun, so it is finished, but there will be no {row.Path}: {missing.Message}");
        }
        if (devices.CowIsFile && MergeMarker.Make(row.Cow, devices.Says) is < 0 and int error)
        {
            log.Write(Priority.Error, "no_mark",
                $"{row.Name} cannot be merged: {MergeMarker.PathOf(row.Cow)} cannot be made: {ErrnoText.Of(error)}");
            return null;
        }
        ExitCode code = system.Merge(MergeCommand(row));
        if (code == ExitCode.InUse) return Taken(row);
        if (code != ExitCode.Done)
        {
            log.Write(Priority.Error, "not_merged", $"{row.Name} cannot be merged: the merge ended with {(int)code}");
            return null;
        }
        system.StandOnBase(row, readOnly: false);
        if (devices.CowIsFile) MergeMarker.Remove(row.Cow);
        return Done(row, "merged", $"{row.Cow} is merged");
    }

    private SnapuserdException? MissingMapper(BootRow row)
    {
        try
        {
            system.CheckMapper(row);
            return null;
        }
        catch (SnapuserdException e)
        {
            return e;
        }
    }

    private static string[] MergeCommand(BootRow row)
    {
        List<string> arguments = ["snapuserd", "merge", "--cow", row.Cow, "--base", row.Base];
        if (row.Source != null) arguments.AddRange(["--source", row.Source]);
        return [.. arguments];
    }

    private string ControlOf(BootRow row) => $"{options.ControlFolder}/{row.Name}";

    private RowResult Done(BootRow row, string state, string why)
    {
        if (!options.DryRun) log.Write(Priority.Notice, "row", $"{row.Path} is {state}: {why}");
        return new RowResult(row, state, why, ExitCode.Done, []);
    }

    private RowResult Failed(BootRow row, ExitCode code, string why)
    {
        // In a dry run, the caller prints the reason.
        if (!options.DryRun) log.Write(Priority.Error, "row_failed", $"{row.Name} cannot be used: {why}");
        return new RowResult(row, "failed", why, code, []);
    }
}
