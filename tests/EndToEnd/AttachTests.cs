using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`ctl attach` and `ctl detach`: add a snapshot to a running daemon and remove it.</summary>
public sealed class AttachTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";
    private readonly TempFolder _folder = new();
    private readonly Process _daemon;
    private readonly string _control;
    private readonly List<string> _errors = [];

    public AttachTests()
    {
        _control = _folder["control"];
        Directory.CreateDirectory(_folder["devices"]);
        Files("one");
        _daemon = Binary.Start("daemon", "--socket", _control, "--device", "nbd", "--socket-folder", _folder["devices"]);
        _daemon.ErrorDataReceived += (_, line) =>
        {
            lock (_errors) _errors.Add(line.Data ?? "");
        };
        _daemon.BeginErrorReadLine();
        Until(() => Binary.Run("ctl", "list", "--socket", _control).ExitCode == 0, "the daemon");
    }

    public void Dispose()
    {
        _ = Libc.Kill(_daemon.Id, Libc.SIGTERM);
        if (!_daemon.WaitForExit(60_000)) _daemon.Kill();
        _daemon.Dispose();
        _folder.Dispose();
    }

    private static void Until(Func<bool> condition, string what)
    {
        long end = Environment.TickCount64 + 60_000;
        for (; !condition(); Thread.Sleep(1))
            if (Environment.TickCount64 > end) throw new TimeoutException($"in vain: {what}");
    }

    private void Files(string name, string vector = Vector)
    {
        File.WriteAllBytes(_folder[name + ".cow"], Golden.Cow(vector));
        File.WriteAllBytes(_folder[name + ".base"], Golden.Old);
    }

    private BinaryResult Ctl(params string[] words) => Binary.Run(["ctl", .. words, "--socket", _control]);

    private BinaryResult Attach(string name, string files = "one") =>
        Ctl("attach", name, "--cow", _folder[files + ".cow"], "--base", _folder[files + ".base"]);

    private static void Refused(int code, string words, BinaryResult result)
    {
        Assert.True(result.ExitCode == code, result.ToString());
        Assert.Contains(words, result.Error, StringComparison.Ordinal);
        Assert.Single(result.Error.TrimEnd().Split('\n'));
    }

    /// <summary>The number of descriptors that the daemon has open on a file.</summary>
    private int OpenIn(string file)
    {
        int count = 0;
        foreach (string fd in Directory.EnumerateFileSystemEntries($"/proc/{_daemon.Id}/fd"))
            if (Libc.ReadLink(fd, out string target) == 0 && target == file) count++;
        return count;
    }

    private long Memory()
    {
        foreach (string line in File.ReadLines($"/proc/{_daemon.Id}/status"))
            if (line.StartsWith("RssAnon:", StringComparison.Ordinal))
                return 1024 * long.Parse(line.Split(' ')[^2], CultureInfo.InvariantCulture);
        throw new InvalidOperationException("no RssAnon");
    }

    [Fact]
    public void Daemon_frees_the_memory_of_a_snapshot_before_it_confirms_the_detach()
    {
        long AfterOneMore()
        {
            Assert.Equal(0, Attach("one").ExitCode);
            BinaryResult detached = Ctl("detach", "one");
            Assert.True(detached.ExitCode == 0, detached.ToString());
            return Memory();
        }

        long first = AfterOneMore(), last = 0;
        for (int i = 0; i < 3; i++) last = AfterOneMore();
        Assert.InRange(last, 0, first + (256 << 10));
    }

    [Fact]
    public void Attached_snapshots_are_served_merged_and_detached()
    {
        Files("two", "v3-lz4-64k-xor");
        BinaryResult attached = Attach("a");
        Assert.True(attached.ExitCode == 0, attached.ToString());
        Assert.Equal(_folder["devices/a"], attached.Output.TrimEnd());
        Assert.Equal("{\"event\":\"attached\",\"name\":\"b\",\"device\":\"" + _folder["devices/b"] + "\"}",
            Ctl("attach", "b", "--cow", _folder["two.cow"], "--base", _folder["two.base"], "--json").Output.TrimEnd());
        string status = Ctl("status", "a", "--json").Output;
        Assert.Contains($"\"cow\":\"{_folder["one.cow"]}\",\"base\":\"{_folder["one.base"]}\"", status, StringComparison.Ordinal);
        Assert.Equal(0, Ctl("merge", "a").ExitCode);
        Assert.Equal(0, Ctl("watch", "a").ExitCode);
        Assert.Equal(Golden.New, Unlocked.Read(_folder["one.base"], Golden.New.Length));
        Assert.Equal(Golden.Old, Unlocked.Read(_folder["two.base"], Golden.Old.Length));
        Assert.Equal(0, Ctl("detach", "a").ExitCode);
        Assert.False(File.Exists(_folder["devices/a"]));
        Assert.Equal((0, 0), (OpenIn(_folder["one.cow"]), OpenIn(_folder["one.base"])));
        Assert.DoesNotContain("one.cow", Ctl("list").Output, StringComparison.Ordinal);
        Assert.Equal(0, Ctl("detach", "b").ExitCode);
        Assert.Equal("", Ctl("list").Output);
        // The snapshot was removed, so its name can be attached again.
        Assert.Equal(0, Attach("a").ExitCode);
    }

    [Fact]
    public void Daemon_serves_the_files_that_the_client_opened()
    {
        // The path is relative to another folder, and the link points to another file by the time the daemon opens it.
        File.Move(_folder["one.cow"], _folder["devices/x.cow"]);
        File.CreateSymbolicLink(_folder["devices/link"], "x.cow");
        BinaryResult attached = Binary.RunProgram("/bin/sh",
            ["-c", "cd \"$1\" && exec \"$0\" ctl attach a --cow link --base ../one.base --socket \"$2\"", Binary.Path,
                _folder["devices"], _control]);
        Assert.True(attached.ExitCode == 0, attached.ToString());
        File.Delete(_folder["devices/link"]);
        File.WriteAllBytes(_folder["devices/x.cow.new"], Golden.Cow("v2-gz-xor"));
        File.Move(_folder["devices/x.cow.new"], _folder["devices/x.cow"], overwrite: true);
        Assert.Equal(0, Ctl("merge", "a").ExitCode);
        Assert.Equal(0, Ctl("watch", "a").ExitCode);
        Assert.Equal(Golden.New, Unlocked.Read(_folder["one.base"], Golden.New.Length));
        Assert.Equal(Golden.Cow("v2-gz-xor"), File.ReadAllBytes(_folder["devices/x.cow"]));
    }

    [Fact]
    public void Snapshot_in_use_or_being_merged_is_not_detached()
    {
        Assert.Equal(0, Attach("a").ExitCode);
        using (Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            client.Connect(new UnixDomainSocketEndPoint(_folder["devices/a"]));
            // The server counts a client once it has greeted it.
            byte[] greeting = new byte[18];
            Assert.True(client.Receive(greeting) > 0);
            Refused(76, "a is in use: a client is connected", Ctl("detach", "a"));
        }
        Assert.Equal(0, Ctl("pause", "a").ExitCode);
        Assert.Equal(0, Ctl("merge", "a").ExitCode);
        Refused(76, "a is being merged", Ctl("detach", "a"));
        Assert.Equal(0, Ctl("resume", "a").ExitCode);
        Assert.Equal(0, Ctl("watch", "a").ExitCode);
        Until(() => Ctl("detach", "a").ExitCode == 0, "the client's end");
    }

    [Fact]
    public void Watch_of_a_stopped_daemon_reports_how_the_merge_ended()
    {
        Assert.Equal(0, Attach("a").ExitCode);
        // At this rate the merge writes one batch, and would write the next only hours later.
        Assert.Equal(0, Ctl("rate", "1", "a").ExitCode);
        Assert.Equal(0, Ctl("merge", "a").ExitCode);
        using System.Diagnostics.Process watch = Binary.Start("ctl", "watch", "a", "--socket", _control);
        Assert.StartsWith("a: ", watch.StandardOutput.ReadLine(), StringComparison.Ordinal);
        _ = Libc.Kill(_daemon.Id, Libc.SIGTERM);
        Assert.True(watch.WaitForExit(60_000));
        Assert.True(watch.ExitCode == 75, $"{watch.ExitCode}: {watch.StandardError.ReadToEnd()}");
    }

    [Fact]
    public void Failed_attach_prints_one_message_with_its_code_and_leaves_nothing_open()
    {
        Refused(64, "attach takes a NAME", Ctl("attach"));
        Refused(64, "attach takes --base PATH", Ctl("attach", "a", "--cow", _folder["one.cow"]));
        Refused(64, "it has a slash", Ctl("attach", "../a", "--cow", _folder["one.cow"], "--base", _folder["one.base"]));
        Refused(64, "--cow goes with attach", Ctl("list", "--cow", _folder["one.cow"]));
        Refused(64, "--all", Ctl("attach", "a", "--all", "--cow", _folder["one.cow"], "--base", _folder["one.base"]));
        Refused(66, "none", Ctl("attach", "a", "--cow", _folder["none"], "--base", _folder["one.base"]));
        Refused(66, "there is no snapshot a here", Ctl("detach", "a"));
        Refused(64, "share storage", Ctl("attach", "a", "--cow", _folder["one.cow"], "--base", _folder["one.cow"]));
        File.WriteAllText(_folder["no.cow"], "this is not a COW, but it is long enough for one");
        Refused(65, $"a: {_folder["no.cow"]} is not a COW file",
            Ctl("attach", "a", "--cow", _folder["no.cow"], "--base", _folder["one.base"]));
        Assert.Equal(0, Attach("a").ExitCode);
        Files("two");
        Refused(76, "another snapshot has that name", Attach("a", "two"));
        Refused(76, "one.cow", Attach("b"));
        Assert.Equal((0, 0), (OpenIn(_folder["no.cow"]), OpenIn(_folder["two.cow"])));
        Assert.Equal(0, Ctl("detach", "a").ExitCode);
        Assert.Equal(0, OpenIn(_folder["one.cow"]));
    }

    [Fact]
    public void Server_of_one_cow_refuses_to_attach_another()
    {
        Files("two");
        string control = _folder["other"];
        using Process server = Binary.Start("serve", "--cow", _folder["one.cow"], "--base", _folder["one.base"], "--device", "nbd",
            "--socket", _folder["nbd"], "--control", control);
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        foreach (string[] words in new string[][] { ["attach", "a", "--cow", _folder["two.cow"], "--base", _folder["two.base"]],
            ["detach", "one.cow"] })
            Refused(64, "are for a daemon", Binary.Run(["ctl", .. words, "--socket", control]));
        _ = Libc.Kill(server.Id, Libc.SIGTERM);
        Assert.True(server.WaitForExit(60_000));
    }

    [Fact]
    public void Descriptors_that_clients_send_without_need_are_closed()
    {
        // One attempt per available descriptor.
        using Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        client.Connect(new UnixDomainSocketEndPoint(_control));
        Assert.True(client.Send("ctl 1\n"u8) == 6);
        using FileStream file = File.OpenRead(_folder["one.cow"]);
        int fd = (int)file.SafeFileHandle.DangerousGetHandle();
        byte[] answer = new byte[4096];
        for (int i = 0; i < 100; i++)
        {
            Assert.Equal(7, Libc.SendDescriptors((int)client.Handle, "status\n"u8, [fd, fd, fd, fd], 0));
            Assert.True(client.Receive(answer) > 0);
            Assert.InRange(OpenIn(_folder["one.cow"]), 0, 4);
        }
        Assert.Equal(9, Libc.SendDescriptors((int)client.Handle, "attach a\n"u8, [fd], 0));
        int length = client.Receive(answer);
        Assert.Contains("!64 attach takes COW and base", System.Text.Encoding.ASCII.GetString(answer, 0, length), StringComparison.Ordinal);
        client.Dispose();
        Until(() => OpenIn(_folder["one.cow"]) == 0, "the end of the connection");
    }
}
