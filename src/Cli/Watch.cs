using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>
/// `ctl watch`: follows several servers at once with one poll, so that a killed server is noticed while the others continue. On a terminal
/// each snapshot has its own line, redrawn in place; elsewhere every change is a line. Ends when the last server has nothing more to
/// report.
/// </summary>
internal sealed class Watch(Output output, bool json, string request)
{
    /// <summary>Milliseconds between two checks of the terminal's width.</summary>
    private const int LookMilliseconds = 500;

    private readonly bool _draws = !json && output.HasTerminal;
    private readonly List<Server> _servers = [];
    private int _columns;
    /// <summary>The first failure of a merge or a server.</summary>
    private SnapuserdException? _failure;
    /// <summary>The first error of a server that has no such snapshot.</summary>
    private SnapuserdException? _unknown;

    private sealed class Server(ControlConnection connection)
    {
        internal ControlConnection Connection => connection;

        internal bool IsOver { get; set; }

        /// <summary>True if the server has reported a snapshot.</summary>
        internal bool Answered { get; set; }

        /// <summary>The snapshots that the server has reported, with their state.</summary>
        internal List<SnapshotStatus> Snapshots { get; } = [];
    }

    /// <summary>
    /// Watches until there is nothing more to report. Throws the first failure of a merge or a server; throws with exit code 66
    /// (EX_NOINPUT) if no server has such a snapshot.
    /// </summary>
    internal void Run(IEnumerable<ControlConnection> connections)
    {
        foreach (ControlConnection connection in connections) _servers.Add(new Server(connection));
        foreach (Server server in _servers) Try(server, () => server.Connection.Begin((_draws ? "json " : "") + request));
        while (_servers.Exists(one => !one.IsOver))
        {
            Wait();
            foreach (Server server in _servers)
                if (!server.IsOver) Try(server, () => Receive(server));
            Draw();
        }
        if (_draws)
            foreach (Server server in _servers)
                foreach (SnapshotStatus status in server.Snapshots) output.Result(StatusText.Short(status));
        if (_failure != null) throw _failure;
        if (_unknown != null && !_servers.Exists(server => server.Answered)) throw _unknown;
    }

    private void Receive(Server server)
    {
        server.IsOver = server.Connection.Take((line, passing) => Show(server, line, passing));
        if (!server.IsOver && server.Connection.Patience == 0) throw server.Connection.Silent();
    }

    private void Try(Server server, Action action)
    {
        try
        {
            action();
        }
        catch (SnapuserdException e)
        {
            server.IsOver = true;
            Note(e, server);
            if (!server.Connection.IsClosed) return;
            for (int i = 0; i < server.Snapshots.Count; i++)
                server.Snapshots[i] = server.Snapshots[i] with { State = SnapshotState.Ended, Rate = 0, Device = "its server is gone" };
        }
    }

    private void Note(SnapuserdException e, Server server)
    {
        // Not a failure yet: another server may have the snapshot of that name.
        if (e.Code == ExitCode.InputMissing && !server.Answered)
        {
            _unknown ??= e;
            return;
        }
        // Reported at once, because the other servers may take hours. The first error is also the command's result.
        if (_servers.Count > 1) output.Write(Priority.Warning, "watch", e.Message);
        _failure ??= e;
    }

    private void Wait()
    {
        PollFd[] fds = new PollFd[_servers.Count];
        int timeout = _draws ? LookMilliseconds : -1;
        for (int i = 0; i < fds.Length; i++)
        {
            bool over = _servers[i].IsOver;
            // Poll ignores a negative descriptor.
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
        if (JsonFields.Parse(line) is not { } fields)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"unexpected reply from {server.Connection.SocketPath}; check that it is a control socket of snapuserd");
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
            foreach (SnapshotStatus status in server.Snapshots) bars.Add(Bar(status, columns - 1));
        if (bars.Count > 0) output.Bars(bars);
    }

    /// <summary>
    /// A line for a terminal of <paramref name="columns"/> columns. During a merge it has the bar, the rate and the remaining time that
    /// `merge` shows.
    /// </summary>
    internal static string Bar(SnapshotStatus status, int columns) =>
        status is { State: SnapshotState.Merging, OpsTotal: > 0, CheckPercent: null }
            ? Progress.Line(status.Paused ? $"{status.Name}, paused" : status.Name, status.BytesDone, status.BytesTotal, status.OpsDone,
                status.OpsTotal, status.Rate, columns)
            : StatusText.Short(status);
}
