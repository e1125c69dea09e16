using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Control;

/// <summary>
/// Handles the requests of `ctl` on a <see cref="ControlServer"/>; <see cref="ControlConnection"/> describes the replies. Watched snapshots
/// are checked twice a second, and changes are sent. <paramref name="stop"/> ends a snapshot.
/// </summary>
public sealed class CtlRequests(Func<IReadOnlyList<Snapshot>> snapshots, Action<Snapshot> stop) : IControlRequests, IControlTicks
{
    /// <summary>Milliseconds between two checks: often enough for a person.</summary>
    private const int LookMilliseconds = 500;

    /// <summary>The set to which snapshots may be attached; null for a server of one COW.</summary>
    public SnapshotSet? Attachments { get; init; }

    private readonly ControlCommands _commands = new(snapshots, stop);
    private readonly List<Watcher> _watchers = [];
    private readonly object _gate = new();
    private bool _ended;
    private long _next;

    /// <summary>
    /// Ends every watch because the process is about to end: sends each client the current state and ends its reply with the result of the
    /// merges. Any thread.
    /// </summary>
    /// <param name="why">The reason for the end if the snapshots report none.</param>
    public void EndWatches(SnapuserdException? why = null)
    {
        lock (_gate)
        {
            foreach (Watcher watcher in _watchers)
            {
                Tell(watcher);
                End(watcher, why == null ? null : (why.Code, why.Message));
            }
            _watchers.Clear();
            _ended = true;
        }
    }

    /// <summary>The environment variable that gives a supervised server the process ID of its supervisor.</summary>
    public const string SupervisorVariable = "SNAPUSERD_SUPERVISOR";

    /// <summary>
    /// The request for the supervisor's process ID. If the server is killed while `ctl stop` runs, `ctl` repeats its request until
    /// another server replies or the supervisor has ended.
    /// </summary>
    public const string SupervisorRequest = "supervisor";

    /// <inheritdoc/>
    public void Request(string text, ControlReply reply)
    {
        string line = text.TrimEnd('\r');
        Lines lines = new(reply);
        if (line == SupervisorRequest)
        {
            if (OwnProcess.Variable(SupervisorVariable) is { } process) lines.Line(process);
            End(lines);
            return;
        }
        if (Word(line, "attach ") is { } attached)
        {
            Attach(attached, lines);
            return;
        }
        if (Word(line, "detach ") is { } detached)
        {
            Detach(detached, lines);
            return;
        }
        (ExitCode Code, string Sentence)? wrong = _commands.Do(line, lines);
        if (wrong == null && ControlCommands.IsWatch(line)) Watch(new Watcher(line, lines));
        else End(lines, wrong);
    }

    /// <inheritdoc/>
    public int Due(long now)
    {
        lock (_gate) return _watchers.Count == 0 ? -1 : (int)Math.Clamp(_next - now, 0, LookMilliseconds);
    }

    /// <inheritdoc/>
    public void Tick(long now)
    {
        _next = now + LookMilliseconds;
        lock (_gate) Look();
    }

    /// <summary>Returns the NAME argument of <paramref name="command"/>; null for another command.</summary>
    private static string? Word(string line, string command)
    {
        if (line.StartsWith("json ", StringComparison.Ordinal)) line = line["json ".Length..];
        return line.StartsWith(command, StringComparison.Ordinal) ? line[command.Length..] : null;
    }

    private void Attach(string name, Lines lines)
    {
        if (Refusal(lines.Reply) is { } refused)
        {
            End(lines, (refused.Code, refused.Message));
            return;
        }
        AttachedFiles files;
        try
        {
            files = new AttachedFiles(lines.Reply.TakeDescriptors());
        }
        catch (SnapuserdException e)
        {
            End(lines, (e.Code, e.Message));
            return;
        }
        // Opening takes as long as the storage needs to read all ops.
        lines.Passing($"{name}: opening");
        Attachments!.Attach(new SnapshotRequest(name, files.Cow, files.Source, files.Base) { Attached = files }, failure =>
        {
            if (failure == null && Array.Find([.. snapshots()], one => one.Name == name) is { } snapshot)
                lines.Line(snapshot.Status.Device);
            End(lines, failure == null ? null : (failure.Code, failure.Message));
        });
    }

