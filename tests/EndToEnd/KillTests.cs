using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The real program on the real kernel, killed with SIGKILL at the entry of its n-th system call, resumed (and sometimes killed again), and
/// compared with the target. 5 images × 2 queues × 24 points, and more.
/// </summary>
public sealed class KillTests(ITestOutputHelper output)
{
    private const int Points = 24;

    private sealed record Pair(byte[] Cow, byte[] Old, byte[] New);

    [Theory]
    [InlineData("v2", "uring")]
    [InlineData("v2", "sync")]
    [InlineData("v3", "uring")]
    [InlineData("v3", "sync")]
    [InlineData("chain", "uring")]
    [InlineData("chain", "sync")]
    [InlineData("permutation", "uring")]
    [InlineData("permutation", "sync")]
    [InlineData("xor-in-place", "uring")]
    [InlineData("xor-in-place", "sync")]
    public void Merge_killed_at_any_system_call_is_finished_by_the_next_run(string image, string io)
    {
        Pair pair = Make(image);
        using TempFolder folder = new();
        string calls = io == "uring" ? "io_uring_enter" : "pwrite64,fdatasync";
        int total = Count(pair, folder, io, calls);
        int killed = 0, again = 0, limit = total;
        HashSet<int> used = [];
        // A merge with fewer calls is killed at each of them.
        while (killed < Math.Min(Points, limit))
        {
            int when = Next(killed, limit, used);
            (string cow, string target) = Put(pair, folder);
            BinaryResult result = Killed(cow, target, io, calls, when);
            if (result.ExitCode == 137) killed++;
            else Assert.True(result.ExitCode == 0, result.ToString());
            // The number of calls with a ring depends on how many completions each call finds. A faster run makes fewer calls.
            if (result.ExitCode == 0) limit = when - 1;

            Unlocked.Settle(cow, target);
            if (when % 3 == 0)
            {
                BinaryResult second = Killed(cow, target, io, calls, 1 + (when / 2));
                if (second.ExitCode == 137) again++;
                else Assert.True(second.ExitCode == 0, second.ToString());
                Unlocked.Settle(cow, target);
            }
            // The resume uses the same kind of queue as often as the other kind.
            BinaryResult last = Binary.Run("merge", "--cow", cow, "--base", target, "--io", when % 2 == 0 ? "uring" : "sync",
                "--progress", "never");
            Assert.True(last.ExitCode == 0, $"killed at call {when} of {total}: {last}");
            Assert.True(pair.New.AsSpan().SequenceEqual(File.ReadAllBytes(target)),
                $"killed at call {when} of {total}: the base is not the target");
        }
        Assert.True(killed > 8, $"killed at {killed} calls only");
        output.WriteLine($"{image}, {io}: {total} calls, killed at {killed} of them, {again} resumed runs killed too");
    }

    [RootTheory]
    [InlineData("permutation", "uring")]
    [InlineData("permutation", "sync")]
    [InlineData("v3", "uring")]
    [InlineData("xor-in-place", "uring")]
    public void Merge_killed_with_writes_in_flight_on_loop_devices_is_finished_by_the_next_run(string image, string io)
    {
        const int kills = 6;
        Pair pair = Make(image);
        using TempFolder folder = new();
        int seed = image.Length + io.Length, missed = 0;
        Random random = new(seed);
        // A loop device has whole sectors, so the COW on it is a little longer than its content, as on a phone.
        (string cowFile, string baseFile) = Put(pair with { Cow = [.. pair.Cow, .. new byte[4096 - (pair.Cow.Length % 4096)]] }, folder);
        using LoopDevice cow = new(cowFile), target = new(baseFile);
        int end = KillAt.Count(cow.Path, target.Path, io);
        // A merge that finds everything done consists of little more than the start of the program.
        int start = KillAt.Count(cow.Path, target.Path, io), limit = end;
        for (int killed = 0; killed < kills;)
        {
            Assert.True(limit > start, $"seed {seed}: no further run made {start} to {end} calls");
            Fill(cow.Path, pair.Cow);
            Fill(target.Path, pair.Old);
            int when = random.Next(start, limit);
            BinaryResult result = KillAt.Merge(when, cow.Path, target.Path, io);
            if (result.ExitCode == 137) killed++;
            else
            {
                // With a ring whose completions arrive faster, the run makes fewer calls and ends before the kill.
                Assert.True(result.ExitCode == 0, result.ToString());
                (limit, missed) = (when, missed + 1);
            }
            Unlocked.Settle(cow.Path, target.Path);
            BinaryResult last = Binary.Run("merge", "--cow", cow.Path, "--base", target.Path, "--io",
                (killed + missed) % 2 == 0 ? "uring" : "sync", "--progress", "never");
            Assert.True(last.ExitCode == 0, $"seed {seed}, killed at call {when}: {last}");
            LoopDevice.Call("blockdev", "--flushbufs", target.Path);
            Assert.True(pair.New.AsSpan().SequenceEqual(File.ReadAllBytes(baseFile)),
                $"seed {seed}, killed at call {when}: the base is not the target");
        }
        output.WriteLine($"{image}, {io}, seed {seed}: {start} to {end} calls, {kills} runs killed, {missed} ended before their kill");
    }

