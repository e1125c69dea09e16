using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>The sample of the sabotages, built and tried once, as many at a time as there are processors.</summary>
public sealed class SabotageRuns
{
    private readonly Lazy<ConcurrentDictionary<string, SabotageResult>> _results = new(() =>
    {
        ConcurrentDictionary<string, SabotageResult> results = new();
        Sabotages.Run([.. Sabotages.SampleOfNone, .. Sabotages.Sample], result => results[result.Name] = result);
        return results;
    });

    public SabotageResult Of(string name) => _results.Value[name];
}

/// <summary>
/// Shows that the simulator and some unit tests detect defects: the product's source is changed in one way per file, and each change
/// must be caught. `make simulate SABOTAGE=all` tries several changes per file.
/// </summary>
public sealed class SabotageTests(SabotageRuns runs, ITestOutputHelper output) : IClassFixture<SabotageRuns>
{
    public static IEnumerable<object[]> Names => Sabotages.Sample.Select(sabotage => new object[] { sabotage.Name });

    public static IEnumerable<object[]> Controls => Sabotages.SampleOfNone.Select(sabotage => new object[] { sabotage.Name });

    [Theory]
    [MemberData(nameof(Names))]
    public void Sabotaged_engine_is_caught(string name)
    {
        SabotageResult result = runs.Of(name);
        output.WriteLine($"{Sabotages.All.First(sabotage => sabotage.Name == name).What}: {result.Line}");
        Assert.True(Sabotages.IsRight(result), result.Line);
    }

    [Theory]
    [MemberData(nameof(Controls))]
    public void Unchanged_engine_built_in_the_same_way_passes(string name)
    {
        SabotageResult result = runs.Of(name);
        output.WriteLine(result.Line);
        Assert.True(Sabotages.IsRight(result), result.Line);
    }

    [Fact]
    public void Sabotages_are_distinct_and_each_fits_the_source()
    {
        Assert.True(Sabotages.All.Count >= 15, $"only {Sabotages.All.Count}");
        Assert.Equal(Sabotages.All.Count, Sabotages.All.Select(sabotage => sabotage.Name).Distinct().Count());
        foreach (Sabotage sabotage in Sabotages.All.Concat(Sabotages.None)) Assert.NotEmpty(sabotage.Sources());
    }

    [Fact]
    public void Missing_or_repeated_snippet_is_reported()
    {
        InvalidOperationException gone = Assert.Throws<InvalidOperationException>(
            () => new Sabotage("gone", "", new SourceEdit("Merge/MetadataImage.cs", "void Commit()", "no such text", "")).Sources());
        Assert.Contains("the sabotage gone needs to be brought up to date", gone.Message, StringComparison.Ordinal);
        InvalidOperationException twice = Assert.Throws<InvalidOperationException>(
            () => new Sabotage("twice", "", new SourceEdit("Merge/MetadataImage.cs", "", "Page0IsDurable();", "")).Sources());
        Assert.Contains("more than once", twice.Message, StringComparison.Ordinal);
    }
}
