using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Benchmarks.Merging;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// A tiny version of the merge benchmark. Times are meaningless here; each count has a bound in tests/Benchmarks. Checkpoints come only by
/// bytes, so that a slow machine has the same counts.
/// </summary>
public sealed class MergeCountTests(MergeCountTests.Images images, ITestOutputHelper output) : IClassFixture<MergeCountTests.Images>
{
    private static readonly EngineChoices s_choices = new() { CheckpointMilliseconds = long.MaxValue };

    /// <summary>The generated pair of images, shared by all tests, and COWs made of it by the built program.</summary>
    public sealed class Images : IDisposable
    {
        private readonly TempFolder _folder = new();

        internal string Old => _folder["old.img"];

        internal string New(CowVariant variant) => _folder[$"new-{variant.Mix}.img"];

        internal string Cow(CowVariant variant)
        {
            Pair.Make(_folder.Path, CountBound.PairBytes, ofThisMachine: false, Mix.All.Where(mix => mix.Name == variant.Mix),
                TextWriter.Null);
            return variant.Make(_folder.Path, Binary.Path, TextWriter.Null);
        }

        internal Place Copies() => Place.OfFolder(_folder["run"]);

        public void Dispose() => _folder.Dispose();
    }

    public static TheoryData<string> Names => [.. CountBound.Of.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void Merge_stays_within_its_bounds_for_bytes_requests_and_flushes(string name)
    {
        CowVariant variant = CowVariant.All.Single(one => one.Name == name);
        using Place place = images.Copies();
        place.Take(images.Old, images.Cow(variant));
        MergeCounts counts = new(EngineRun.Of(place.Base, place.Cow, s_choices));
        output.WriteLine(counts.ToString());
        place.Compare(images.New(variant));

        CountBound bound = CountBound.Of[name];
        Assert.InRange(counts.ReadPerByte, 0, bound.ReadPerByte);
        Assert.InRange(counts.WrittenPerByte, 1, bound.WrittenPerByte);
        Assert.InRange(counts.Run.Flushes, 1, bound.Flushes);
        Assert.InRange(counts.RequestsPerBlock, 0, bound.RequestsPerBlock);
    }

    [Fact]
    public void Merge_allocates_nothing_managed_per_op()
    {
        using TempFolder folder = new();
        long[] ops = new long[2], allocated = new long[2];
        foreach ((int size, int index) in new[] { (400, 0), (400, 0), (4000, 1) })
        {
            // The first run also compiles; the second run is the one that counts.
            EngineRun run;
            int runs = 0;
            do
            {
                Scaling.Write(folder["cow"], size);
                using (FileStream image = File.Create(folder["base"])) image.SetLength(4L * size * 4096);
                run = EngineRun.Of(folder["base"], folder["cow"], s_choices);
                File.Delete(folder["cow"]);
            }
            // A collection, which other tests can trigger at any time, discards the rest of a thread's allocation buffer. Up to 8 KiB then
            // count as allocated although no object uses them.
            while (run.Collections > 0 && ++runs < 50);
            (ops[index], allocated[index]) = (run.Ops, run.RunAllocated);
            output.WriteLine($"{run.Ops} ops: {run.RunAllocated} bytes while it ran, {run.OpenAllocated} before");
        }
        Assert.InRange((double)(allocated[1] - allocated[0]) / (ops[1] - ops[0]), double.MinValue, CountBound.AllocatedPerOp);
    }

    [Fact]
    public void Ceilings_and_the_Android_pattern_run_and_the_pattern_yields_the_target()
    {
        CowVariant variant = CowVariant.All.Single(one => one.Name == "v3-lz4-xor");
        string cow = images.Cow(variant);
        using Place place = images.Copies();
        place.Take(images.Old, cow);
        var options = BenchOptionsOf(Binary.Path);
        var lines = new StringWriter();
        List<string> missed = [];
        MergeCell.Measure(variant, place, cold: false, cow, images.New(variant), options).Print(lines, missed);
        Assert.Matches(
            @"^\| v3-lz4-xor \| \w+ warm \| [0-9.]+ % \|( [0-9.]+ \[[0-9.]+-[0-9.]+\]( direct)? \|){6} "
            + @"[0-9.]+ \| ([0-9.]+( [+-])? \|? ?){3}", lines.ToString());
    }

    private static Benchmarks.BenchOptions BenchOptionsOf(string snapuserd) =>
        Benchmarks.BenchOptions.Parse(["--snapuserd", snapuserd, "--runs", "1"])!;
}