    private static void Fill(string device, byte[] bytes)
    {
        using FileStream stream = new(device, FileMode.Open, FileAccess.Write);
        stream.Write(bytes);
        stream.Flush(flushToDisk: true);
    }

    /// <summary>
    /// The call at which to kill next. The first calls write nothing yet. The first window and its commits come early, so early points are
    /// dense: half of them are in the first quarter of the calls.
    /// </summary>
    private static int Next(int killed, int limit, HashSet<int> used)
    {
        int when = Math.Max(1, (int)((long)limit * (killed + 1) * (killed + 1) / (Points * Points)));
        while (!used.Add(when) && when < limit) when++;
        return when;
    }

    private static (string Cow, string Base) Put(Pair pair, TempFolder folder)
    {
        File.WriteAllBytes(folder["cow"], pair.Cow);
        File.WriteAllBytes(folder["base"], pair.Old);
        return (folder["cow"], folder["base"]);
    }

    private static int Count(Pair pair, TempFolder folder, string io, string calls)
    {
        (string cow, string target) = Put(pair, folder);
        BinaryResult result = Binary.RunProgram("strace",
            ["-f", "-qq", "-o", folder["trace"], "-e", $"trace={calls}", Binary.Path, "merge", "--cow", cow, "--base", target, "--io", io,
                "--progress", "never"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(pair.New, File.ReadAllBytes(target));
        int count = 0;
        foreach (string line in File.ReadLines(folder["trace"]))
            if (line.Contains('(', StringComparison.Ordinal)) count++;
        return count;
    }

    private static BinaryResult Killed(string cow, string target, string io, string calls, int when) => Binary.RunProgram("strace",
        ["-f", "-qq", "-o", "/dev/null", "-e", $"trace={calls}", "-e",
            string.Create(CultureInfo.InvariantCulture, $"inject={calls}:signal=SIGKILL:when={when}"),
            Binary.Path, "merge", "--cow", cow, "--base", target, "--io", io, "--progress", "never"]);

    private static Pair Make(string image)
    {
        if (image == "v2") return new Pair(Golden.Cow("v2-gz-xor"), Golden.Old, Golden.New);
        if (image == "v3") return new Pair(Golden.Cow("v3-zstd-256k-xor"), Golden.Old, Golden.New);

        const int blocks = 700;
        Random random = new(image.Length);
        byte[] old = new byte[blocks * CowOp.BlockSize];
        random.NextBytes(old);
        CowBuilder cow = new();
        switch (image)
        {
            case "chain":
                for (uint i = 0; i < blocks - 1; i++) cow.Copy(i, i + 1);
                break;
            case "xor-in-place":
                byte[] payload = new byte[CowOp.BlockSize];
                for (uint i = 0; i < blocks - 1; i++)
                {
                    random.NextBytes(payload);
                    cow.Xor(i, (i * (ulong)CowOp.BlockSize) + (i % 2 == 0 ? 0u : 41u), payload);
                }
                break;
            default:
                Permute(cow, old, random);
                break;
        }
        return new Pair(cow.Build(), old, NaiveMerger.Merge(cow, old));
    }

    /// <summary>
    /// A random permutation of all blocks: one Replace breaks each cycle, and the rest of the cycle is copied backwards from there.
    /// </summary>
    private static void Permute(CowBuilder cow, byte[] old, Random random)
    {
        int blocks = old.Length / CowOp.BlockSize;
        int[] from = new int[blocks];
        for (int i = 0; i < blocks; i++) from[i] = i;
        random.Shuffle(from);
        bool[] done = new bool[blocks];
        List<(uint Block, byte[] Data)> breaks = [];
        for (int start = 0; start < blocks; start++)
        {
            if (done[start] || from[start] == start) continue;
            // start ← from[start] ← …: each block is copied before its source is overwritten; the last block of the cycle is replaced.
            int block = start;
            while (from[block] != start)
            {
                cow.Copy((uint)block, (ulong)from[block]);
                done[block] = true;
                block = from[block];
            }
            done[block] = true;
            breaks.Add(((uint)block, old.AsSpan(start * CowOp.BlockSize, CowOp.BlockSize).ToArray()));
        }
        foreach ((uint block, byte[] data) in breaks) cow.Replace(block, data);
    }
}
