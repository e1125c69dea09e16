using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// Crashes during merges of the golden COWs. After every step: the power cut that loses everything unflushed, the one that loses nothing,
/// one in between, and the death of the process. The steps are divided among several tests, which run in parallel.
/// </summary>
public abstract class GoldenCrashTests(ITestOutputHelper output)
{
    private static MergeCase Case(string name)
    {
        bool noScratch = name.EndsWith("noscratch", StringComparison.Ordinal);
        return new MergeCase(name, new Image(Golden.Cow(name)), new Image(Golden.Old), new Image(Golden.New))
        {
            ArenaBytes = 8 << 20,
            QueueDepth = 32,
            MayBeLost = noScratch,
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 256 << 10, AllowUnsafe = noScratch },
        };
    }

    protected void Explore(string name, Thoroughness how)
    {
        using Explorer explorer = new(Case(name), how);
        explorer.Explore();
        output.WriteLine(explorer.Counts);
        Assert.True(explorer.Runs > 20);
    }

    protected static Thoroughness OneCrash(int phase, int stride) =>
        new() { Seed = 11, Crashes = 1, ExhaustiveUpTo = 0, Samples = 1, Stride = stride, Phase = phase };
}

public sealed class EveryStepOfAJournaledMergeTests(ITestOutputHelper output) : GoldenCrashTests(output)
{
    [Theory]
    [InlineData("v3-lz4-64k-xor")]
    public void A_crash_at_any_even_step_loses_nothing(string name) => Explore(name, OneCrash(0, 2));
}

public sealed class EveryOtherStepOfAJournaledMergeTests(ITestOutputHelper output) : GoldenCrashTests(output)
{
    [Theory]
    [InlineData("v3-lz4-64k-xor")]
    public void A_crash_at_any_odd_step_loses_nothing(string name) => Explore(name, OneCrash(1, 2));
}

public sealed class StepsOfOtherMergesTests(ITestOutputHelper output) : GoldenCrashTests(output)
{
    [Theory]
    [InlineData("v2-lz4-xor", 23)]
    [InlineData("v3-zstd-nocopy", 3)]
    [InlineData("v3-lz4-noseq", 29)]
    [InlineData("v2-zstd-noscratch", 19)]
    [InlineData("v3-none-64k", 31)]
    public void A_crash_at_many_steps_loses_nothing(string name, int stride) => Explore(name, OneCrash(0, stride));

    [Theory]
    [InlineData("v3-lz4-64k-xor", 211)]
    [InlineData("v2-gz-copyonly", 67)]
    public void A_second_crash_during_the_recovery_loses_nothing(string name, int stride) =>
        Explore(name, OneCrash(0, stride) with { Crashes = 2 });
}
