using System.Collections.Generic;
using System.Linq;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Soak;
using Xunit;

namespace Snapuserd.Tests.Simulation;

/// <summary>The random choices of the soak (tests/Soak): the same seed gives the same round, and every choice occurs.</summary>
public sealed class SoakPlanTests
{
    private const int Rounds = 2000;

    private static readonly RoundPlan[] s_plans = [.. Seeds(1).Take(Rounds).Select(RoundPlan.From)];

    [Fact]
    public void Seed_gives_the_same_round_after_any_other_rounds()
    {
        foreach (RoundPlan plan in s_plans.Take(100))
        {
            RoundPlan again = RoundPlan.From(plan.Seed);
            Assert.Equal(plan.ToString(), again.ToString());
            Assert.Equal(plan.Updates.Select(update => (update.Seed, update.Way, update.Create)), again.Updates.Select(update =>
                (update.Seed, update.Way, update.Create)));
            Assert.Equal(Images.By(new Chance(plan.Seed), 64), Images.By(new Chance(again.Seed), 64));
        }
    }

    [Fact]
    public void Seeds_of_a_run_do_not_repeat() => Assert.Equal(Rounds, s_plans.Select(plan => plan.Seed).Distinct().Count());

    [Fact]
    public void Every_pair_of_places_and_every_way_to_interrupt_and_to_finish_occurs()
    {
        Assert.Equal(25, s_plans.Select(plan => (plan.Cow, plan.Base)).Distinct().Count());
        UpdatePlan[] updates = [.. s_plans.SelectMany(plan => plan.Updates)];
        Assert.Equal(3, updates.Select(update => update.Finisher).Distinct().Count());
        // Kill and PowerCut interrupt a merge or a server; Term and DisksVanish interrupt only a merge.
        Assert.Equal(6, updates.SelectMany(update => update.Breaks).Select(one => (one.How, one.Serving)).Distinct().Count());
        Assert.Equal(["uring", "sync"], updates.Select(update => update.Way.Io).Distinct().OrderDescending());
        Assert.Equal(8, updates.Where(update => update.Create is not null).Select(update => update.Create!.Compression).Distinct().Count());
        Assert.Contains(updates, update => update.Create is null);
        Assert.Contains(updates, update => update.Create is { KilledAt: > 0 });
        Assert.Equal([0, 1, 2], updates.Select(update => update.StagedTwice).Distinct().Order());
    }

    [Fact]
    public void Power_fails_only_where_both_disks_can_lose_unflushed_data()
    {
        foreach (RoundPlan plan in s_plans)
        {
            bool cuts = RoundPlan.LosesCache(plan.Cow) && RoundPlan.LosesCache(plan.Base);
            foreach (UpdatePlan update in plan.Updates)
            {
                Assert.True(cuts || !update.CutAfter, plan.ToString());
                Assert.True(RoundPlan.IsFile(plan.Cow) || !update.Marker, plan.ToString());
                foreach (Break one in update.Breaks)
                {
                    Assert.True(cuts || one.How is not (Interruption.PowerCut or Interruption.DisksVanish), plan.ToString());
                    Assert.True(one.How != Interruption.DisksVanish || plan.Cow == Place.CutDisk || plan.Base == Place.CutDisk,
                        plan.ToString());
                    Assert.InRange(one.After, 0, 1);
                }
            }
        }
    }

    private static IEnumerable<ulong> Seeds(ulong first)
    {
        for (ulong seed = first; ; seed = RoundPlan.Next(seed)) yield return seed;
    }
}
