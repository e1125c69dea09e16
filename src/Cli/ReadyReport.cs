using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>
/// Announces that the device is usable, in three places: a line on standard output; a line on the descriptor of `--ready-fd`, which is then
/// closed; and a message to the service manager at $NOTIFY_SOCKET (sd_notify(3)).
/// </summary>
/// <param name="invocation">The invocation of `serve`.</param>
/// <param name="name">The server's name in `ctl`.</param>
/// <param name="notifier">Writes to the descriptor of `--ready-fd` and to the service manager.</param>
internal sealed class ReadyReport(Invocation invocation, string name, ReadyNotifier notifier)
{
    /// <summary>Announces the device.</summary>
    internal void Tell(string device, long bytes)
    {
        bool isControlled = invocation.Arguments.Has("--control");
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(
                JsonLine.Event("ready").Add("device", device).Add("bytes", bytes).Add("name", isControlled ? name : null).ToString());
        else invocation.Output.Result(device);
        // The name is on one line, so that a script can read it directly. The device stays on the first line.
        if (isControlled && !invocation.Arguments.Has("--json")) invocation.Output.Result($"name {VisibleText.OnOneLine(name)}");
        // Report a failed write now, not when the server ends: another process may be waiting for the output.
        int failure = invocation.Output.Failure;
        if (failure is not 0 and not -Errno.EPIPE)
            invocation.Output.Write(Priority.Warning, "output_lost",
                $"{device} is served, but that could not be printed: {ErrnoText.Of(failure)}");
        notifier.TellReader(device);
        invocation.Output.Write(Priority.Notice, "ready",
            $"{device} shows the new image of {invocation.Arguments.Text("--base")}, {Units.Bytes(bytes)}", new LogValue("bytes", bytes));
        notifier.TellManager(device);
    }
}
