using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text.Json;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`--log` of the built binary; a regular file in an otherwise empty root replaces /dev/kmsg.</summary>
public sealed class LogTests : IDisposable
{
    private const string Vector = "v3-zstd-4k-xor";
    private readonly TempFolder _folder = new();

    public LogTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Daemon_whose_messages_are_not_read_continues_and_later_reports_lost_messages()
    {
        Directory.CreateDirectory(_folder["devices"]);
        using Process daemon = Binary.Start("daemon", "--socket", _folder["control"], "--device", "nbd", "--socket-folder",
            _folder["devices"]);
        try
        {
            using (Talker client = Talker.Connected(daemon, _folder["control"]))
            {
                string missing = _folder[new string('x', 250)];
                void Fail()
                {
                    Assert.Equal("fail", client.Ask($"init,bad,{missing},{_folder["base"]},{_folder["base"]}"));
                }

                // More records than a pipe can hold.
                for (int i = 0; i < 600; i++) Fail();
                Assert.StartsWith("success,", client.Ask($"init,one,{_folder["cow"]},{_folder["base"]},{_folder["base"]}"),
                    StringComparison.Ordinal);
                Assert.Equal("success", client.Ask("start,one"));
                Assert.Equal("success", client.Ask("initiate_merge,one"));
                BinaryResult watched = Binary.Run("ctl", "watch", "one", "--socket", _folder["control"]);
                Assert.True(watched.ExitCode == 0, watched.ToString());
                Assert.Equal("snapshot-merge-complete", client.Ask("getstatus,one"));
                Assert.Equal(Golden.New, Unlocked.Read(_folder["base"], Golden.New.Length));
                string last = "";
                for (int i = 0; !last.StartsWith("snapuserd: standard output or standard error was full", StringComparison.Ordinal); i++)
                {
                    last = daemon.StandardError.ReadLine()!;
                    // The pipe has free space again at this point.
                    if (i == 100) Fail();
                }
                Assert.Matches("^snapuserd: standard output or standard error was full; messages lost: [0-9]+$", last);
                Assert.Contains("bad", daemon.StandardError.ReadLine());
            }
            _ = Libc.Kill(daemon.Id, Libc.SIGTERM);
            Assert.True(daemon.WaitForExit(60_000), "the daemon does not end");
        }
        finally
        {
            if (!daemon.HasExited) daemon.Kill();
            daemon.WaitForExit();
        }
    }

    [Fact]
    public void Ready_line_of_a_server_waits_for_space_in_the_pipe_and_is_not_lost()
    {
        // The pipe at standard output is already full when the server starts.
        const string script = "head -c 65536 /dev/zero; exec \"$@\"";
        using Process server = Binary.StartProgram("sh", ["-c", script, "sh", Binary.Path, "serve", "--cow", _folder["cow"], "--base",
            _folder["base"], "--device", "nbd", "--socket", _folder["nbd"], "--control", _folder["control"], "--progress", "never"]);
        try
        {
            // The process blocks in a call on descriptor 1, the call's first argument.
            Assert.True(SpinWait.SpinUntil(
                () => File.Exists(_folder["nbd"]) && File.ReadAllText($"/proc/{server.Id}/syscall").Split(' ') is [_, "0x1", ..], 60_000),
                "the server does not wait for space in the pipe");
            Assert.Equal(65536, server.StandardOutput.ReadBlock(new char[65536]));
            Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
            _ = Libc.Kill(server.Id, Libc.SIGTERM);
            Assert.True(server.WaitForExit(60_000), "the server does not end");
        }
        finally
        {
            if (!server.HasExited) server.Kill();
            server.WaitForExit();
        }
    }

    [RootFact]
    public void Kernel_log_gets_beginning_and_summary_and_standard_error_gets_nothing()
    {
        Binary.CopyTo(_folder["snapuserd"]);
        Directory.CreateDirectory(_folder["dev"]);
        File.WriteAllText(_folder["dev/kmsg"], "");
        BinaryResult result =
            Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "merge", "--cow", "/cow", "--base", "/base", "--log", "kmsg"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal("", result.Error);
        Assert.StartsWith("merged ", result.Output);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        string[] records = Records();
        Assert.Equal(2, records.Length);
        Assert.Matches(@"^<5>snapuserd\[\d+\]: merge of /cow begins at op 0 of \d+, .* are left$", records[0]);
        Assert.Matches(@"^<5>snapuserd\[\d+\]: merged: \d+ ops in all, \d+ blocks and .* written in \d+\.\d\d\d s, resumed 0 times$",
            records[1]);
    }

