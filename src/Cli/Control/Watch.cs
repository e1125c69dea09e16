using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Control;

/// <summary>
/// `ctl watch`: several servers at once, by one poll, so that one that is killed is noticed while the others go on. On a terminal each snapshot has a line of its own, redrawn in place; elsewhere every
/// change is a line. Ends when the last server has nothing more to tell.
/// </summary>
internal sealed class Watch(Output output, bool json, string request)
{
    /// <summary>Between two looks at the width of the terminal.</summary>
    private const int LookMilliseconds = 500;

    private readonly bool _draws = !json && output.HasTerminal;
    private readonly List<Server> _servers = [];
    private int _columns;

    private sealed class Server(ControlConnection connection)
    {
        internal ControlConnection Connection => connection;

        internal bool IsOver { get; set; }

        /// <summary>A server that knows the snapshot that was asked for, or was not asked for one.</summary>
        internal bool Answered { get; set; }

        /// <summary>The snapshots it has told of, and how they are.</summary>
        internal List<SnapshotStatus> Snapshots { get; } = [];
    }

    /// <summary>Watches until there is nothing more to tell. Throws the first failure of a merge or a server; 66 if no server has such a snapshot.</summary>
    internal void Run(IEnumerable<ControlConnection> connections)
    {
        SnapuserdException? first = null, unknown = null;
        foreach (ControlConnection connection in connections) _servers.Add(new Server(connection));
        foreach (Server server in _servers) Try(server, () => server.Connection.Begin((_draws ? "json " : "") + request));
        while (_servers.Exists(one => !one.IsOver))
        {
            Wait();
            foreach (Server server in _servers)
            {
                if (server.IsOver) continue;
                Try(server, () =>
                {
                    server.IsOver = server.Connection.Take((line, passing) => Show(server, line, passing));
                    if (!server.IsOver && server.Connection.Patience == 0) throw server.Connection.Silent();
                });
            }
            Draw();
        }
        if (_draws)
            foreach (Server server in _servers)
                foreach (SnapshotStatus status in server.Snapshots) output.Result(StatusText.Short(status));
        if (first != null) throw first;
        if (unknown != null && !_servers.Exists(server => server.Answered)) throw unknown;

        void Try(Server server, Action action)
        {
            try
            {
                action();
            }
            catch (SnapuserdException e)
            {
                server.IsOver = true;
                // That another server has no snapshot of that name says nothing about this one.
                if (e.Code == ExitCode.InputMissing && !server.Answered) unknown ??= e;
                else
                {
                    // At once, because the others may take hours; the first is what the command ends with as well.
                    if (_servers.Count > 1) output.Write(Priority.Warning, "watch", e.Message);
                    first ??= e;
                }
                if (server.Connection.IsClosed)
                    for (int i = 0; i < server.Snapshots.Count; i++) server.Snapshots[i] = server.Snapshots[i] with { State = SnapshotState.Ended, Rate = 0, Device = "its server is gone" };
            }
        }
    }

    private void Wait()
    {
        PollFd[] fds = new PollFd[_servers.Count];
        int timeout = _draws ? LookMilliseconds : -1;
        for (int i = 0; i < fds.Length; i++)
        {
            bool over = _servers[i].IsOver;
            // A negative descriptor is not looked at.
            fds[i] = new PollFd { Fd = over ? -1 : _servers[i].Connection.Fd, Events = Libc.POLLIN };
            int patience = over ? -1 : _servers[i].Connection.Patience;
            if (patience >= 0 && (timeout < 0 || patience < timeout)) timeout = patience;
        }
        _ = Libc.Poll(fds, timeout);
    }

    private void Show(Server server, string line, bool passing)
    {
        server.Answered = true;
        if (!_draws)
        {
            output.Result(line);
            return;
        }
        if (JsonFields.Parse(line) is not { } fields) throw new SnapuserdException(ExitCode.InputOutput, $"{server.Connection.SocketPath} answers in another language than that of snapuserd");
        SnapshotStatus status = StatusText.Parse(fields);
        int known = server.Snapshots.FindIndex(one => one.Name == status.Name);
        if (known < 0) server.Snapshots.Add(status);
        else server.Snapshots[known] = status;
        _columns = 0;
    }

    private void Draw()
    {
        int columns = _draws ? output.TerminalColumns : 0;
        if (columns == _columns) return;
        _columns = columns;
        List<string> bars = [];
        foreach (Server server in _servers)
            foreach (SnapshotStatus status in server.Snapshots) bars.Add(StatusText.Bar(status, columns - 1));
        if (bars.Count > 0) output.Bars(bars);
    }
}
