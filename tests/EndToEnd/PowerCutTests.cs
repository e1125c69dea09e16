using System;
using System.Buffers.Binary;
using System.IO;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The real program on block devices that lose unflushed data. COW and base are two disks, so that a flush of one does not also flush the
/// other.
/// </summary>
public sealed class PowerCutTests(ITestOutputHelper output)
{
    private const int Blocks = 128, Ops = 100;

    /// <summary>A COW with chains through small windows, Xor over their own sources, and plain ops; 4 ops per window.</summary>
    private static CowBuilder Make(Random random, out byte[] old)
    {
        old = new byte[Blocks * CowOp.BlockSize];
        random.NextBytes(old);
        byte[] payload = new byte[CowOp.BlockSize];
        CowBuilder cow = new() { ScratchBytes = 6 * CowOp.BlockSize };
        for (uint i = 0; i < 40; i++) cow.Copy(i, i + 1);
        for (uint i = 40; i < 60; i++)
        {
            random.NextBytes(payload);
            cow.Xor(i, (i * (ulong)CowOp.BlockSize) + (i % 2 == 0 ? 0u : 41u), payload);
        }
        for (uint i = 70; i < 100; i++)
        {
            random.NextBytes(payload);
            cow.Replace(i, payload);
        }
        for (uint i = 100; i < 110; i++) cow.Zero(i);
        return cow;
    }

    [RootTheory]
    [InlineData("uring", 1)]
    [InlineData("sync", 2)]
    public void Power_cut_at_any_moment_of_a_merge_and_of_its_resume_is_survived(string io, int seed)
    {
        const int rounds = 16;
        using Desk desk = new(seed, io);
        int lost = 0, between = 0, round = 0;
        // About one cut in twenty falls between a write to the base and its flush, and every second one between the first count and the
        // last. Rounds are added until both cases have occurred; a thousand cuts practically always contain both.
        for (; round < rounds || ((lost == 0 || between < 2) && round < 40 * rounds); round++)
        {
            desk.Reset();
            // One cut in each part of the merge, and a second one in the resume in every other round.
            for (int cut = 0; cut <= round % 2; cut++)
            {
                int when = desk.Moment(cut == 0 ? round % rounds : desk.Random.Next(round % rounds), rounds);
                using CutDisk cow = new(desk.Cow), target = new(desk.Base);
                // The second cut of a round uses the other kind of queue.
                BinaryResult killed = KillAt.Merge(when, cow.Path, target.Path, cut == 0 ? io : io == "sync" ? "uring" : "sync");
                Assert.True(killed.ExitCode is 137 or 0, $"seed {seed}, round {round}: {killed}");
                byte[] seen = Unlocked.Read(target.Path, Blocks * CowOp.BlockSize);
                cow.Cut();
                target.Cut();
                if (!seen.AsSpan().SequenceEqual(File.ReadAllBytes(desk.Base))) lost++;
                if (desk.MergedOps is > 0 and < Ops) between++;
            }
            desk.Finish(round % 3 == 0 ? "sync" : "uring", $"seed {seed}, round {round}");
        }
        output.WriteLine($"{io}, seed {seed}: {round} merges, {round / 2} resumes cut; {lost} cuts lost writes to the base, {between} left "
            + "a count in the middle");
        Assert.True(lost > 0 && between > 1, "the cuts missed the merge");
    }