    [RootFact]
    public void Invalid_command_line_is_reported_in_the_kernel_log()
    {
        Binary.CopyTo(_folder["snapuserd"]);
        Directory.CreateDirectory(_folder["dev"]);
        File.WriteAllText(_folder["dev/kmsg"], "");
        BinaryResult result = Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "merge", "--bsae", "/base", "--log=kmsg"]);
        Assert.Equal((64, ""), (result.ExitCode, result.Error));
        Assert.Matches(@"^<3>snapuserd\[\d+\]: merge: unknown option '--bsae'; did you mean --base\? ", Assert.Single(Records()));
    }

    [RootFact]
    public void Without_a_kernel_log_the_merge_prints_a_message_and_continues()
    {
        Binary.CopyTo(_folder["snapuserd"]);
        BinaryResult result =
            Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "merge", "--cow", "/cow", "--base", "/base", "--log", "kmsg"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal("snapuserd: /dev/kmsg cannot be written, so the log goes to standard error: no such file or directory (ENOENT)\n",
            result.Error);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    [RootFact]
    public void Full_kernel_log_is_replaced_by_standard_error_without_loss()
    {
        Binary.CopyTo(_folder["snapuserd"]);
        Directory.CreateDirectory(_folder["dev"]);
        // This device answers every write with ENOSPC.
        Assert.Equal(0, Binary.RunProgram("mknod", [_folder["dev/kmsg"], "c", "1", "7"]).ExitCode);
        BinaryResult result =
            Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "merge", "--cow", "/none", "--base", "/base", "--log", "kmsg"]);
        string[] lines = result.Error.TrimEnd('\n').Split('\n');
        Assert.Equal((66, 2), (result.ExitCode, lines.Length));
        Assert.StartsWith("snapuserd: /dev/kmsg cannot be written, so the log goes to standard error: ", lines[0]);
        Assert.StartsWith("snapuserd: cannot open /none: ", lines[1]);
    }

    [Fact]
    public void Json_records_on_standard_error_agree_with_the_result_on_standard_output()
    {
        BinaryResult result = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["base"], "--log", "json", "--json",
            "--progress", "never");
        JsonElement[] records = result.Error.TrimEnd('\n').Split('\n').Select(line => JsonDocument.Parse(line).RootElement).ToArray();
        Assert.Equal(["begin", "merged"], records.Select(record => record.GetProperty("event").GetString()));
        JsonElement done = JsonDocument.Parse(result.Output).RootElement;
        foreach (string key in new[] { "ops", "blocks", "bytes_written", "times_resumed", "resumed_from" })
            Assert.Equal(done.GetProperty(key).GetInt64(), records[1].GetProperty(key).GetInt64());
        Assert.Equal(0, done.GetProperty("times_resumed").GetInt32());
        // People also read these lines, so the order of the keys is fixed.
        Assert.Equal("priority event message uptime ops resumed_from blocks bytes_written seconds times_resumed reads worst_read_seconds",
            string.Join(' ', records[1].EnumerateObject().Select(property => property.Name)));
        Assert.Equal("event ops blocks bytes_written seconds resumed_from io replayed journaled cow_bytes_written checkpoints flushes "
            + "already_merged peak_memory times_resumed", string.Join(' ', done.EnumerateObject().Select(property => property.Name)));

        result = Binary.Run("merge", "--cow", _folder["missing"], "--base", _folder["base"], "--log", "json");
        JsonElement error = JsonDocument.Parse(result.Error).RootElement;
        Assert.Equal((66, 3, "error", 66), (result.ExitCode, error.GetProperty("priority").GetInt32(),
            error.GetProperty("event").GetString(), error.GetProperty("exit_code").GetInt32()));
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData("0", 0)]
    [InlineData("4", 4)]
    [InlineData("-4", 1)]
    public void Resumed_merge_counts_itself_or_takes_the_count_of_a_supervisor(string? counted, int expected)
    {
        byte[] cow = Golden.Cow(Vector);
        // num_merge_ops: the first op is merged, and its block equals the target.
        cow[26] = 1;
        File.WriteAllBytes(_folder["cow"], cow);
        File.WriteAllBytes(_folder["base"], Golden.New);
        string[] environment = counted == null ? [] : [$"SNAPUSERD_RESUMED={counted}"];
        BinaryResult result =
            Binary.RunProgram("env", [.. environment, Binary.Path, "merge", "--cow", _folder["cow"], "--base", _folder["base"], "--json"]);
        Assert.Equal(expected,
            JsonDocument.Parse(result.Output.TrimEnd('\n').Split('\n')[^1]).RootElement.GetProperty("times_resumed").GetInt32());
    }

    private string[] Records() => File.ReadAllText(_folder["dev/kmsg"]).Split('\n', StringSplitOptions.RemoveEmptyEntries);
}
