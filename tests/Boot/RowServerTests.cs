using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Sockets;
using System.Text;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Control;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>
/// The process that listens on a row's socket: it is trusted only if it reports that it serves exactly that row, and it is asked with a
/// time limit.
/// </summary>
public sealed class RowServerTests : IDisposable
{
    private static readonly BootRow s_row = new("root", "/data/my \"best\".cow", "/dev/sda2", null, 1, "table:1");

    private readonly TempFolder _folder = new();

    private string Path => _folder["socket"];

    public void Dispose() => _folder.Dispose();

    private static SnapshotStatus Status(SnapshotState state) =>
        new() { Name = s_row.Name, Cow = s_row.Cow, Base = s_row.Base, Device = s_row.Path, State = state };

    private static RowServer Of(SnapshotStatus status) => RowServer.Of(StatusText.Json(status), "/run/root", s_row);

    [Fact]
    public void A_status_shows_whether_the_server_serves_the_row()
    {
        foreach (SnapshotState state in Enum.GetValues<SnapshotState>())
        {
            RowServer server = Of(Status(state) with { Paused = state == SnapshotState.Merging });
            bool changes = state is SnapshotState.Opening or SnapshotState.Ended;
            Assert.Equal((!changes, changes), (server.Serves, server.Changes));
            Assert.Equal(state == SnapshotState.Failed, server.Sentence.Contains("has failed", StringComparison.Ordinal));
        }
        Assert.Equal((false, true),
            Of(Status(SnapshotState.Serving) with { Device = "" }) is var early ? (early.Serves, early.Changes) : default);
        foreach (SnapshotStatus other in new[]
        {
            Status(SnapshotState.Serving) with { Name = "roo" }, Status(SnapshotState.Serving) with { Cow = "/data/my " },
            Status(SnapshotState.Serving) with { Base = "/dev/sda" },
            Status(SnapshotState.Serving) with { Device = "/dev/ublkb0" },
            Status(SnapshotState.Serving) with { Cow = "/x\",\"cow\":\"/data/my \\\"best\\\".cow" },
        })
        {
            RowServer server = Of(other);
            Assert.Equal((false, false), (server.Serves, server.Changes));
            Assert.StartsWith("another process listens on its socket and does not serve it: the server at /run/root has another ",
                server.Sentence, StringComparison.Ordinal);
        }
        foreach (string line in new[] { "", "{}", "root: serving", "{\"event\":\"snapshot\",\"name\":\"root\"}" })
            Assert.False(RowServer.Of(line, "/run/root", s_row).Serves);
    }

