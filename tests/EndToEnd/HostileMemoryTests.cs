using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The memory of the built program, as the kernel counts it, for files that claim large sizes: bombs, numbers at their limits, and ops and
/// scratch that only a hole can hold. Only ops that exist may cost memory; a claim may not.
/// </summary>
public sealed class HostileMemoryTests(ITestOutputHelper output)
{
    private const long Mebi = 1 << 20;
    private const string Memory = "8M";

    private static readonly Lazy<string> s_peak = new(() => CProgram.Compile("EndToEnd", "peak"));

    /// <summary>A file, its length when a hole extends it, and the number of ops that a reader finds in it.</summary>
    private sealed record Trap(string Name, byte[] Head, long Length, long Ops);

    [Fact]
    public void Bombs_and_odd_payloads_take_no_more_than_memory_and_16_MiB() => Try(
        from payload in HostilePayloads.All
        where new[] { "bomb", "window", "size", "4 GiB", "mebibyte" }.Any(word => payload.Name.Contains(word, StringComparison.Ordinal))
        from version in new[] { 2, 3 }
        select Small($"v{version}, {payload.Name}", HostileFiles.WithPayload(version, payload).Bytes), least: 20);

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Numbers_at_their_limits_take_no_more_than_memory_and_16_MiB(int version)
    {
        string[] names = ["buffer_size", "cluster_ops", "num_merge_ops", "sequence_data_count", "resume_point_count", "resume_point_max",
            "op_count", "op_count_max", "max_compression_size", "data_length"];
        HostileFile file = HostileFiles.Small(version, CowCompression.Zstd);
        Try(from field in file.Fields()
            where names.Contains(field.Name)
            group field by field.Name into same
            let field = same.First()
            let most = field.Bytes == 8 ? ulong.MaxValue : (1UL << (8 * field.Bytes)) - 1
            from value in new[] { most, most / 2, most / 16, int.MaxValue & most, 1UL << 27 }.Distinct()
            where value <= most
            select Small($"v{version}, {field.Name} is {value}", file.With(field, value).Bytes), least: version == 2 ? 12 : 30);
    }

    [Fact]
    public void Claims_that_only_a_hole_can_hold_take_no_more_than_memory_and_16_MiB() => Try(Holes(), least: 12);

    [Fact]
    public void A_sequence_list_of_half_a_million_blocks_is_listed_as_JSON_in_16_MiB_and_48_bytes_per_op()
    {
        const int blocks = 500_000;
        CowBuilder cow = new() { ScratchBytes = 0 };
        uint[] sequence = new uint[blocks];
        for (uint i = 0; i < blocks; i++)
        {
            cow.Copy(i, blocks + i);
            sequence[i] = i;
        }
        using TempFolder folder = new();
        File.WriteAllBytes(folder["cow"], cow.Sequence(sequence).Build());
        BinaryResult result =
            Binary.RunProgram(s_peak.Value, [Binary.Path, "inspect", folder["cow"], "--order", "merge", "--ops", "--json"]);
        Assert.True(result.ExitCode == 0, result.Error);
        string line = result.Output.Split('\n').Single(one => one.StartsWith("{\"event\":\"sequence\"", StringComparison.Ordinal));
        Assert.Equal($"{{\"event\":\"sequence\",\"blocks\":[{string.Join(',', sequence)}]}}", line);
        long peak = 1024 * long.Parse(result.Error.TrimEnd('\n').Split('\n')[^1], CultureInfo.InvariantCulture);
        output.WriteLine($"{peak / 1024} KiB");
        Assert.InRange(peak, Mebi, (16 * Mebi) + (48L * blocks));
    }

