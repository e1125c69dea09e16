using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading;
using System.Threading.Tasks;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// A seccomp filter refuses every system call that a verb makes, as found by strace, once with EPERM and once with ENOSYS. The verb works
/// as without the filter, or ends with a documented exit code and a message. It never ends with a signal, a hang, wrong bytes, or success
/// with a partial result. The same command without the filter finishes a merge that failed.
/// </summary>
public sealed class SandboxTests(ITestOutputHelper output)
{
    private const string Vector = "v3-zstd-4k-xor";
    private const int EPERM = 1, ENOSYS = 38, KilledByLimit = 137;

    /// <summary>Calls whose refusal prevents the C library's start or exit; docs/start.md describes the effect.</summary>
    private static readonly string[] s_ofTheLibrary = ["arch_prctl", "mprotect", "futex", "exit_group"];

    /// <summary>
    /// The call with which a signal handler returns. If it is refused, a run that should only stop ends with exit code 70.
    /// </summary>
    private const string ReturnFromSignal = "rt_sigreturn";

    private static readonly int[] s_table = [0, 64, 65, 66, 69, 71, 73, 74, 75, 76, 77];

    private static readonly Lazy<string> s_refuse = new(() => CProgram.Compile("Support", "refuse"));

    private static readonly string s_hash = Convert.ToHexString(SHA256.HashData(Golden.New));

    private readonly TempFolder _folder = new();
    private string _cow = "", _base = "";

    public static TheoryData<string> Verbs =>
        ["version", "help", "merge auto", "merge sync", "merge uring", "inspect", "verify", "extract", "create", "serve", "serve merge",
            "supervise", "daemon", "ctl", "boot"];

    [Theory]
    [MemberData(nameof(Verbs))]
    public void Verb_works_without_each_refused_system_call_or_ends_with_a_documented_code(string verb)
    {
        (_cow, _base) = (_folder["cow"], _folder["base"]);
        Sweep(verb, []);
    }

    /// <summary>
    /// Devices are looked up in the kernel's file systems; the program mounts these itself if they are not at their usual places.
    /// </summary>
    [RootTheory]
    [InlineData("merge auto")]
    [InlineData("merge without /sys and /dev")]
    [InlineData("verify")]
    public void Verb_on_devices_works_without_each_refused_system_call_or_ends_with_a_documented_code(string verb)
    {
        using TempFolder images = new();
        foreach ((string name, int bytes) in new[] { ("cow", Golden.Cow(Vector).Length), ("base", Golden.Old.Length) })
        {
            using FileStream file = File.Create(images[name]);
            file.SetLength((bytes + 4095) & ~4095);
        }
        using LoopDevice cow = new(images["cow"]), target = new(images["base"]);
        (_cow, _base) = (cow.Path, target.Path);
        string hide = $"mount -t tmpfs none /sys && mount --bind {cow.Path} {images["cow"]} && mount --bind {target.Path} {images["base"]}"
            + $" && mount -t tmpfs none /dev && touch {cow.Path} {target.Path} && mount --bind {images["cow"]} {cow.Path}"
            + $" && mount --bind {images["base"]} {target.Path} && exec \"$@\"";
        if (verb.Contains("without", StringComparison.Ordinal)) Sweep("merge auto", ["unshare", "--mount", "sh", "-c", hide, "sh"]);
        else Sweep(verb, []);
    }

    private void Sweep(string verb, string[] prefix)
    {
        string[] arguments = Arguments(verb);
        List<(int Number, string Name)> calls = Calls(verb, prefix, arguments);
        List<string> failures = [];
        Dictionary<string, int> codes = [];
        int tried = 0;
        foreach ((int number, string name) in calls)
        {
            if (s_ofTheLibrary.Contains(name)) continue;
            foreach (int errno in new[] { EPERM, ENOSYS })
            {
                Prepare();
                tried++;
                (int code, string error, string? wrong) = Run(verb,
                    ["-s", "KILL", "30", .. prefix, s_refuse.Value, errno.ToString(CultureInfo.InvariantCulture),
                        number.ToString(CultureInfo.InvariantCulture), Binary.Path, .. arguments]);
                if (!s_table.Contains(code) && !(code == 70 && name == ReturnFromSignal))
                    wrong = code == KilledByLimit ? "hangs or was killed" : "the exit code is not documented";
                // If write is refused, nothing can be printed to standard error.
                else if (code != 0 && name != "write" && !Regex.IsMatch(error, "(?m)^snapuserd: ")) wrong = "no error message";
                else if (code != 0 && verb.StartsWith("merge", StringComparison.Ordinal) && !Finishes())
                    wrong = "the next merge does not give the target";
                if (code != 0) codes[$"{name} {code}"] = codes.GetValueOrDefault($"{name} {code}") + 1;
                if (wrong != null)
                    failures.Add(
                        $"{verb}: {name} answers {(errno == EPERM ? "EPERM" : "ENOSYS")}: {wrong} (exit code {code}: {error.Trim()})");
            }
        }
        output.WriteLine($"{verb}: {tried} runs; calls that the verb needs: {string.Join(", ", codes.Keys)}");
        _folder.Dispose();
        Assert.True(failures.Count == 0, string.Join('\n', failures));
        Assert.True(tried > 20, $"only {tried} runs");
    }

