using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.Json;
using System.Threading;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Scarce resources: disk space; memory that may be locked, mapped or used; descriptors; io_uring.</summary>
public sealed class ScarcityTests(ITestOutputHelper output)
{
    /// <summary>The exit code of a program that SIGKILL has ended.</summary>
    private const int Killed = 137;

    private const int MostKills = 5;

    private const string Vector = "v3-zstd-4k-xor";
    private const int Blocks = 1200;

    /// <summary>Replaces into holes of the base, and a chain of copies that goes through scratch, which is a hole of the COW.</summary>
    private static CowBuilder Holes(out byte[] old)
    {
        Random random = new(7);
        old = new byte[Blocks * CowOp.BlockSize];
        random.NextBytes(old.AsSpan(0, 600 * CowOp.BlockSize));
        CowBuilder cow = new();
        for (uint i = 0; i < 599; i++) cow.Copy(i, i + 1);
        byte[] unit = new byte[CowOp.BlockSize];
        for (uint i = 600; i < Blocks; i++)
        {
            random.NextBytes(unit);
            cow.Replace(i, unit);
        }
        return cow;
    }

    [RootTheory]
    [InlineData("base", "uring", false)]
    [InlineData("base", "sync", false)]
    [InlineData("base", "uring", true)]
    [InlineData("base", "sync", true)]
    [InlineData("cow", "uring", false)]
    [InlineData("cow", "sync", false)]
    [InlineData("cow", "uring", true)]
    [InlineData("cow", "sync", true)]
    public void Disk_that_fills_up_during_a_merge_is_74_and_the_same_command_continues_when_there_is_space(string full,
        string io, bool loop)
    {
        CowBuilder builder = Holes(out byte[] old);
        byte[] expected = NaiveMerger.Merge(builder, old), content = builder.Build(),
            cow = [.. content, .. new byte[4096 - (content.Length % 4096)]];
        using TempFolder folder = new();
        using TmpFs small = new(24 << 20);
        string file = small["disk"], other = folder["other"];
        small.WriteSparse("disk", full == "base" ? old : cow);
        File.WriteAllBytes(other, full == "base" ? cow : old);
        using LoopDevice? device = loop ? new LoopDevice(file) : null;
        (string cowPath, string basePath) = full == "base" ? (other, device?.Path ?? file) : (device?.Path ?? file, other);
        small.Fill(600 << 10);

        BinaryResult result = Binary.Run("merge", "--cow", cowPath, "--base", basePath, "--io", io, "--progress", "never");
        Assert.True(result.ExitCode == 74, result.ToString());
        // A loop device may report EIO instead of ENOSPC.
        Assert.Matches(loop ? "^snapuserd: [^\\n]*(ENOSPC|EIO)[^\\n]*\\n$" : "^snapuserd: [^\\n]*ENOSPC[^\\n]*\\n$", result.Error);

        small.MakeRoom();
        BinaryResult last = Binary.Run("merge", "--cow", cowPath, "--base", basePath, "--io", io, "--progress", "never");
        Assert.True(last.ExitCode == 0, last.ToString());
        Assert.True(expected.AsSpan().SequenceEqual(Unlocked.Read(basePath, expected.Length)), "the base is not the target");
    }

    [RootTheory]
    [InlineData("auto")]
    [InlineData("uring")]
    public void Without_lockable_memory_a_merge_works_unless_a_ring_that_needs_some_was_requested(string io)
    {
        using Files files = new();
        BinaryResult result = Binary.RunProgram("setpriv", ["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit",
            "--memlock=0:0", Binary.Path, .. files.Merge(io)]);
        // Before 5.12 and again on 6.18 the rings themselves count against the limit, so that none can be created.
        Assert.True(result.ExitCode == 0 || (io == "uring" && result.ExitCode == 71), result.ToString());
        if (result.ExitCode == 0)
        {
            files.IsTarget();
            return;
        }
        Assert.Contains("RLIMIT_MEMLOCK (now 0 bytes)", result.Error);
        files.Untouched();
    }

    [Theory]
    [InlineData("uring")]
    [InlineData("sync")]
    public void With_few_descriptors_a_merge_works_or_ends_with_71_and_the_next_run_merges(string io)
    {
        HashSet<int> codes = [];
        for (int descriptors = 3; descriptors <= 16; descriptors++)
        {
            using Files files = new();
            BinaryResult result = Limited(files, io, string.Create(CultureInfo.InvariantCulture, $"--nofile={descriptors}"));
            Assert.True(result.ExitCode is 0 or 71, $"{descriptors} descriptors: {result}");
            if (result.ExitCode == 71) Assert.Matches("^snapuserd: [^\\n]*\\n$", result.Error);
            codes.Add(result.ExitCode);
            GoesOn(files);
        }
        // The limit takes effect, and sixteen descriptors are enough.
        Assert.Equal([0, 71], codes.Order());
    }

