using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>
/// After a power cut at any point, the file has the state of the last label or finish that returned, or of the one in progress.
/// </summary>
public sealed class WriterCrashTests
{
    /// <summary>A state that the file guarantees: all its ops, and the last label (null before the first) with its ops.</summary>
    private sealed record Vouched(string Ops, ulong? Label, string LabelOps, bool Finished);

    /// <summary>A call, and the state that the file guarantees after it returns; null if the call does not change that state.</summary>
    private readonly record struct Deed(Func<ICowOutput, CowWriter?, CowWriter> Do, Vouched? After);

    private static readonly byte[] s_noise = Noise();

    private static byte[] Noise()
    {
        byte[] noise = new byte[3 * 4096];
        new Random(3).NextBytes(noise);
        // The middle block is compressible.
        noise.AsSpan(4096, 4096).Fill(7);
        return noise;
    }

    public static IEnumerable<object[]> Formats => [["v2", 0], ["v2", 2], ["v2", 4], ["v2", 1024], ["v3", 1024]];

    private static CowWriterOptions Options(string format, int cluster) => format == "v2"
        ? new CowWriterOptions { Version = 2, Compression = CowCompression.Lz4, ScratchBytes = 0, ClusterOps = cluster }
        : new CowWriterOptions { Compression = CowCompression.Lz4, ScratchBytes = 0, OpCountMax = 40, MaxUnitBytes = 8192 };

    /// <summary>
    /// Adds ops, labels and finishes. Then returns to an earlier label and overwrites the rest with the same number of other ops. Finally
    /// adds ops after a finish. Each state describes its ops by a letter and a block number each.
    /// </summary>
    private static List<Deed> Program(CowWriterOptions options)
    {
        var actions = new List<Deed>();
        void Add(Action<CowWriter> call, Vouched? after = null) =>
            actions.Add(new Deed((_, writer) => { call(writer!); return writer!; }, after));
        void Open(Func<ICowOutput, CowWriter> open, Vouched after) =>
            actions.Add(new Deed((output, writer) => { writer?.Dispose(); return open(output); }, after));

        string units = options.Version == 3 ? "R20 R22 " : "R20 R21 R22 ";
        string first = "P10 X11 ", second = first + "Z13 " + units;
        Open(output => CowWriter.Create(output, options), new Vouched("", null, "", false));
        Add(writer => writer.Copy(10, 100));
        Add(writer => writer.Xor(11, 5000, s_noise.AsSpan(0, 4096)));
        Add(writer => writer.Label(1), new Vouched(first, 1, first, false));
        Add(writer => writer.Zero(13));
        Add(writer => writer.Replace(20, s_noise));
        Add(writer => writer.Label(2), new Vouched(second, 2, second, false));
        Add(writer => writer.Replace(30, s_noise.AsSpan(4096, 4096)));
        Add(writer => writer.Finish(), new Vouched(second + "R30 ", 2, second, true));
        Add(writer => writer.Zero(31));
        Add(writer => writer.Finish(), new Vouched(second + "R30 Z31 ", 2, second, true));
        Open(output => CowWriter.OpenAt(output, 1, options), new Vouched(first, 1, first, false));
        string third = first + units.Replace("2", "4", StringComparison.Ordinal).Replace("R44", "R42", StringComparison.Ordinal) + "Z50 ";
        Add(writer => writer.Replace(40, s_noise));
        Add(writer => writer.Zero(50));
        Add(writer => writer.Label(3), new Vouched(third, 3, third, false));
        Add(writer => writer.Zero(51, 2));
        Add(writer => writer.Finish(), new Vouched(third + "Z51 Z52 ", 3, third, true));
        Open(output => CowWriter.Reopen(output, options), new Vouched(third + "Z51 Z52 ", 3, third, true));
        Add(writer => writer.Replace(60, s_noise.AsSpan(0, 4096)));
        Add(writer => writer.Finish(), new Vouched(third + "Z51 Z52 R60 ", 3, third, true));
        return actions;
    }

    /// <summary>A device with an older COW. Its other ops take the same number of bytes, so a mixture of both would look valid.</summary>
    private static byte[] Older(CowWriterOptions options, long capacity)
    {
        var device = new MemoryOutput(Enumerable.Repeat((byte)0xa5, (int)capacity).ToArray(), capacity);
        using var writer = CowWriter.Create(device, options);
        writer.Copy(70, 1);
        writer.Xor(71, 5000, s_noise.AsSpan(0, 4096));
        writer.Label(1);
        writer.Zero(73);
        writer.Replace(74, s_noise);
        writer.Label(2);
        writer.Replace(78, s_noise.AsSpan(4096, 4096));
        writer.Zero(79, 3);
        writer.Finish();
        return device.Bytes;
    }

