using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// `ctl stop` of one server. If a supervised server is killed meanwhile, its supervisor either knows of the request, removes the device and
/// ends; or it starts another server, which needs the request as well. So the request is repeated until a server replies or the supervisor
/// has ended.
/// </summary>
public static class StopServer
{
    /// <summary>Time that a supervisor may take to start a server again or to end, and the interval between two checks.</summary>
    private const int PatienceMilliseconds = 60_000, LookMilliseconds = 50;

    /// <summary>
    /// Sends the stop request. Throws the server's error. Exit code 74 if the server was killed, and has no supervisor or one that neither
    /// ends nor starts a server in time.
    /// </summary>
    public static void Ask(ControlConnection server, string request)
    {
        int supervisor = SupervisorOf(server);
        try
        {
            server.Ask(request, (_, _) => { });
            return;
        }
        catch (SnapuserdException) when (server.IsClosed && supervisor > 0)
        {
        }
        MonotonicClock clock = new();
        long end = clock.Milliseconds + PatienceMilliseconds;
        while (clock.Milliseconds < end)
        {
            // Check the supervisor first: once it has ended, none of its servers remains.
            if (HasEnded(supervisor)) return;
            if (TryAgain(server.SocketPath, request)) return;
            Libc.Sleep(LookMilliseconds);
        }
        throw new SnapuserdException(ExitCode.InputOutput,
            $"the server at {server.SocketPath} was killed, and its supervisor (process {supervisor}) neither ends nor starts another");
    }

    /// <summary>Process ID of the supervisor; 0 if there is none, or the server is too old to report it.</summary>
    private static int SupervisorOf(ControlConnection server)
    {
        string answer = "";
        try
        {
            server.Ask(CtlRequests.SupervisorRequest, (line, _) => answer = line);
        }
        catch (SnapuserdException) when (!server.IsClosed)
        {
        }
        return int.TryParse(answer, NumberStyles.None, CultureInfo.InvariantCulture, out int process) ? process : 0;
    }

    private static bool TryAgain(string path, string request)
    {
        ControlConnection server;
        try
        {
            server = new ControlConnection(path);
        }
        catch (SnapuserdException)
        {
            return false;
        }
        using (server)
        {
            try
            {
                server.Ask(request, (_, _) => { });
                return true;
            }
            catch (SnapuserdException) when (server.IsClosed)
            {
                return false;
            }
        }
    }

    /// <summary>The process does not exist, or is a zombie.</summary>
    private static bool HasEnded(int process)
    {
        try
        {
            if (SmallFile.Read(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/stat"), 2048) is { } stat)
            {
                string text = Encoding.Latin1.GetString(stat);
                // "1234 (name) S …": the name may have parentheses in it.
                int close = text.LastIndexOf(") ", StringComparison.Ordinal);
                return close >= 0 && close + 2 < text.Length && text[close + 2] is 'Z' or 'X';
            }
        }
        catch (SnapuserdException)
        {
        }
        return Libc.Kill(process, 0) == -Errno.ESRCH;
    }
}
