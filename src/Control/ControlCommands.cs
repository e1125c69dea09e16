using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Control;

/// <summary>Receives the lines of a reply.</summary>
public interface IReplyLines
{
    /// <summary>A line of the result.</summary>
    void Line(string text);

    /// <summary>A line that the next one replaces: the state of something that continues.</summary>
    void Passing(string text);
}

/// <summary>
/// Executes the lines that `ctl` sends: COMMAND, a space, its arguments; a leading "json " asks for JSON objects. A name is the last
/// argument and may have spaces in it.
/// <code>
///   list | status [NAME] | watch [NAME] | merge [NAME] | pause [NAME] | resume [NAME] | rate BYTES [NAME] | stop [NAME]
///   attach NAME, with the descriptors of COW, base and perhaps source | detach NAME       (CtlRequests does these)
/// </code>
/// Without a name the first three concern all snapshots of the process. The others change something: if there are several snapshots, they
/// need a name, or "all " before the command. <paramref name="stop"/> ends a snapshot.
/// </summary>
public sealed class ControlCommands(Func<IReadOnlyList<Snapshot>> snapshots, Action<Snapshot> stop)
{
    /// <summary>Commands that `ctl` knows, for its help and its check of the command line.</summary>
    public static readonly string[] Names = ["list", "status", "merge", "pause", "resume", "rate", "watch", "stop", "attach", "detach"];

    // The commands that this class executes, one snapshot at a time.
    private static readonly string[] s_perSnapshot = ["list", "status", "watch", "merge", "pause", "resume", "rate", "stop"];

    /// <summary>True if a command changes a snapshot, so that it must name the snapshot if there are several.</summary>
    public static bool Changes(string command) => command is "merge" or "pause" or "resume" or "rate" or "stop";