    /// <summary>The ops as text. A payload that differs from the expected one is marked.</summary>
    private static string Ops(byte[] file, CowFile cow)
    {
        var text = new StringBuilder();
        using var decoder = new UnitDecoder(cow.Compression);
        for (int i = 0; i < cow.OpCount; i++)
        {
            CowOp op = cow[i];
            text.Append(op.Type switch { CowOpType.Copy => 'P', CowOpType.Xor => 'X', CowOpType.Replace => 'R', _ => 'Z' })
                .Append(op.NewBlock).Append(' ');
            if (!op.HasData) continue;
            byte[] unit = new byte[op.UnitBytes];
            int error = decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), unit);
            int block = op.NewBlock is 11 or 60 ? 0 : op.NewBlock == 30 ? 1 : (int)op.NewBlock % 10;
            if (error != 0 || !unit.AsSpan().SequenceEqual(s_noise.AsSpan(block * 4096, op.UnitBytes))) text.Append("(wrong) ");
        }
        return text.ToString();
    }

    /// <summary>The ops that a reader finds in the file, as text; null if it refuses the file.</summary>
    private static string? Read(byte[] file)
    {
        try
        {
            using CowFile cow = CowFile.Read(new MemorySource(file));
            return Ops(file, cow);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return null;
        }
    }

    private static string? ReadAt(byte[] file, ulong label, CowWriterOptions options, long? capacity)
    {
        var output = new MemoryOutput(file, capacity);
        try
        {
            using var writer = CowWriter.OpenAt(output, label, options);
            writer.Finish();
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return null;
        }
        return Read(output.Bytes);
    }

    /// <summary>
    /// Checks that the file has the state <paramref name="before"/> or <paramref name="after"/>. A version 3 file is readable at any
    /// moment. A version 2 file without its footer is not, but a writer can continue at its label.
    /// </summary>
    private static void Judge(byte[] file, Vouched? before, Vouched after, CowWriterOptions options, long? capacity, string when)
    {
        // Until the first write the file is the older one, or empty.
        if (before == null) return;
        string? whole = Read(file);
        Vouched[] either = [before, after];
        if (options.Version == 3)
        {
            Assert.True(either.Any(v => v.Ops == whole), $"{when}: reads as {whole ?? "nothing"}");
        }
        else if (whole != null)
        {
            Assert.True(either.Any(v => v.Finished && v.Ops == whole), $"{when}: reads as a finished file of {whole}");
        }
        if (before.Label == null) return;
        Assert.True(
            either.Any(v => ReadAt(file, v.Label!.Value, options, capacity) == v.LabelOps),
            $"{when}: label {before.Label} gives {ReadAt(file, before.Label.Value, options, capacity) ?? "nothing"}, not "
            + $"{before.LabelOps}");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Power_cut_at_any_step_with_any_writes_lost_leaves_the_last_label(string format, int cluster)
    {
        CowWriterOptions options = Options(format, cluster);
        foreach (long? capacity in new long?[] { null, 256 * 1024 })
        {
            byte[] initial = capacity == null ? [] : Older(options, capacity.Value);
            var output = new MemoryOutput(initial, capacity);
            var moments = new List<(int Steps, Vouched Holds)>();
            CowWriter? writer = null;
            foreach (Deed action in Program(options))
            {
                writer = action.Do(output, writer);
                if (action.After != null) moments.Add((output.Steps.Count, action.After));
            }
            writer!.Dispose();
            MemoryOutput.Step[] steps = output.Steps.ToArray();

            int durable = 0, states = 0;
            for (int cut = 0; cut <= steps.Length; cut++)
            {
                // The state after the last returned call must hold. The state of the call in progress may hold instead.
                Vouched? before = moments.LastOrDefault(m => m.Steps <= cut).Holds;
                Vouched after = moments.FirstOrDefault(m => m.Steps > cut, moments[^1]).Holds;
                int pending = cut - durable;
                Assert.InRange(pending, 0, 8);
                for (int lost = 0; lost < 1 << pending; lost++)
                {
                    var state = new MemoryOutput(initial, capacity);
                    for (int i = 0; i < cut; i++)
                    {
                        // A length is metadata, which a file system keeps in order: no later length becomes durable before an earlier one.
                        bool kept = i < durable || steps[i].Bytes == null || (lost & (1 << (i - durable))) == 0;
                        if (kept) state.Do(steps[i]);
                    }
                    Judge(state.Bytes, before, after, options, capacity,
                        $"{format} clusters of {cluster}, capacity {capacity}, cut after step {cut}, lost {lost:b}");
                    states++;
                }
                if (cut < steps.Length && steps[cut].IsFlush) durable = cut + 1;
            }
            Assert.True(states > 50, $"only {states} states");
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Disk_that_is_full_at_any_byte_leaves_the_last_label(string format, int cluster)
    {
        CowWriterOptions options = Options(format, cluster);
        long length = Run(new MemoryOutput(), options, out _, out _).Length;
        int failures = 0;
        // Every byte of the small parts; in long payloads, every 61st byte and those next to multiples of 64.
        for (long full = 0; full <= length; full += full < 2000 || full % 64 is 0 or 1 or 62 or 63 ? 1 : 61)
        {
            var output = new MemoryOutput { FailFrom = full };
            byte[] file = Run(output, options, out Vouched? before, out Vouched after);
            if (!ReferenceEquals(before, after)) failures++;
            Judge(file, before, after, options, null, $"{format} clusters of {cluster}, full at byte {full}");
        }
        Assert.True(failures > 100, $"only {failures} failures");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Device_of_any_size_keeps_the_last_label_and_is_not_written_past_its_end(string format, int cluster)
    {
        CowWriterOptions options = Options(format, cluster);
        var roomy = new MemoryOutput(null, 1 << 20);
        Run(roomy, options, out Vouched? last, out _);
        long end = roomy.Steps.Where(step => step.Bytes != null).Max(step => step.Offset + step.Bytes!.Length);
        int failures = 0, successes = 0;
        for (long capacity = 0; capacity <= end; capacity += capacity < 2000 || end - capacity < 2000 || capacity % 64 is 0 or 1 ? 1 : 61)
        {
            var output = new MemoryOutput(new byte[capacity], capacity);
            byte[] file = Run(output, options, out Vouched? before, out Vouched after);
            if (before == last) successes++;
            else failures++;
            Judge(file, before, after, options, capacity, $"{format} clusters of {cluster}, device of {capacity}");
        }
        Assert.True(failures > 100 && successes > 0, $"{failures} failures, {successes} successes");
    }

    /// <summary>
    /// Runs the program until it fails with exit code 74. Returns the last guaranteed state, and the state of the call in progress.
    /// </summary>
    private static byte[] Run(MemoryOutput output, CowWriterOptions options, out Vouched? before, out Vouched after)
    {
        before = null;
        List<Deed> program = Program(options);
        CowWriter? writer = null;
        int done = 0;
        try
        {
            for (; done < program.Count; done++)
            {
                writer = program[done].Do(output, writer);
                before = program[done].After ?? before;
            }
        }
        catch (SnapuserdException e)
        {
            Assert.Equal(ExitCode.InputOutput, e.Code);
            Assert.Contains("no space is left", e.Message, StringComparison.Ordinal);
            if (writer != null && done > 0 && program[done].After is null or { Finished: true })
                Assert.Equal(ExitCode.InputOutput, Assert.ThrowsAny<SnapuserdException>(() => writer.Finish()).Code);
        }
        writer?.Dispose();
        after = program.Skip(done).Select(action => action.After).FirstOrDefault(v => v != null) ?? before!;
        return output.Bytes;
    }

    [Fact]
    public void Version_3_header_is_written_between_two_flushes_after_all_that_it_counts()
    {
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, Options("v3", 0)))
        {
            writer.Sequence([1]);
            writer.Copy(1, 2);
            writer.Replace(5, s_noise);
            writer.Label(1);
            writer.Replace(8, s_noise);
            writer.Finish();
        }
        List<MemoryOutput.Step> steps = output.Steps.ToList();
        int[] headers = Enumerable.Range(0, steps.Count).Where(i => steps[i].Bytes != null && steps[i].Offset == 0).ToArray();
        Assert.Equal(3, headers.Length);
        Assert.All(headers, i => Assert.True(steps[i + 1].IsFlush));
        Assert.All(headers.Skip(1), i => Assert.True(steps[i - 1].IsFlush));
        // One large write for each kind of data: list; data, ops and points, header; then data and ops, length, header.
        Assert.Equal("W W W W F H F W W T F H F", string.Join(' ', steps.Skip(headers[0] + 2).Select(step =>
            step.IsFlush ? "F" : step.Length != null ? "T" : step.Offset == 0 ? "H" : "W")));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    public void Version_2_label_and_footer_are_written_after_a_flush_of_all_that_they_cover(int cluster)
    {
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, Options("v2", cluster)))
        {
            writer.Replace(5, s_noise);
            writer.Label(1);
            writer.Finish();
        }
        List<MemoryOutput.Step> steps = output.Steps.ToList();
        int label = steps.FindIndex(step => step.Bytes is { Length: 20 } bytes && bytes[0] == (byte)CowOpType.Label
            || step.Bytes is { Length: 40 } pair && pair[0] == (byte)CowOpType.Label);
        Assert.True(steps[label - 1].IsFlush && steps[label + 1].IsFlush);
        int footer = steps.FindLastIndex(step => step.Bytes != null);
        Assert.Equal((byte)CowOpType.Footer, steps[footer].Bytes![^84]);
        Assert.True(steps[..footer].Last(step => step.Bytes == null).IsFlush);
        Assert.True(steps[^1].IsFlush);
    }
}