    [Theory]
    [InlineData("uring")]
    [InlineData("sync")]
    public void With_little_address_space_a_merge_works_or_ends_with_71_and_the_next_run_merges(string io)
    {
        List<(int, int)> codes = [];
        for (int mebi = 16; mebi <= 256; mebi += 10)
        {
            using Files files = new();
            BinaryResult result = Limited(files, io, string.Create(CultureInfo.InvariantCulture, $"--as={mebi << 20}"));
            codes.Add((mebi, result.ExitCode));
            Assert.True(result.ExitCode is 0 or 71, $"{mebi} MiB of address space: {result}");
            if (result.ExitCode == 71) Assert.Matches("^snapuserd: [^\\n]*\\n$", result.Error);
            GoesOn(files);
        }
        output.WriteLine(string.Join(", ", codes));
        Assert.NotEqual(0, codes[0].Item2);
        Assert.Equal(0, codes[^1].Item2);
    }

    [RootTheory]
    [InlineData("uring")]
    [InlineData("sync")]
    public void A_memory_cgroup_of_32_MiB_is_enough_for_a_merge_of_far_more_bytes_and_ops(string io)
    {
        // 128 MiB of base, 64 MiB of payload and 200 000 ops: the page cache cannot hold either file, and the ops take 7 MB besides the 8
        // MiB of buffers.
        const int blocks = 32 * 1024, zeros = 180_000;
        using TempFolder folder = new();
        Random random = new(11);
        byte[] unit = new byte[64 * 1024];
        CowBuilder cow = new() { MaxUnitBytes = unit.Length };
        random.NextBytes(unit);
        for (uint i = 0; i < blocks / 2; i += 16) cow.Replace(i, unit);
        for (uint i = 0; i < blocks / 2; i++) cow.Copy((blocks / 2) + i, i);
        for (uint i = 0; i < zeros; i++) cow.Zero(blocks + i);
        // Copies first: they read blocks that the Replaces overwrite.
        byte[] old = new byte[blocks * CowOp.BlockSize / 2];
        random.NextBytes(old);
        File.WriteAllBytes(folder["cow"], Reordered(cow).Build());
        using (FileStream file = File.Create(folder["base"]))
        {
            file.Write(old);
            file.SetLength((long)(blocks + zeros) * CowOp.BlockSize);
        }
        LoopDevice.Call("sync", folder["cow"], folder["base"]);

        using MemoryGroup group = new(32 << 20);
        // A group of version 1 may be full of pages that wait for a slow disk. The kernel may then kill the writer for a page of the file
        // system itself (GFP_NOFS), whatever the writer's memory is. The same command continues the merge. The peak shows that the merge
        // needs no more than its share.
        string[] words = [Binary.Path, "merge", "--cow", folder["cow"], "--base", folder["base"], "--memory", "8M", "--io", io, "--json",
            "--progress", "never"];
        BinaryResult result = group.Run(words);
        for (int kills = 1; result.ExitCode == Killed && kills < MostKills; kills++)
        {
            output.WriteLine($"killed, {kills}: {group.Events}");
            result = group.Run(words);
        }

        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement done = JsonDocument.Parse(result.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        output.WriteLine($"{io}: {group.Events}, peak {done.GetProperty("peak_memory").GetInt64() >> 10} KiB, "
            + $"{done.GetProperty("seconds").GetDouble():F1} s");
        Assert.InRange(done.GetProperty("peak_memory").GetInt64(), 1, 24 << 20);
        // The limit takes effect: the kernel had to reclaim pages to stay below it.
        Assert.True(group.Hits > 0, group.Events);
        byte[] head = Unlocked.Read(folder["base"], blocks * CowOp.BlockSize);
        Assert.True(head.AsSpan(old.Length).SequenceEqual(old), "the copies are wrong");
        for (int at = 0; at < old.Length; at += unit.Length)
            Assert.True(head.AsSpan(at, unit.Length).SequenceEqual(unit), "the Replaces are wrong");
    }

    private static CowBuilder Reordered(CowBuilder cow)
    {
        CowBuilder ordered = new() { MaxUnitBytes = cow.MaxUnitBytes };
        foreach (BuiltOp op in cow.Ops.Where(op => op.Type == CowOpType.Copy)) ordered.Add(op);
        foreach (BuiltOp op in cow.Ops.Where(op => op.Type != CowOpType.Copy)) ordered.Add(op);
        return ordered;
    }

    [Theory]
    [InlineData(1)]
    [InlineData(38)]
    public void Under_a_seccomp_filter_without_io_uring_auto_merges_with_synchronous_calls_and_uring_is_69(int errno)
    {
        string noring = CProgram.Compile("EndToEnd", "noring");
        using Files files = new();
        string number = errno.ToString(CultureInfo.InvariantCulture);
        BinaryResult asked = Binary.RunProgram(noring, [number, Binary.Path, .. files.Merge("uring")]);
        Assert.True(asked.ExitCode == 69, asked.ToString());
        files.Untouched();

        BinaryResult result = Binary.RunProgram(noring, [number, Binary.Path, .. files.Merge("auto")]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("\"io\":\"sync\"", result.Output);
        files.IsTarget();
    }

    private static BinaryResult Limited(Files files, string io, string limit) =>
        Binary.RunProgram("prlimit", ["--core=0", limit, Binary.Path, .. files.Merge(io)]);

    private static void GoesOn(Files files)
    {
        BinaryResult last = Binary.RunProgram(Binary.Path, files.Merge("auto"));
        Assert.True(last.ExitCode == 0, last.ToString());
        files.IsTarget();
    }

    /// <summary>A golden COW and its base.</summary>
    private sealed class Files : IDisposable
    {
        private readonly TempFolder _folder = new();

        public Files()
        {
            File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
            File.WriteAllBytes(_folder["base"], Golden.Old);
        }

        public string this[string name] => _folder[name];

        public string[] Merge(string io) =>
        [
            "merge", "--cow", _folder["cow"], "--base", _folder["base"], "--io", io, "--memory", "8M", "--json", "--progress", "never",
        ];

        public void IsTarget() =>
            Assert.True(Golden.New.AsSpan().SequenceEqual(File.ReadAllBytes(_folder["base"])), "the base is not the target");

        public void Untouched()
        {
            Assert.True(Golden.Old.AsSpan().SequenceEqual(File.ReadAllBytes(_folder["base"])), "the base has changed");
            Assert.True(Golden.Cow(Vector).AsSpan().SequenceEqual(File.ReadAllBytes(_folder["cow"])), "the COW has changed");
        }

        public void Dispose() => _folder.Dispose();
    }

    /// <summary>A memory cgroup, of version 1 or 2, for the duration of a test.</summary>
    private sealed class MemoryGroup : IDisposable
    {
        private readonly string _path;
        private readonly bool _unified = File.Exists("/sys/fs/cgroup/cgroup.controllers");

        public MemoryGroup(long bytes)
        {
            string parent = _unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
            _path = Path.Combine(parent, $"snapuserd-test-{Guid.NewGuid():N}");
            Directory.CreateDirectory(_path);
            File.WriteAllText(Path.Combine(_path, _unified ? "memory.max" : "memory.limit_in_bytes"),
                bytes.ToString(CultureInfo.InvariantCulture));
        }

        /// <summary>The kernel's counters, as text.</summary>
        public string Events => (_unified ? File.ReadAllText(Path.Combine(_path, "memory.events")) : "max "
            + File.ReadAllText(Path.Combine(_path, "memory.failcnt"))).Trim();

        /// <summary>How often the limit was hit.</summary>
        public long Hits => long.Parse(Events.Split('\n').Single(line => line.StartsWith("max ", StringComparison.Ordinal)).AsSpan(4),
            CultureInfo.InvariantCulture);

        /// <summary>
        /// Runs a program in the group, as a child of a shell: a process inherits the peak of the process that forked it, and the test host
        /// is large.
        /// </summary>
        public BinaryResult Run(params string[] command) =>
            Binary.RunProgram("/bin/sh", ["-c", "echo $$ >\"$0/cgroup.procs\" && \"$@\"; exit $?", _path, .. command]);

        public void Dispose()
        {
            // After its last process has ended, the kernel may need a moment until the group counts as empty.
            for (long end = Environment.TickCount64 + 60_000; ; Thread.Yield())
            {
                try
                {
                    Directory.Delete(_path);
                    return;
                }
                catch (IOException) when (Environment.TickCount64 < end)
                {
                }
            }
        }
    }
}
