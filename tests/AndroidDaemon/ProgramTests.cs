using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>
/// The built binary as a daemon: started in both ways, with sockets of every origin, ended by requests, signals and SIGKILL.
/// </summary>
public sealed class ProgramTests : IDisposable
{
    private const int SIGKILL = 9;

    private readonly TempFolder _folder = new();
    private readonly List<Process> _processes = [];
    private readonly string _socket;

    public ProgramTests()
    {
        _socket = _folder["control"];
        Directory.CreateDirectory(_folder["devices"]);
        File.WriteAllBytes(_folder["cow"], Golden.Cow(SetFixture.Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose()
    {
        // A failed test leaves its daemon running.
        foreach (Process process in _processes)
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
            process.Dispose();
        }
        _folder.Dispose();
    }

    [Fact]
    public void Serves_merges_and_ends_as_Androids_client_asks_for_it()
    {
        Process daemon = Start("daemon", "--socket", _socket, "--device", "nbd", "--socket-folder", _folder["devices"]);
        using Talker client = Connect(daemon);
        Assert.Equal("active", client.Ask("query"));
        Assert.Equal($"success,{Golden.Old.Length / 512}", client.Ask(Init));
        Assert.Equal("success", client.Ask("start,system_b"));
        Assert.Equal(Golden.New, Copy());
        Assert.Equal("success", client.Ask("initiate_merge,system_b"));
        SetFixture.Until(() => client.Ask("getstatus,system_b") == "snapshot-merge-complete", "the merge");
        Assert.Equal("100.000000", client.Ask("merge_percent"));
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(Golden.New, Unlocked.Read(_folder["base"], Golden.New.Length));
        // The same socket understands the language of ctl as well.
        Assert.Contains("system_b", Binary.Run("ctl", "--socket", _socket, "list") is { ExitCode: 0 } list ? list.Output : "",
            StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("delete,system_b"));
        Assert.False(File.Exists(_folder["devices/system_b"]));
        client.Send("detach");
        Assert.Equal((0, ""), End(daemon));
        Assert.False(File.Exists(_socket));
    }

    [Fact]
    public void Ctl_stops_the_snapshot_that_it_names_whether_or_not_it_is_served()
    {
        Process daemon = Start("daemon", "--socket", _socket, "--device", "nbd", "--socket-folder", _folder["devices"]);
        using Talker client = Connect(daemon);
        Assert.StartsWith("success,", client.Ask(Init), StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("start,system_b"));
        File.WriteAllBytes(_folder["cow2"], Golden.Cow(SetFixture.Vector));
        File.WriteAllBytes(_folder["base2"], Golden.Old);
        Assert.StartsWith("success,", client.Ask($"init,vendor_b,{_folder["cow2"]},{_folder["base2"]},{_folder["base2"]}"),
            StringComparison.Ordinal);
        BinaryResult unclear = Ctl("stop");
        Assert.True(unclear.ExitCode == 64, unclear.ToString());
        Assert.Contains("there is system_b, vendor_b", unclear.Error, StringComparison.Ordinal);
        Assert.Equal(64, Ctl("pause", "vendor_b", "--all").ExitCode);
        // Opened and not started, so it has no device.
        Assert.Equal(0, Ctl("stop", "vendor_b").ExitCode);
        SetFixture.Until(() => !Ctl("list").Output.Contains("vendor_b", StringComparison.Ordinal), "the end of what is not served");
        Assert.Equal(Golden.New, Copy());
        // The only snapshot needs no name.
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("stop", "--all").ExitCode);
        SetFixture.Until(() => Ctl("list").Output.Length == 0, "the end of what is served");
        Assert.False(File.Exists(_folder["devices/system_b"]));
        Assert.Equal("active", client.Ask("query"));
        client.Send("stop");
        Assert.Equal((0, ""), End(daemon));
    }

    [Fact]
    public void Sigterm_ends_all_snapshots_and_the_next_process_continues_the_merge()
    {
        for (int round = 0; round < 2; round++)
        {
            Process daemon = Start("daemon", $"--socket={_socket}", "--device=nbd", "--socket-folder", _folder["devices"]);
            using Talker client = Connect(daemon);
            Assert.StartsWith("success,", client.Ask(Init), StringComparison.Ordinal);
            Assert.Equal("success", client.Ask("start,system_b"));
            Assert.Equal("success", client.Ask("initiate_merge,system_b"));
            if (round == 0)
            {
                _ = Libc.Kill(daemon.Id, Libc.SIGTERM);
                Assert.Equal(0, End(daemon).Code);
                Assert.False(File.Exists(_socket));
                continue;
            }
            SetFixture.Until(() => client.Ask("getstatus,system_b") == "snapshot-merge-complete", "the merge");
            client.Send("stop");
            Assert.Equal((0, ""), End(daemon));
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    [Fact]
    public void After_a_kill_the_next_daemon_replaces_the_socket_and_finishes_the_merge()
    {
        for (int round = 0; round < 4; round++)
        {
            Process daemon = Start("daemon", "--socket", _socket, "--device", "nbd", "--socket-folder", _folder["devices"]);
            using Talker client = Connect(daemon);
            Assert.StartsWith("success,", client.Ask(Init), StringComparison.Ordinal);
            Assert.Equal("success", client.Ask("start,system_b"));
            Assert.Equal("success", client.Ask("initiate_merge,system_b"));
            if (round == 3) SetFixture.Until(() => client.Ask("getstatus,system_b") == "snapshot-merge-complete", "the merge");
            _ = Libc.Kill(daemon.Id, SIGKILL);
            daemon.WaitForExit();
            Assert.True(File.Exists(_socket));
            Unlocked.Settle(_folder["cow"], _folder["base"]);
        }
        Assert.Equal(Golden.New, Unlocked.ReadSettled(_folder["base"]));
    }

    [Fact]
    public void A_name_that_is_not_a_file_name_is_refused_and_nothing_is_made_outside_the_folder()
    {
        Process daemon = Start("daemon", "--socket", _socket, "--device", "nbd", "--socket-folder", _folder["devices"]);
        using Talker client = Connect(daemon);
        Directory.CreateDirectory(_folder["devices/inner"]);
        string[] before = Everything();
        foreach (string name in (string[])["../outside", "..", ".", "inner/deep", "/", _folder["absolute"], "cut\0off",
            new string('n', 256)])
        {
            Assert.Equal("fail", client.Ask($"init,{name},{_folder["cow"]},{_folder["base"]},{_folder["base"]}"));
            Assert.Equal("fail", client.Ask($"start,{name}"));
        }
        Assert.Equal(before, Everything());
        // "." is not a path, and neither is ".." with other characters next to it.
        foreach (string name in (string[])["..a", ".hidden", "a..", "äö", "line\nfeed"])
        {
            Assert.StartsWith("success,", client.Ask($"init,{name},{_folder["cow"]},{_folder["base"]},{_folder["base"]}"),
                StringComparison.Ordinal);
            Assert.Equal("success", client.Ask($"start,{name}"));
            Assert.True(File.Exists(_folder[$"devices/{name}"]), name);
            Assert.Equal("success", client.Ask($"delete,{name}"));
        }
        client.Send("stop");
        Assert.Equal((0, ""), End(daemon));
    }

    [Fact]
    public void Called_as_Android_calls_it_the_program_accepts_Androids_flags()
    {
        Process daemon = Start($"-socket={_socket}", "-user_snapshot", "--io_uring=true", "-noo_direct", "-worker_count", "2",
            "-cow-op-merge-size=0", "-device=nbd", "-socket_folder", _folder["devices"], "-log=stderr");
        using Talker client = Connect(daemon);
        Assert.StartsWith("success,", client.Ask(Init), StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("start,system_b"));
        Assert.Equal(Golden.New, Copy());
        client.Send("stop");
        Assert.Equal((0, ""), End(daemon));
    }

    [Fact]
    public void The_socket_of_init_is_taken_over_with_its_rights_and_stays_inits()
    {
        // Called without arguments, as Android's service is. Without dm-user no snapshot can be opened.
        Process daemon = Kept(Binary.StartProgram("perl", ["-MSocket", "-MFcntl", "-e",
            "socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[1])) or die; fcntl(S, F_SETFD, 0); "
            + "$ENV{ANDROID_SOCKET_snapuserd} = fileno(S); exec { $ARGV[0] } 'snapuserd'", Binary.Path, _socket]));
        using Talker client = Connect(daemon);
        Assert.Equal("active", client.Ask("query"));
        Assert.Equal("fail", client.Ask(Init));
        client.Send("stop");
        Assert.Equal(0, End(daemon).Code);
        Assert.True(File.Exists(_socket));
    }

    [Fact]
    public void The_socket_of_init_that_another_process_shuts_down_ends_nothing_else()
    {
        // A parent that keeps open the descriptors that its child inherits.
        Process parent = Kept(Binary.StartProgram("perl", ["-MSocket", "-MFcntl", "-e",
            "$| = 1; socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[1])) or die; fcntl(S, F_SETFD, 0); "
            + "$ENV{ANDROID_SOCKET_snapuserd} = fileno(S); $p = fork; exec { $ARGV[0] } 'snapuserd', '-user_snapshot', '-device=nbd', "
            + "'-socket_folder', $ARGV[2], '-log=stderr' unless $p; print qq($p\n); <STDIN>; shutdown(S, 2); waitpid($p, 0); print "
            + "$? >> 8, qq(\n)", Binary.Path, _socket, _folder["devices"]]));
        int daemon = int.Parse(parent.StandardOutput.ReadLine()!, System.Globalization.CultureInfo.InvariantCulture);
        using Talker client = Connect(parent);
        Assert.Equal("active", client.Ask("query"));
        // A merge with a rate limit continues by timer ticks for some seconds.
        Assert.StartsWith("success,", client.Ask(Init), StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("start,system_b"));
        Assert.Equal(0, Ctl("rate", "1M").ExitCode);
        Assert.Equal("success", client.Ask("initiate_merge,system_b"));
        parent.StandardInput.WriteLine();
        Assert.Equal("", client.Receive());
        string? line;
        do line = parent.StandardError.ReadLine();
        while (line != null && !line.Contains("no longer served", StringComparison.Ordinal));
        Assert.NotNull(line);
        SetFixture.Until(() => Unlocked.Read(_folder["base"], Golden.New.Length).AsSpan().SequenceEqual(Golden.New),
            "the merge, although no client listens");
        Assert.Equal(Golden.New, Copy());
        _ = Libc.Kill(daemon, Libc.SIGTERM);
        Assert.Equal((0, "0\n"), End(parent));
    }

    [RootFact]
    public void The_second_stage_serves_before_there_is_a_socket_and_gets_it_from_the_proxy()
    {
        string properties = _folder["properties"];
        const string script = """
            set -eu
            service=
            daemon=
            trap 'kill -KILL $service $daemon 2>/dev/null || true' EXIT
            mount --make-rprivate /
            mount -t tmpfs tmpfs /mnt
            mkdir -p /mnt/scratch_ota_metadata_super/ota
            mount -t tmpfs tmpfs /dev
            mknod /dev/null c 1 3
            mkdir /dev/socket
            perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("/dev/socket/property_service")) or die; listen(S, 9);
                open(O, ">", $ARGV[0]); select((select(O), $| = 1)[0]);
                while (accept(C, S)) { sysread(C, $m, 4096); ($c, $n, $v) = unpack("L L/a L/a", $m); printf O "%x %s=%s\n", $c, $n, $v;
                    syswrite(C, pack("L", 0)); close C }' "$3" &
            service=$!
            until [ -e "$3" ]; do kill -0 $service; done
            "$1" -no_socket -user_snapshot --device=nbd --socket_folder="$2/devices" -log=stderr "system_b,$2/cow,$2/base,$2/base" &
            daemon=$!
            until [ -s /mnt/scratch_ota_metadata_super/ota/daemon-alive-indicator ] || ! kill -0 $daemon; do sleep 0.01; done
            cat /mnt/scratch_ota_metadata_super/ota/daemon-alive-indicator; echo
            perl -MSocket -MFcntl -e 'for (["snapuserd", SOCK_STREAM], ["snapuserd_proxy", SOCK_SEQPACKET]) { my $s;
                socket($s, AF_UNIX, $_->[1], 0); bind($s, sockaddr_un("/dev/socket/$_->[0]")) or die; fcntl($s, F_SETFD, 0);
                $ENV{"ANDROID_SOCKET_$_->[0]"} = fileno($s); push @keep, $s } exec { $ARGV[0] } "snapuserd", "-socket_handoff"' "$1"
            echo "proxy $?"
            perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un("/dev/socket/snapuserd")) or die "connect: $!";
                sub ask { syswrite(S, $_[0]); sysread(S, my $a, 512); $a }
                for ("query", "getstatus,system_b", "initiate_merge,system_b") { print ask($_), "\n" }
                1 until ask("getstatus,system_b") eq "snapshot-merge-complete";
                print ask("merge_percent"), "\n"; print ask("delete,system_b"), "\n"; syswrite(S, "detach")'
            wait $daemon
            echo "daemon $?"
            daemon=
            """;
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "sh", "-c", script, "sh", Binary.Path, _folder.Path, properties]);
        Assert.Equal("1\nproxy 0\nactive\nsnapshot\nsuccess\n100.000000\nsuccess\ndaemon 0\n", result.Output);
        Assert.Equal("20001 snapuserd.proxy_ready=true\n20001 snapuserd.ready=true\n", File.ReadAllText(properties));
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    [RootFact]
    public void A_proxy_that_accepts_no_client_does_not_keep_the_daemon_from_its_signals()
    {
        const string script = """
            set -eu
            mount --make-rprivate /
            mount -t tmpfs tmpfs /mnt
            mkdir -p /mnt/scratch_ota_metadata_super/ota
            mount -t tmpfs tmpfs /dev
            mknod /dev/null c 1 3
            mkdir /dev/socket
            mkfifo /dev/full
            perl -MSocket -MFcntl -e 'socket(P, AF_UNIX, SOCK_SEQPACKET, 0); bind(P, sockaddr_un("/dev/socket/snapuserd_proxy")) or die;
                listen(P, 1);
                do { socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0); push @keep, $s; fcntl($s, F_SETFL, O_NONBLOCK) }
                while connect($keep[-1], sockaddr_un("/dev/socket/snapuserd_proxy"));
                open(F, ">", "/dev/full"); close(F); sleep' &
            proxy=$!
            read -r _ </dev/full || :
            "$1" -no_socket -user_snapshot --device=nbd --socket_folder="$2/devices" -log=stderr "system_b,$2/cow,$2/base,$2/base" &
            daemon=$!
            until [ -s /mnt/scratch_ota_metadata_super/ota/daemon-alive-indicator ] || ! kill -0 $daemon; do sleep 0.01; done
            kill -TERM $daemon
            wait $daemon
            echo "daemon $?"
            kill $proxy
            """;
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "sh", "-c", script, "sh", Binary.Path, _folder.Path]);
        Assert.True(result.Output == "daemon 0\n", result.ToString());
    }

