using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Text.Json;
using Snapuserd.Boot;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `boot` of the built binary where it can make no mapped device, because bases are files or the system has no device mapper: its output,
/// and its actions before it needs a mapped device.
/// </summary>
public sealed class BootTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private void Write(string name, byte[] bytes) => File.WriteAllBytes(_folder[name], bytes);

    private BinaryResult Boot(string table, string line, params string[] more)
    {
        File.WriteAllText(_folder["table"], table);
        File.WriteAllText(_folder["cmdline"], line);
        return Binary.Run(["boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder", _folder["run"],
            "--wait", "0", .. more]);
    }

    [Fact]
    public void Dry_run_prints_the_plan_as_json_and_changes_nothing()
    {
        Write("new.cow", Golden.Cow("v3-lz4-64k-xor"));
        Write("half.cow", Golden.HalfCow("half-v2-gz-xor-F2sync"));
        Write("bad.cow", Golden.Cow("v2-gz-xor")[..^100]);
        Write("garbage.cow", [.. Enumerable.Repeat((byte)7, 5000)]);
        foreach (string name in new[] { "a", "b", "c", "d", "e", "f" }) Write(name, Golden.Old);
        string table = string.Concat(
            new[]
            {
                "a new", "b half", "c bad", "d none", "e garbage",
            }.Select(row => row.Split(' ')).Select(row => $"{row[0]} {_folder[row[1]]}.cow {_folder[row[0]]}\n"));
        Dictionary<string, byte[]> before = Directory.EnumerateFiles(_folder.Path).ToDictionary(path => path, File.ReadAllBytes);
        BinaryResult result = Boot(table, $"quiet snapuserd.device=nbd snapuserd.row=f,/dev/snapuserd-none,{_folder["f"]}",
            "--dry-run", "--json");
        // Row d has no COW. On a file system that a boot empties, a missing COW does not prove that there is no update.
        bool kept = LoopDevice.Call("stat", "-f", "-c", "%T", _folder.Path).Trim() is not ("tmpfs" or "ramfs" or "overlayfs");
        Assert.Equal(kept ? 65 : 66, result.ExitCode);
        JsonElement[] rows =
            result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonDocument.Parse(line).RootElement).ToArray();
        Assert.All(rows, row => Assert.Equal("row", row.GetProperty("event").GetString()));
        Assert.Equal(
            ["a served 0", "b served 0", "c old 0", kept ? "d plain 0" : "d failed 66", "e failed 65", "f failed 66"],
            rows.Select(row =>
                $"{row.GetProperty("name").GetString()} {row.GetProperty("state").GetString()} {row.GetProperty("exit_code").GetInt32()}"));
        Assert.Equal("/dev/mapper/a", rows[0].GetProperty("device").GetString());
        Assert.Equal(JsonValueKind.Null, rows[4].GetProperty("device").ValueKind);
        Assert.Contains(" --device nbd --merge", rows[0].GetProperty("command").GetString());
        foreach ((string path, byte[] bytes) in before) Assert.Equal(bytes, File.ReadAllBytes(path));
        Assert.DoesNotContain(Directory.EnumerateFiles(_folder.Path), path => path.EndsWith(".merging", StringComparison.Ordinal));
    }

    [Fact]
    public void Boot_without_rows_succeeds_and_an_invalid_configuration_is_refused()
    {
        Assert.Equal((0, "", ""), Boot("root /a /b", "snapuserd=off") is var off ? (off.ExitCode, off.Output, off.Error) : default);
        Assert.Equal((0, "", ""), Boot("# nothing", "") is var empty ? (empty.ExitCode, empty.Output, empty.Error) : default);
        BinaryResult wrong = Boot("# one\nroot /a", "");
        Assert.Equal((64, ""), (wrong.ExitCode, wrong.Output));
        Assert.Contains($"{_folder["table"]}:2: a row has at least three fields", wrong.Error);
        Assert.Equal(64, Boot("", "snapuserd.merge=now").ExitCode);
        File.WriteAllText(_folder["cmdline"], "quiet");
        Assert.Equal(66, Binary.Run("boot", "--table", _folder["none"], "--cmdline", _folder["cmdline"]).ExitCode);
        Assert.Equal(66, Binary.Run("boot", "--table", _folder["table"], "--cmdline", _folder["none"]).ExitCode);
    }

    /// <summary>
    /// A base that is a file cannot be mapped, so no server starts. A merge that has begun is still finished; then boot fails because the
    /// mapped device is missing.
    /// </summary>
    [Fact]
    public void Begun_merge_that_cannot_be_served_is_finished_with_progress_on_standard_error()
    {
        Write("half.cow", Golden.HalfCow("half-v3-lz4-64k-xor-M3io_uring"));
        Write("base", Golden.HalfBase("half-v3-lz4-64k-xor-M3io_uring"));
        BinaryResult result = Boot($"root {_folder["half.cow"]} {_folder["base"]}", "snapuserd.device=nbd");
        Assert.True(result.ExitCode is 64 or 69, result.ToString());
        Assert.Equal("", result.Output);
        Assert.Contains("root: it cannot be served, so it is merged before it is mounted", result.Error);
        Assert.Contains("merge 100%", result.Error);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.False(File.Exists(_folder["half.cow.merging"]));
    }

    /// <summary>Another server already serves the same COW and base on another device, or does not answer.</summary>
    [Fact]
    public void Process_that_listens_on_the_socket_of_a_row_is_asked_what_it_serves()
    {
        Write("root", Golden.Cow("v3-lz4-descending"));
        Write("base", Golden.Old);
        Directory.CreateDirectory(_folder["run"]);
        string table = $"root {_folder["root"]} {_folder["base"]}";
        using (Process server = Binary.Start("serve", "--cow", _folder["root"], "--base", _folder["base"], "--device", "nbd", "--socket",
            _folder["nbd"], "--control", _folder["run/root"], "--progress", "never"))
        {
            try
            {
                Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
                BinaryResult result = Boot(table, "");
                Assert.True(result.ExitCode == 76, result.ToString());
                Assert.Equal("", result.Output);
                Assert.Contains("root cannot be used: another process listens on its socket and does not serve it: the server at "
                    + $"{_folder["run/root"]} has another device than /dev/mapper/root", result.Error);
            }
            finally
            {
                server.Kill();
                server.WaitForExit();
            }
        }
        File.Delete(_folder["run/root"]);
        using Socket silent = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        silent.Bind(new UnixDomainSocketEndPoint(_folder["run/root"]));
        silent.Listen(1);
        BinaryResult hung = Boot(table, "");
        Assert.True(hung.ExitCode == 76, hung.ToString());
        Assert.Contains("run/root does not answer", hung.Error);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
    }

    [Fact]
    public void Boots_wait_for_one_another()
    {
        Write("half.cow", Golden.HalfCow("half-v3-lz4-64k-xor-M3io_uring"));
        Write("base", Golden.HalfBase("half-v3-lz4-64k-xor-M3io_uring"));
        File.WriteAllText(_folder["table"], $"root {_folder["half.cow"]} {_folder["base"]}");
        File.WriteAllText(_folder["cmdline"], "snapuserd.device=nbd snapuserd.merge=before");
        string[] arguments =
        [
            "boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder", _folder["run"], "--wait", "0",
        ];
        // Holds the lock of `boot`, as a slow boot does.
        using Process other = Binary.StartProgram("flock", [_folder["run.lock"], "sh", "-c", "echo locked; read go"]);
        Assert.Equal("locked", other.StandardOutput.ReadLine());
        using Process first = Binary.Start(arguments), second = Binary.Start(arguments);
        try
        {
            foreach (Process boot in new[] { first, second })
                Assert.Contains("another snapuserd boot is at work", boot.StandardError.ReadLine());
            Assert.Equal(Golden.HalfBase("half-v3-lz4-64k-xor-M3io_uring"), File.ReadAllBytes(_folder["base"]));
            Assert.False(first.HasExited || second.HasExited);
        }
        finally
        {
            other.StandardInput.WriteLine();
        }
        // One of them merges; the other finds the merge done. Neither can map a base that is a file.
        string told = first.StandardError.ReadToEnd() + second.StandardError.ReadToEnd();
        Assert.True(first.WaitForExit(60_000) && second.WaitForExit(60_000));
        Assert.True(first.ExitCode is 64 or 69 && second.ExitCode is 64 or 69, told);
        Assert.Single(told.Split('\n'), line => line.Contains("merge 100%", StringComparison.Ordinal));
        Assert.DoesNotContain("locked by another program", told);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    /// <summary>
    /// An ext4 file system in a file is the root of the program. A folder on it is empty, or has a file, or is a mount point.
    /// </summary>
    [RootFact]
    public void Empty_folder_on_the_root_file_system_counts_as_an_unused_mount_point()
    {
        using TempFolder folder = new();
        string image = folder["image"], root = folder["root"];
        Directory.CreateDirectory(root);
        LoopDevice.Call("truncate", "-s", "8M", image);
        LoopDevice.Call("mkfs.ext4", "-q", image);
        LoopDevice.Call("mount", "-o", "loop", image, root);
        try
        {
            foreach (string name in new[] { "empty", "kept", "bound", "proc" }) Directory.CreateDirectory(Path.Combine(root, name));
            foreach (string name in new[] { "base", "table", "kept/readme" }) File.WriteAllBytes(Path.Combine(root, name), new byte[8192]);
            LoopDevice.Call("mount", "--bind", Path.Combine(root, "empty"), Path.Combine(root, "bound"));
            Binary.CopyTo(Path.Combine(root, "snapuserd"));
            foreach ((string name, string state) in new[] { ("empty", "failed"), ("kept", "plain"), ("bound", "plain") })
            {
                File.WriteAllText(Path.Combine(root, "table"), $"row /{name}/cow /base\n");
                File.WriteAllText(Path.Combine(root, "line"), "");
                BinaryResult result = Binary.RunProgram("chroot",
                    [root, "/snapuserd", "boot", "--table", "/table", "--cmdline", "/line", "--wait", "0", "--dry-run"]);
                Assert.StartsWith($"row {state} ", result.Output, StringComparison.Ordinal);
                Assert.Equal(state == "failed", result.Output.Contains("put any file into that folder", StringComparison.Ordinal));
            }
        }
        finally
        {
            LoopDevice.Call("umount", "-R", root);
        }
    }

    [Fact]
    public void Damaged_payload_leaves_base_and_cow_unchanged()
    {
        byte[] cow = Golden.Cow("v3-lz4-64k-xor");
        cow.AsSpan(cow.Length - 3000).Fill(0xee);
        Write("cow", cow);
        Write("base", Golden.Old);
        foreach (string policy in new[] { "background", "manual", "before", "rollback" })
        {
            BinaryResult result = Boot($"root {_folder["cow"]} {_folder["base"]}", $"snapuserd.device=nbd snapuserd.merge={policy}");
            Assert.True(result.ExitCode is 64 or 69, result.ToString());
            // Without a device mapper, a merge that has not begun is not attempted.
            bool unmapped = policy == "before"
                && result.Error.Contains("it is not merged, because there could be no /dev/mapper/root", StringComparison.Ordinal);
            if (policy != "rollback" && !unmapped) Assert.Contains("root: the OLD image is taken: ", result.Error);
            Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
            Assert.Equal(cow, File.ReadAllBytes(_folder["cow"]));
        }
    }
}
