using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Create;

/// <summary>Writing a plan as a COW: the ops, their payloads, their number, the progress and the stop.</summary>
public sealed class CowCreationTests
{
    private const int Size = 4096;

    private static readonly byte[] s_old = Noise(1, 6000), s_new = Noise(2, 6000);

    private static byte[] Noise(int seed, int blocks)
    {
        byte[] image = new byte[blocks * Size];
        new Random(seed).NextBytes(image);
        return image;
    }

    private static DiffPlan Plan(params DiffRun[] runs)
    {
        NativeArray<PackedRun> packed = new(new NativeTally(), runs.Length, "test");
        for (int i = 0; i < runs.Length; i++) packed[i] = new PackedRun(runs[i].Type, runs[i].NewBlock, runs[i].Source, runs[i].Count);
        return new DiffPlan(packed);
    }

    private static MemoryOutput Write(DiffPlan plan, CowWriterOptions options, List<long> progress, StopFlag? stop = null)
    {
        MemoryOutput output = new();
        using CowWriter writer = CowWriter.Create(output, options);
        CowCreation.Write(plan, new MemoryImage(s_old), new MemoryImage(s_new), writer, stop ?? new StopFlag(), progress.Add);
        Assert.Equal(writer.OpCount, options.Version == 3 ? CowCreation.CountOps(plan, options.MaxUnitBytes) : writer.OpCount);
        writer.Finish();
        return output;
    }

