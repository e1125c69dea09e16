using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Text;
using System.Text.Json;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`ctl` and the control socket of `serve`, with the built binary on both ends.</summary>
public sealed class CtlTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";
    private const int SIGTERM = 15;
    private readonly TempFolder _folder = new();
    private readonly string _cow;
    private readonly string _base;
    private readonly string _control;
    private readonly List<Process> _servers = [];

    public CtlTests()
    {
        (_cow, _base, _control) = (_folder["cow"], _folder["base"], _folder["control"]);
        File.WriteAllBytes(_cow, Golden.Cow(Vector));
        File.WriteAllBytes(_base, Golden.Old);
    }

    public void Dispose()
    {
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill(entireProcessTree: true);
            server.Dispose();
        }
        _folder.Dispose();
    }

    [Fact]
    public void Merge_starts_on_request_and_watch_ends_with_it()
    {
        Process server = Start("--merge-on-request");
        JsonElement before = Status();
        Assert.Equal(("cow", "serving", 0), (Text(before, "name"), Text(before, "state"), before.GetProperty("ops").GetInt32()));
        Assert.Equal(Golden.Old, Unlocked.Read(_base, Golden.Old.Length));
        Assert.Equal(0, Ctl("merge").ExitCode);
        // A repeated request has no further effect.
        Assert.Equal(0, Ctl("merge", "cow").ExitCode);
        BinaryResult watch = Ctl("watch");
        Assert.Equal(0, watch.ExitCode);
        Assert.Contains("cow: merged", watch.Output);
        JsonElement after = Status();
        Assert.Equal(("merged", 100), (Text(after, "state"), after.GetProperty("percent").GetInt32()));
        Assert.Equal(Golden.Row(Vector).MergeOps, after.GetProperty("ops").GetInt32());
        Assert.Equal(Golden.New, Unlocked.Read(_base, Golden.New.Length));
        Assert.Equal(0, Ctl("stop").ExitCode);
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(0, server.ExitCode);
        Assert.False(File.Exists(_control));
    }

    [Fact]
    public void Servers_with_sockets_in_one_folder_get_distinct_names()
    {
        Process ServerOf(string folder, params string[] more)
        {
            Directory.CreateDirectory(_folder[folder]);
            File.WriteAllBytes(_folder[$"{folder}/cow"], Golden.Cow(Vector));
            File.WriteAllBytes(_folder[$"{folder}/base"], Golden.Old);
            Process server = Binary.Start(["serve", "--cow", _folder[$"{folder}/cow"], "--base", _folder[$"{folder}/base"], "--device",
                "nbd", "--socket", _folder[$"{folder}/nbd"], "--progress", "never", .. more]);
            _servers.Add(server);
            return server;
        }

        string NameOf(Process server)
        {
            Assert.EndsWith("/nbd", server.StandardOutput.ReadLine(), StringComparison.Ordinal);
            return server.StandardOutput.ReadLine()!;
        }

        Directory.CreateDirectory(_folder["ctl"]);
        Process first = ServerOf("a", "--control", _folder["ctl/a"]), third;
        Assert.Equal("name cow", NameOf(first));
        Assert.Equal("name cow.2", NameOf(ServerOf("b", "--control", _folder["ctl/b"])));
        Assert.Equal("name cow.3", NameOf(third = ServerOf("c", "--control", _folder["ctl/c"])));
        Assert.Contains("\"name\":\"cow.2\"", Binary.Run("ctl", "status", "cow.2", "--json", "--socket", _folder["ctl/b"]).Output,
            StringComparison.Ordinal);
        Assert.Equal(66, Binary.Run("ctl", "status", "cow", "--socket", _folder["ctl/b"]).ExitCode);
        Process refused = ServerOf("d", "--control", _folder["ctl/d"], "--as", "cow.2");
        Assert.True(refused.WaitForExit(60_000));
        Assert.Equal((76, ""), (refused.ExitCode, refused.StandardOutput.ReadToEnd()));
        Assert.Contains("--as cow.2", refused.StandardError.ReadToEnd(), StringComparison.Ordinal);
        string longName = new('n', 255);
        Assert.Equal($"name {longName}", NameOf(ServerOf("e", "--control", _folder["ctl/e"], "--as", longName)));
        // Servers in other folders are not asked for their names, and the name of a killed server is free again.
        Assert.Equal("name cow", NameOf(ServerOf("f", "--control", _folder["f/control"])));
        first.Kill();
        first.WaitForExit();
        Assert.Equal(0, End(third));
        Assert.Equal("name cow", NameOf(ServerOf("g", "--control", _folder["ctl/g"])));
        Assert.Equal("name cow.3", NameOf(ServerOf("h", "--control", _folder["ctl/h"])));
    }

    [Theory]
    [InlineData("--as needs --control", "--as", "x")]
    [InlineData("'a/b' cannot name a server", "--as", "a/b", "--control", "/nowhere/x")]
    [InlineData("'..' cannot name a server", "--as", "..", "--control", "/nowhere/x")]
    public void Invalid_name_of_a_server_is_64(string sentence, params string[] words)
    {
        BinaryResult result = Binary.Run(["serve", "--cow", _cow, "--base", _base, .. words]);
        Assert.True(result.ExitCode == 64, result.ToString());
        Assert.Contains(sentence, result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Merge_paused_before_it_begins_writes_nothing_until_it_is_resumed()
    {
        Process server = Start("--merge-on-request");
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        JsonElement held = Status();
        Assert.Equal(("queued", true), (Text(held, "state"), held.GetProperty("paused").GetBoolean()));
        Assert.Equal(0, held.GetProperty("ops").GetInt32());
        Assert.Equal(Golden.Old, Unlocked.Read(_base, Golden.Old.Length));
        // The COW does not even say that the merge has begun, so a rollback is still possible.
        Assert.Equal(Golden.Cow(Vector), Unlocked.Read(_cow, Golden.Cow(Vector).Length));
        Assert.Contains("queued, paused", Ctl("list").Output);
        Assert.Equal(0, Ctl("resume").ExitCode);
        Assert.Equal(0, Ctl("watch").ExitCode);
        Assert.Equal(Golden.New, Unlocked.Read(_base, Golden.New.Length));
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Rate_set_before_the_merge_slows_it_and_off_removes_the_limit()
    {
        Process server = Start("--merge-on-request");
        // At this rate one batch is written completely, and the next would be written only hours later.
        Assert.Equal(0, Ctl("rate", "1k").ExitCode);
        Assert.Equal(1024, Status().GetProperty("bytes_per_second_limit").GetInt64());
        Assert.Equal(0, Ctl("merge").ExitCode);
        Assert.Equal(0, Ctl("rate", "off").ExitCode);
        Assert.Equal(0, Ctl("rate", "1G").ExitCode);
        Assert.Equal(0, Ctl("watch").ExitCode);
        Assert.Equal("merged", Text(Status(), "state"));
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Rate_set_before_serve_requests_its_merge_slows_it_and_does_not_block_it_for_ever()
    {
        // The pipe for its output is full: the server blocks after it is ready and before it requests its merge, until the test reads.
        string pipe = _folder["stdout"];
        Assert.Equal(0, Binary.RunProgram("mkfifo", [pipe]).ExitCode);
        Process server = Binary.StartProgram("perl", ["-MFcntl", "-e", "sysopen(F, shift, O_RDWR | O_NONBLOCK) or die; 1 while syswrite(F, "
            + "qq(\\0) x 4096); fcntl(F, F_SETFL, O_RDWR); open(STDOUT, '>&', \\*F); exec @ARGV",
            pipe, Binary.Path, "serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control",
            _control, "--progress", "never", "--merge"]);
        _servers.Add(server);
        while (Ctl("rate", "8M").ExitCode != 0) Assert.False(server.HasExited);
        FileStream output = new(pipe, FileMode.Open, FileAccess.Read);
        // No client contacts the server meanwhile, because that would wake the server.
        string text = "";
        Thread reader = new(() =>
        {
            byte[] bytes = new byte[65536];
            int read;
            while (!text.Contains("merged ", StringComparison.Ordinal) && (read = output.Read(bytes)) > 0)
                text += Encoding.UTF8.GetString(bytes, 0, read).TrimStart('\0');
        })
        { IsBackground = true };
        reader.Start();
        Assert.True(reader.Join(60_000), "the merge was never woken");
        output.Dispose();
        Assert.StartsWith(_folder["nbd"] + "\n", text, StringComparison.Ordinal);
        Assert.Equal(Golden.New, Unlocked.Read(_base, Golden.New.Length));
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Duration_of_a_merge_excludes_the_time_before_it_begins()
    {
        Process server = Binary.Start("serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control",
            _control, "--progress", "never", "--merge-on-request", "--json");
        _servers.Add(server);
        Assert.Equal("ready", Text(JsonDocument.Parse(server.StandardOutput.ReadLine()!).RootElement, "event"));
        // Nothing is merged for some time.
        for (int i = 0; i < 10; i++) Assert.Equal("serving", Text(Status(), "state"));
        // The merge runs between these two moments, so it takes no longer than the time between them, apart from two roundings to a
        // millisecond.
        long asked = Stopwatch.GetTimestamp();
        Assert.Equal(0, Ctl("merge").ExitCode);
        JsonElement done = JsonDocument.Parse(server.StandardOutput.ReadLine()!).RootElement;
        double most = Stopwatch.GetElapsedTime(asked).TotalSeconds + 0.001;
        Assert.Equal("done", Text(done, "event"));
        Assert.InRange(done.GetProperty("seconds").GetDouble(), 0, most);
        Assert.InRange(Status().GetProperty("seconds").GetDouble(), 0, most);
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Server_stopped_in_a_pause_before_the_merge_changes_nothing()
    {
        Process server = Start("--merge-on-request");
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        Assert.Equal(0, Ctl("stop").ExitCode);
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(75, server.ExitCode);
        Assert.Contains("before the merge began", server.StandardError.ReadToEnd());
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_cow));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_base));
    }

    [Fact]
    public void Merge_stopped_in_a_pause_can_be_continued()
    {
        Process server = Start("--merge-on-request");
        // At this rate one batch is written, and the next would be written only hours later.
        Assert.Equal(0, Ctl("rate", "1").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        while (Status().GetProperty("ops").GetInt32() == 0) { }
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("rate", "off").ExitCode);
        Assert.Equal("merging", Text(Status(), "state"));
        Assert.Equal(0, Ctl("stop").ExitCode);
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(75, server.ExitCode);
        Assert.Equal(0, Binary.Run("merge", "--cow", _cow, "--base", _base, "--progress", "never").ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Fact]
    public void Server_that_replaces_a_killed_one_applies_the_same_requests()
    {
        string noted = _folder["noted"];
        File.WriteAllBytes(noted, new byte[10]);
        // Starts the server as a supervisor does: it inherits the descriptor in which to record the requests.
        Process StartNoting()
        {
            Process server =
                Binary.StartProgram("/bin/sh", ["-c", "exec 9<>\"$1\"; shift; SNAPUSERD_REQUESTS=9 exec \"$0\" \"$@\"", Binary.Path, noted,
                    "serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control", _control,
                    "--progress", "never", "--merge-on-request"]);
            _servers.Add(server);
            Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
            return server;
        }

        void Kill(Process server)
        {
            server.Kill();
            server.WaitForExit();
        }

        Process first = StartNoting();
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("rate", "1").ExitCode);
        Kill(first);
        Process second = StartNoting();
        JsonElement status = Status();
        Assert.Equal(("serving", true, 1L),
            (Text(status, "state"), status.GetProperty("paused").GetBoolean(), status.GetProperty("bytes_per_second_limit").GetInt64()));
        Assert.Equal(0, Ctl("merge").ExitCode);
        Kill(second);
        Process third = StartNoting();
        // The server reports that it is serving before it has requested its own merge.
        do status = Status();
        while (Text(status, "state") == "serving");
        Assert.Equal(("queued", true, 0),
            (Text(status, "state"), status.GetProperty("paused").GetBoolean(), status.GetProperty("ops").GetInt32()));
        Assert.Equal(0, Ctl("resume").ExitCode);
        while (Status().GetProperty("ops").GetInt32() == 0) { }
        Kill(third);
        Process fourth = StartNoting();
        do status = Status();
        while (Text(status, "state") is "serving" or "queued");
        Assert.Equal(("merging", false, 1L),
            (Text(status, "state"), status.GetProperty("paused").GetBoolean(), status.GetProperty("bytes_per_second_limit").GetInt64()));
        Assert.Equal(0, Ctl("rate", "off").ExitCode);
        Assert.Equal(0, Ctl("watch").ExitCode);
        Assert.Equal(Golden.New, Unlocked.Read(_base, Golden.New.Length));
        Assert.Equal(0, End(fourth));
        // Offset 16 has the number of ops that the third server has checked.
        Assert.InRange(BitConverter.ToInt32(File.ReadAllBytes(noted), 16), Golden.Row(Vector).MergeOps, int.MaxValue);
        Assert.Equal("", fourth.StandardError.ReadToEnd());
    }

    [Fact]
    public void Watch_of_a_merge_that_is_stopped_ends_with_75()
    {
        Process server = Start("--merge-on-request");
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        Process watch = Binary.Start("ctl", "watch", "--socket", _control);
        _servers.Add(watch);
        // The watch has received the state, so the server waits for it.
        Assert.StartsWith("cow: ", watch.StandardOutput.ReadLine());
        Assert.Equal(0, Ctl("stop").ExitCode);
        Assert.True(watch.WaitForExit(60_000));
        Assert.Equal(75, watch.ExitCode);
        Assert.Contains("cow: the merge was stopped at op 0 of", watch.StandardError.ReadToEnd(), StringComparison.Ordinal);
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(75, server.ExitCode);
    }

    [Fact]
    public void Signals_without_a_meaning_for_a_server_do_not_end_it()
    {
        Process server = Start("--merge-on-request");
        foreach (int signal in (int[])[10, 30])
        {
            Assert.Equal(0, Libc.Kill(server.Id, signal));
            Assert.Equal("serving", Text(Status(), "state"));
        }
        Assert.Equal(0, End(server));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Stop_of_a_supervised_server_that_is_killed_meanwhile_waits_until_its_supervisor_has_ended(bool again)
    {
        string noted = _folder["noted"];
        File.WriteAllBytes(noted, new byte[10]);
        string[] serve = ["serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control", _control,
            "--progress", "never", "--merge-on-request"];
        // A script in place of the supervisor: it starts another server, or ends. The first server is killed when it records the request.
        Process supervisor = Binary.StartProgram("/bin/sh", ["-c", """
            exec 9<>"$1"; again=$2; shift 2
            export SNAPUSERD_REQUESTS=9 SNAPUSERD_SUPERVISOR=$$
            strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=1 "$0" "$@"
            if [ "$again" = True ]; then "$0" "$@"; fi
            echo gone
            """, Binary.Path, noted, $"{again}", .. serve]);
        _servers.Add(supervisor);
        Assert.Equal(_folder["nbd"], supervisor.StandardOutput.ReadLine());
        BinaryResult stop = Ctl("stop");
        Assert.True(stop.ExitCode == 0, stop.ToString());
        // The second server received the request too, and records it.
        Assert.EndsWith("gone\n", supervisor.StandardOutput.ReadToEnd(), StringComparison.Ordinal);
        Assert.Equal(again, File.ReadAllBytes(noted) is { Length: > 10 } record && record[10] == 1);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Payloads_that_an_earlier_server_has_checked_are_not_checked_again(bool isChecked)
    {
        // A codec with a checksum; the damage is in the middle of the payloads, which follow 2 MiB of scratch.
        byte[] cow = Golden.Cow("v2-gz-xor");
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        File.WriteAllBytes(_cow, cow);
        string noted = _folder["noted"];
        byte[] record = new byte[20];
        if (isChecked) record[19] = 0x7f;
        File.WriteAllBytes(noted, record);
        Process server =
            Binary.StartProgram("/bin/sh", ["-c", "exec 9<>\"$1\"; shift; SNAPUSERD_REQUESTS=9 exec \"$0\" \"$@\"", Binary.Path, noted,
                "serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control", _control, "--progress",
                "never", "--merge-on-request"]);
        _servers.Add(server);
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        Assert.Equal(0, Ctl("merge").ExitCode);
        Assert.Equal(65, Ctl("watch").ExitCode);
        // A repeated check would have found the damage before the first write.
        Assert.Equal(!isChecked, Unlocked.Read(_base, Golden.Old.Length).AsSpan().SequenceEqual(Golden.Old));
        Assert.Equal(65, End(server));
    }

    [Theory]
    [InlineData(64, "did you mean status?", "staus")]
    [InlineData(64, "rate takes a SIZE", "rate")]
    [InlineData(64, "not a size", "rate", "fast")]
    [InlineData(64, "unexpected argument", "list", "cow")]
    [InlineData(66, "there is no snapshot bow here; there is cow", "status", "bow")]
    [InlineData(64, "--merge-on-request", "merge")]
    public void Invalid_request_prints_one_message(int code, string words, params string[] arguments)
    {
        Process server = Start();
        BinaryResult result = Ctl(arguments);
        Assert.True(result.ExitCode == code, result.ToString());
        Assert.Contains(words, result.Error);
        Assert.Single(result.Error.TrimEnd().Split('\n'));
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Missing_server_is_66_and_a_server_with_another_protocol_is_74()
    {
        BinaryResult missing = Ctl("status");
        Assert.Equal(66, missing.ExitCode);
        Assert.Contains("nothing listens", missing.Error);
        Process server = Start();
        // The NBD socket also sends a greeting.
        BinaryResult other = Binary.Run("ctl", "status", "--socket", _folder["nbd"]);
        Assert.True(other.ExitCode == 74, other.ToString());
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Socket_is_for_its_owner_only_and_not_taken_from_a_live_server()
    {
        Process server = Start();
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(_control));
        BinaryResult second = Binary.Run("serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["other"],
            "--control", _control);
        Assert.True(second.ExitCode == 76, second.ToString());
        server.Kill();
        server.WaitForExit();
        // The socket of a dead server is replaced.
        Process third = Start();
        Assert.Equal("serving", Text(Status(), "state"));
        Assert.Equal(0, End(third));
    }

    private static string Text(JsonElement line, string key) => line.GetProperty(key).GetString()!;

    private JsonElement Status() => JsonDocument.Parse(Ctl("status", "--json").Output).RootElement;

    private BinaryResult Ctl(params string[] words) => Binary.Run(["ctl", .. words, "--socket", _control]);

    private Process Start(params string[] more)
    {
        Process server = Binary.Start(["serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--control",
            _control, "--progress", "never", .. more]);
        _servers.Add(server);
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        return server;
    }

    private static int End(Process server)
    {
        _ = Libc.Kill(server.Id, SIGTERM);
        Assert.True(server.WaitForExit(60_000), "still running a minute after SIGTERM");
        return server.ExitCode;
    }
}
