using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Control;

/// <summary>`ctl`: a client of control sockets, for people and scripts.</summary>
internal static class CtlVerb
{
    /// <summary>Where `boot` has its servers listen, a socket for each row of the table, called as it.</summary>
    internal const string DefaultFolder = "/run/snapuserd";

    internal static ExitCode Run(Invocation invocation)
    {
        IReadOnlyList<string> words = invocation.Arguments.Operands;
        string command = words[0];
        if (Array.IndexOf(ControlCommands.Names, command) < 0) throw Wrong(Arguments.Unknown("command", command, ControlCommands.Names));
        int most = command switch { "list" => 1, "rate" => 3, _ => 2 };
        if (words.Count > most) throw Wrong($"unexpected argument '{words[most]}'");
        string request = command;
        if (command == "rate")
        {
            if (words.Count < 2) throw Wrong("rate takes a SIZE, in bytes per second, or off");
            long? rate = words[1] == "off" ? 0 : Arguments.ParseSize(words[1]);
            request += " " + (rate ?? throw Wrong($"'{words[1]}' is not a size such as 33554432, 32M or 32MiB")).ToString(CultureInfo.InvariantCulture);
        }
        string? name = words.Count == most && most > 1 ? words[most - 1] : null;
        return Ask(invocation, command, request, name);
    }

    private static ExitCode Ask(Invocation invocation, string command, string request, string? name)
    {
        bool json = invocation.Arguments.Has("--json"), all = invocation.Arguments.Has("--all"), changes = ControlCommands.Changes(command);
        if (all && name != null) throw Wrong($"{command} takes a NAME or --all, not both");
        List<string> sockets = Sockets(invocation, name);
        if (sockets.Count > 1 && changes && name == null && !all) throw Wrong($"{command} takes a NAME where there are several snapshots, or --all");
        request = $"{(json ? "json " : "")}{(all && changes ? "all " : "")}{request}{(name == null ? "" : " " + Sendable(name))}";
        Output output = invocation.Output;
        bool bar = command == "watch" && !json && output.HasTerminal;
        SnapuserdException? first = null;
        int answers = 0;
        foreach (string socket in sockets)
        {
            try
            {
                using ControlConnection client = new(socket);
                client.Ask(request, (line, passing) =>
                {
                    if (passing && bar) output.Bar(line);
                    else output.Result(line);
                });
                answers++;
            }
            catch (SnapuserdException e) when (sockets.Count > 1)
            {
                // One that is gone, or has no snapshot of that name, says nothing about the others; what one of them refuses is told when all were asked.
                if (first == null || first.Code == ExitCode.InputMissing) first = e;
            }
        }
        if (first != null && (answers == 0 || first.Code != ExitCode.InputMissing)) throw first;
        return ExitCode.Done;
    }

    /// <summary>A request is one line: a name with a line feed goes by what is printed for it, which the server knows too.</summary>
    private static string Sendable(string name) => name.AsSpan().ContainsAny('\n', '\r') ? VisibleText.OnOneLine(name) : name;

    /// <summary>The socket of `--socket`; that of the name, if there is one; or all there are.</summary>
    private static List<string> Sockets(Invocation invocation, string? name)
    {
        if (invocation.Arguments.Text("--socket") is { } given) return [given];
        int folder = Libc.OpenAt(Libc.AT_FDCWD, DefaultFolder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        List<string> names = [];
        int result = folder < 0 ? folder : Libc.NamesIn(folder, names);
        if (folder >= 0) _ = Libc.Close(folder);
        if (result is -Errno.ENOENT) throw new SnapuserdException(ExitCode.InputMissing, $"no server runs, so nothing is served or merged (there is no {DefaultFolder}); one that listens elsewhere takes --socket");
        if (result < 0) throw new SnapuserdException(result == -Errno.EACCES ? ExitCode.Permission : ExitCode.InputOutput, $"{DefaultFolder}: {Reason.Of(result)}");
        names.Sort(StringComparer.Ordinal);
        if (name != null && names.Contains(name)) names = [name];
        if (names.Count == 0) throw new SnapuserdException(ExitCode.InputMissing, $"no server runs, so nothing is served or merged ({DefaultFolder} is empty); one that listens elsewhere takes --socket");
        return names.ConvertAll(one => $"{DefaultFolder}/{one}");
    }

    private static SnapuserdException Wrong(string what) => new(ExitCode.Usage, $"ctl: {what}{(what.EndsWith('?') ? "" : ";")} see snapuserd ctl --help");
}