    /// <summary>
    /// Executes <paramref name="line"/>. Null when it is done; otherwise the exit code and the error message for `ctl`. `watch` writes the
    /// current state once; the caller repeats it until the merges end.
    /// </summary>
    public (ExitCode Code, string Sentence)? Do(string line, IReplyLines reply)
    {
        bool json = Take(ref line, "json"), all = Take(ref line, "all");
        (string command, string rest) = FirstWord(line);
        long rate = 0;
        if (command == "rate")
        {
            (string number, rest) = FirstWord(rest);
            if (!long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out rate))
                return (ExitCode.Usage, $"'{number}' is not a number of bytes per second");
        }
        List<Snapshot> chosen = Choose(rest);
        if (chosen.Count == 0 && rest.Length > 0) return (ExitCode.InputMissing, $"there is no snapshot {rest} here{Known()}");
        if (chosen.Count > 1 && rest.Length == 0 && !all && Changes(command))
            return (ExitCode.Usage, $"{command} takes a NAME where there are several snapshots, or --all{Known()}");
        if (Array.IndexOf(s_perSnapshot, command) < 0) return (ExitCode.Usage, Suggestion.Unknown("command", command, Names));
        foreach (Snapshot one in chosen)
            if (Do(command, one, rate, json, reply) is { } refusal) return refusal;
        return null;
    }

    private (ExitCode Code, string Sentence)? Do(string command, Snapshot snapshot, long rate, bool json, IReplyLines reply)
    {
        switch (command)
        {
            case "list": reply.Line(Text(snapshot.Status, json)); break;
            case "status": reply.Line(json ? StatusText.Json(snapshot.Status) : StatusText.Long(snapshot.Status)); break;
            case "watch": Watch(snapshot.Status, json, reply); break;
            case "merge": return Refusal(snapshot);
            case "pause": snapshot.Pause(); break;
            case "resume": snapshot.Resume(); break;
            case "rate": snapshot.SetRate(rate); break;
            case "stop": stop(snapshot); break;
        }
        return null;
    }

    private static void Watch(SnapshotStatus status, bool json, IReplyLines reply)
    {
        if (GoesOn(status)) reply.Passing(Text(status, json));
        else reply.Line(Text(status, json));
    }

    private static string Text(SnapshotStatus status, bool json) => json ? StatusText.Json(status) : StatusText.Short(status);

    /// <summary>The word before the first space, and the rest after that space.</summary>
    private static (string Word, string Others) FirstWord(string line)
    {
        int space = line.IndexOf(' ');
        return space < 0 ? (line, "") : (line[..space], line[(space + 1)..]);
    }

    /// <summary>The snapshots that a `watch` line selects at this moment.</summary>
    public List<Snapshot> Watched(string line)
    {
        _ = Take(ref line, "json");
        _ = Take(ref line, "watch");
        return Choose(line == "watch" ? "" : line);
    }

    /// <summary>
    /// The result of a merge that ended before everything was merged, for `ctl`: 75 if it was stopped, the code of its cause if it failed.
    /// Null if it has not begun, is running, or is complete.
    /// </summary>
    public static (ExitCode Code, string Sentence)? Failure(SnapshotStatus status) => status.EndedWith switch
    {
        ExitCode.Done => null,
        ExitCode.Interrupted => (ExitCode.Interrupted, string.Create(CultureInfo.InvariantCulture, $"{status.Name}: the merge was stopped "
            + $"at op {status.OpsDone} of {status.OpsTotal}; the next server goes on from its last checkpoint")),
        _ => (status.EndedWith, $"{status.Name} has failed: {status.Error}"),
    };

    /// <summary>True for a `watch` line: the command continues until the merges that it watches end.</summary>
    public static bool IsWatch(string line)
    {
        _ = Take(ref line, "json");
        return line == "watch" || line.StartsWith("watch ", StringComparison.Ordinal);
    }

    /// <summary>True while a watch of this snapshot continues.</summary>
    public static bool GoesOn(SnapshotStatus status) =>
        status.State is SnapshotState.Opening or SnapshotState.Queued or SnapshotState.Merging;

    private static (ExitCode Code, string Sentence)? Refusal(Snapshot snapshot)
    {
        SnapshotStatus status = snapshot.Status;
        // A repeated request succeeds, and so does one for a merge that is complete.
        if (status.State is SnapshotState.Queued or SnapshotState.Merging or SnapshotState.Merged or SnapshotState.Plain) return null;
        if (snapshot.RequestMerge()) return null;
        return !snapshot.CanMerge ? (ExitCode.Usage, $"{status.Name} was opened for reading only; start it with --merge-on-request")
            : status.EndedWith is not (ExitCode.Done or ExitCode.Interrupted) ? Failure(status)
            : status.Device.Length == 0 ? (ExitCode.InUse, $"{status.Name} is not served yet")
            : (ExitCode.Interrupted, $"{status.Name} is about to end");
    }

    private static bool Take(ref string line, string word)
    {
        if (!line.StartsWith(word + " ", StringComparison.Ordinal)) return false;
        line = line[(word.Length + 1)..];
        return true;
    }

    /// <summary>
    /// The snapshots of that name; all of them if it is empty. A name with a line feed cannot be sent, so its printed form is accepted as
    /// well.
    /// </summary>
    private List<Snapshot> Choose(string name)
    {
        List<Snapshot> chosen = [];
        foreach (Snapshot one in snapshots())
            if (name.Length == 0 || one.Name == name) chosen.Add(one);
        if (chosen.Count > 0) return chosen;
        foreach (Snapshot one in snapshots())
            if (VisibleText.OnOneLine(one.Name) == name || VisibleText.OnTerminal(one.Name) == name) chosen.Add(one);
        return chosen;
    }

    private string Known()
    {
        StringBuilder known = new();
        foreach (Snapshot one in snapshots()) known.Append(known.Length == 0 ? "; there is " : ", ").Append(one.Name);
        return known.ToString();
    }
}
