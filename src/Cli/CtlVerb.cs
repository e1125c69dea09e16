using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`ctl`: a client of control sockets, for people and scripts.</summary>
internal static class CtlVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        IReadOnlyList<string> operands = invocation.Arguments.Operands;
        string command = operands[0];
        if (Array.IndexOf(ControlCommands.Names, command) < 0) throw Wrong(Suggestion.Unknown("command", command, ControlCommands.Names));
        int maxOperands = command switch { "list" => 1, "rate" => 3, _ => 2 };
        bool attaches = command == "attach";
        foreach (string option in (ReadOnlySpan<string>)["--cow", "--base", "--source"])
            if (invocation.Arguments.Has(option) && !attaches) throw Wrong($"{option} goes with attach");
        if (attaches || command == "detach")
        {
            if (operands.Count < 2) throw Wrong($"{command} takes a NAME");
            if (invocation.Arguments.Has("--all")) throw Wrong($"{command} takes a NAME, not --all");
        }
        if (operands.Count > maxOperands) throw Wrong($"unexpected argument '{operands[maxOperands]}'");
        string request = command;
        if (command == "rate")
        {
            if (operands.Count < 2) throw Wrong("rate takes a SIZE, in bytes per second, or off");
            long? rate = operands[1] == "off" ? 0 : Arguments.ParseSize(operands[1]);
            request += " " + (rate ?? throw Wrong($"'{operands[1]}' is not a size such as 33554432, 32M or 32MiB"))
                .ToString(CultureInfo.InvariantCulture);
        }
        string? name = operands.Count == maxOperands && maxOperands > 1 ? operands[maxOperands - 1] : null;
        if (attaches) return Attach(invocation, name!);
        return Ask(invocation, command, request, name);
    }

    /// <summary>
    /// Opens the files and sends their descriptors to the daemon, which may see other files under the same names.
    /// </summary>
    private static ExitCode Attach(Invocation invocation, string name)
    {
        FileName.Check(name, "a snapshot");
        Arguments arguments = invocation.Arguments;
        string cow = arguments.Text("--cow") ?? throw Wrong("attach takes --cow PATH"),
            target = arguments.Text("--base") ?? throw Wrong("attach takes --base PATH");
        using SentFiles files = new(cow, target, arguments.Text("--source"));
        List<ControlConnection> servers = [];
        try
        {
            servers = Servers(invocation, null, out SnapuserdException? refused);
            if (servers.Count > 1) throw Wrong("attach takes --socket PATH where several servers listen");
            if (servers.Count == 0) throw refused!;
            files.Attach(servers[0], Sendable(name), (line, passing) =>
            {
                if (!passing)
                    invocation.Output.Result(
                        arguments.Has("--json") ? JsonLine.Event("attached").Add("name", name).Add("device", line).ToString() : line);
            });
            return ExitCode.Done;
        }
        finally
        {
            foreach (ControlConnection server in servers) server.Dispose();
        }
    }

    private static ExitCode Ask(Invocation invocation, string command, string request, string? name)
    {
        bool json = invocation.Arguments.Has("--json"), all = invocation.Arguments.Has("--all"), changes = ControlCommands.Changes(command);
        if (all && name != null) throw Wrong($"{command} takes a NAME or --all, not both");
        List<ControlConnection> servers = Servers(invocation, name, out SnapuserdException? refused);
        try
        {
            if (servers.Count + (refused == null ? 0 : 1) > 1 && changes && name == null && !all)
                throw Wrong($"{command} takes a NAME where there are several snapshots, or --all");
            request = $"{(json ? "json " : "")}{(all && changes ? "all " : "")}{request}{(name == null ? "" : " " + Sendable(name))}";
            if (command == "watch") new Watch(invocation.Output, json, request).Run(servers);
            else Ask(invocation.Output, servers, request, name, command == "stop");
            // The other servers have carried out the request. A request with a name is complete: one of them has that snapshot. A request
            // for all snapshots is not, because one server cannot be asked.
            if (refused != null && name == null) throw refused;
            return ExitCode.Done;
        }
        catch (SnapuserdException e) when (refused != null && e.Code == ExitCode.InputMissing)
        {
            throw refused;
        }
        finally
        {
            foreach (ControlConnection server in servers) server.Dispose();
        }
    }

    private static void Ask(Output output, List<ControlConnection> servers, string request, string? name, bool stops)
    {
        SnapuserdException? first = null;
        int replies = 0;
        foreach (ControlConnection server in servers)
        {
            try
            {
                if (stops) StopServer.Ask(server, request);
                else server.Ask(request, (line, passing) =>
                {
                    if (!passing) output.Result(line);
                });
                replies++;
            }
            catch (SnapuserdException e) when (servers.Count > 1)
            {
                // Ask the other servers if this one is gone, has no snapshot of that name, or refuses the request. Report the first refusal
                // at the end.
                if (first == null || first.Code == ExitCode.InputMissing) first = e;
            }
        }
        if (first != null && replies == 0 && first.Code == ExitCode.InputMissing && name != null)
            throw new SnapuserdException(ExitCode.InputMissing, $"no server has a snapshot {name}; snapuserd ctl list shows what there is");
        if (first != null && (replies == 0 || first.Code != ExitCode.InputMissing)) throw first;
    }

    /// <summary>
    /// The form of a name in a request. A request is one line, so a name with a line feed is sent in its printed form, which the server
    /// accepts.
    /// </summary>
    private static string Sendable(string name) => name.AsSpan().ContainsAny('\n', '\r') ? VisibleText.OnOneLine(name) : name;

    /// <summary>
    /// The servers to ask:
    /// - the server at `--socket`, if it is given;
    /// - otherwise the server whose socket is called <paramref name="name"/>, if it has a snapshot of that name;
    /// - otherwise all servers that listen. The socket of a dead server is ignored; the next server replaces it.
    /// <paramref name="refused"/> is the error of the first server that listens but cannot be asked.
    /// </summary>
    private static List<ControlConnection> Servers(Invocation invocation, string? name, out SnapuserdException? refused)
    {
        refused = null;
        if (invocation.Arguments.Text("--socket") is { } given) return [new ControlConnection(given)];
        List<ControlConnection> servers = [];
        foreach (string socket in ControlFolder.Sockets())
        {
            try
            {
                ControlConnection server = new(socket);
                if (name != null && socket == $"{ControlFolder.Default}/{name}" && Knows(server, name))
                {
                    foreach (ControlConnection other in servers) other.Dispose();
                    return [server];
                }
                servers.Add(server);
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
            {
            }
            catch (SnapuserdException e)
            {
                // Keep the error, because this server may have the requested snapshot.
                refused ??= e;
            }
        }
        if (servers.Count == 0)
            throw refused ?? new SnapuserdException(ExitCode.InputMissing, "no server runs, so nothing is served or merged (nothing "
                + $"listens in {ControlFolder.Default}); one that listens elsewhere takes --socket");
        return servers;
    }

    private static bool Knows(ControlConnection server, string name)
    {
        try
        {
            server.Ask($"status {Sendable(name)}", (_, _) => { });
            return true;
        }
        catch (SnapuserdException e)
        {
            // The next request to it reports any other error.
            return e.Code != ExitCode.InputMissing;
        }
    }

    private static SnapuserdException Wrong(string what) =>
        new(ExitCode.Usage, $"ctl: {what}{(what.EndsWith('?') ? "" : ";")} see snapuserd ctl --help");
}
