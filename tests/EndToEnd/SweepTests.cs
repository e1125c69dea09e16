using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Security.Cryptography;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// A small merge that journals several windows is killed with SIGKILL at the entry of each system call of the thread that does all I/O, one
/// by one; then the same for its resume. These calls are the same in every run, so the states after the kills are known. Both are repeated
/// over the calls of all threads, whose order differs between runs. There the states are not checked, except that the next run finishes
/// each of them.
/// </summary>
public sealed class SweepOfTheRingTests(ITestOutputHelper output)
{
    [Fact]
    public void Merge_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "uring").Merge();

    [Fact]
    public void Resume_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "uring").Resume();

    [Fact]
    public void Merge_killed_at_each_system_call_of_any_thread_is_finished_by_the_next_run() =>
        new Sweep(output, "uring", allThreads: true).Merge();

    [Fact]
    public void Resume_killed_at_each_system_call_of_any_thread_is_finished_by_the_next_run() =>
        new Sweep(output, "uring", allThreads: true).Resume();
}

/// <summary>The same with synchronous system calls; a separate class, so that the two run in parallel.</summary>
public sealed class SweepOfPlainCallsTests(ITestOutputHelper output)
{
    [Fact]
    public void Merge_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "sync").Merge();

    [Fact]
    public void Resume_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "sync").Resume();

    [Fact]
    public void Merge_killed_at_each_system_call_of_any_thread_is_finished_by_the_next_run() =>
        new Sweep(output, "sync", allThreads: true).Merge();

    [Fact]
    public void Resume_killed_at_each_system_call_of_any_thread_is_finished_by_the_next_run() =>
        new Sweep(output, "sync", allThreads: true).Resume();
}

