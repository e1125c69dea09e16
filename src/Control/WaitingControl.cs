using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Control;

/// <summary>
/// Answers `ctl` on a server's socket while its supervisor waits before it restarts the server: status and `stop`. All other requests need
/// a server.
/// </summary>
public sealed class WaitingControl : IControlRequests, IDisposable
{
    private readonly SnapshotStatus _status;
    private readonly Action _stop;
    private readonly ControlServer _server;

    private WaitingControl(string path, SnapshotStatus status, Action stop)
    {
        (_status, _stop) = (status, stop);
        _server = ControlServer.Start(path, new ControlOptions { Lines = this });
    }

    /// <summary>
    /// Listens at <paramref name="path"/> until disposed. Null if that is not possible; `ctl` then finds no server there.
    /// <paramref name="stop"/> is called on another thread.
    /// </summary>
    public static WaitingControl? Start(string path, SnapshotStatus status, Action stop)
    {
        try
        {
            return new WaitingControl(path, status, stop);
        }
        catch (SnapuserdException)
        {
            return null;
        }
    }

    /// <inheritdoc/>
    public void Request(string text, ControlReply reply)
    {
        string line = text.TrimEnd('\r');
        if (line == CtlRequests.SupervisorRequest)
        {
            _ = reply.Send($" {Libc.GetPid().ToString(CultureInfo.InvariantCulture)}");
            reply.End(".");
            return;
        }
        bool json = Take(ref line, "json ");
        _ = Take(ref line, "all ");
        string command = NextWord(ref line);
        if (command == "rate") _ = NextWord(ref line);
        if (line.Length > 0 && line != _status.Name)
            End(reply, ExitCode.InputMissing, $"there is no snapshot {line} here; there is {_status.Name}");
        else if (Array.IndexOf(ControlCommands.Names, command) < 0)
            End(reply, ExitCode.Usage, Suggestion.Unknown("command", command, ControlCommands.Names));
        else Do(command, json, reply);
    }

    public void Dispose() => _server.Dispose();

    private void Do(string command, bool json, ControlReply reply)
    {
        if (command == "stop")
        {
            _stop();
            reply.End(".");
            return;
        }
        if (command is not ("list" or "status" or "watch"))
        {
            End(reply, ExitCode.Unavailable, $"{_status.Name}: {_status.Error}");
            return;
        }
        string text = json ? StatusText.Json(_status) : command == "status" ? StatusText.Long(_status) : StatusText.Short(_status);
        _ = reply.Send($" {VisibleText.OnOneLine(text)}");
        if (command == "watch") End(reply, ExitCode.InputOutput, $"{_status.Name}: {_status.Error}");
        else reply.End(".");
    }

    private static void End(ControlReply reply, ExitCode code, string sentence) =>
        reply.End($"!{((int)code).ToString(CultureInfo.InvariantCulture)} {VisibleText.OnOneLine(sentence)}");

    private static bool Take(ref string line, string prefix)
    {
        if (!line.StartsWith(prefix, StringComparison.Ordinal)) return false;
        line = line[prefix.Length..];
        return true;
    }

    private static string NextWord(ref string line)
    {
        int space = line.IndexOf(' ', StringComparison.Ordinal);
        string word = space < 0 ? line : line[..space];
        line = space < 0 ? "" : line[(space + 1)..];
        return word;
    }
}