    [Fact]
    public void A_status_is_read_by_the_names_of_its_own_members()
    {
        const string members = "\"name\":\"root\",\"cow\":\"/data/my \\\"best\\\".cow\",\"base\":\"/dev/sda2\"";
        const string device = "\"device\":\"/dev/mapper/root\"", state = "\"state\":\"serving\"",
            inside = "{\"name\":\"root\",\"state\":\"serving\"}";
        foreach (string line in new[]
        {
            $"{{{members},{device},{state}}}", $"{{{state},{device},{members}}}",
            $"{{\"event\":\"snapshot\",{members},{state},{device},\"paused\":false}}",
            $" {{ {members.Replace(":", " : ", StringComparison.Ordinal).Replace(",", " , ", StringComparison.Ordinal)} "
            + $",\t{device} , {state} }} ",
            $"{{\"first\":{{\"name\":\"other\",\"state\":\"failed\"}},{members},{device},{state},\"list\":[\"state\",\"failed\"]}}",
        })
            Assert.True(RowServer.Of(line, "/run/root", s_row) is { Serves: true, Sentence: "a server has it already" }, line);
        foreach (string line in new[]
        {
            // The words are all there, but not as members of the status.
            $"{{\"first\":{inside},\"cow\":\"/data/my \\\"best\\\".cow\",\"base\":\"/dev/sda2\",{device},{state}}}",
            $"{{{members},{device},\"first\":{inside}}}", $"{{{members},\"first\":{{{device}}},{state}}}",
            $"{{\"line\":\"{members.Replace("\"", "\\\"", StringComparison.Ordinal)}\",{device},{state}}}",
            $"{{\"name\":\"other\",{members},{device},{state}}}", $"[{{{members},{device},{state}}}]", $"{{{members},{device},{state}",
            $"{{{members},\"device\":null,{state}}}",
            $"{{{members},{device},\"state\":[\"serving\"]}}",
        })
            Assert.False(RowServer.Of(line, "/run/root", s_row) is { Serves: true } or { Changes: true }, line);
    }

    [Fact]
    public void Without_a_server_or_its_device_nothing_is_served()
    {
        Assert.Null(RowServer.Ask(Path, s_row));
        File.WriteAllText(Path, "");
        Assert.Null(RowServer.Ask(Path, s_row));
        Assert.Null(RowServer.Ask(Path + "/below", s_row));
        File.Delete(Path);
        BootRow row = s_row with { Name = "snapuserd-test-no-such-device" };
        SnapshotStatus status = Status(SnapshotState.Merging) with { Name = row.Name, Device = row.Path };
        using Socket listener = Listen(1);
        Thread thread = Answer(listener, $" {StatusText.Json(status)}\n.\n");
        RowServer? server = RowServer.Ask(Path, row);
        thread.Join();
        Assert.Equal((false, false), (server!.Serves, server.Changes));
        Assert.Contains(row.Path, server.Sentence);
    }

    [Theory]
    [InlineData("!66 there is no snapshot root here; there is other\n", "there is no snapshot root here")]
    [InlineData("!69 this server does not know ctl\n", "does not know ctl")]
    [InlineData("NBDMAGIC\n", "unexpected reply from ")]
    [InlineData("", "has closed the connection")]
    [InlineData(".\n", "another COW or base")]
    public void A_server_with_any_other_status_does_not_serve_the_row(string answer, string sentence)
    {
        using Socket listener = Listen(1);
        Thread thread = Answer(listener, answer);
        RowServer? server = RowServer.Ask(Path, s_row);
        thread.Join();
        Assert.Equal((false, false), (server!.Serves, server.Changes));
        Assert.Contains(sentence, server.Sentence);
    }

    [Fact]
    public void A_program_that_never_accepts_answers_or_ends_is_given_up()
    {
        using (Socket full = Listen(0))
        {
            List<Socket> others = [];
            try
            {
                while (true)
                {
                    Socket other = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
                    others.Add(other);
                    other.Connect(new UnixDomainSocketEndPoint(Path));
                }
            }
            catch (SocketException)
            {
                // The socket's backlog is full.
            }
            Unanswered(() => new ControlConnection(Path, 100).Dispose());
            others.ForEach(other => other.Dispose());
        }
        File.Delete(Path);
        using Socket silent = Listen(8);
        Unanswered(() => Ask());
        File.Delete(Path);
        using Socket talker = Listen(1);
        Thread thread = new(() =>
        {
            try
            {
                using Socket client = talker.Accept();
                while (true) _ = client.Send(Encoding.UTF8.GetBytes(" and another thing\n~\n"));
            }
            catch (SocketException)
            {
                // The client has disconnected.
            }
        });
        thread.Start();
        Unanswered(() => Ask());
        thread.Join();
    }

    private static void Unanswered(Action action)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(action);
        Assert.Equal(ExitCode.InputOutput, e.Code);
        Assert.EndsWith("does not answer", e.Message, StringComparison.Ordinal);
    }

    private void Ask()
    {
        using ControlConnection connection = new(Path, 100);
        connection.Ask("json status root", (_, _) => { });
    }

    private Socket Listen(int backlog)
    {
        Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(Path));
        listener.Listen(backlog);
        return listener;
    }

    private static Thread Answer(Socket listener, string answer)
    {
        Thread thread = new(() =>
        {
            using Socket client = listener.Accept();
            // Reads the greeting and a line: a close with unread bytes would discard the answer at the other end.
            int lines = 0;
            byte[] buffer = new byte[100];
            for (int got = 1; lines < 2 && got > 0;)
            {
                got = client.Receive(buffer);
                foreach (byte one in buffer.AsSpan(0, got)) lines += one == '\n' ? 1 : 0;
            }
            _ = client.Send(Encoding.UTF8.GetBytes(answer));
        });
        thread.Start();
        return thread;
    }
}
