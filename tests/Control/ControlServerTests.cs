using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Sockets;
using System.Text;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Control;

/// <summary>
/// The server of the control socket, independent of the meaning of requests: both languages, packets cut at any point, and clients of every
/// kind.
/// </summary>
public sealed class ControlServerTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly Script _messages = new();
    private readonly Script _lines = new();
    private readonly List<string> _reports = [];
    private readonly string _path;
    private readonly ControlServer _server;

    public ControlServerTests()
    {
        _path = _folder["control"];
        _server = ControlServer.Start(_path, Options());
    }

    public void Dispose()
    {
        _server.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_message_is_one_packet_and_a_line_ends_at_its_line_feed()
    {
        using Talker android = new(_path);
        Assert.Equal("got echo 1", android.Ask("echo 1"));
        Assert.Equal("got a\nb", android.Ask("a\nb"));
        using Talker ctl = Talker.Lines(_path);
        ctl.Send("one\ntwo\n\nfour");
        Assert.Equal(["got one", "got two", "got "], [ctl.Line()!, ctl.Line()!, ctl.Line()!]);
        ctl.Send(" and more\n");
        Assert.Equal("got four and more", ctl.Line());
    }

    [Fact]
    public void Lines_do_not_depend_on_how_they_are_cut_into_packets()
    {
        byte[] whole = Encoding.UTF8.GetBytes("ctl 1\nfirst\nsecönd\n");
        for (int cut = 1; cut < whole.Length; cut++)
        {
            using Talker ctl = new(_path);
            ctl.Send(whole.AsSpan(0, cut));
            // Asks over a second connection. When that is answered, the server has seen the first part, because it handles turns in order.
            using (Talker other = new(_path)) Assert.Equal("got x", other.Ask("x"));
            ctl.Send(whole.AsSpan(cut));
            Assert.Equal(("got first", "got secönd"), (ctl.Line(), ctl.Line()));
        }
        using Talker single = new(_path);
        foreach (byte one in whole) single.Send([one]);
        Assert.Equal(("got first", "got secönd"), (single.Line(), single.Line()));
    }

    [Theory]
    [InlineData("ctl 2\n")]
    [InlineData("ctl 1")]
    [InlineData("xctl 1\n")]
    [InlineData("ctl\n")]
    public void Another_greeting_is_a_message(string first)
    {
        using Talker client = new(_path);
        client.Send(first);
        // The server does not decide on a prefix of the greeting until more bytes arrive.
        if ("ctl 1\n".StartsWith(first, StringComparison.Ordinal)) client.Send("2");
        string expected = "ctl 1\n".StartsWith(first, StringComparison.Ordinal) ? first + "2" : first;
        Assert.Equal("got " + expected, client.Receive());
    }

    [Fact]
    public void A_request_of_512_bytes_is_accepted_and_one_of_513_is_not()
    {
        string longest = new('m', 512);
        using (Talker android = new(_path))
        {
            android.Send(longest);
            _messages.WaitFor(1);
            Assert.Equal(longest, _messages.Seen[^1]);
            Assert.Equal("got " + longest, android.Exactly(516));
            Assert.Equal("fail", android.Ask(longest + "m"));
            Assert.Equal("", android.Receive());
        }
        using (Talker ctl = Talker.Lines(_path))
        {
            ctl.Send(longest + "\n");
            Assert.Equal("got " + longest, ctl.Line());
            ctl.Send(longest + "m\nafter\n");
            Assert.StartsWith("!64 ", ctl.Line(), StringComparison.Ordinal);
            Assert.Null(ctl.Line());
        }
        Assert.Single(_messages.Seen);
        Assert.Single(_lines.Seen);
    }

    [Fact]
    public void Requests_may_contain_zeros_and_bytes_that_are_not_text()
    {
        byte[] binary = new byte[512];
        new Random(7).NextBytes(binary);
        using (Talker android = new(_path))
        {
            android.Send([0, 0, 0]);
            Assert.Equal("got \0\0\0", android.Receive());
            android.Send(binary);
            _messages.WaitFor(2);
        }
        using Talker ctl = Talker.Lines(_path);
        ctl.Send([0, 0xff, (byte)'\n']);
        Assert.Equal("got \0\ufffd", ctl.Line());
    }

    [Fact]
    public void A_slow_answer_delays_only_its_own_client()
    {
        using Talker slow = new(_path), quick = new(_path);
        slow.Send("hold 1");
        ControlReply reply = _messages.Held("hold 1");
        // The client's next message waits for the answer to the first, as with Android's server.
        slow.Send("later");
        for (int i = 0; i < 10; i++) Assert.Equal($"got {i}", quick.Ask($"{i}"));
        Assert.DoesNotContain("later", _messages.Seen);
        Assert.True(reply.IsWanted);
        reply.End("at last");
        Assert.Equal("at lastgot later", slow.Exactly("at lastgot later".Length));
        Assert.False(reply.IsWanted);
        reply.End("twice");
        Assert.Equal("got x", slow.Ask("x"));
    }

    [Fact]
    public void A_stream_of_lines_comes_from_any_thread_and_ends_with_its_client()
    {
        Talker ctl = Talker.Lines(_path);
        ctl.Send("hold watch\nnext\n");
        ControlReply reply = _lines.Held("hold watch");
        for (int i = 0; i < 3; i++) Assert.True(reply.Send($"{i}"));
        Assert.Equal(["0", "1", "2"], [ctl.Line()!, ctl.Line()!, ctl.Line()!]);
        reply.End(".");
        Assert.Equal(".", ctl.Line());
        Assert.Equal("got next", ctl.Line());
        ctl.Send("hold watch\n");
        reply = _lines.Held("hold watch");
        ctl.Dispose();
        while (reply.IsWanted) Thread.Yield();
        Assert.False(reply.Send("no client"));
        reply.End();
    }

    [Fact]
    public void A_client_that_does_not_read_a_stream_is_dropped_and_a_late_reader_is_not()
    {
        using Talker deaf = Talker.Lines(_path), late = Talker.Lines(_path), other = new(_path);
        deaf.Send("many 100000\n");
        Assert.Equal("got x", other.Ask("x"));
        int lines = 0;
        while (deaf.Line() is { } line && line != "done") lines++;
        // The client gets what its socket and its buffer held, or less if the server closed the connection first.
        Assert.InRange(lines, 0, 2000);
        late.Send("many 200\n");
        Assert.Equal("got y", other.Ask("y"));
        for (int i = 0; i < 200; i++) Assert.Equal(1000, late.Line()!.Length);
        Assert.Equal("done", late.Line());
    }

    [Fact]
    public void A_client_that_asks_and_never_reads_waits_and_delays_no_other()
    {
        using Socket flood = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
        flood.Connect(new UnixDomainSocketEndPoint(_path));
        byte[] lines = Encoding.UTF8.GetBytes(string.Concat(System.Linq.Enumerable.Repeat("z\n", 5000)));
        Assert.Equal(6, flood.Send("ctl 1\n"u8));
        using Talker other = new(_path);
        int full = 0;
        // Sends until the server has accepted nothing for a thousand of its own turns. Its answers are blocked, so it stops reading
        // requests.
        while (full < 1000)
        {
            try
            {
                _ = flood.Send(lines);
                full = 0;
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.WouldBlock)
            {
                full++;
            }
            Assert.Equal("got x", other.Ask("x"));
            if (_messages.Seen.Length > 20_000) break;
        }
        Assert.True(full >= 1000, "the server takes requests for ever");
    }

    [Fact]
    public void A_client_that_dies_at_any_byte_disturbs_no_other()
    {
        using Talker other = new(_path);
        byte[] both = Encoding.UTF8.GetBytes("ctl 1\nhold\nnext\n");
        for (int sent = 0; sent <= both.Length; sent++)
        {
            using (Talker client = new(_path)) client.Send(both.AsSpan(0, sent));
            Assert.Equal("got x", other.Ask("x"));
        }
        byte[] message = Encoding.UTF8.GetBytes("hold");
        for (int sent = 0; sent <= message.Length; sent++)
        {
            using (Talker client = new(_path)) client.Send(message.AsSpan(0, sent));
            Assert.Equal("got x", other.Ask("x"));
        }
        // Clients that disconnected while their request was held: the answer is dropped, and the server still executes what they had sent
        // after it.
        ControlReply reply = _messages.Held("hold");
        while (reply.IsWanted) Thread.Yield();
        reply.End("no client");
        int before = _lines.Seen.Length;
        for (int i = 0; i < 6; i++) _lines.Held("hold").End(".");
        _lines.WaitFor(before + 1);
        Assert.Equal("got x", other.Ask("x"));
    }

    [Fact]
    public void A_client_that_has_ended_only_its_own_output_gets_its_answers()
    {
        using Talker ctl = Talker.Lines(_path);
        ctl.Send("hold\nlast\nhalf a li");
        ctl.EndSending();
        _lines.Held("hold").End("held");
        Assert.Equal(("held", "got last", null), (ctl.Line(), ctl.Line(), ctl.Line()));
        using Talker android = new(_path);
        android.Send("hold");
        android.EndSending();
        _messages.Held("hold").End("held");
        Assert.Equal(("held", ""), (android.Receive(), android.Receive()));
        Assert.Equal(["hold", "last"], _lines.Seen);
    }

    [Fact]
    public void A_connection_ends_if_an_answer_closes_it_or_the_request_throws()
    {
        using Talker android = new(_path), ctl = Talker.Lines(_path), broken = new(_path), silent = new(_path);
        Assert.Equal("closed", android.Ask("close"));
        Assert.Equal("", android.Receive());
        ctl.Send("throw\nafter\n");
        Assert.StartsWith("!70 ", ctl.Line(), StringComparison.Ordinal);
        Assert.Null(ctl.Line());
        Assert.Equal(("fail", ""), (broken.Ask("throw"), broken.Receive()));
        silent.Send("nothing");
        _messages.WaitFor(3);
        Assert.Equal("got x", silent.Ask("x"));
        Assert.DoesNotContain("after", _lines.Seen);
    }

    [Fact]
    public void A_hundred_clients_at_once_all_get_their_own_answers()
    {
        Thread[] threads = new Thread[100];
        using Barrier barrier = new(threads.Length);
        int right = 0;
        for (int i = 0; i < threads.Length; i++)
        {
            int number = i;
            threads[i] = new Thread(() =>
            {
                using Talker client = new(_path, number % 2 == 0 ? "ctl 1\n" : null);
                barrier.SignalAndWait();
                bool good = true;
                for (int round = 0; round < 20; round++)
                {
                    string text = $"{number} {round}";
                    if (number % 2 == 0) client.Send(text + "\n");
                    else client.Send(text);
                    good &= (number % 2 == 0 ? client.Line() : client.Receive()) == "got " + text;
                }
                if (good) Interlocked.Increment(ref right);
            }, 256 << 10);
            threads[i].Start();
        }
        foreach (Thread thread in threads) thread.Join();
        Assert.Equal(threads.Length, right);
        Assert.Equal(2000, _lines.Seen.Length + _messages.Seen.Length);
    }

    [Fact]
    public void A_client_above_the_limit_is_closed_and_a_later_one_gets_a_free_place()
    {
        List<Talker> clients = [];
        for (int i = 0; i < ControlServer.MostClients; i++)
        {
            Talker client = new(_path);
            Assert.Equal("got x", client.Ask("x"));
            clients.Add(client);
        }
        using (Talker more = new(_path)) Assert.Equal("", more.Receive());
        Assert.Contains("128", Assert.Single(Reports), StringComparison.Ordinal);
        clients[5].Dispose();
        // The server sees this disconnect in the same poll as the answer to another client, or in an earlier one.
        Assert.Equal("got y", clients[6].Ask("y"));
        Assert.Equal("got z", clients[7].Ask("z"));
        using (Talker again = new(_path)) Assert.Equal("got x", again.Ask("x"));
        foreach (Talker client in clients) client.Dispose();
    }

    [Theory]
    [InlineData("")]
    [InlineData("ctl ")]
    public void If_all_places_are_taken_a_client_without_a_request_is_dropped(string beginning)
    {
        List<Talker> clients = [];
        // The first client sends a request and therefore always stays. The others are silent or stop in the middle of a greeting.
        for (int i = 0; i < ControlServer.MostClients; i++)
            clients.Add(new Talker(_path, i == 0 || beginning.Length == 0 ? null : beginning));
        Assert.Equal("got x", clients[0].Ask("x"));
        using Talker next = new(_path);
        Assert.Equal("got y", next.Ask("y"));
        // The server drops only the client that was silent longest.
        Assert.Equal("", clients[1].Receive());
        Assert.Contains("never sent a request", Assert.Single(Reports), StringComparison.Ordinal);
        for (int i = 2; i < clients.Count; i++) Assert.Equal($"got {beginning}x{i}", clients[i].Ask($"x{i}"));
        Assert.Equal("got z", clients[0].Ask("z"));
        // Every client has sent a request by now.
        using (Talker more = new(_path)) Assert.Equal("", more.Receive());
        foreach (Talker client in clients) client.Dispose();
    }

    [Fact]
    public void Idle_clients_cost_no_time()
    {
        List<Talker> clients = [];
        for (int i = 0; i < 100; i++)
        {
            clients.Add(new Talker(_path));
            Assert.Equal("got x", clients[i].Ask("x"));
        }
        using Talker half = Talker.Lines(_path);
        half.Send("hold\n");
        _ = _lines.Held("hold");
        half.EndSending();
        Assert.Equal("got x", clients[0].Ask("x"));
        long before = _server.Turns;
        Assert.Equal("got x", clients[0].Ask("x"));
        // A request takes a turn or two; a busy loop would make thousands.
        Assert.InRange(_server.Turns - before, 1, 20);
        foreach (Talker client in clients) client.Dispose();
    }

    [Fact]
    public void The_socket_is_only_for_its_owner_and_its_file_is_removed_with_the_server()
    {
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, _path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status));
        Assert.Equal(Libc.S_IFSOCK | 0x180, status.Mode);
        Assert.Equal(ExitCode.InUse, Assert.Throws<SnapuserdException>(() => ControlServer.Start(_path, Options())).Code);
        Assert.Equal(ExitCode.Usage,
            Assert.Throws<SnapuserdException>(() => ControlServer.Start(_folder[new string('x', 108)], Options())).Code);
        Assert.Equal(ExitCode.CannotCreate,
            Assert.Throws<SnapuserdException>(() => ControlServer.Start(_folder["missing/x"], Options())).Code);
        using Talker there = new(_path);
        Assert.Equal("got x", there.Ask("x"));
        _server.StopAccepting();
        while (File.Exists(_path)) Thread.Yield();
        Assert.Equal("got y", there.Ask("y"));
        Assert.Throws<SocketException>(() => new Talker(_path));
        // The name now belongs to another server and must stay.
        using ControlServer second = ControlServer.Start(_path, Options());
        _server.Dispose();
        Assert.Equal("", there.Receive());
        using Talker next = new(_path);
        Assert.Equal("got x", next.Ask("x"));
    }

    [Fact]
    public void A_dead_servers_socket_is_replaced_by_exactly_one_of_two_new_servers()
    {
        string dead = _folder["dead"];
        for (int round = 0; round < 20; round++)
        {
            using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
            {
                socket.Bind(new UnixDomainSocketEndPoint(dead));
                File.Move(dead, dead + "2");
            }
            File.Move(dead + "2", dead);
            using Barrier barrier = new(2);
            ControlServer?[] servers = new ControlServer?[2];
            Thread[] threads = new Thread[2];
            for (int i = 0; i < 2; i++)
            {
                int number = i;
                threads[i] = new Thread(() =>
                {
                    barrier.SignalAndWait();
                    try
                    {
                        servers[number] = ControlServer.Start(dead, Options());
                    }
                    catch (SnapuserdException e) when (e.Code == ExitCode.InUse)
                    {
                        // The other thread's server started first.
                    }
                });
                threads[i].Start();
            }
            foreach (Thread thread in threads) thread.Join();
            Assert.NotEqual(servers[0] == null, servers[1] == null);
            using (Talker client = new(dead)) Assert.Equal("got x", client.Ask("x"));
            (servers[0] ?? servers[1])!.Dispose();
            Assert.False(File.Exists(dead));
        }
    }

    [Fact]
    public void An_unknown_language_is_refused()
    {
        using ControlServer neither = ControlServer.Start(_folder["neither"], new ControlOptions());
        using Talker android = new(_folder["neither"]), ctl = Talker.Lines(_folder["neither"]);
        Assert.Equal(("fail", ""), (android.Ask("query"), android.Receive()));
        ctl.Send("list\n");
        Assert.StartsWith("!69 ", ctl.Line(), StringComparison.Ordinal);
        Assert.Null(ctl.Line());
    }

    [RootFact]
    public void Another_user_is_refused_whatever_the_mode_of_the_file_unless_the_socket_was_inherited()
    {
        File.SetUnixFileMode(_folder.Path, (UnixFileMode)0x1ed);
        File.SetUnixFileMode(_path, (UnixFileMode)0x1b6);
        Assert.Equal("closed\n", AsUnprivileged(_path));
        Assert.Contains("65534", Assert.Single(Reports), StringComparison.Ordinal);

        string inherited = _folder["inherited"];
        int fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0);
        Assert.Equal(0, Libc.Bind(fd, inherited));
        File.SetUnixFileMode(inherited, (UnixFileMode)0x1b6);
        using ControlServer adopted = ControlServer.Adopt(fd, new ControlOptions { Messages = _messages, AnyPeer = true });
        Assert.Equal("got hello\n", AsUnprivileged(inherited));
        adopted.Dispose();
        Assert.True(File.Exists(inherited), "the file is init's");
    }

    [Fact]
    public void A_descriptor_that_is_not_a_socket_is_not_adopted()
    {
        // The server owns the descriptor and closes it also when it refuses it; closed again, it could be another test's.
        int fd = Libc.EventFd(0, Libc.EFD_CLOEXEC);
        Assert.Equal(ExitCode.Usage, Assert.Throws<SnapuserdException>(() => ControlServer.Adopt(fd, Options())).Code);
    }

    [Theory]
    [InlineData(Libc.SHUT_RD)]
    [InlineData(Libc.SHUT_RDWR)]
    public void A_socket_that_another_process_shuts_down_is_no_longer_served_and_a_report_says_so(int how)
    {
        int fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0);
        Assert.Equal(0, Libc.Bind(fd, _folder["shut"]));
        using WakeUp wakeUp = new();
        List<string> reports = [];
        using ControlServer server =
            ControlServer.Adopt(fd, new ControlOptions { Messages = _messages, AnyPeer = true, Report = reports.Add, WakeUp = wakeUp });
        using Talker client = new(_folder["shut"]);
        Assert.Equal("got x", client.Ask("x"));
        Assert.Null(server.Failure);
        Assert.Equal(0, Libc.Shutdown(fd, how));
        Assert.True(wakeUp.Wait(60_000), "the wake-up is not signalled");
        Assert.Contains("shut", server.Failure, StringComparison.Ordinal);
        Assert.Equal([server.Failure!], reports);
        Assert.Equal("", client.Receive());
    }

    [Fact]
    public void Ticks_come_only_while_they_are_due()
    {
        Ticks ticks = new();
        using ControlServer server = ControlServer.Start(_folder["ticking"], new ControlOptions { Messages = _messages, Ticks = [ticks] });
        using Talker client = new(_folder["ticking"]);
        Assert.Equal("got x", client.Ask("x"));
        Assert.Equal(0, ticks.Count);
        ticks.On = true;
        server.Wake();
        while (ticks.Count < 5) Thread.Yield();
        ticks.On = false;
        Assert.Equal("got y", client.Ask("y"));
        int count = ticks.Count;
        Assert.Equal("got z", client.Ask("z"));
        Assert.Equal(count, ticks.Count);
    }

    private string[] Reports
    {
        get
        {
            lock (_reports) return [.. _reports];
        }
    }

    private ControlOptions Options() => new()
    {
        Messages = _messages,
        Lines = _lines,
        Report = sentence =>
        {
            lock (_reports) _reports.Add(sentence);
        },
    };

    /// <summary>The reply to a process of user 65534 that sends "hello". Uses Perl, which is on every Debian.</summary>
    private static string AsUnprivileged(string path) => Binary.RunProgram("/usr/bin/perl",
        [
            "-MSocket", "-e", "$) = '65534 65534'; $( = 65534; $< = $> = 65534; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; connect(S, "
                + "sockaddr_un($ARGV[0])) or die \"connect: $!\"; $SIG{PIPE} = 'IGNORE'; syswrite(S, 'hello'); $n = sysread(S, $a, 512); "
                + "print $n ? $a : 'closed', \"\\n\"", path,
        ]) is { ExitCode: 0 } result
        ? result.Output
        : throw new InvalidOperationException("perl failed");

    private sealed class Ticks : IControlTicks
    {
        private int _count;
        private bool _on;

        internal int Count => Volatile.Read(ref _count);

        internal bool On
        {
            set => Volatile.Write(ref _on, value);
        }

        public int Due(long now) => Volatile.Read(ref _on) ? 0 : -1;

        public void Tick(long now) => Interlocked.Increment(ref _count);
    }
}
