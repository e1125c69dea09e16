using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Threading;
using System.Threading.Tasks;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The start before the first managed line: the environment, and a runtime that cannot start.</summary>
public sealed class StartTests
{
    private const string Vector = "v3-zstd-4k-xor";

    [Theory]
    [InlineData("DOTNET_GCHeapHardLimit", "1000")]
    [InlineData("DOTNET_GCHeapHardLimit", "1")]
    [InlineData("DOTNET_gcServer", "1")]
    [InlineData("DOTNET_GCgen0size", "ffffffffff")]
    [InlineData("DOTNET_GCRegionRange", "1000")]
    [InlineData("DOTNET_GCRegionSize", "10000000000")]
    [InlineData("DOTNET_GCName", "nothing.so")]
    [InlineData("DOTNET_GCLargePages", "1")]
    [InlineData("DOTNET_GCHeapHardLimitPercent", "0")]
    [InlineData("DOTNET_DbgEnableMiniDump", "1")]
    [InlineData("DOTNET_EnableEventPipe", "1")]
    [InlineData("DOTNET_Thread_DefaultStackSize", "1")]
    [InlineData("DOTNET_EnableSSE42", "0")]
    [InlineData("DOTNET_EnableHWIntrinsic", "0")]
    [InlineData("DOTNET_TotallyUnknown", "")]
    [InlineData("COMPlus_GCHeapHardLimit", "1000")]
    public void Merge_works_with_variables_of_the_NET_runtime_in_the_environment(string name, string value)
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(folder["base"], Golden.Old);
        BinaryResult result =
            Binary.RunProgram(Binary.Path, ["merge", "--cow", folder["cow"], "--base", folder["base"], "--progress", "never"],
                new Dictionary<string, string> { [name] = value });
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(folder["base"]));
    }

    [Theory]
    [InlineData("version")]
    [InlineData("inspect COW --ops")]
    [InlineData("verify --cow COW --base BASE")]
    [InlineData("extract --cow COW --base BASE --output OUTPUT")]
    [InlineData("create --source BASE --target NEW --output OUTPUT --progress never")]
    public void With_any_address_space_a_verb_works_or_ends_with_71(string words)
    {
        using Files files = new();
        // Below 8 MiB the kernel itself cannot map the program, and kills it before its first instruction.
        List<int> codes = [];
        for (int mebi = 8; mebi <= 200; mebi += 3)
        {
            BinaryResult result =
                files.Run(["prlimit", "--core=0", string.Create(CultureInfo.InvariantCulture, $"--as={mebi << 20}"), Binary.Path], words);
            Assert.True(result.ExitCode is 0 or 71, $"{mebi} MiB: {result}");
            if (result.ExitCode == 71) Assert.Matches("^snapuserd: [^\\n]+\\n$", result.Error);
            codes.Add(result.ExitCode);
        }
        // More address space never makes the result worse.
        Assert.Equal(codes.OrderDescending(), codes);
        Assert.Equal([0, 71], codes.Distinct().Order());
    }

    [Theory]
    [InlineData(1 << 20)]
    [InlineData(8 << 20)]
    [InlineData(120 << 20)]
    [InlineData(130 << 20)]
    [InlineData(256 << 20)]
    public void With_any_limit_on_the_size_of_a_mapping_a_merge_works_or_ends_with_71(int most)
    {
        using Files files = new();
        BinaryResult result = files.Run([CProgram.Compile("Support", "refuse"), "map", most.ToString(CultureInfo.InvariantCulture),
            Binary.Path], "merge --cow COW --base BASE --json");
        Assert.True(result.ExitCode == (most >= 127 << 20 ? 0 : 71), result.ToString());
        if (result.ExitCode == 0) files.IsTarget();
        else Assert.Equal(71, JsonDocument.Parse(result.Output).RootElement.GetProperty("exit_code").GetInt32());
        if (result.ExitCode == 71)
            Assert.Equal($"snapuserd: {JsonDocument.Parse(result.Output).RootElement.GetProperty("message").GetString()}\n", result.Error);
    }

    [Fact]
    public void Threads_are_not_made_by_clone3()
    {
        using Files files = new();
        BinaryResult result = files.Run(["strace", "-f", "-qq", "-e", "trace=clone,clone3", "-o", files["trace"], Binary.Path],
            "merge --cow COW --base BASE");
        Assert.True(result.ExitCode == 0, result.ToString());
        string trace = File.ReadAllText(files["trace"]);
        Assert.Contains("clone(", trace);
        Assert.DoesNotContain("clone3", trace);
    }

    [RootTheory]
    [InlineData("pids", "auto")]
    [InlineData("pids", "sync")]
    [InlineData("pids", "uring")]
    [InlineData("nproc", "auto")]
    [InlineData("nproc", "sync")]
    [InlineData("nproc", "uring")]
    public void With_any_number_of_allowed_tasks_a_merge_works_or_ends_with_71_and_the_next_run_merges(string limit, string io)
    {
        List<int> codes = [];
        for (int tasks = 1; tasks <= 12; tasks++)
        {
            using Files files = new();
            using PidsGroup? group = limit == "pids" ? new PidsGroup(tasks) : null;
            BinaryResult result = files.Run([.. Limited(tasks, group), files["snapuserd"]],
                $"merge --cow COW --base BASE --io {io} --progress never");
            Assert.True(result.ExitCode is 0 or 71, $"{tasks} tasks: {result}");
            if (result.ExitCode == 71) Assert.Matches("(?m)^snapuserd: .*(thread|tasks)", result.Error);
            codes.Add(result.ExitCode);
            if (result.ExitCode != 0) Assert.Equal(0, files.Run([Binary.Path], "merge --cow COW --base BASE --progress never").ExitCode);
            files.IsTarget();
        }
        // The limit takes effect. Four tasks are enough: main thread, finalizer, one worker, and one kernel thread or another worker.
        Assert.Equal(71, codes[0]);
        Assert.All(codes[3..], code => Assert.Equal(0, code));
    }

    [RootTheory]
    [InlineData("pids", "verify --cow COW --base BASE")]
    [InlineData("pids", "extract --cow COW --base BASE --output OUTPUT")]
    [InlineData("pids", "create --source BASE --target NEW --output OUTPUT --progress never")]
    [InlineData("nproc", "verify --cow COW --base BASE")]
    [InlineData("nproc", "extract --cow COW --base BASE --output OUTPUT")]
    [InlineData("nproc", "create --source BASE --target NEW --output OUTPUT --progress never")]
    public void With_any_number_of_allowed_tasks_a_verb_works_or_ends_with_71(string limit, string words)
    {
        List<int> codes = [];
        for (int tasks = 1; tasks <= 12; tasks++)
        {
            using Files files = new();
            using PidsGroup? group = limit == "pids" ? new PidsGroup(tasks) : null;
            BinaryResult result = files.Run([.. Limited(tasks, group), files["snapuserd"]], words);
            Assert.True(result.ExitCode is 0 or 71, $"{tasks} tasks: {result}");
            if (result.ExitCode == 71) Assert.Matches("(?m)^snapuserd: .*(thread|tasks)", result.Error);
            codes.Add(result.ExitCode);
        }
        Assert.Equal(71, codes[0]);
        Assert.All(codes[3..], code => Assert.Equal(0, code));
    }

    [RootTheory]
    [InlineData("pids", 5)]
    [InlineData("nproc", 5)]
    public void With_any_number_of_allowed_tasks_a_server_serves_or_ends_with_71_and_a_signal_ends_it(string limit, int enough)
    {
        for (int tasks = 1; tasks <= 12; tasks++)
        {
            using Files files = new();
            using PidsGroup? group = limit == "pids" ? new PidsGroup(tasks) : null;
            using Process server = files.Start([.. Limited(tasks, group), files["snapuserd"]],
                "serve --cow COW --base BASE --device nbd --socket SOCKET --progress never");
            Task<string> error = server.StandardError.ReadToEndAsync();
            if (server.StandardOutput.ReadLine() is not null)
            {
                BinaryResult copy = Binary.RunProgram("nbdcopy", [$"nbd+unix:///?socket={files["socket"]}", files["copy"]]);
                Assert.True(copy.ExitCode == 0, $"{tasks} tasks: {copy}");
                Assert.True(Golden.New.AsSpan().SequenceEqual(File.ReadAllBytes(files["copy"])), $"{tasks} tasks: not the target");
            }
            _ = Libc.Kill(server.Id, Libc.SIGTERM);
            server.WaitForExit();
            Assert.True(server.ExitCode == 0 || (server.ExitCode == 71 && tasks < enough),
                $"{tasks} tasks: {server.ExitCode} {error.Result}");
            if (server.ExitCode == 71) Assert.Matches("(?m)^snapuserd: .*(thread|tasks)", error.Result);
        }
    }

    [RootTheory]
    [InlineData("pids")]
    [InlineData("nproc")]
    public void Signal_ends_the_daemon_even_when_no_further_task_is_allowed(string limit)
    {
        List<int> codes = [];
        for (int tasks = 1; tasks <= 8; tasks++)
        {
            using Files files = new();
            using PidsGroup? group = limit == "pids" ? new PidsGroup(tasks) : null;
            using Process daemon = files.Start([.. Limited(tasks, group), files["snapuserd"]],
                "daemon --socket SOCKET --device nbd --socket-folder FOLDER");
            Task<string> error = daemon.StandardError.ReadToEndAsync();
            using Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            while (!daemon.HasExited && !client.Connected)
            {
                try
                {
                    client.Connect(new UnixDomainSocketEndPoint(files["socket"]));
                }
                catch (SocketException)
                {
                    Thread.Yield();
                }
            }
            if (client.Connected)
            {
                // The daemon answers once it has all the threads that it can get.
                try
                {
                    client.Send(Encoding.ASCII.GetBytes($"init,a,{files["cow"]},{files["base"]},{files["base"]}"));
                    _ = client.Receive(new byte[200]);
                }
                catch (SocketException)
                {
                    // A daemon that cannot create a thread for its socket ends with 71.
                }
            }
            _ = Libc.Kill(daemon.Id, Libc.SIGTERM);
            daemon.WaitForExit();
            Assert.True(daemon.ExitCode is 0 or 71, $"{tasks} tasks: {daemon.ExitCode} {error.Result}");
            codes.Add(daemon.ExitCode);
        }
        Assert.Equal([71, 0], codes.Distinct());
    }

    /// <summary>
    /// The prefix of a command that limits it to the given number of tasks: a cgroup, or a separate user, because RLIMIT_NPROC counts the
    /// tasks of all processes of a user.
    /// </summary>
    private static string[] Limited(int tasks, PidsGroup? group) => group != null
        ? ["/bin/sh", "-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"", group.Path]
        : ["setpriv", $"--reuid={3_000_000 + (Environment.ProcessId % 10_000 * 100) + tasks}", "--clear-groups", "--bounding-set=-all",
            "--inh-caps=-all", "prlimit", $"--nproc={tasks}:{tasks}"];

    /// <summary>A COW and its base, in a folder that any user may use.</summary>
    private sealed class Files : IDisposable
    {
        private readonly TempFolder _folder = new();

        public Files()
        {
            File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
            File.WriteAllBytes(_folder["base"], Golden.Old);
            File.WriteAllBytes(_folder["new"], Golden.New);
            Binary.CopyTo(_folder["snapuserd"]);
            BinaryResult opened = Binary.RunProgram("chmod", ["-R", "a+rwX", _folder.Path]);
            Assert.True(opened.ExitCode == 0, opened.ToString());
        }

        public string this[string name] => _folder[name];

        public BinaryResult Run(string[] prefix, string words) => Binary.RunProgram(prefix[0], [.. prefix[1..], .. Words(words)]);

        public Process Start(string[] prefix, string words) => Binary.StartProgram(prefix[0], [.. prefix[1..], .. Words(words)]);

        private IEnumerable<string> Words(string words) => words.Split(' ').Select(word => word switch
        {
            "COW" => _folder["cow"],
            "BASE" => _folder["base"],
            "NEW" => _folder["new"],
            "OUTPUT" => _folder["output"],
            "SOCKET" => _folder["socket"],
            "FOLDER" => _folder.Path,
            _ => word,
        });

        public void IsTarget() =>
            Assert.True(Golden.New.AsSpan().SequenceEqual(File.ReadAllBytes(_folder["base"])), "the base is not the target");

        public void Dispose() => _folder.Dispose();
    }

    /// <summary>A cgroup, of version 1 or 2, that allows the given number of tasks.</summary>
    private sealed class PidsGroup : IDisposable
    {
        public PidsGroup(int tasks)
        {
            string parent = File.Exists("/sys/fs/cgroup/cgroup.controllers") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";
            Path = System.IO.Path.Combine(parent, $"snapuserd-test-{Guid.NewGuid():N}");
            Directory.CreateDirectory(Path);
            File.WriteAllText(System.IO.Path.Combine(Path, "pids.max"), tasks.ToString(CultureInfo.InvariantCulture));
        }

        public string Path { get; }

        public void Dispose()
        {
            // After its last process has ended, the kernel may need a moment until the group counts as empty.
            for (long end = Environment.TickCount64 + 60_000; ; Thread.Yield())
            {
                try
                {
                    Directory.Delete(Path);
                    return;
                }
                catch (IOException) when (Environment.TickCount64 < end)
                {
                }
            }
        }
    }
}
