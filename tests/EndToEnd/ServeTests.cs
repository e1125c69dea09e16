using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `serve` of the built binary over a Unix socket, with nbdcopy as the reader: readiness, shutdown, and the final state of COW and base.
/// </summary>
public sealed class ServeTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";
    private readonly TempFolder _folder = new();
    private readonly string _cow;
    private readonly string _base;
    private readonly string _socket;
    private readonly List<Process> _servers = [];

    public ServeTests()
    {
        (_cow, _base, _socket) = (_folder["cow"], _folder["base"], _folder["socket"]);
        File.WriteAllBytes(_cow, Golden.Cow(Vector));
        File.WriteAllBytes(_base, Golden.Old);
    }

    public void Dispose()
    {
        // A failed test may leave its server running.
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill(entireProcessTree: true);
            server.Dispose();
        }
        _folder.Dispose();
    }

    [Fact]
    public void First_line_is_the_path_of_a_usable_device()
    {
        Process server = Start();
        Assert.Equal(_socket, server.StandardOutput.ReadLine());
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_cow));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_base));
        Assert.False(File.Exists(_socket));
    }

    [Fact]
    public void Reads_before_and_after_a_merge_return_the_target()
    {
        Process server = Start("--merge", "--json");
        JsonElement ready = Line(server);
        Assert.Equal(("ready", _socket, Golden.New.LongLength),
            (Event(ready), ready.GetProperty("device").GetString()!, ready.GetProperty("bytes").GetInt64()));
        Assert.Equal(Golden.New, Copy());
        JsonElement done = Line(server);
        Assert.Equal("done", Event(done));
        Assert.Equal(Golden.Row(Vector).MergeOps, done.GetProperty("ops").GetInt32());
        Assert.Equal(Golden.New, Unlocked.Read(_base, Golden.New.Length));
        Assert.Equal(Golden.New, Copy());
        _ = Libc.Kill(server.Id, SIGTERM);
        JsonElement closed = Line(server);
        Assert.Equal(("closed", 0), (Event(closed), closed.GetProperty("failed_reads").GetInt32()));
        Assert.True(closed.GetProperty("reads").GetInt64() >= 2, "two copies need at least one read each");
        Assert.InRange(closed.GetProperty("worst_read_seconds").GetDouble(), 0.000_001, 60);
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Repeated_SIGTERM_has_no_further_effect()
    {
        for (int round = 0; round < 5; round++)
        {
            Process server = Start();
            Assert.Equal(_socket, server.StandardOutput.ReadLine());
            // A zombie can still receive signals; the loop ends when the exit is noticed.
            while (!server.HasExited) _ = Libc.Kill(server.Id, SIGTERM);
            Assert.Equal(0, server.ExitCode);
        }
    }

    [Fact]
    public void Failed_merge_leaves_the_device_served_and_sets_the_exit_code()
    {
        // A codec with a checksum: lz4 would decode the damaged payload to different data.
        byte[] cow = Golden.Cow("v2-gz-xor");
        // The middle of the payloads, which follow 2 MiB of scratch.
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        File.WriteAllBytes(_cow, cow);
        Process server = Start("--merge", "--no-verify-first", "--json");
        Assert.Equal("ready", Event(Line(server)));
        JsonElement error = Line(server);
        Assert.Equal(("error", 65), (Event(error), error.GetProperty("exit_code").GetInt32()));

        BinaryResult copy = Binary.RunProgram("nbdcopy", ["--connections=1", "--request-size=4096", Uri, _folder["copy"]]);
        Assert.NotEqual(0, copy.ExitCode);
        JsonElement failed = Line(server);
        Assert.Equal(("read_failed", 1), (Event(failed), failed.GetProperty("count").GetInt32()));
        // The image's first blocks are still readable.
        Assert.Equal(Golden.New[..65536], Read(0, 65536));
        Assert.Equal(65, End(server));
    }

    [Fact]
    public void Ready_fd_gets_the_path_and_is_closed()
    {
        // Only the server has the write end of the pipe, so the end of the input shows that the server has closed it.
        Process server = Kept(Binary.StartProgram("/bin/sh",
            ["-c", "exec \"$0\" \"$@\" --ready-fd 9 9>&1 2>/dev/null >/dev/null", Binary.Path, .. Arguments([])]));
        Assert.Equal(_socket + "\n", server.StandardOutput.ReadToEnd());
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Device_is_served_even_if_its_path_cannot_be_printed()
    {
        Process server = Kept(Binary.StartProgram("/bin/sh", ["-c", "exec \"$0\" \"$@\" >/dev/full", Binary.Path, .. Arguments([])]));
        Assert.Equal($"snapuserd: {_socket} is served, but that could not be printed: no space left on device (ENOSPC)",
            server.StandardError.ReadLine());
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void Service_manager_is_notified_of_readiness_and_stop()
    {
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        manager.Bind(new UnixDomainSocketEndPoint(_folder["notify"]));
        Process server =
            Kept(Binary.StartProgram(Binary.Path, Arguments([]), new Dictionary<string, string> { ["NOTIFY_SOCKET"] = _folder["notify"] }));
        byte[] message = new byte[4096];
        string first = Encoding.UTF8.GetString(message, 0, manager.Receive(message));
        Assert.Equal($"READY=1\nSTATUS=serving {_socket}", first);
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
        Assert.Equal("STOPPING=1", Encoding.UTF8.GetString(message, 0, manager.Receive(message)));
    }

    [Fact]
    public void Server_killed_anywhere_in_its_merge_and_restarted_serves_the_target_and_continues_the_merge()
    {
        // The server's merge has half of the memory and makes slightly more or fewer calls than a plain merge. It always makes at least
        // three quarters of that number.
        const int kills = 30;
        int calls = KillAt.Count(_cow, _base, "sync");
        for (int kill = 1; kill <= kills; kill++)
        {
            File.WriteAllBytes(_cow, Golden.Cow(Vector));
            File.WriteAllBytes(_base, Golden.Old);
            BinaryResult killed = KillAt.Serve(kill * calls * 3 / 4 / kills, [.. Arguments(["--merge", "--io", "sync"])]);
            Assert.True(killed.ExitCode == 137, killed.ToString());
            Unlocked.Settle(_cow, _base);
            Process server = Start();
            Assert.Equal(_socket, server.StandardOutput.ReadLine());
            Assert.Equal(Golden.New, Copy());
            Assert.Equal(0, End(server));
            Assert.Equal(0, Binary.Run("merge", "--cow", _cow, "--base", _base, "--progress", "never").ExitCode);
            Assert.Equal(Golden.New, File.ReadAllBytes(_base));
        }
    }

    [Theory]
    [InlineData(64, "--socket", "serve", "--device", "ublk", "--socket", "s")]
    [InlineData(64, "not --device auto", "serve", "--socket", "s")]
    [InlineData(64, "--name", "serve", "--device", "auto", "--name", "x")]
    [InlineData(64, "nbd0", "serve", "--device", "nbd", "--name", "x")]
    [InlineData(64, "--name", "serve", "--device", "dm-user")]
    [InlineData(64, "--supervise", "serve", "--device", "nbd", "--supervise")]
    [InlineData(64, "ublkb", "serve", "--device", "ublk", "--name", "x")]
    [InlineData(64, "999", "serve", "--device", "nbd", "--ready-fd", "999")]
    [InlineData(64, "--merge", "serve", "--no-verify-first")]
    public void Invalid_command_line_is_refused(int code, string word, params string[] arguments)
    {
        BinaryResult result = Binary.Run([.. arguments, "--cow", _cow, "--base", _base]);
        Assert.True(result.ExitCode == code, result.ToString());
        Assert.Contains(word, result.Error);
        // Only one message: an invalid command line is refused before any action that would print further messages.
        Assert.Single(result.Error.TrimEnd().Split('\n'));
        Assert.Empty(result.Output);
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_cow));
    }

    [Fact]
    public void Serve_on_files_of_a_merge_and_merge_on_files_of_a_server_are_76()
    {
        using (new FileStream(_base, FileMode.Open, FileAccess.Read, FileShare.None)) Assert.Equal(76, Binary.Run(Arguments([])).ExitCode);
        Process server = Start();
        Assert.Equal(_socket, server.StandardOutput.ReadLine());
        Assert.Equal(76, Binary.Run("merge", "--cow", _cow, "--base", _base).ExitCode);
        Assert.Equal(76, Binary.Run([.. Arguments(["--merge"])]).ExitCode);
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
    }

    [Fact]
    public void A_cow_without_scratch_is_served_or_merged_but_not_both()
    {
        File.WriteAllBytes(_cow, Golden.Cow("v2-zstd-noscratch"));
        BinaryResult refused = Binary.Run(Arguments(["--merge"]));
        Assert.True(refused.ExitCode == 64, refused.ToString());
        Process server = Start();
        Assert.Equal(_socket, server.StandardOutput.ReadLine());
        Assert.Equal(Golden.New, Copy());
        Assert.Equal(0, End(server));
    }

    private const int SIGTERM = 15;

    private string Uri => $"nbd+unix:///?socket={_socket}";

    private string[] Arguments(string[] more) =>
    [
        "serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _socket, "--progress", "never", .. more,
    ];

    private Process Start(params string[] more) => Kept(Binary.Start(Arguments(more)));

    private Process Kept(Process server)
    {
        _servers.Add(server);
        return server;
    }

    /// <summary>Reads the whole view with nbdcopy.</summary>
    private byte[] Copy()
    {
        string file = _folder["copy"];
        File.Delete(file);
        BinaryResult result = Binary.RunProgram("nbdcopy", [Uri, file]);
        Assert.True(result.ExitCode == 0, result.ToString());
        return File.ReadAllBytes(file);
    }

    private byte[] Read(int offset, int length)
    {
        string file = _folder["part"];
        BinaryResult result = Binary.RunProgram("qemu-img",
            ["dd", "-f", "raw", "-O", "raw", $"bs={length}", "count=1", $"skip={offset / length}", $"if={Uri}", $"of={file}"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        return File.ReadAllBytes(file)[..length];
    }

    private static string Event(JsonElement line) => line.GetProperty("event").GetString()!;

    private static JsonElement Line(Process server) => JsonDocument.Parse(server.StandardOutput.ReadLine()
        ?? throw new EndOfStreamException(server.StandardError.ReadToEnd())).RootElement;

    private static int End(Process server)
    {
        _ = Libc.Kill(server.Id, SIGTERM);
        Assert.True(server.WaitForExit(60_000), "still running a minute after SIGTERM");
        return server.ExitCode;
    }
}
