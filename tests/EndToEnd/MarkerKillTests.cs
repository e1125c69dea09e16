using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// SIGKILL at every system call that can change a file, its name, or what is durable, on each path that makes, fills or removes a marker.
/// At each kill, marker, count and base agree. The next run ends with the target and leaves no marker, not even one without its name.
/// </summary>
public sealed class MarkerKillTests(ITestOutputHelper output) : IDisposable
{
    private const int Blocks = 16, Ops = 12;

    /// <summary>The least number of kills of a sweep; with fewer, killat has missed calls.</summary>
    private const int LeastKills = 20;

    private readonly TempFolder _folder = new();
    private readonly HashSet<string> _seen = [];
    private byte[] _old = [], _cow = [], _new = [];

    private string Cow => _folder["cow"];

    private string Base => _folder["base"];

    private string Marker => Cow + ".merging";

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("sync")]
    [InlineData("uring")]
    public void Merge_killed_at_each_change_ends_with_the_target_and_without_a_marker(string io)
    {
        Make();
        Sweep("merge", LeastKills, mark: "",
            k => Run(KillAt.Command($"changes:{k}", "merge", "--cow", Cow, "--base", Base, "--io", io, "--progress", "never")).ExitCode);
        Assert.Contains("empty, old, 0", _seen);
        Assert.Contains("begun, old, 0", _seen);
        Assert.Contains("begun, between, 0", _seen);
        Assert.Contains("begun, new, all", _seen);
        Assert.Contains("none, new, all", _seen);
    }

    /// <summary>The server's main thread merges. It is stopped when the merge has ended.</summary>
    [Fact]
    public void Serve_killed_at_each_change_ends_with_the_target_and_without_a_marker()
    {
        Make();
        Sweep("serve", LeastKills, mark: "", k =>
        {
            string[] command = KillAt.Command($"changes:{k}", "serve", "--cow", Cow, "--base", Base, "--io", "sync", "--progress", "never",
                "--device", "nbd", "--socket", _folder["nbd"], "--control", _folder["control"], "--merge");
            return Run(command, server =>
            {
                if (server.StandardOutput.ReadLine() == null) return;
                // Ends when the merge has ended or the server is gone.
                _ = Binary.Run("ctl", "watch", "--socket", _folder["control"]);
                _ = Binary.Run("ctl", "stop", "--socket", _folder["control"]);
            });
        });
        Assert.Contains("begun, old, 0", _seen);
        Assert.Contains("begun, new, all", _seen);
        Assert.Contains("none, new, all", _seen);
    }

    /// <summary>A snapshot of a daemon has its own thread, so the calls of all threads are counted.</summary>
    [Fact]
    public void Daemon_killed_at_each_change_ends_with_the_target_and_without_a_marker()
    {
        Make();
        Sweep("daemon", LeastKills, mark: "", k =>
        {
            string socket = _folder[$"socket{k}"];
            string[] command = KillAt.Command($"all:changes:{k}", "daemon", "--socket", socket, "--device", "nbd", "--socket-folder",
                _folder.Path, "--io", "sync");
            return Run(command, daemon =>
            {
                try
                {
                    using Talker client = Talker.Connected(daemon, socket);
                    if (!client.Ask($"init,root,{Cow},{Base},{Base}").StartsWith("success,", StringComparison.Ordinal)) return;
                    if (client.Ask("start,root") != "success" || client.Ask("initiate_merge,root") != "success") return;
                    while (client.Ask("getstatus,root") == "snapshot-merge") Thread.Yield();
                    client.Send("stop");
                }
                catch (Exception e) when (e is SocketException or InvalidOperationException)
                {
                    // The daemon was killed.
                }
            });
        });
        Assert.Contains("begun, old, 0", _seen);
        Assert.Contains("begun, new, all", _seen);
        Assert.Contains("none, new, all", _seen);
    }

    /// <summary>
    /// The row's merge has begun, so boot writes the marker with content under a temporary name and renames it. The base of this test is a
    /// file and cannot be mapped. So boot runs the merge as its child and fails afterwards.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Boot_killed_at_each_change_ends_with_the_target_and_without_a_marker(bool resumedByMerge)
    {
        Make();
        // The state after a merge that was killed in the middle and whose marker was lost.
        Put("");
        for (int k = 1; ; k++)
        {
            Put("");
            Assert.Equal(137,
                Run(KillAt.Command($"changes:{k}", "merge", "--cow", Cow, "--base", Base, "--io", "sync", "--progress", "never")).ExitCode);
            Unlocked.Settle(Cow, Base);
            if (Count() > 0) break;
        }
        (_cow, _old) = (File.ReadAllBytes(Cow), File.ReadAllBytes(Base));
        File.WriteAllText(_folder["table"], $"snapuserd-test {Cow} {Base}\n");
        File.WriteAllText(_folder["cmdline"], "snapuserd.device=nbd");
        string[] boot =
        [
            "boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder", _folder["run"], "--wait", "0",
        ];
        bool named = false, unnamed = false;
        Sweep("boot", 6, mark: null, k =>
        {
            int code = Run(KillAt.Command($"changes:{k}", boot)).ExitCode;
            unnamed |= File.Exists(Marker + ".new") && !File.Exists(Marker);
            named |= File.Exists(Marker);
            // Even after a complete merge the row has no device, so boot fails.
            return code is 64 or 69 ? 0 : code;
        }, resumedByMerge ? null : boot);
        Assert.True(unnamed, "no kill between the new marker and its name");
        Assert.True(named, "no kill after the marker has its name");
    }

    /// <summary>Calls <paramref name="run"/> for each kill point until the program ends by itself three times.</summary>
    private void Sweep(string name, int least, string? mark, Func<int, int> run, string[]? next = null)
    {
        int killed = 0;
        for (int k = 1, done = 0; done < 3; k++)
        {
            Put(mark);
            int code = run(k);
            Assert.True(code is 0 or 137, $"{name}, killed at change {k}: {code}");
            done = code == 0 ? done + 1 : 0;
            killed += code == 0 ? 0 : 1;
            Unlocked.Settle(Cow, Base);
            string state = State(hadMark: mark != null);
            _seen.Add(state);
            string where = $"{name}, killed at change {k}: {state}";
            // The next run of the same kind, and then one that finds everything merged.
            if (next != null) _ = Binary.Run(next);
            BinaryResult last = Binary.Run("merge", "--cow", Cow, "--base", Base, "--progress", "never");
            Assert.True(last.ExitCode == 0, $"{where}: {last}");
            Assert.True(_new.AsSpan().SequenceEqual(File.ReadAllBytes(Base)), $"{where}: the base is not the target");
            Assert.True(!File.Exists(Marker) && !File.Exists(Marker + ".new"), $"{where}: a stale marker is left");
        }
        output.WriteLine($"{name}: killed at {killed} changes, {string.Join("; ", _seen)}");
        Assert.True(killed >= least, $"{name}: killed at {killed} changes only");
    }

    /// <summary>Marker, base and count after a kill. Throws if they contradict each other.</summary>
    private string State(bool hadMark)
    {
        string mark = !File.Exists(Marker) ? "none" : File.ReadAllText(Marker) is { Length: > 0 } text ? text[..5] : "empty";
        byte[] now = File.ReadAllBytes(Base);
        string image = now.AsSpan().SequenceEqual(_old) ? "old" : now.AsSpan().SequenceEqual(_new) ? "new" : "between";
        ulong count = Count();
        string state = $"{mark}, {image}, {(count == 0 ? "0" : count == Ops ? "all" : "some")}";
        if (!hadMark) return state;
        // The base must not be written unless a marker says so, and the marker must not be removed before everything is counted.
        if (image != "old") Assert.True(mark == "begun" || (mark == "none" && image == "new" && count == Ops), state);
        if (mark == "none") Assert.True(count == Ops, state);
        return state;
    }

    private ulong Count() => BinaryPrimitives.ReadUInt64LittleEndian(File.ReadAllBytes(Cow).AsSpan(CowHeader.MergeCountOffset));

    private static BinaryResult Run(string[] command) => Binary.RunProgram(command[0], command[1..]);

    private static int Run(string[] command, Action<Process> use)
    {
        using Process process = Binary.StartProgram(command[0], command[1..]);
        try
        {
            use(process);
            Assert.True(process.WaitForExit(60_000), string.Join(' ', command));
            return process.ExitCode;
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    /// <summary>A chain of copies, which takes two windows, then blocks that any count allows.</summary>
    private void Make()
    {
        Random random = new(17);
        _old = new byte[Blocks * CowOp.BlockSize];
        random.NextBytes(_old);
        byte[] payload = new byte[CowOp.BlockSize];
        CowBuilder cow = new() { ScratchBytes = 6 * CowOp.BlockSize };
        for (uint i = 0; i < 8; i++) cow.Copy(i, i + 1);
        for (uint i = 9; i < 13; i++)
        {
            random.NextBytes(payload);
            cow.Replace(i, payload);
        }
        (_cow, _new) = (cow.Build(), NaiveMerger.Merge(cow, _old));
    }

    private void Put(string? mark)
    {
        File.WriteAllBytes(Cow, _cow);
        File.WriteAllBytes(Base, _old);
        File.Delete(Marker);
        File.Delete(Marker + ".new");
        if (mark != null) File.WriteAllText(Marker, mark);
        // An earlier killed boot left an unnamed marker without content.
        if (mark != null) File.WriteAllText(Marker + ".new", "");
    }
}