    [Fact]
    public void A_snapshot_that_cannot_be_served_at_boot_ends_the_daemon_with_all_others()
    {
        BinaryResult result = Binary.Run("-no_socket", "-user_snapshot", "-log=stderr", "--device=nbd",
            $"-socket_folder={_folder["devices"]}",
            $"good,{_folder["cow"]},{_folder["base"]},{_folder["base"]}", $"bad,{_folder["missing"]},{_folder["base"]},{_folder["base"]}");
        Assert.Equal(69, result.ExitCode);
        Assert.Contains("bad cannot be served", result.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(_folder["devices"]));
    }

    [Fact]
    public void Androids_own_arguments_may_name_a_socket_with_no_socket_and_it_is_not_made()
    {
        BinaryResult result = Binary.Run("-no_socket", "-socket", _socket, "-log=stderr", "--device=nbd",
            $"-socket_folder={_folder["devices"]}", $"bad,{_folder["missing"]},{_folder["base"]},{_folder["base"]}");
        Assert.True(result.ExitCode == 69, result.ToString());
        Assert.Contains("bad cannot be served", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Signals_with_other_purposes_do_not_end_the_daemon()
    {
        Process daemon = Start("daemon", "--socket", _socket, "--device", "nbd", "--socket-folder", _folder["devices"]);
        using Talker client = Connect(daemon);
        foreach (int signal in (int[])[Libc.SIGUSR1, Libc.SIGPWR])
        {
            Assert.Equal(0, Libc.Kill(daemon.Id, signal));
            Assert.Equal("active", client.Ask("query"));
        }
        client.Send("stop");
        Assert.Equal((0, ""), End(daemon));
    }

    [Theory]
    [InlineData("it takes --socket PATH, or --no-socket", "daemon")]
    [InlineData("goes with --no-socket", "daemon", "--socket", "/nowhere/x", "a,b,c,d")]
    [InlineData("not of the form", "daemon", "--no-socket", "a,b,c")]
    [InlineData("'../up' cannot name", "daemon", "--no-socket", "../up,b,c,d")]
    [InlineData("'..' cannot name", "-no_socket", "..,b,c,d", "-log=stderr")]
    [InlineData("'..' cannot name", "daemon", "--socket", "..")]
    [InlineData("--no-socket and --socket", "daemon", "--no-socket", "--socket", "/nowhere/x", "a,b,c,d")]
    [InlineData("needs --device nbd", "daemon", "--socket", "x", "--socket-folder", "/nowhere")]
    [InlineData("--memory of at least 16 MiB", "daemon", "--socket", "x", "--memory", "8M")]
    [InlineData("two sockets from init", "daemon", "--socket-handoff")]
    [InlineData("two sockets from init", "-socket_handoff", "-log=stderr")]
    [InlineData("worker-count", "-no_socket", "-worker_count", "many", "-log=stderr")]
    public void Wrong_usage_is_64_and_a_sentence(string sentence, params string[] words)
    {
        BinaryResult result = Binary.Run(words);
        Assert.True(result.ExitCode == 64, result.ToString());
        Assert.Contains(sentence, result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Without_descriptors_clients_wait_and_nothing_spins_or_ends()
    {
        // Allows a few descriptors beyond the daemon's own: the runtime, the socket, the wake-up, the signals.
        Process daemon =
            Kept(Binary.StartProgram("/bin/sh", ["-c", "ulimit -n 24; exec \"$0\" daemon --socket \"$1\"", Binary.Path, _socket]));
        List<Talker> clients = [Connect(daemon)];
        for (int i = 0; i < 40; i++) clients.Add(new Talker(_socket));
        Assert.Equal("active", clients[0].Ask("query"));
        string? line;
        do line = daemon.StandardError.ReadLine();
        while (line != null && !line.Contains("have to wait", StringComparison.Ordinal));
        Assert.NotNull(line);
        TimeSpan before = daemon.TotalProcessorTime;
        for (int i = 0; i < 100; i++) Assert.Equal("active", clients[0].Ask("query"));
        Assert.InRange((daemon.TotalProcessorTime - before).TotalSeconds, 0, 1);
        // The last client is accepted after enough others have disconnected.
        for (int i = 1; i < 40; i++) clients[i].Dispose();
        Assert.Equal("active", clients[40].Ask("query"));
        clients[40].Send("stop");
        Assert.Equal(0, End(daemon).Code);
        foreach (Talker client in clients) client.Dispose();
    }

    private string[] Everything()
    {
        string[] all = Directory.GetFileSystemEntries(_folder.Path, "*", SearchOption.AllDirectories);
        Array.Sort(all, StringComparer.Ordinal);
        return all;
    }

    private string Init => $"init,system_b,{_folder["cow"]},{_folder["base"]},{_folder["base"]}";

    private BinaryResult Ctl(params string[] words) => Binary.Run(["ctl", .. words, "--socket", _socket]);

    private Process Start(params string[] words) => Kept(Binary.Start(words));

    private Process Kept(Process process)
    {
        _processes.Add(process);
        return process;
    }

    private Talker Connect(Process daemon)
    {
        Talker? client = null;
        SetFixture.Until(() =>
        {
            if (daemon.HasExited) throw new InvalidOperationException(daemon.StandardError.ReadToEnd());
            try
            {
                client = new Talker(_socket);
                return true;
            }
            catch (SocketException)
            {
                return false;
            }
        }, "the socket");
        return client!;
    }

    private static (int Code, string Output) End(Process daemon)
    {
        string output = daemon.StandardOutput.ReadToEnd();
        daemon.WaitForExit();
        return (daemon.ExitCode, output);
    }

    private byte[] Copy()
    {
        string file = _folder["copy"];
        BinaryResult result = Binary.RunProgram("nbdcopy", [$"nbd+unix:///system_b?socket={_folder["devices/system_b"]}", file]);
        Assert.True(result.ExitCode == 0, result.ToString());
        return File.ReadAllBytes(file);
    }
}