    private void Detach(string name, Lines lines)
    {
        if (Refusal(lines.Reply) is { } refused)
        {
            End(lines, (refused.Code, refused.Message));
            return;
        }
        lines.Passing($"{name}: ending");
        Attachments!.Detach(name, failure => End(lines, failure == null ? null : (failure.Code, failure.Message)));
    }

    private SnapuserdException? Refusal(ControlReply reply) =>
        Attachments == null ? new SnapuserdException(ExitCode.Usage,
            "this server serves one COW and takes no other; attach and detach are for a daemon (snapuserd daemon --socket PATH)")
            : reply.IsOwner ? null
            : new SnapuserdException(ExitCode.Permission, "attach and detach are for root and the user of the daemon");

    private static void End(Lines lines, (ExitCode Code, string Sentence)? failure = null) =>
        lines.Reply.End(failure is { } wrong ? $"!{(int)wrong.Code} {VisibleText.OnOneLine(wrong.Sentence)}" : ".");

    private void Watch(Watcher watcher)
    {
        lock (_gate)
        {
            if (_ended || IsOver(watcher)) End(watcher);
            else _watchers.Add(watcher);
        }
    }

    /// <summary>
    /// Checks the watched snapshots, including those removed since the last check; true if none of them is being opened and none of their
    /// merges is running or queued.
    /// </summary>
    private bool IsOver(Watcher watcher)
    {
        foreach (Snapshot one in _commands.Watched(watcher.Line))
            if (!watcher.Seen.Contains(one)) watcher.Seen.Add(one);
        bool over = true;
        foreach (Snapshot one in watcher.Seen)
        {
            SnapshotStatus status = one.Status;
            over &= !ControlCommands.GoesOn(status);
            // If several merges ended early, `ctl` reports the first that was found.
            watcher.Failure ??= ControlCommands.Failure(status);
        }
        return over;
    }

    private void Tell(Watcher watcher)
    {
        watcher.Lines.Begin();
        _ = _commands.Do(watcher.Line, watcher.Lines);
    }

    private void End(Watcher watcher, (ExitCode Code, string Sentence)? why = null)
    {
        _ = IsOver(watcher);
        End(watcher.Lines, watcher.Failure ?? why);
    }

    private void Look()
    {
        for (int i = _watchers.Count - 1; i >= 0; i--)
        {
            Watcher watcher = _watchers[i];
            // Check for the end before sending the state, so that the last state sent is final.
            bool over = IsOver(watcher);
            Tell(watcher);
            if (!over && watcher.Lines.Reply.IsWanted) continue;
            End(watcher);
            _watchers.RemoveAt(i);
        }
    }

    private sealed class Watcher(string line, Lines lines)
    {
        internal string Line => line;

        internal Lines Lines => lines;

        /// <summary>Every snapshot that any check has selected.</summary>
        internal List<Snapshot> Seen { get; } = [];

        /// <summary>The result of the first merge that was found to have ended early.</summary>
        internal (ExitCode Code, string Sentence)? Failure { get; set; }
    }

    /// <summary>Sends only lines that the previous check did not produce.</summary>
    private sealed class Lines(ControlReply reply) : IReplyLines
    {
        private List<string> _told = [];
        private List<string> _before = [];

        internal ControlReply Reply => reply;

        /// <summary>Begins another check.</summary>
        internal void Begin() => (_before, _told) = (_told, []);

        public void Line(string text) => Tell(' ', text);

        public void Passing(string text) => Tell('~', text);

        private void Tell(char kind, string text)
        {
            string line = $"{kind}{VisibleText.OnOneLine(text)}";
            _told.Add(line);
            if (!_before.Contains(line)) _ = reply.Send(line);
        }
    }
}
