using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>A small merge that journals several windows, killed with SIGKILL at the entry of each system call of the thread that does all I/O, one by one; the same for its resume.</summary>
public sealed class SweepOfTheRingTests(ITestOutputHelper output)
{
    [Fact]
    public void Merge_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "uring").Merge();

    [Fact]
    public void Resume_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "uring").Resume();
}

/// <summary>The same over plain system calls; a class of its own, so that the two run side by side.</summary>
public sealed class SweepOfPlainCallsTests(ITestOutputHelper output)
{
    [Fact]
    public void Merge_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "sync").Merge();

    [Fact]
    public void Resume_killed_at_each_of_its_system_calls_is_finished_by_the_next_run() => new Sweep(output, "sync").Resume();
}

/// <summary>One sweep. What a killed run leaves is what its calls did to two files; each state is resumed once.</summary>
file sealed class Sweep
{
    // Four ops fit into a window of this scratch (ScratchLayout), so fourteen ops in a chain turn it over several times.
    private const int Blocks = 24, ScratchBytes = 6 * CowOp.BlockSize, Header = 78;

    private readonly ITestOutputHelper _output;
    private readonly string _io;
    private readonly byte[] _old = new byte[Blocks * CowOp.BlockSize];
    private readonly byte[] _cow, _new;

    public Sweep(ITestOutputHelper output, string io)
    {
        (_output, _io) = (output, io);
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
        // It bites: kills fell before the first write, into windows that had been claimed, between windows, and behind the last count.
        Assert.Contains((0UL, (byte)0), seen);
        Assert.Contains((0UL, (byte)2), seen);
        Assert.Contains(seen, one => one is { Count: > 0 and < 16, State: 1 });
        Assert.Contains(seen, one => one.Count is > 0 and < 16 && one.State == 2);
        Assert.Contains(seen, one => one.Count == 16);
    }

    public void Resume()
    {
        using TempFolder folder = new();
        // The first kill that leaves a window claimed behind others that are done, and a part of it on the base.
        byte[]? claimed = null;
        for (int when = 1; ; when++)
        {
            Put(folder, _cow, _old);
            BinaryResult result = KillAt.Merge(when, folder["cow"], folder["base"], "sync");
            Assert.True(result.ExitCode == 137, $"no call of the merge lies inside of the second window: {result}");
            byte[] cow = File.ReadAllBytes(folder["cow"]), image = File.ReadAllBytes(folder["base"]);
            if (State(cow) is not { Count: > 0, State: 2 }) continue;
            claimed ??= image;
            if (image.AsSpan().SequenceEqual(claimed)) continue;
            HashSet<(ulong Count, byte State)> seen = Run(cow, image, "resume");
            Assert.Contains(State(cow), seen);
            Assert.Contains(seen, one => one.Count > State(cow).Count && one.State == 2);
            Assert.Contains(seen, one => one.Count == 16);
            return;
        }
    }

    private HashSet<(ulong Count, byte State)> Run(byte[] cow, byte[] image, string name)
    {
        using TempFolder folder = new();
        HashSet<(ulong Count, byte State)> seen = [];
        int when = 1, killed = 0;
        // The count of calls is a little different from run to run (a ring reaps what has come); the sweep ends where three runs in a row were through.
        for (int done = 0; done < 3; when++)
        {
            Put(folder, cow, image);
            BinaryResult result = KillAt.Merge(when, folder["cow"], folder["base"], _io);
            Assert.True(result.ExitCode is 0 or 137, $"{name}, {_io}, killed at call {when}: {result}");
            done = result.ExitCode == 0 ? done + 1 : 0;
            killed += result.ExitCode == 0 ? 0 : 1;
            seen.Add(State(Unlocked.Read(folder["cow"], Header + 1)));
            // Resumed through the other kind of queue as often as through the same.
            BinaryResult last = Binary.Run("merge", "--cow", folder["cow"], "--base", folder["base"], "--io", when % 2 == 0 ? "uring" : "sync", "--progress", "never");
            Assert.True(last.ExitCode == 0, $"{name}, {_io}, killed at call {when}: {last}");
            Assert.True(_new.AsSpan().SequenceEqual(File.ReadAllBytes(folder["base"])), $"{name}, {_io}, killed at call {when}: the base is not the target");
        }
        _output.WriteLine($"{name}, {_io}: killed at each of {killed} calls; {seen.Count} states of count and scratch seen");
        return seen;
    }

    private static (ulong Count, byte State) State(byte[] cow) => (BinaryPrimitives.ReadUInt64LittleEndian(cow.AsSpan(26)), cow[Header]);

    private static void Put(TempFolder folder, byte[] cow, byte[] image)
    {
        File.WriteAllBytes(folder["cow"], cow);
        File.WriteAllBytes(folder["base"], image);
    }
}
