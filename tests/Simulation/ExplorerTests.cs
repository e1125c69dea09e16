using System;
using System.Collections.Generic;
using Snapuserd.Tests.Simulator;
using Xunit;

namespace Snapuserd.Tests.Simulation;

public sealed class ExplorerTests
{
    [Theory]
    [InlineData("mixed", Page.Size)]
    [InlineData("xor-in-place", Page.Size)]
    [InlineData("v2-clusters", Page.Sector)]
    public void Hook_gets_every_distinct_state_once_before_its_recovery(string name, int grain)
    {
        HashSet<(ulong, ulong)> shown = [];
        int twice = 0;
        using Explorer explorer =
            new(SmallCases.Make(name), new Thoroughness { Grain = grain, ExhaustiveUpTo = 8, Crashes = grain == Page.Size ? 2 : 1 })
            {
                EveryState = (_, disks) => twice += shown.Add((disks[0].Hash, disks[1].Hash)) ? 0 : 1,
            };
        explorer.Explore();
        Assert.Equal(0, twice);
        Assert.Equal(explorer.Distinct, shown.Count);
        Assert.Equal(explorer.Distinct + 1, explorer.Runs);
        Assert.True(explorer.States > explorer.Distinct, explorer.Counts);
    }

    [Fact]
    public void Unreached_target_is_reported_with_seed_and_history()
    {
        MergeCase merge = SmallCases.Make("mixed");
        byte[] wrong = merge.Target.ToArray();
        wrong[(7 * Page.Size) + 5] ^= 1;
        using Explorer explorer = new(merge with { Target = new Image(wrong) }, new Thoroughness { Seed = 77 });
        LostDataException lost = Assert.Throws<LostDataException>(explorer.Explore);
        Assert.Contains("seed 77", lost.Message);
        Assert.Contains("history: start", lost.Message);
        Assert.Contains("block 7", lost.Message);
    }

    [Fact]
    public void Exception_of_a_hook_is_reported_as_a_loss_with_a_history()
    {
        using Explorer explorer = new(SmallCases.Make("chain-up"), new Thoroughness())
        {
            EveryState = (_, _) => throw new InvalidOperationException("no such thing"),
        };
        LostDataException lost = Assert.Throws<LostDataException>(explorer.Explore);
        Assert.Contains("no such thing", lost.Message);
        Assert.Contains("at step", lost.Message);
    }

    [Fact]
    public void Hash_of_an_image_changes_with_its_contents_and_is_computable_from_its_sectors()
    {
        byte[] bytes = SmallCases.Random(3, 4);
        Image changed = new(bytes), other = changed.Copy();
        bytes[(2 * Page.Size) + 700] ^= 1;
        Page page = new(bytes.AsSpan(2 * Page.Size, Page.Size));
        ulong before = changed.Hash;
        ulong due = before + Image.Weight(2, page, 1) - Image.Weight(2, changed[2], 1);
        changed.Set(2, page);
        Assert.Equal(due, changed.Hash);
        Assert.Equal(new Image(bytes).Hash, changed.Hash);
        Assert.Equal(before, other.Hash);
        Assert.NotEqual(before, changed.Hash);
    }
}
