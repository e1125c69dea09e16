using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Files that `create` and `extract` refuse to replace: the only file that can finish a base, and files that other processes use.
/// </summary>
public sealed class OutputTests : IDisposable
{
    private const string Vector = "v3-lz4-4k-xor";
    private const int CountAt = 26, StateAt = 78;
    private readonly TempFolder _folder = new();
    private readonly List<Process> _servers = [];

    public OutputTests()
    {
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
    }

    public void Dispose()
    {
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill(entireProcessTree: true);
            server.WaitForExit();
            server.Dispose();
        }
        _folder.Dispose();
    }

    /// <summary>A COW as a merge leaves it halfway, in each of the ways in which the file can indicate that.</summary>
    private static byte[] Begun(string how)
    {
        if (how == "half of a merge by Android") return Golden.HalfCow("half-v3-lz4-64k-xor-M2sync");
        byte[] cow = Golden.Cow(Vector);
        switch (how)
        {
            case "count":
                cow[CountAt] = 1;
                break;
            case "state 1":
                cow[StateAt] = 1;
                break;
            case "state 2":
                cow[StateAt] = 2;
                break;
            case "state of no engine":
                cow[StateAt] = 77;
                break;
            case "unsafe magic":
                "unsafCOW"u8.CopyTo(cow);
                break;
            case "count, cut in scratch":
                cow[CountAt] = 7;
                Array.Resize(ref cow, 1 << 20);
                break;
            case "count, cut in its ops":
                cow[CountAt] = 7;
                Array.Resize(ref cow, (2 << 20) + 78 + 100);
                break;
            case "count, header only":
                cow[CountAt] = 7;
                Array.Resize(ref cow, 78);
                break;
            case "count, blocks of no known size":
                cow[CountAt] = 7;
                cow[18] ^= 0x55;
                break;
            case "count and damaged ops":
                cow[CountAt] = 1;
                cow.AsSpan(cow.Length / 2).Fill(0xee);
                break;
        }
        return cow;
    }

    public static TheoryData<string> WaysToBegin =>
    [
        "count", "count, cut in scratch", "count, cut in its ops", "count, header only", "count, blocks of no known size", "state 1",
        "state 2", "state of no engine", "unsafe magic", "count and damaged ops", "half of a merge by Android",
    ];

    [Theory]
    [MemberData(nameof(WaysToBegin))]
    public void A_cow_that_has_begun_is_not_replaced(string how)
    {
        byte[] begun = Begun(how);
        string path = _folder["precious"];
        File.WriteAllBytes(path, begun);
        File.CreateSymbolicLink(_folder["link"], path);
        File.CreateSymbolicLink(_folder["chain"], _folder["link"]);
        foreach (string name in new[] { path, _folder["link"], _folder["chain"] })
        {
            Refused(65, Create(name), path, "has begun");
            Refused(65, Extract(name), path, "has begun");
        }
        Assert.Equal(begun, File.ReadAllBytes(path));
        Assert.False(File.Exists(path + ".part"));
        // The file has the name that the temporary file would also get.
        File.Move(path, _folder["out.part"]);
        Refused(65, Create(_folder["out"]), "out.part", "has begun");
        Refused(65, Extract(_folder["out"]), "out.part", "has begun");
        Assert.Equal(begun, File.ReadAllBytes(_folder["out.part"]));
    }

    [RootTheory]
    [MemberData(nameof(WaysToBegin))]
    public void A_device_with_a_cow_that_has_begun_is_not_written(string how)
    {
        byte[] begun = Begun(how);
        Array.Resize(ref begun, 8 << 20);
        File.WriteAllBytes(_folder["disk"], begun);
        using LoopDevice disk = new(_folder["disk"]);
        Refused(65, Create(disk.Path), disk.Path, "has begun");
        Assert.Equal(begun, File.ReadAllBytes(_folder["disk"]));
    }

    [Fact]
    public void An_untouched_cow_and_a_merged_one_are_replaced()
    {
        string path = _folder["out"];
        File.WriteAllBytes(path, Golden.Cow(Vector));
        Assert.Equal(0, Create(path).ExitCode);
        File.Copy(_folder["old"], _folder["base"]);
        Assert.Equal(0, Binary.Run("merge", "--cow", path, "--base", _folder["base"]).ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.Equal(0, Create(path).ExitCode);
        Assert.Equal(0, Extract(path).ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(path));
    }

    [RootFact]
    public void Files_in_use_are_76_by_their_names_by_links_and_below_loop_devices()
    {
        File.Copy(_folder["cow"], _folder["used-cow"]);
        File.Copy(_folder["old"], _folder["used-base"]);
        File.Copy(_folder["old"], _folder["used-source"]);
        Serve(_folder["used-cow"], _folder["used-base"], "--source", _folder["used-source"], "--merge-on-request", "--control",
            _folder["control"]);
        foreach (string used in new[] { "used-cow", "used-base", "used-source" })
        {
            File.CreateSymbolicLink(_folder[$"{used}-link"], _folder[used]);
            LoopDevice.Call("ln", _folder[used], _folder[$"{used}-hard"]);
            foreach (string name in new[] { used, $"{used}-link", $"{used}-hard" })
            {
                Refused(76, Create(_folder[name]), used);
                Refused(76, Extract(_folder[name]), used);
            }
            using LoopDevice loop = new(_folder[used]);
            Refused(76, Create(loop.Path), loop.Path);
        }
        // Files that a reader uses are refused too.
        File.Copy(_folder["old"], _folder["read-base"]);
        File.Copy(_folder["cow"], _folder["read-cow"]);
        Serve(_folder["read-cow"], _folder["read-base"]);
        Refused(76, Extract(_folder["read-base"]), "read-base");
        Refused(76, Create(_folder["read-cow"]), "read-cow");
    }

    [RootFact]
    public void A_file_below_a_mounted_loop_device_is_76()
    {
        File.WriteAllBytes(_folder["image"], new byte[4 << 20]);
        LoopDevice.Call("mkfs.ext4", "-q", "-F", _folder["image"]);
        byte[] before = File.ReadAllBytes(_folder["image"]);
        using LoopDevice loop = new(_folder["image"]);
        Directory.CreateDirectory(_folder["mnt"]);
        LoopDevice.Call("mount", "-o", "ro", loop.Path, _folder["mnt"]);
        try
        {
            Refused(76, Create(_folder["image"]), loop.Path);
            Refused(76, Extract(_folder["image"]), loop.Path);
        }
        finally
        {
            LoopDevice.Call("umount", _folder["mnt"]);
        }
        Assert.Equal(before, File.ReadAllBytes(_folder["image"]));
    }

    [Theory]
    [InlineData("create")]
    [InlineData("extract")]
    public void The_old_file_is_locked_until_it_is_replaced(string verb)
    {
        string path = _folder["out"];
        File.Copy(_folder["cow"], path);
        File.Copy(_folder["old"], _folder["base"]);
        using Process writer = KillAt.Hold(1, "rename", verb == "create" ? CreateCommand(path) : ExtractCommand(path));
        Refused(76, Binary.Run("merge", "--cow", path, "--base", _folder["base"]), path);
        writer.StandardInput.Close();
        writer.WaitForExit();
        Assert.Equal(0, writer.ExitCode);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
    }

    [Theory]
    [InlineData("ENOLCK")]
    [InlineData("ENOSYS")]
    [InlineData("EOPNOTSUPP")]
    [InlineData("EPERM")]
    [InlineData("EINVAL")]
    public void Without_locks_readers_continue_with_a_warning_and_writers_require_an_option(string errno)
    {
        string target = _folder["base"];
        File.Copy(_folder["old"], target);
        foreach (string[] reading in (string[][])
            [["verify", "--cow", _folder["cow"], "--base", target], ["verify", "--cow", _folder["cow"]], ["inspect", _folder["cow"]]])
        {
            BinaryResult read = WithoutLocks(errno, reading);
            Assert.True(read.ExitCode == 0, read.ToString());
            if (reading[0] == "verify") Assert.Contains($"has no locks (flock: ", read.Error, StringComparison.Ordinal);
        }
        foreach (string[] writing in (string[][])
            [["merge", "--cow", _folder["cow"], "--base", target], ExtractCommand(_folder["out"]), CreateCommand(_folder["out"])])
        {
            BinaryResult refused = WithoutLocks(errno, writing);
            Assert.True(refused.ExitCode == 69, refused.ToString());
            Assert.Contains(errno, refused.Error, StringComparison.Ordinal);
            Assert.Contains("--no-lock", refused.Error, StringComparison.Ordinal);
            Assert.Equal((Golden.Old, Golden.Cow(Vector)), (File.ReadAllBytes(target), File.ReadAllBytes(_folder["cow"])), new Bytes());
            Assert.False(File.Exists(_folder["out"]));
        }
        foreach (string[] writing in (string[][])
            [ExtractCommand(_folder["out"]), CreateCommand(_folder["out2"]), ["merge", "--cow", _folder["cow"], "--base", target]])
        {
            BinaryResult done = WithoutLocks(errno, [.. writing, "--no-lock"]);
            Assert.True(done.ExitCode == 0, done.ToString());
            Assert.Contains("has no locks", done.Error, StringComparison.Ordinal);
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(target));
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));
    }

    private sealed class Bytes : IEqualityComparer<(byte[], byte[])>
    {
        public bool Equals((byte[], byte[]) one, (byte[], byte[]) other) => one.Item1.AsSpan().SequenceEqual(other.Item1)
            && one.Item2.AsSpan().SequenceEqual(other.Item2);

        public int GetHashCode((byte[], byte[]) bytes) => bytes.Item1.Length;
    }

    private static BinaryResult WithoutLocks(string errno, string[] command) =>
        Binary.RunProgram("strace",
            ["-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", $"inject=flock:error={errno}", Binary.Path, .. command]);

    private string[] CreateCommand(string output) => ["create", "--source", _folder["old"], "--target", _folder["new"], "--output", output];

    private string[] ExtractCommand(string output) => ["extract", "--cow", _folder["cow"], "--base", _folder["old"], "--output", output];

    private BinaryResult Create(string output) => Binary.Run(CreateCommand(output));

    private BinaryResult Extract(string output) => Binary.Run(ExtractCommand(output));

    private void Serve(string cow, string target, params string[] more)
    {
        string socket = _folder[$"socket{_servers.Count}"];
        Process server = Binary.Start(["serve", "--cow", cow, "--base", target, "--device", "nbd", "--socket", socket, .. more]);
        _servers.Add(server);
        string? ready = server.StandardOutput.ReadLine();
        Assert.True(ready == socket, ready ?? server.StandardError.ReadToEnd());
    }

    private static void Refused(int code, BinaryResult result, params string[] words)
    {
        Assert.True(result.ExitCode == code, result.ToString());
        foreach (string word in words) Assert.Contains(word, result.Error, StringComparison.Ordinal);
    }
}