/// <summary>
/// One sweep. A killed run's calls on COW and base determine the state that it leaves. Each state is resumed once with each kind of queue.
/// </summary>
file sealed class Sweep
{
    // Four ops fit into a window of this scratch (ScratchLayout), so a chain of fourteen ops fills it several times.
    private const int Blocks = 24, ScratchBytes = 6 * CowOp.BlockSize, Header = 78;

    // Shared by all sweeps of a resume.
    private static readonly Lazy<(byte[] Cow, byte[] Image)> s_claimed = new(() => new Sweep(null, "sync").Claimed());

    private readonly ITestOutputHelper? _output;
    private readonly string _io;
    private readonly bool _allThreads;
    private readonly byte[] _old = new byte[Blocks * CowOp.BlockSize];
    private readonly byte[] _cow, _new;

    public Sweep(ITestOutputHelper? output, string io, bool allThreads = false)
    {
        (_output, _io, _allThreads) = (output, io, allThreads);
        Random random = new(24);
        random.NextBytes(_old);
        byte[] payload = new byte[CowOp.BlockSize];
        CowBuilder cow = new() { ScratchBytes = ScratchBytes };
        for (uint i = 0; i < 10; i++) cow.Copy(i, i + 1);
        for (uint i = 10; i < 14; i++)
        {
            random.NextBytes(payload);
            cow.Xor(i, (i * (ulong)CowOp.BlockSize) + (i % 2 == 0 ? 0u : 41u), payload);
        }
        random.NextBytes(payload);
        cow.Replace(20, payload).Zero(21);
        (_cow, _new) = (cow.Build(), NaiveMerger.Merge(cow, _old));
    }

    public void Merge()
    {
        HashSet<(ulong Count, byte State)> seen = Run(_cow, _old, "merge");
        if (_allThreads) return;
        // The sweep reaches every phase: kills before the first write, in claimed windows, between windows, and after the last count.
        Assert.Contains((0UL, (byte)0), seen);
        Assert.Contains((0UL, (byte)2), seen);
        Assert.Contains(seen, one => one is { Count: > 0 and < 16, State: 1 });
        Assert.Contains(seen, one => one.Count is > 0 and < 16 && one.State == 2);
        Assert.Contains(seen, one => one.Count == 16);
    }

    public void Resume()
    {
        (byte[] cow, byte[] image) = s_claimed.Value;
        HashSet<(ulong Count, byte State)> seen = Run(cow, image, "resume");
        if (_allThreads) return;
        Assert.Contains(State(cow), seen);
        Assert.Contains(seen, one => one.Count > State(cow).Count && one.State == 2);
        Assert.Contains(seen, one => one.Count == 16);
    }

    /// <summary>The state after the first kill with a claimed window that follows finished ones and is partly on the base.</summary>
    private (byte[] Cow, byte[] Image) Claimed()
    {
        using TempFolder folder = new();
        byte[]? claimed = null;
        for (int when = 1; ; when++)
        {
            Put(folder, _cow, _old);
            BinaryResult result = KillAt.Merge(when, folder["cow"], folder["base"], "sync");
            Assert.True(result.ExitCode == 137, $"no call of the merge lies inside the second window: {result}");
            byte[] cow = File.ReadAllBytes(folder["cow"]), image = File.ReadAllBytes(folder["base"]);
            if (State(cow) is not { Count: > 0, State: 2 }) continue;
            claimed ??= image;
            if (!image.AsSpan().SequenceEqual(claimed)) return (cow, image);
        }
    }

    private HashSet<(ulong Count, byte State)> Run(byte[] cow, byte[] image, string name)
    {
        using TempFolder folder = new();
        HashSet<(ulong Count, byte State)> seen = [];
        HashSet<(string Left, string Io)> resumed = [];
        int when = 1, killed = 0;
        // The number of calls varies slightly between runs (a ring reaps the completions that have arrived). The sweep ends after three
        // completed runs in a row.
        for (int done = 0; done < 3; when++)
        {
            Put(folder, cow, image);
            BinaryResult result = _allThreads ? KillAt.MergeAtCallOfAnyThread(when, folder["cow"], folder["base"], _io) : KillAt.Merge(when,
                folder["cow"], folder["base"], _io);
            Assert.True(result.ExitCode is 0 or 137, $"{name}, {_io}, killed at call {when}: {result}");
            done = result.ExitCode == 0 ? done + 1 : 0;
            killed += result.ExitCode == 0 ? 0 : 1;
            byte[] left = Unlocked.ReadSettled(folder["cow"]), leftBase = Unlocked.ReadSettled(folder["base"]);
            seen.Add(State(left));
            // The resume uses the same kind of queue as often as the other kind.
            string next = when % 2 == 0 ? "uring" : "sync";
            if (!resumed.Add((Convert.ToHexString(SHA256.HashData((byte[])[.. left, .. leftBase])), next))) continue;
            BinaryResult last = Binary.Run("merge", "--cow", folder["cow"], "--base", folder["base"], "--io", next, "--progress", "never");
            Assert.True(last.ExitCode == 0, $"{name}, {_io}, killed at call {when}: {last}");
            Assert.True(_new.AsSpan().SequenceEqual(File.ReadAllBytes(folder["base"])),
                $"{name}, {_io}, killed at call {when}: the base is not the target");
        }
        Assert.True(killed > 200, $"{name}, {_io}: killed at {killed} calls only");
        _output?.WriteLine($"{name}, {_io}: killed at each of {killed} calls{(_allThreads ? " of all threads" : "")}; {seen.Count} states "
            + $"of count and scratch seen, {resumed.Count} states of the files resumed");
        return seen;
    }

    private static (ulong Count, byte State) State(byte[] cow) => (BinaryPrimitives.ReadUInt64LittleEndian(cow.AsSpan(26)), cow[Header]);

    private static void Put(TempFolder folder, byte[] cow, byte[] image)
    {
        File.WriteAllBytes(folder["cow"], cow);
        File.WriteAllBytes(folder["base"], image);
    }
}