    [RootTheory]
    [InlineData("uring", 3)]
    [InlineData("sync", 4)]
    public void Disks_that_vanish_during_a_merge_are_74_and_the_next_run_with_power_finishes_it(string io, int seed)
    {
        const int rounds = 8;
        using Desk desk = new(seed, io);
        int failed = 0;
        for (int round = 0; round < rounds; round++)
        {
            desk.Reset();
            using (CutDisk cow = new(desk.Cow), target = new(desk.Base))
            {
                // Both devices, or one of them.
                int[] victims = (round % 3) switch { 0 => [cow.Plug, target.Plug], 1 => [cow.Plug], _ => [target.Plug] };
                BinaryResult result = KillAt.MergeWithout(victims, desk.Moment(round, rounds), cow.Path, target.Path, io);
                Assert.True(result.ExitCode is 74 or 0, $"seed {seed}, round {round}: {result}");
                if (result.ExitCode == 74)
                {
                    failed++;
                    // The file system below may be unable to reserve space, which is reported first.
                    Assert.Matches("^(snapuserd: [^\n]* cannot be reserved: [^\n]*\n)*snapuserd: [^\n]*EIO[^\n]*\n$", result.Error);
                }
                cow.Cut();
                target.Cut();
            }
            desk.Finish(round % 2 == 0 ? "sync" : "uring", $"seed {seed}, round {round}");
        }
        output.WriteLine($"{io}, seed {seed}: {failed} of {rounds} merges lost a disk");
        Assert.True(failed >= rounds / 4, "the cuts missed the merge");
    }

    [RootFact]
    public void Disks_of_these_tests_lose_unflushed_writes()
    {
        using Desk desk = new(5, "sync");
        desk.Reset();
        using CutDisk cow = new(desk.Cow), target = new(desk.Base);
        // Every fdatasync returns 0 and does nothing.
        BinaryResult result =
            Binary.RunProgram("strace", ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0",
                Binary.Path, "merge", "--cow", cow.Path, "--base", target.Path, "--io", "sync", "--progress", "never"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        cow.Cut();
        target.Cut();
        Assert.True(desk.Untouched, "writes without a flush survived");
    }

    /// <summary>The COW, the base and the kill points of one test.</summary>
    private sealed class Desk : IDisposable
    {
        private readonly TempFolder _folder = new();
        private readonly byte[] _cow, _old, _expected;
        private readonly int _start, _end;

        public Desk(int seed, string io)
        {
            Random = new Random(seed);
            CowBuilder builder = Make(Random, out _old);
            byte[] content = builder.Build();
            // A device has whole sectors, so the COW on it is a little longer than its content, as on a phone.
            _cow = [.. content, .. new byte[4096 - (content.Length % 4096)]];
            _expected = NaiveMerger.Merge(builder, _old);
            Reset();
            _end = KillAt.Count(Cow, Base, io);
            // A merge that finds everything done consists of little more than the start of the program.
            _start = KillAt.Count(Cow, Base, io);
        }

        public Random Random { get; }

        public string Cow => _folder["cow"];

        public string Base => _folder["base"];

        /// <summary>The durable count.</summary>
        public ulong MergedOps => BinaryPrimitives.ReadUInt64LittleEndian(File.ReadAllBytes(Cow).AsSpan(26));

        /// <summary>Whether both are as <see cref="Reset"/> left them.</summary>
        public bool Untouched => _cow.AsSpan().SequenceEqual(File.ReadAllBytes(Cow))
            && _old.AsSpan().SequenceEqual(File.ReadAllBytes(Base));

        /// <summary>A system call in part <paramref name="part"/> of <paramref name="parts"/> of the merge itself.</summary>
        public int Moment(int part, int parts)
        {
            double length = (double)(_end - _start) / parts;
            return _start + (int)((part + Random.NextDouble()) * length);
        }

        public void Reset()
        {
            File.WriteAllBytes(Cow, _cow);
            File.WriteAllBytes(Base, _old);
        }

        /// <summary>Merges to the end, cuts the power once more, and compares: everything reported as done must be durable.</summary>
        public void Finish(string io, string what)
        {
            using CutDisk cow = new(Cow), target = new(Base);
            BinaryResult last = Binary.Run("merge", "--cow", cow.Path, "--base", target.Path, "--io", io, "--progress", "never");
            Assert.True(last.ExitCode == 0, $"{what}: {last}");
            cow.Cut();
            target.Cut();
            Assert.Equal((ulong)Ops, MergedOps);
            Assert.True(_expected.AsSpan().SequenceEqual(File.ReadAllBytes(Base)), $"{what}: the base is not the target");
        }

        public void Dispose() => _folder.Dispose();
    }
}
