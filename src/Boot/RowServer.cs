using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Text;

namespace Snapuserd.Boot;

/// <summary>
/// The server on a row's control socket. <paramref name="Serves"/>: it serves exactly that row. <paramref name="Changes"/>: it is starting
/// or ending, so the caller should ask again. <paramref name="Sentence"/> describes its state.
/// </summary>
public sealed record RowServer(bool Serves, bool Changes, string Sentence)
{
    /// <summary>
    /// Milliseconds for the connection and the reply together. A server replies from a thread that never blocks, so it needs only some
    /// milliseconds even on a busy machine.
    /// </summary>
    private const int AnswerMilliseconds = 3000;

    /// <summary>Asks the server at <paramref name="socket"/>; null if no program listens there.</summary>
    public static RowServer? Ask(string socket, BootRow row)
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
            string reply = "";
            try
            {
                connection.Ask($"json status {row.Name}", (line, _) => reply = line);
                RowServer server = Of(reply, socket, row);
                if (server.Serves && BlockDevice.Open(row.Path, DeviceAccess.Read) is var device)
                {
                    using (device)
                        if (device.Length == 0)
                            return Another($"{row.Path} has a length of 0 bytes, although the server at {socket} serves it");
                }
                return server;
            }
            catch (SnapuserdException e)
            {
                return Another(e.Message);
            }
        }
    }

    /// <summary>Interprets a line of `ctl status --json` for <paramref name="row"/>.</summary>
    public static RowServer Of(string line, string socket, BootRow row)
    {
        JsonFields? status = JsonFields.Parse(line);
        if (status?.String("name") != row.Name || status.String("cow") != row.Cow || status.String("base") != row.Base)
            return Another($"the server at {socket} has another COW or base");
        string? state = status.String("state"), device = status.String("device");
        // The server has no device yet, or no device any more.
        if (state is "opening" or "ended" || device == "") return new RowServer(false, true, $"the server at {socket} is not ready");
        if (device != row.Path) return Another($"the server at {socket} has another device than {row.Path}");
        // After a failed merge the device still shows the new image.
        if (state == "failed")
            return new RowServer(true, false, $"a server has it already, whose merge has failed (snapuserd ctl status {row.Name}); stop it "
                + $"(snapuserd ctl stop {row.Name}) for another try");
        if (state is "serving" or "queued" or "merging" or "merged" or "plain")
            return new RowServer(true, false, "a server has it already");
        return Another($"the server at {socket} is of another kind");
    }

    private static RowServer Another(string why) =>
        new(false, false, $"another process listens on its socket and does not serve it: {why}");
}
