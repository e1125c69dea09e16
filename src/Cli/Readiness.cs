using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// Says that the device is usable, to everybody who may wait for it: a line on standard output, a line on the descriptor of `--ready-fd`, which is closed behind it, and
/// a message to the service manager that $NOTIFY_SOCKET names (sd_notify(3)).
/// </summary>
internal sealed class Readiness
{
    private readonly Invocation _invocation;
    private readonly string _name;
    private int _fd;

    /// <summary><paramref name="name"/> is what `ctl` calls the server. Exit code 64 when `--ready-fd` names no open descriptor.</summary>
    internal Readiness(Invocation invocation, string name)
    {
        (_invocation, _name) = (invocation, name);
        _fd = (int)invocation.Arguments.Number("--ready-fd", -1);
        if (_fd >= 0 && Libc.Fcntl(_fd, Libc.F_GETFD, 0) < 0) throw new SnapuserdException(ExitCode.Usage, $"--ready-fd {_fd}: no such descriptor is open");
    }

    internal void Tell(string device, long bytes)
    {
        bool isControlled = _invocation.Arguments.Has("--control");
        if (_invocation.Arguments.Has("--json")) _invocation.Output.Result(JsonLine.Event("ready").Add("device", device).Add("bytes", bytes).Add("name", isControlled ? _name : null).ToString());
        else _invocation.Output.Result(device);
        // One line, so that a script reads it as it is; the device's line stays the first.
        if (isControlled && !_invocation.Arguments.Has("--json")) _invocation.Output.Result($"name {VisibleText.OnOneLine(_name)}");
        // Now, not when the server ends: whoever was to read it waits for it.
        int failure = _invocation.Output.Failure;
        if (failure is not 0 and not -Errno.EPIPE) _invocation.Output.Write(Priority.Warning, "output_lost", $"{device} is served, but that could not be printed: {Reason.Of(failure)}");
        if (_fd >= 0)
        {
            // Whoever waits may be gone; the device is wanted all the same.
            _ = Libc.Write(_fd, ByteText.Encode(device + "\n"));
            Close();
        }
        _invocation.Output.Write(Priority.Notice, "ready", $"{device} shows the new image of {_invocation.Arguments.Text("--base")}, {Units.Bytes(bytes)}", new LogValue("bytes", bytes));
        // Lines for the manager, which takes UTF-8 only: nothing in a path may become another line.
        Notify($"READY=1\nSTATUS=serving {VisibleText.OnTerminal(device)}");
    }

    /// <summary>Lets go of the descriptor, unless it is one of the three that everybody has.</summary>
    internal void Close()
    {
        if (_fd > 2) _ = Libc.Close(_fd);
        _fd = -1;
    }

    internal void TellStopping() => Notify("STOPPING=1");

    private static void Notify(string message)
    {
        if (OwnProcess.Variable("NOTIFY_SOCKET") is not { Length: > 1 } path) return;
        int fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_DGRAM | Libc.SOCK_CLOEXEC, 0);
        if (fd < 0) return;
        // The manager may be gone as well; nobody is to wait for one that is stuck.
        _ = Libc.SendTo(fd, ByteText.Encode(message), Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT, path);
        _ = Libc.Close(fd);
    }
}
