using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// Mutates small files systematically and passes each to inspect, verify, extract and merge (<see cref="HostileTrial"/>). The product must
/// agree with the reference reader (<see cref="NaiveReader"/>): produce the same image, or refuse the file with the right exit code. Two
/// classes inherit this one, so that xunit runs their tests in parallel.
/// </summary>
public abstract class HostileFileSweeps(ITestOutputHelper output)
{
    protected static HostileFile Make(string name) => name switch
    {
        "v2 gz, clusters, sequence" => HostileFiles.Small(2, CowCompression.Gz),
        "v2 brotli, window left in scratch" => HostileFiles.Small(2, CowCompression.Brotli, window: true),
        "v2 raw, no clusters, no scratch" => HostileFiles.Small(2, CowCompression.None, scratch: false),
        "v3 zstd, sequence" => HostileFiles.Small(3, CowCompression.Zstd),
        "v3 lz4, window left in scratch" => HostileFiles.Small(3, CowCompression.Lz4, window: true),
        "v3 gz, no scratch" => HostileFiles.Small(3, CowCompression.Gz, scratch: false),
        _ => throw new ArgumentException(name),
    };

    /// <summary>
    /// Tries all <paramref name="files"/> and stops at the first failure. Also fails with fewer than <paramref name="accepted"/> accepted
    /// or <paramref name="refused"/> refused files, because the mutations then miss the code that they are meant for.
    /// </summary>
    protected void Sweep(string name, IEnumerable<(string What, byte[] Bytes)> files, int accepted, int refused)
    {
        using HostileTrial trial = new();
        FuzzCounts counts = new();
        foreach ((string what, byte[] bytes) in files)
        {
            ulong seed = (ulong)counts.Files++;
            try
            {
                HostileOutcome outcome = trial.Try(bytes, HostileFiles.Base(0), seed);
                if (outcome.Accepted) counts.Accepted++;
                else counts.Refused[outcome.Rule!] = counts.Refused.GetValueOrDefault(outcome.Rule!) + 1;
            }
            catch (HostileException e)
            {
                throw new HostileException($"{name}, {what}, seed {seed}: {e.Message}", e);
            }
        }
        output.WriteLine($"{name}: {counts.Files} files, {counts.Accepted} accepted, {counts.Files - counts.Accepted} refused: "
            + $"{string.Join(", ", counts.Refused.Select(pair => $"{pair.Key} {pair.Value}"))}");
        Assert.True(counts.Accepted >= accepted && counts.Files - counts.Accepted >= refused,
            $"{name}: {counts.Accepted} files accepted and {counts.Files - counts.Accepted} refused; expected at least {accepted} and "
            + $"{refused}");
    }

    /// <summary>
    /// True for a byte that the sweeps skip to save time, because the product treats most of its values alike: data or unused entries of
    /// scratch, and all but the first 61 bytes of a payload.
    /// </summary>
    protected static bool IsDull(HostileFile file, int at)
    {
        if (at >= file.ScratchAt && at < file.ScratchAt + file.ScratchBytes)
            return at >= file.ScratchAt + Math.Min(file.ScratchBytes / 256, 49);
        int start = Array.FindLast(file.Data, data => data <= at);
        return start > 0 && at > start + 60 && !file.Ops.Any(op => op > start && op <= at);
    }

    /// <summary>Flips one bit per file: each bit of each byte that <see cref="IsDull"/> does not skip.</summary>
    protected static IEnumerable<(string What, byte[] Bytes)> Flips(HostileFile file)
    {
        for (int at = 0; at < file.Bytes.Length; at++)
        {
            if (IsDull(file, at)) continue;
            for (int bit = 0; bit < 8; bit++)
            {
                byte[] bytes = (byte[])file.Bytes.Clone();
                bytes[at] ^= (byte)(1 << bit);
                yield return ($"bit {bit} of byte {at}", bytes);
            }
        }
    }

    /// <summary>Sets one field per file to one of its <see cref="HostileFile.Extremes"/>.</summary>
    protected static IEnumerable<(string What, byte[] Bytes)> Extremes(HostileFile file)
    {
        foreach (HostileField field in file.Fields())
            foreach (ulong value in HostileFile.Extremes(field.Bytes, file.Get(field), file.Bytes.Length))
                yield return ($"{field.Name} at byte {field.At} is {value}", file.With(field, value).Bytes);
    }

    /// <summary>Sets two random fields per file to random values that are likely to be accepted or to provoke errors.</summary>
    protected static IEnumerable<(string What, byte[] Bytes)> Pairs(HostileFile file, int count)
    {
        Chance chance = new(12);
        List<HostileField> fields = file.Fields();
        for (int i = 0; i < count; i++)
        {
            HostileField one = fields[chance.Below(fields.Count)], two = fields[chance.Below(fields.Count)];
            ulong first = Value(one), second = Value(two);
            yield return ($"{one.Name} at byte {one.At} is {first} and {two.Name} at byte {two.At} is {second}",
                file.With(one, first).With(two, second).Bytes);
        }

        ulong Value(HostileField field)
        {
            // A value near the current one, the value of another field, or an extreme.
            if (chance.Percent(30)) return (file.Get(field) + (ulong)chance.Below(9) - 4) & Mask(field);
            if (chance.Percent(30)) return file.Get(fields[chance.Below(fields.Count)]) & Mask(field);
            ulong[] extremes = [.. HostileFile.Extremes(field.Bytes, file.Get(field), file.Bytes.Length)];
            return extremes[chance.Below(extremes.Length)];
        }

        static ulong Mask(HostileField field) => field.Bytes == 8 ? ulong.MaxValue : (1UL << (8 * field.Bytes)) - 1;
    }
}

