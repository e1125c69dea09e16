using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>v3: a power cut while a label is written neither loses the previous label nor moves any other label.</summary>
public sealed class WriterLabelCrashTests
{
    private const int Sector = 512;
    private const int BlocksPerLabel = 10;
    private const uint Labels = 9;

    private static readonly CowWriterOptions s_options = new() { ScratchBytes = 0, OpCountMax = 400, ClusterOps = 1024 };

    /// <summary>
    /// Lengths of the sequence list. They move the four slots of 16 bytes, which begin at byte 78 + 4 n, across a sector boundary. With 100
    /// entries the slots begin at byte 478, so the third crosses the boundary at 512.
    /// </summary>
    public static TheoryData<int> ListLengths => [.. Enumerable.Range(90, 22), 0, 64];

    private static IReadOnlyList<ResumePoint> Points(byte[] file)
    {
        using CowFile cow = CowFile.Read(new MemorySource(file));
        return cow.ResumePoints;
    }

    private static long? OpsAt(byte[] file, ulong label)
    {
        try
        {
            using var writer = CowWriter.OpenAt(new MemoryOutput(file), label, s_options);
            return writer.OpCount;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return null;
        }
    }

    /// <summary>Splits a step by sector, because a power cut leaves each sector written completely or not at all.</summary>
    private static IEnumerable<MemoryOutput.Step> Sectors(MemoryOutput.Step step)
    {
        if (step.Bytes is not { } bytes)
        {
            yield return step;
            yield break;
        }
        for (int at = 0; at < bytes.Length;)
        {
            int length = (int)Math.Min(Sector - ((step.Offset + at) % Sector), bytes.Length - at);
            yield return new MemoryOutput.Step(step.Offset + at, bytes[at..(at + length)], null);
            at += length;
        }
    }

    [Theory]
    [MemberData(nameof(ListLengths))]
    public void Durable_label_survives_a_torn_write_of_the_next_one(int listLength)
    {
        var output = new MemoryOutput();
        uint[] list = Enumerable.Range(1, listLength).Select(i => (uint)i).ToArray();
        var steps = new List<MemoryOutput.Step>();
        // Number of sectors written when each label returned.
        var moments = new List<int>();
        using (CowWriter writer = CowWriter.Create(output, s_options))
        {
            writer.Sequence(list);
            for (uint label = 1; label <= Labels; label++)
            {
                // Also tests two labels without an op between them.
                if (label != 3) writer.Copy(label * BlocksPerLabel, 1000, BlocksPerLabel);
                writer.Label(label);
                steps = output.Steps.SelectMany(Sectors).ToList();
                moments.Add(steps.Count);
            }
        }
        long Ops(ulong label) => (long)(label >= 3 ? label - 1 : label) * BlocksPerLabel;

        int states = 0;
        int durable = moments[0];
        for (int cut = moments[0]; cut <= steps.Count; cut++)
        {
            ulong last = (ulong)moments.Count(moment => moment <= cut);
            int pending = cut - durable;
            Assert.InRange(pending, 0, 8);
            for (int lost = 0; lost < 1 << pending; lost++)
            {
                var torn = new MemoryOutput();
                for (int i = 0; i < cut; i++)
                {
                    if (i < durable || steps[i].Bytes == null || (lost & (1 << (i - durable))) == 0) torn.Do(steps[i]);
                }
                byte[] file = torn.Bytes;
                string when = $"cut after sector {cut}, lost {lost:b}";
                // The list names blocks that no op of this file writes, so a reader accepts the file only without a list.
                if (listLength == 0)
                    Assert.All(Points(file), point => Assert.True((long)point.OpIndex == Ops(point.Label), $"{when}: {point}"));
                for (ulong label = 1; label <= Labels; label++)
                {
                    long? ops = OpsAt(file, label);
                    Assert.True(ops == Ops(label) || (ops == null && label != last),
                        $"{when}: label {label} gives {ops?.ToString() ?? "nothing"} ops, not {Ops(label)}");
                }
                states++;
            }
            if (cut < steps.Count && steps[cut].IsFlush) durable = cut + 1;
        }
        Assert.True(states > 50, $"only {states} states");
    }

    [Theory]
    [MemberData(nameof(ListLengths))]
    public void At_least_the_last_two_labels_are_kept_at_any_time(int listLength)
    {
        var output = new MemoryOutput();
        using CowWriter writer = CowWriter.Create(output, s_options);
        writer.Sequence(Enumerable.Range(1, listLength).Select(i => (uint)i).ToArray());
        for (uint label = 1; label <= Labels; label++)
        {
            writer.Copy(label * BlocksPerLabel, 1000, BlocksPerLabel);
            writer.Label(label);
            Assert.Equal(label * BlocksPerLabel, OpsAt(output.Bytes, label));
            if (label > 1) Assert.Equal((label - 1) * BlocksPerLabel, OpsAt(output.Bytes, label - 1));
        }
    }

    [Fact]
    public void Label_not_larger_than_the_last_is_refused_and_the_durable_ones_stay()
    {
        var output = new MemoryOutput();
        using CowWriter writer = CowWriter.Create(output, s_options);
        writer.Copy(10, 1000, 10);
        writer.Label(5);
        writer.Copy(20, 1000, 10);
        writer.Label(6);
        byte[] before = output.Bytes;
        writer.Copy(30, 1000, 10);
        foreach (ulong label in new ulong[] { 5, 6, 0 })
        {
            SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => writer.Label(label));
            Assert.Equal(ExitCode.Usage, refusal.Code);
            Assert.Contains($"label {label} must be larger than the last label, 6", refusal.Message, StringComparison.Ordinal);
        }
        Assert.Equal(before, output.Bytes);
        writer.Label(7);
        Assert.Equal([new(5, 10), new(6, 20), new(7, 30)], Points(output.Bytes));
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(2, 1)]
    public void Label_is_refused_if_the_slots_are_too_few_to_write_it_safely(uint slots, int written)
    {
        // With 105 entries, the only slot, or the first of two, crosses a sector boundary.
        var output = new MemoryOutput();
        uint[] list = Enumerable.Range(1, 105).Select(i => (uint)i).ToArray();
        using (CowWriter writer = CowWriter.Create(output, s_options))
        {
            writer.Sequence(list);
            writer.Finish();
        }
        byte[] file = [.. output.Bytes, .. new byte[4096]];
        Refusal.Put(file, 50, 4, slots);
        output = new MemoryOutput(file);
        using (CowWriter writer = CowWriter.Reopen(output, s_options))
        {
            for (int i = 0; i <= written; i++)
            {
                writer.Copy((uint)i, 1000);
                writer.Label((ulong)i + 1);
            }
            writer.Copy(50, 1000);
            SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => writer.Label(9));
            Assert.Equal(ExitCode.CowCorrupt, refusal.Code);
            Assert.Contains("too few", refusal.Message, StringComparison.Ordinal);
        }
        Assert.Equal(written + 1, OpsAt(output.Bytes, (ulong)written + 1));
    }
}
