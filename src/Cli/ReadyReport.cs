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
/// <param name="notifier">Notifies the readers other than standard output.</param>
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
        // One line, so that a script can read it directly. The line of the device stays the first.
        if (isControlled && !invocation.Arguments.Has("--json")) invocation.Output.Result($"name {VisibleText.OnOneLine(name)}");
        // Now, not when the server ends: a process that reads the output waits for it.
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