public sealed class HostileBitTests(ITestOutputHelper output) : HostileFileSweeps(output)
{
    [Theory]
    [InlineData("v2 gz, clusters, sequence")]
    [InlineData("v2 brotli, window left in scratch")]
    [InlineData("v2 raw, no clusters, no scratch")]
    [InlineData("v3 zstd, sequence")]
    [InlineData("v3 lz4, window left in scratch")]
    [InlineData("v3 gz, no scratch")]
    public void File_with_one_flipped_bit_is_refused_or_merges_as_the_reference_reader_does(string name) =>
        Sweep(name, Flips(Make(name)), 50, 500);
}

public sealed class HostileFieldTests(ITestOutputHelper output) : HostileFileSweeps(output)
{
    [Theory]
    [InlineData("v2 gz, clusters, sequence")]
    [InlineData("v2 raw, no clusters, no scratch")]
    [InlineData("v3 zstd, sequence")]
    [InlineData("v3 gz, no scratch")]
    public void Every_truncation_of_a_file_is_refused(string name)
    {
        HostileFile file = Make(name);
        bool IsTried(int length) => !IsDull(file, length) || length % 61 == 0;
        (string, byte[])[] cuts =
        [
            .. Enumerable.Range(0, file.Bytes.Length).Where(IsTried).Select(length => ($"cut to {length} bytes", file.Bytes[..length])),
        ];
        Sweep(name, cuts, 0, cuts.Length);
        Sweep(name, [("whole", file.Bytes)], 1, 0);
    }

    [Theory]
    [InlineData("v2 gz, clusters, sequence")]
    [InlineData("v2 brotli, window left in scratch")]
    [InlineData("v2 raw, no clusters, no scratch")]
    [InlineData("v3 zstd, sequence")]
    [InlineData("v3 lz4, window left in scratch")]
    [InlineData("v3 gz, no scratch")]
    public void File_with_one_extreme_field_is_refused_or_merges_as_the_reference_reader_does(string name) =>
        Sweep(name, Extremes(Make(name)), 50, 500);

    [Theory]
    [InlineData("v2 gz, clusters, sequence")]
    [InlineData("v3 zstd, sequence")]
    [InlineData("v3 lz4, window left in scratch")]
    public void File_with_two_changed_fields_is_refused_or_merges_as_the_reference_reader_does(string name) =>
        Sweep(name, Pairs(Make(name), 4000), 100, 1000);
}

/// <summary>Tests the reference reader itself, with COWs and half-done merges that Android's code has written.</summary>
public sealed class NaiveReaderTests
{
    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Reference_reader_produces_the_new_image_from_every_golden_COW(string name)
    {
        NaiveVerdict verdict = NaiveReader.Judge(Golden.Cow(name), Golden.Old);
        Assert.Null(verdict.ForImage);
        Assert.Null(verdict.Payload);
        Assert.True(Golden.New.AsSpan().SequenceEqual(verdict.Image));
    }

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void Reference_reader_completes_every_merge_that_Android_left_half_done(string name)
    {
        NaiveVerdict verdict = NaiveReader.Judge(Golden.HalfCow(name), Golden.HalfBase(name));
        Assert.Null(verdict.ForImage);
        Assert.True(Golden.New.AsSpan().SequenceEqual(verdict.Image));
    }
}

/// <summary>Tests payloads that no writer produces, and files from a run of the fuzzer.</summary>
public sealed class HostilePayloadTests(ITestOutputHelper output)
{
    public static IEnumerable<object[]> Payloads =>
        HostilePayloads.All.SelectMany(payload => new[] { 2, 3 }.Select(version => new object[] { payload.Name, version }));

    [Theory]
    [MemberData(nameof(Payloads))]
    public void Payload_that_does_not_decode_to_exactly_one_unit_is_refused_before_the_first_write(string name, int version)
    {
        HostilePayload payload = HostilePayloads.All.Single(one => one.Name == name);
        HostileFile file = HostileFiles.WithPayload(version, payload);
        using HostileTrial trial = new();
        HostileOutcome outcome = trial.Try(file.Bytes, HostileFiles.Base(1), 1);
        output.WriteLine($"{payload.Stored.Length} bytes stored: {outcome}");
        // Version 3 refuses the op itself if its payload is longer than the unit of 4096 bytes.
        string? rule = payload.Decodes ? null : "payload";
        if (payload.Stored.Length > 4096) rule = version == 3 ? "op: data_length" : rule;
        Assert.Equal(rule, outcome.Rule);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Randomly_mutated_file_is_refused_or_merges_as_the_reference_reader_does(ulong seed)
    {
        const int files = 6_000;
        Fuzzer fuzzer = new(seed);
        using HostileTrial trial = new();
        try
        {
            while (fuzzer.Counts.Files < files) fuzzer.Step(trial);
        }
        catch (HostileException e)
        {
            throw new HostileException($"{e.Message}; repeat with: {fuzzer.SaveCurrent()}", e);
        }
        FuzzCounts counts = fuzzer.Counts;
        output.WriteLine($"{counts.Files} files, {counts.Accepted} accepted, refused by {counts.Refused.Count} rules with "
            + $"{counts.Sentences.Count} messages; {counts.Liars} tried on a device that returns changed data");
        Assert.InRange(counts.Accepted, files / 10, files * 9 / 10);
        string[] missing = [.. NaiveReader.AndroidRules.Concat(NaiveReader.OurRules.Keys).Where(rule => !counts.Refused.ContainsKey(rule))];
        Assert.True(missing.Length <= 4,
            $"the files break none of these {missing.Length} rules, and at most 4 may be missing: {string.Join(", ", missing)}");
    }
}
