using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>Memory outside the managed heap is returned to the system, whether a COW is merged, read or refused.</summary>
[Collection(nameof(LeakTests))]
[CollectionDefinition(nameof(LeakTests), DisableParallelization = true)]
public sealed class LeakTests
{
    // A leak would lose at least 600 KiB of safe-from counts each time.
    private const int Times = 25;
    private const uint Ops = 150_000;
    private const long Most = 7 << 20;

    /// <summary>
    /// Zeros, then one op per letter: g, a valid copy; w, a copy that reads an overwritten block; any other letter, an Xor in place.
    /// </summary>
    private static CowBuilder Cow(string last)
    {
        CowBuilder cow = new() { ScratchBytes = 0 };
        for (uint i = 0; i < Ops; i++) cow.Zero(i + 8);
        foreach (char op in last)
        {
            _ = op switch
            {
                'g' => cow.Copy(1, 2),
                'w' => cow.Copy(3, 8),
                _ => cow.Xor(4, 4 * 4096, new byte[4096]),
            };
        }
        return cow;
    }

    private static void AssertGivesBack(string last, Action<MergeSetup> use)
    {
        using RecordedMerge merge = new(Cow(last), (int)Ops + 8) { Only = ["none"] };
        using Arena arena = new(1 << 20);
        MergeSetup setup = merge.Setup(arena);
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, Times, () =>
        {
            arena.Reset();
            use(setup);
        }), long.MinValue, Most);
    }

    private static void Refuses(ExitCode code, Action action) => Assert.Equal(code, Assert.Throws<SnapuserdException>(action).Code);

    [Fact]
    public void Engine_frees_ops_and_safe_from_counts()
    {
        AssertGivesBack("g", setup => MergeEngine.Open(setup).Dispose());
        AssertGivesBack("x", setup => Refuses(ExitCode.Usage, () => MergeEngine.Open(setup)));
        AssertGivesBack("w", setup => Refuses(ExitCode.CowCorrupt, () => MergeEngine.Open(setup)));
    }

    [Fact]
    public void Image_frees_ops_and_safe_from_counts()
    {
        AssertGivesBack("g", setup => MergedImage.Open(setup).Dispose());
        AssertGivesBack("w", setup => Refuses(ExitCode.CowCorrupt, () => MergedImage.Open(setup)));
        // The arena is full when the buffers are allocated.
        AssertGivesBack("g", setup => Refuses(ExitCode.OutOfResources, () =>
        {
            setup.Arena.Take((1 << 20) - (66 << 10));
            MergedImage.Open(setup);
        }));
    }

    [Fact]
    public void Check_of_payloads_frees_the_ops() =>
        AssertGivesBack("w", setup => Refuses(ExitCode.CowCorrupt, () => PayloadCheck.Run(setup)));

    [Fact]
    public void Plan_frees_its_counts()
    {
        using CowFile cow = CowFile.Read(new MemorySource(Cow("g").Build()));
        SharedRange[] overlap = [new(0, 1 << 30, 4096)];
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, 100, () => new MergePlan(cow, 2, true, false, overlap).Dispose()),
            long.MinValue, Most);
    }
}
