using System;
using System.Linq;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

public sealed class ProgramTests(ITestOutputHelper output)
{
    private const ulong Seed = 1;

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Every_program_of_a_length_over_four_blocks_survives_a_crash_at_any_step_and_another_in_its_recovery(int length)
    {
        Tally tally = new();
        long covered = Programs.CheckLists(Programs.AllLists(length, Seed), Seed, tally);
        output.WriteLine(tally.ToString());
        Assert.Equal(Programs.Lists(length), covered);
        Assert.True(tally.Distinct > covered, "fewer crash states than programs");
    }

    [Fact]
    public void Some_programs_of_four_ops_survive_crashes()
    {
        Tally tally = new();
        long covered = Programs.CheckLists(Programs.SomeLists(4, Seed).Take(1500), Seed, tally);
        output.WriteLine($"{covered} of {Programs.Lists(4)} lists: {tally}");
        Assert.True(tally.Distinct > 15000, "too few crash states");
    }

    [Fact]
    public void Every_list_of_ops_is_in_one_class_with_any_seed()
    {
        foreach (ulong seed in new ulong[] { 1, 2, 3 })
            Assert.Equal(Programs.Lists(2), Programs.AllLists(2, seed).Sum(list => (long)list.Class));
        Assert.Equal(Programs.Lists(3), Programs.AllLists(3, 5).Sum(list => (long)list.Class));
    }

    [Fact]
    public void Renaming_keeps_only_the_neighbours_of_ops_on_two_blocks()
    {
        // Any two pairs of blocks are equivalent for Copies alone, so the class of one Copy between two blocks has all twelve.
        Assert.Contains(Programs.AllLists(1, Seed), list => list.Ops[0] is { Kind: 'C' } op && op.Block != op.From && list.Class == 12);
        // An op whose source lies across its own destination and the next block: the pair has three positions, none of them at the device's
        // end.
        Assert.Contains(Programs.AllLists(1, Seed),
            list => list.Ops[0] is { Kind: 'Y' } op && op.Block == op.From && op.From < 3 && list.Class == 3);
        Assert.Contains(Programs.AllLists(1, Seed), list => list.Ops[0] is { Kind: 'S', Block: 3 } && list.Class == 1);
    }

    [Fact]
    public void Program_equals_the_one_parsed_from_its_argument()
    {
        foreach ((SmallOp[] ops, _) in Programs.AllLists(2, Seed))
            foreach (SmallProgram program in Programs.Variants(ops, Seed))
                Assert.Equal(program.ToString(), SmallProgram.Parse(program.ToString()).ToString());
    }
}