    private string[] Arguments(string verb) => verb.Split(' ') switch
    {
        ["version"] => ["version"],
        ["help"] => ["help", "merge"],
        ["merge", var io] => ["merge", "--cow", _cow, "--base", _base, "--io", io, "--progress", "never"],
        ["inspect"] => ["inspect", _cow, "--ops"],
        ["verify"] => ["verify", "--cow", _cow, "--base", _base, "--sha256", s_hash],
        ["extract"] => ["extract", "--cow", _cow, "--base", _base, "--output", _folder["output"], "--progress", "never"],
        ["create"] => ["create", "--source", _base, "--target", _folder["new"], "--output", _folder["output"], "--progress", "never"],
        ["serve"] => ["serve", "--cow", _cow, "--base", _base, "--device", "nbd", "--socket", _folder["nbd"], "--progress", "never"],
        ["serve", "merge"] => [.. Arguments("serve"), "--merge", "--control", _folder["control"]],
        ["supervise"] => ["serve", "--cow", _cow, "--base", _base, "--device", "ublk", "--name", "ublkb7", "--supervise"],
        ["daemon"] => ["daemon", "--socket", _folder["control"], "--device", "nbd", "--socket-folder", _folder["devices"]],
        ["ctl"] => ["ctl", "--socket", _folder["control"], "status"],
        ["boot"] => ["boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder", _folder["run"],
            "--wait", "0"],
        _ => throw new ArgumentOutOfRangeException(nameof(verb), verb, "no such case"),
    };

    private void Prepare()
    {
        foreach (string path in Directory.GetFileSystemEntries(_folder.Path))
        {
            if (Directory.Exists(path)) Directory.Delete(path, recursive: true);
            else File.Delete(path);
        }
        Fill(_cow, Golden.Cow(Vector));
        Fill(_base, Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        Directory.CreateDirectory(_folder["devices"]);
        File.WriteAllText(_folder["table"], $"a {_cow} {_base}\n");
        File.WriteAllText(_folder["cmdline"], "quiet");
    }

    private static void Fill(string path, byte[] bytes)
    {
        using FileStream file = new(path, FileMode.OpenOrCreate, FileAccess.Write);
        file.Write(bytes);
    }

    /// <summary>The system calls of a run without a filter, by number and name, of all threads and children.</summary>
    private List<(int Number, string Name)> Calls(string verb, string[] prefix, string[] arguments)
    {
        Prepare();
        string trace = Path.GetTempFileName();
        (int code, string error, string? wrong) =
            Run(verb, ["-s", "KILL", "100", .. prefix, "strace", "-f", "-qq", "-n", "-o", trace, Binary.Path, .. arguments]);
        Assert.True(wrong == null && s_table.Contains(code), $"{verb} without a filter: {code} {wrong} {error}");
        // boot needs a device mapper, and the supervisor's server a ublk driver. A server that still merges when it receives SIGTERM stops
        // at a checkpoint (75).
        if (verb is not ("boot" or "supervise"))
            Assert.True(code == 0 || (code == 75 && verb == "serve merge"), $"{verb} without a filter: {code} {error}");
        MatchCollection found = Regex.Matches(File.ReadAllText(trace), @"(?m)^\d+ +\[ *(\d+)\] ([a-z0-9_]+)\(");
        File.Delete(trace);
        return found.Select(one => (int.Parse(one.Groups[1].ValueSpan, CultureInfo.InvariantCulture), one.Groups[2].Value)).Distinct()
            .OrderBy(one => one).ToList();
    }

    private bool Finishes()
    {
        BinaryResult last = Binary.Run("merge", "--cow", _cow, "--base", _base, "--progress", "never");
        return last.ExitCode == 0 && Golden.New.AsSpan().SequenceEqual(File.ReadAllBytes(_base));
    }

    /// <summary>
    /// Runs a command under `timeout`, and checks the result of a verb that reports success. Returns what is wrong with it, or null.
    /// </summary>
    private (int Code, string Error, string? Wrong) Run(string verb, string[] command)
    {
        if (verb is "serve" or "serve merge") return Serve(command, merges: verb == "serve merge");
        if (verb == "daemon") return Daemon(command);
        if (verb == "ctl") return Ctl(command);
        BinaryResult result = Binary.RunProgram("timeout", command);
        string? wrong = (result.ExitCode, verb) switch
        {
            (not 0, "extract") => File.Exists(_folder["output"]) ? Is(_folder["output"], Golden.New) : null,
            (not 0, "create") => File.Exists(_folder["output"]) && !IsRight(_folder["output"]) ? "a failed run left an output" : null,
            (not 0, _) => null,
            (_, "version") => result.Output.StartsWith("snapuserd ", StringComparison.Ordinal) ? null : "no version",
            (_, "help") => result.Output.Contains("--cow FILE", StringComparison.Ordinal) ? null : "no help",
            (_, "inspect") => result.Output.Split('\n').Length > Golden.Row(Vector).MergeOps ? null : "not all ops are listed",
            (_, "extract") => Is(_folder["output"], Golden.New),
            (_, "create") => IsRight(_folder["output"]) ? null : "the COW is wrong",
            (_, "merge auto" or "merge sync" or "merge uring") => Is(_base, Golden.New),
            _ => null,
        };
        return (result.ExitCode, result.Error, wrong);
    }

    private bool IsRight(string cow) => Binary.Run("verify", "--cow", cow, "--base", _base, "--sha256", s_hash).ExitCode == 0;

    private static string? Is(string path, byte[] expected) =>
        expected.AsSpan().SequenceEqual(File.ReadAllBytes(path)) ? null : $"{Path.GetFileName(path)} is wrong";

    private (int Code, string Error, string? Wrong) Serve(string[] command, bool merges)
    {
        using Process server = Binary.StartProgram("timeout", command);
        Task<string> error = server.StandardError.ReadToEndAsync();
        string? wrong = null;
        if (server.StandardOutput.ReadLine() is not null)
        {
            BinaryResult copy =
                Binary.RunProgram("timeout", ["-s", "KILL", "10", "nbdcopy", $"nbd+unix:///?socket={_folder["nbd"]}", _folder["copy"]]);
            // The client gets an error, or notices that the server is gone.
            if (copy.ExitCode == KilledByLimit) wrong = "the client waits for ever";
            else if (copy.ExitCode == 0) wrong = Is(_folder["copy"], Golden.New);
        }
        Terminate(server);
        server.WaitForExit();
        if (merges && !Finishes()) wrong ??= "the next merge does not give the target";
        return (server.ExitCode, error.Result, wrong);
    }

    private (int Code, string Error, string? Wrong) Daemon(string[] command)
    {
        using Process daemon = Binary.StartProgram("timeout", command);
        Task<string> error = daemon.StandardError.ReadToEndAsync();
        string? wrong = null;
        using Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 20_000 };
        while (!daemon.HasExited && !client.Connected)
        {
            try
            {
                client.Connect(new UnixDomainSocketEndPoint(_folder["control"]));
            }
            catch (SocketException)
            {
                Thread.Sleep(1);
            }
        }
        if (client.Connected && Ask(client, $"init,system_b,{_cow},{_base},{_base}").StartsWith("success", StringComparison.Ordinal)
            && Ask(client, "start,system_b") == "success")
        {
            BinaryResult copy = Binary.RunProgram("timeout",
                ["-s", "KILL", "10", "nbdcopy", $"nbd+unix:///?socket={_folder["devices/system_b"]}", _folder["copy"]]);
            if (copy.ExitCode == KilledByLimit) wrong = "the client waits for ever";
            else if (copy.ExitCode == 0) wrong = Is(_folder["copy"], Golden.New);
        }
        Terminate(daemon);
        daemon.WaitForExit();
        return (daemon.ExitCode, error.Result, wrong);
    }