    /// <summary>Compares the plan's ops, block by block, with those of the COW, payloads included.</summary>
    private static void Compare(DiffPlan plan, MemoryOutput output)
    {
        byte[] file = output.Bytes;
        using CowFile cow = CowFile.Read(new MemorySource(file));
        using UnitDecoder decoder = new();
        List<DiffRun> expected = NaivePlan.Ops(plan);
        int at = 0;
        for (int i = 0; i < cow.OpCount; i++)
        {
            CowOp op = cow[i];
            byte[] unit = new byte[op.HasData ? op.UnitBytes : 0];
            if (op.HasData) Assert.Equal(0, decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), unit));
            for (int block = 0; block < op.Blocks; block++, at++)
            {
                DiffRun one = expected[at];
                Assert.Equal((one.Type, one.NewBlock), (op.Type, op.NewBlock + (uint)block));
                if (op.IsOrdered) Assert.Equal(one.Source, op.Source);
                if (!op.HasData) continue;
                byte[] wanted = op.Type == CowOpType.Xor
                    ? NaivePlan.XorPayload(one, s_old, s_new)
                    : s_new.AsSpan((int)one.NewBlock * Size, Size).ToArray();
                Assert.True(wanted.AsSpan().SequenceEqual(unit.AsSpan(block * Size, Size)), $"{one}");
            }
        }
        Assert.Equal(expected.Count, at);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(1023)]
    [InlineData(1024)]
    [InlineData(1025)]
    [InlineData(2055)]
    public void Runs_of_any_length_become_the_counted_number_of_ops(int blocks)
    {
        using DiffPlan plan = Plan(
            new DiffRun(CowOpType.Copy, 0, 3000, blocks),
            new DiffRun(CowOpType.Xor, 2100, (5 * Size) + 17, blocks - (blocks / 2)),
            new DiffRun(CowOpType.Zero, 3200, 0, (blocks / 2) + 1),
            new DiffRun(CowOpType.Replace, 4300 - 90, 0, (blocks / 2) + 7),
            new DiffRun(CowOpType.Replace, 5300, 0, 5),
            new DiffRun(CowOpType.Copy, 5900, 5, 2));
        foreach ((int version, int unit) in new[] { (2, Size), (3, Size), (3, 4 * Size), (3, 64 * Size) })
        {
            List<long> progress = [];
            // A file with exactly the counted number of slots holds all ops.
            MemoryOutput output = Write(plan, new CowWriterOptions
            {
                Version = version,
                MaxUnitBytes = unit,
                OpCountMax = (ulong)CowCreation.CountOps(plan, unit),
                ScratchBytes = 0,
            }, progress);
            Compare(plan, output);
            List<long> expected = [];
            long done = 0;
            for (int i = 0; i < plan.RunCount; i++)
                for (int left = plan[i].Count; left > 0; left -= 1024) expected.Add(done += Math.Min(left, 1024));
            Assert.Equal(expected, progress);
        }
    }

    [Theory]
    [InlineData(4, 1024, 256)]
    [InlineData(4, 1025, 257)]
    [InlineData(4, 1027, 258)]
    [InlineData(4, 2048, 512)]
    [InlineData(64, 2048 + 127, 32 + 1 + 6)]
    [InlineData(64, 63, 6)]
    [InlineData(1, 3000, 3000)]
    public void Units_are_counted_as_the_writer_cuts_them(int blocksPerUnit, int blocks, long ops)
    {
        using DiffPlan replace = Plan(new DiffRun(CowOpType.Replace, 0, 0, blocks));
        Assert.Equal(ops, CowCreation.CountOps(replace, blocksPerUnit * Size));
        using DiffPlan zero = Plan(new DiffRun(CowOpType.Zero, 0, 0, blocks), new DiffRun(CowOpType.Replace, 4000, 0, blocks));
        Assert.Equal(blocks + ops, CowCreation.CountOps(zero, blocksPerUnit * Size));
    }

    [Fact]
    public void Plan_without_runs_writes_no_op()
    {
        using DiffPlan plan = Plan();
        List<long> progress = [];
        MemoryOutput output = Write(plan, new CowWriterOptions { OpCountMax = 1, ScratchBytes = 0 }, progress);
        Assert.Empty(progress);
        Assert.Equal(0, CowCreation.CountOps(plan, Size));
        using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
        Assert.Equal(0, cow.OpCount);
    }

    [Fact]
    public void Stop_ends_the_writing_between_two_calls()
    {
        using DiffPlan plan = Plan(new DiffRun(CowOpType.Zero, 0, 0, 3000), new DiffRun(CowOpType.Copy, 4000, 1, 1));
        foreach (int calls in new[] { 0, 1, 2, 3 })
        {
            StopFlag stop = new();
            List<long> progress = [];
            using CowWriter writer = CowWriter.Create(new MemoryOutput(), new CowWriterOptions { OpCountMax = 5000, ScratchBytes = 0 });
            if (calls == 0) stop.Request();
            SnapuserdException stopped = Assert.Throws<SnapuserdException>(
                () => CowCreation.Write(plan, new MemoryImage(s_old), new MemoryImage(s_new), writer, stop, done =>
                {
                    progress.Add(done);
                    if (progress.Count == calls) stop.Request();
                }));
            Assert.Equal((ExitCode.Interrupted, "stopped; no COW was written"), (stopped.Code, stopped.Message));
            Assert.Equal(new long[] { 1024, 2048, 3000 }.Take(calls), progress);
            Assert.Equal(calls == 0 ? 0 : progress[^1], writer.OpCount);
        }
    }

    [Fact]
    public void Image_that_is_too_short_ends_the_writing()
    {
        using DiffPlan plan = Plan(new DiffRun(CowOpType.Replace, 5999, 0, 1));
        using CowWriter writer = CowWriter.Create(new MemoryOutput(), new CowWriterOptions { OpCountMax = 10, ScratchBytes = 0 });
        Assert.ThrowsAny<Exception>(
            () => CowCreation.Write(plan, new MemoryImage(s_old), new MemoryImage(s_new[..^1]), writer, new StopFlag(), _ => { }));
        Assert.Equal(0, writer.OpCount);
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.ENOMEM)]
    public void Buffers_that_cannot_be_mapped_end_the_writing(int errno)
    {
        using DiffPlan plan = Plan(new DiffRun(CowOpType.Replace, 0, 0, 1));
        using CowWriter writer = CowWriter.Create(new MemoryOutput(), new CowWriterOptions { OpCountMax = 10, ScratchBytes = 0 });
        SnapuserdException? failure = null;
        OwnThread.RefusingToMap(2 * 1024 * Size, errno, () => failure = Assert.Throws<SnapuserdException>(
            () => CowCreation.Write(plan, new MemoryImage(s_old), new MemoryImage(s_new), writer, new StopFlag(), _ => { })));
        string message = $"cannot map buffers to write with: {Errno.Name(-errno)}";
        Assert.Equal((ExitCode.OutOfResources, message), (failure!.Code, failure.Message));
        Assert.Equal(0, writer.OpCount);
    }
}