    private static IEnumerable<Trap> Holes()
    {
        byte[] one = new CowBuilder { ScratchBytes = 0 }.Zero(0).Build();
        foreach (long ops in new[] { 1L << 31, int.MaxValue, 1L << 27, 1L << 20 })
        {
            // The header claims all ops; the reader stops at the second, whose type is invalid.
            byte[] claimed = With(With(one, 54, ops), 62, ops);
            yield return new Trap($"{ops} ops in a hole", claimed, claimed.Length + (ops * 16), 0);
            // One op exists; the table has space for the given number of ops.
            byte[] place = With(one, 62, ops);
            yield return new Trap($"one op and places for {ops} in a hole", place, place.Length + (ops * 16), 1);
        }
        foreach (int entries in new[] { int.MaxValue, 1 << 27 })
        {
            yield return new Trap($"a sequence list of {entries} in a hole", With(one, 38, entries), one.Length + (entries * 4L), 1);
            yield return new Trap($"{entries} resume points in a hole", With(With(one, 46, entries, 4), 50, entries, 4),
                one.Length + (entries * 16L), 1);
        }
        // The scratch would permit windows as long as the merge order, if there were enough memory.
        HostileFile chain = HostileFiles.Of(
            Enumerable.Range(0, 12).Aggregate(new CowBuilder { ScratchBytes = 0 }, (cow, i) => cow.Copy((uint)i, (ulong)i + 1)));
        foreach (uint scratch in new[] { uint.MaxValue, 1u << 31, 1u << 30, 1u << 24 })
        {
            byte[] head = With(chain.Bytes, 34, scratch, 4);
            yield return new Trap($"scratch of {scratch} bytes in a hole", head, head.Length + scratch, 12);
        }
    }

    private static Trap Small(string name, byte[] bytes) => new(name, bytes, bytes.Length, bytes.Length / 16);

    private static byte[] With(byte[] file, int at, long value, int bytes = 8)
    {
        Span<byte> number = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(number, value);
        byte[] with = (byte[])file.Clone();
        number[..bytes].CopyTo(with.AsSpan(at));
        return with;
    }

    private void Try(IEnumerable<Trap> traps, int least)
    {
        using TempFolder folder = new();
        int tried = 0;
        Dictionary<string, (long Peak, string Name)> worst = [];
        foreach (Trap trap in traps)
        {
            using (FileStream file = File.Create(folder["cow"]))
            {
                file.Write(trap.Head);
                file.SetLength(trap.Length);
            }
            File.WriteAllBytes(folder["base"], HostileFiles.Base(0));
            tried++;
            Check(trap, worst, 8 * Mebi, "verify", "--cow", folder["cow"], "--memory", Memory);
            Check(trap, worst, 0, "inspect", folder["cow"]);
            Check(trap, worst, 8 * Mebi, "merge", "--cow", folder["cow"], "--base", folder["base"], "--memory", Memory, "--allow-unsafe",
                "--progress", "never");
        }
        output.WriteLine($"{tried} files; the most: "
            + $"{string.Join("; ", worst.Select(one => $"{one.Key} {one.Value.Peak / 1024} KiB ({one.Value.Name})"))}");
        Assert.True(tried >= least, $"only {tried} files");
    }

    /// <summary>The bound of docs/ramdisk.md, "Memory": at most --memory, 16 MiB and 48 bytes per op.</summary>
    private static void Check(Trap trap, Dictionary<string, (long Peak, string Name)> worst, long memory, params string[] arguments)
    {
        BinaryResult result = Binary.RunProgram(s_peak.Value, [Binary.Path, .. arguments]);
        Assert.True(result.ExitCode is 0 or 65, $"{trap.Name}: {arguments[0]}: {result}");
        long peak = 1024 * long.Parse(result.Error.TrimEnd('\n').Split('\n')[^1], CultureInfo.InvariantCulture);
        if (peak > worst.GetValueOrDefault(arguments[0]).Peak) worst[arguments[0]] = (peak, trap.Name);
        Assert.True(peak <= memory + (16 * Mebi) + (48 * trap.Ops) && peak > Mebi,
            $"{trap.Name}: {arguments[0]} had {peak / 1024} KiB in memory: {result}");
    }
}