    /// <summary>
    /// Sends SIGTERM to the program that `timeout` runs, and to all processes below it. A signal to `timeout` alone is not enough: before
    /// its own fork has returned, `timeout` would end without passing the signal on, and the program would continue.
    /// </summary>
    private static void Terminate(Process timeout)
    {
        List<int> below = [];
        // Waits until `timeout` has started its child, which it has until its end.
        while (below.Count == 0 && !timeout.HasExited) AddChildren(timeout.Id, below);
        foreach (int id in below) _ = Libc.Kill(id, Libc.SIGTERM);
    }

    private static void AddChildren(int id, List<int> below)
    {
        string children;
        try
        {
            children = File.ReadAllText($"/proc/{id}/task/{id}/children");
        }
        catch (IOException)
        {
            // The process has ended.
            return;
        }
        foreach (string child in children.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            below.Add(int.Parse(child, CultureInfo.InvariantCulture));
            AddChildren(below[^1], below);
        }
    }

    private static string Ask(Socket client, string message)
    {
        try
        {
            client.Send(Encoding.ASCII.GetBytes(message));
            byte[] answer = new byte[200];
            return Encoding.ASCII.GetString(answer, 0, client.Receive(answer));
        }
        catch (SocketException)
        {
            return "";
        }
    }

    private (int Code, string Error, string? Wrong) Ctl(string[] command)
    {
        using Process server = Binary.Start(Arguments("serve merge"));
        try
        {
            Assert.NotNull(server.StandardOutput.ReadLine());
            BinaryResult result = Binary.RunProgram("timeout", command);
            return (result.ExitCode, result.Error,
                result.ExitCode != 0 || result.Output.Contains("cow", StringComparison.Ordinal) ? null : "no status");
        }
        finally
        {
            server.Kill();
            server.WaitForExit();
        }
    }
}
