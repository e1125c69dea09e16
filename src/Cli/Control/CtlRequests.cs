using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Daemon;

namespace Snapuserd.Cli.Control;

/// <summary>
/// Answers the lines of `ctl` on a <see cref="ControlServer"/> (<see cref="ControlConnection"/> has the form of the answers). What is watched is looked at twice a second, and told if it has changed. <paramref name="stop"/> ends a snapshot.
/// </summary>
internal sealed class CtlRequests(Func<IReadOnlyList<Snapshot>> snapshots, Action<Snapshot> stop) : IControlRequests, IControlTicks
{
    /// <summary>Between two looks: often enough for eyes.</summary>
    private const int LookMilliseconds = 500;

    private readonly ControlCommands _commands = new(snapshots, stop);
    private readonly List<Watcher> _watchers = [];
    private readonly object _gate = new();
    private bool _ended;
    private long _next;

    /// <summary>The process is about to end: whoever watches is told how things are, and that this is all. Any thread.</summary>
    internal void EndWatches()
    {
        lock (_gate)
        {
            foreach (Watcher watcher in _watchers)
            {
                watcher.Lines.Begin();
                _ = _commands.Do(watcher.Line, watcher.Lines);
                watcher.Lines.Reply.End(".");
            }
            _watchers.Clear();
            _ended = true;
        }
    }

    /// <inheritdoc/>
    public void Request(string text, ControlReply reply)
    {
        string line = text.TrimEnd('\r');
        Lines lines = new(reply);
        if (_commands.Do(line, lines) is { } wrong) reply.End($"!{(int)wrong.Code} {VisibleText.OnOneLine(wrong.Sentence)}");
        else if (ControlCommands.IsWatch(line) && !_commands.IsOver(line)) Watch(new Watcher(line, lines));
        else reply.End(".");
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

    private void Watch(Watcher watcher)
    {
        lock (_gate)
        {
            if (_ended) watcher.Lines.Reply.End(".");
            else _watchers.Add(watcher);
        }
    }

    private void Look()
    {
        for (int i = _watchers.Count - 1; i >= 0; i--)
        {
            Watcher watcher = _watchers[i];
            // Before the look: what it tells is the end then.
            bool over = _commands.IsOver(watcher.Line);
            watcher.Lines.Begin();
            (ExitCode Code, string Sentence)? gone = _commands.Do(watcher.Line, watcher.Lines);
            if (!over && gone == null && watcher.Lines.Reply.IsWanted) continue;
            watcher.Lines.Reply.End(gone is { } wrong ? $"!{(int)wrong.Code} {VisibleText.OnOneLine(wrong.Sentence)}" : ".");
            _watchers.RemoveAt(i);
        }
    }

    private sealed record Watcher(string Line, Lines Lines);

    /// <summary>Leaves out a line that says what the last one of that snapshot said.</summary>
    private sealed class Lines(ControlReply reply) : IReplyLines
    {
        private List<string> _told = [];
        private List<string> _before = [];

        internal ControlReply Reply => reply;

        /// <summary>Another look begins.</summary>
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
