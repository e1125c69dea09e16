using System;
using Snapuserd.Block;
using Snapuserd.Cli.Control;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// Who listens on a row's control socket: whether it <paramref name="Serves"/> that very row, or is about to begin or to end (<paramref name="Changes"/>), so that asking again is worth while; <paramref name="Sentence"/> says what else it is.
/// </summary>
internal sealed record RowServer(bool Serves, bool Changes, string Sentence)
{
    /// <summary>For connection and answer together. A server answers from a thread that waits for nothing, so on a busy machine it takes some milliseconds.</summary>
    private const int AnswerMilliseconds = 3000;

    /// <summary>Asks at <paramref name="socket"/>; null if nobody listens there.</summary>
    internal static RowServer? Ask(string socket, BootRow row)
    {
        ControlConnection connection;
        try
        {
            connection = new ControlConnection(socket, AnswerMilliseconds);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
        {
            return null;
        }
        catch (SnapuserdException e)
        {
            return Another(e.Message);
        }
        using (connection)
        {
            string answer = "";
            try
            {
                connection.Ask($"json status {row.Name}", (line, _) => answer = line);
                RowServer server = Of(answer, socket, row);
                if (server.Serves && BlockDevice.Open(row.Path, DeviceAccess.Read) is var device)
                {
                    using (device)
                        if (device.Length == 0) return Another($"{row.Path} is nothing that can be read, although the server at {socket} serves it");
                }
                return server;
            }
            catch (SnapuserdException e)
            {
                return Another(e.Message);
            }
        }
    }

    /// <summary>What a line of `ctl status --json` means for <paramref name="row"/>.</summary>
    internal static RowServer Of(string line, string socket, BootRow row)
    {
        if (!Says(line, "name", row.Name) || !Says(line, "cow", row.Cow) || !Says(line, "base", row.Base)) return Another($"the server at {socket} has another COW or base");
        // It has no device yet, or none any more.
        if (Says(line, "state", "opening") || Says(line, "state", "ended") || Says(line, "device", "")) return new RowServer(false, true, $"the server at {socket} is not ready");
        if (!Says(line, "device", row.Path)) return Another($"the server at {socket} has another device than {row.Path}");
        // The device shows the new image whatever became of the merge.
        if (Says(line, "state", "failed")) return new RowServer(true, false, $"a server has it already, whose merge has failed (snapuserd ctl status {row.Name}); stop it (snapuserd ctl stop {row.Name}) for another try");
        foreach (string state in (ReadOnlySpan<string>)["serving", "queued", "merging", "merged", "plain"])
            if (Says(line, "state", state)) return new RowServer(true, false, "a server has it already");
        return Another($"the server at {socket} is of another kind");
    }

    private static RowServer Another(string why) => new(false, false, $"somebody listens on its socket who does not serve it: {why}");

    /// <summary>The line, which is an object of text and numbers, has this member: in a string a quote would have a backslash before it.</summary>
    private static bool Says(string line, string key, string value) => line.Contains($",{new JsonLine().Add(key, value).ToString().AsSpan(1).TrimEnd('}')},", StringComparison.Ordinal);
}
