using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text.Json;
using System.Text.RegularExpressions;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`ctl watch`: its output, on a terminal and elsewhere, and its exit codes.</summary>
public sealed class WatchTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";
    private readonly TempFolder _folder = new();
    private readonly string _control;
    private readonly List<Process> _processes = [];

    public WatchTests()
    {
        _control = _folder["control"];
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose()
    {
        foreach (Process process in _processes)
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
            process.Dispose();
        }
        _folder.Dispose();
    }

    [Fact]
    public void Failed_merge_ends_watch_and_later_requests_with_the_code_of_its_cause()
    {
        // A codec with a checksum; the damage is in the middle of the payloads, which follow 2 MiB of scratch.
        byte[] cow = Golden.Cow("v2-gz-xor");
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        File.WriteAllBytes(_folder["cow"], cow);
        Process server = Start();
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        Process watch = Kept(Binary.Start("ctl", "watch", "--socket", _control));
        Assert.StartsWith("cow: queued", watch.StandardOutput.ReadLine(), StringComparison.Ordinal);
        Assert.Equal(0, Ctl("resume").ExitCode);
        Assert.True(watch.WaitForExit(60_000));
        string error = watch.StandardError.ReadToEnd();
        Assert.True(watch.ExitCode == 65, $"{watch.ExitCode}: {error}");
        Assert.Contains("cow has failed", error, StringComparison.Ordinal);
        // A watch that starts later gets the same result.
        Assert.Equal(65, Ctl("watch").ExitCode);
        BinaryResult merge = Ctl("merge");
        Assert.True(merge.ExitCode == 65, merge.ToString());
        BinaryResult json = Ctl("watch", "--json");
        JsonElement[] lines = [.. json.Output.TrimEnd().Split('\n').Select(line => JsonDocument.Parse(line).RootElement)];
        Assert.Equal(("snapshot", 65, "failed"), (lines[0].GetProperty("event").GetString(), lines[0].GetProperty("exit_code").GetInt32(),
            lines[0].GetProperty("state").GetString()));
        Assert.Equal(("error", 65), (lines[^1].GetProperty("event").GetString(), lines[^1].GetProperty("exit_code").GetInt32()));
        _ = Libc.Kill(server.Id, Libc.SIGTERM);
        Assert.True(server.WaitForExit(60_000));
    }

    [Fact]
    public void A_server_that_is_killed_ends_watch_with_74()
    {
        Process server = Start();
        Assert.Equal(0, Ctl("pause").ExitCode);
        Assert.Equal(0, Ctl("merge").ExitCode);
        Process watch = Kept(Binary.Start("ctl", "watch", "--socket", _control));
        Assert.StartsWith("cow: queued", watch.StandardOutput.ReadLine(), StringComparison.Ordinal);
        server.Kill();
        Assert.True(watch.WaitForExit(60_000));
        Assert.Equal(74, watch.ExitCode);
        Assert.Contains("has closed the connection", watch.StandardError.ReadToEnd(), StringComparison.Ordinal);
    }

    [Fact]
    public void Watch_reports_the_error_of_a_server_that_cannot_open_its_files()
    {
        // The server waits two seconds for a file that another program has locked; the watch runs by then.
        Process holder =
            Kept(Binary.StartProgram("flock", ["--no-fork", "-x", _folder["base"], "sh", "-c", "echo locked; exec sleep 1000"]));
        Assert.Equal("locked", holder.StandardOutput.ReadLine());
        Process server = Kept(Binary.Start("serve", "--cow", _folder["cow"], "--base", _folder["base"], "--device", "nbd", "--socket",
            _folder["nbd"], "--control", _control, "--progress", "never", "--merge-on-request"));
        Process watch;
        do
        {
            watch = Kept(Binary.Start("ctl", "watch", "--socket", _control));
            watch.WaitForExit();
        }
        while (watch.ExitCode == 66 && !server.HasExited);
        Assert.True(watch.ExitCode == 76, watch.StandardError.ReadToEnd());
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(76, server.ExitCode);
    }

    [Fact]
    public void Merge_of_serve_is_requested_before_the_ready_line_is_written()
    {
        // The pipe for its output is full, so the server cannot get past that line.
        const string script = """
            set -eu
            trap 'kill -KILL ${server:-} 2>/dev/null || true' EXIT
            mkfifo "$2/out"
            exec 3<>"$2/out"
            head -c 65536 /dev/zero >&3
            "$1" serve --cow "$2/cow" --base "$2/base" --device nbd --socket "$2/nbd" --control "$2/control" --progress never --merge >&3 &
            server=$!
            until "$1" ctl list --socket "$2/control" | grep -q queued; do kill -0 $server; sleep 0.01; done
            head -c 65536 <&3 >"$2/zeros"
            "$1" ctl watch --socket "$2/control"
            "$1" ctl stop --socket "$2/control"
            wait $server
            """;
        BinaryResult result = Binary.RunProgram("sh", ["-c", script, "sh", Binary.Path, _folder.Path]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("cow: merged", result.Output, StringComparison.Ordinal);
    }

    [RootFact]
    public void Several_servers_are_watched_at_once_and_stale_sockets_are_ignored()
    {
        const string script = """
            set -eu
            trap 'kill -KILL ${a:-} ${b:-} ${w:-} 2>/dev/null || true' EXIT
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run
            mkdir /run/snapuserd
            perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die' /run/snapuserd/stale
            code=0; "$1" ctl list 2>"$2/none" || code=$?
            echo "none $code"
            serve() {
                mkdir "$2/$3"; cp "$2/cow" "$2/base" "$2/$3"
                "$1" serve --cow "$2/$3/cow" --base "$2/$3/base" --device nbd --socket "$2/$3/nbd" --control "/run/snapuserd/$3" --as "$4" \
                    --progress never --merge-on-request >"$2/$3/out" &
                eval "$3=$!"
                until grep -q "^name $4$" "$2/$3/out"; do kill -0 $!; sleep 0.01; done
            }
            serve "$1" "$2" a first
            # One that listens and one that is left over: no NAME is needed.
            "$1" ctl pause
            "$1" ctl merge
            serve "$1" "$2" b a
            # It has the name of the other's socket.
            "$1" ctl pause a
            "$1" ctl merge a
            code=0; "$1" ctl pause 2>/dev/null || code=$?
            echo "pause $code"
            "$1" ctl watch >"$2/watch" 2>"$2/errors" & w=$!
            until [ "$(wc -l <"$2/watch")" -ge 2 ]; do kill -0 $w; sleep 0.01; done
            kill -KILL $a
            # The watch of the other server must continue.
            until grep -q 'snapuserd/a has closed' "$2/errors"; do kill -0 $w; sleep 0.01; done
            "$1" ctl resume a
            code=0; wait $w || code=$?
            echo "watch $code"
            sort "$2/watch" | sed 's/,.*//; s/;.*//' | uniq
            kill -TERM $b
            wait $b
            """;
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "sh", "-c", script, "sh", Binary.Path, _folder.Path]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.StartsWith("none 66\npause 64\nwatch 74\na: merged\n", result.Output, StringComparison.Ordinal);
        Assert.Contains("\na: queued\nfirst: queued\n", result.Output, StringComparison.Ordinal);
    }

    [RootFact]
    public void On_a_terminal_each_snapshot_has_a_bar_that_fits_at_any_width()
    {
        const string script = """
            set -eu
            trap 'kill -KILL ${a:-} ${b:-} 2>/dev/null || true' EXIT
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run
            for name in a b; do
                mkdir "$2/$name"; cp "$2/cow" "$2/base" "$2/$name"
                "$1" serve --cow "$2/$name/cow" --base "$2/$name/base" --device nbd --socket "$2/$name/nbd" \
                    --control "/run/snapuserd/$name" --as "$name" --progress never --merge-on-request >"$2/$name/out" &
                eval "$name=$!"
                until grep -q "^name $name$" "$2/$name/out"; do kill -0 $!; sleep 0.01; done
            done
            "$1" ctl rate 1M a; "$1" ctl rate 1536k b; "$1" ctl merge --all
            code=0; script -qec "stty cols $3 rows 20; '$1' ctl watch" /dev/null || code=$?
            echo "watch $code"
            kill -TERM $a $b
            """;
        foreach (int columns in (int[])[100, 40, 12])
        {
            foreach (string name in (string[])["a", "b"])
                if (Directory.Exists(_folder[name])) Directory.Delete(_folder[name], recursive: true);
            BinaryResult result = Binary.RunProgram("unshare", ["-m", "sh", "-c", script, "sh", Binary.Path, _folder.Path, $"{columns}"]);
            Assert.True(result.Output.EndsWith("watch 0\n", StringComparison.Ordinal), result.ToString());
            // A redraw begins by erasing one line, or by moving up one line and erasing everything below if the display has two lines.
            string[] drawings = Regex.Split(result.Output.Replace("\r\r\n", "\r\n", StringComparison.Ordinal), @"\r(?:\e\[K|\e\[1A\e\[J)");
            Assert.True(drawings.Length > 3, result.ToString());
            foreach (string drawing in drawings[..^1])
            {
                string[] lines = drawing.Split("\r\n");
                Assert.InRange(lines.Length, 1, 2);
                Assert.All(lines, line => Assert.InRange(line.Length, 0, columns - 1));
            }
            // Everything drawn is erased, and the result of each merge is printed once.
            Assert.Equal(["a: merged", "b: merged"], Regex.Matches(drawings[^1], "[ab]: merged").Select(match => match.Value));
            if (columns < 100) continue;
            // Whether a drawing has the remaining time and the rate depends on the machine; ProgressTests has them.
            Assert.True(Regex.IsMatch(result.Output, @"[ab] +[0-9]+% \[#*\.+\] [0-9.]+ [KM]iB of [0-9.]+ MiB"), result.ToString());
        }
    }

    private BinaryResult Ctl(params string[] words) => Binary.Run(["ctl", .. words, "--socket", _control]);

    private Process Start()
    {
        Process server = Kept(Binary.Start("serve", "--cow", _folder["cow"], "--base", _folder["base"], "--device", "nbd", "--socket",
            _folder["nbd"], "--control", _control, "--progress", "never", "--merge-on-request"));
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        return server;
    }

    private Process Kept(Process process)
    {
        _processes.Add(process);
        return process;
    }
}
