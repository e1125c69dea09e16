using System.Collections.Generic;
using System.Linq;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// A base and a source that share storage without being the same. Each program is refused before the first write, for a valid reason, or
/// ends in the target.
/// </summary>
public sealed class OverlapTests(ITestOutputHelper output)
{
    private const ulong Seed = 1;

    [Fact]
    public void One_op_over_every_shift_in_sectors_ends_in_the_target_or_is_refused_with_reason()
    {
        Tally tally = new();
        Overlaps.CheckAll(Overlaps.All(1, Seed), Seed, tally);
        Tell(tally);
        Assert.True(tally.Cases > 100, "too few programs");
    }

    [Fact]
    public void Two_ops_over_shifted_sources_end_in_the_target_or_are_refused_with_reason()
    {
        Tally tally = new();
        Overlaps.CheckAll(Overlaps.All(2, Seed).Take(1500), Seed, tally);
        Tell(tally);
        Assert.True(tally.Distinct > 15000, "too few crash states");
    }

    [Fact]
    public void Every_way_in_which_up_to_four_ops_read_what_others_write_ends_in_the_target_or_is_refused_with_reason()
    {
        Tally tally = new();
        OverlapGraphs.CheckAll(OverlapGraphs.All(2, Seed).Concat(OverlapGraphs.All(3, Seed)), Seed, tally);
        OverlapGraphs.CheckAll(OverlapGraphs.All(4, Seed), Seed, tally, stride: 5);
        Tell(tally);
        Assert.Equal(OverlapGraphs.Count(2) + OverlapGraphs.Count(3) + OverlapGraphs.Count(4), tally.Cases);
    }

    [Fact]
    public void Six_ops_that_read_what_others_write_end_in_the_target_or_are_refused_with_reason()
    {
        Tally tally = new();
        OverlapGraphs.CheckAll(OverlapGraphs.All(6, Seed + 1).Take(1500), Seed, tally, stride: 9);
        Tell(tally);
        Assert.Equal(1500, tally.Cases);
    }

    [Fact]
    public void Ops_over_sources_made_of_several_pieces_of_the_base_end_in_the_target_or_are_refused_with_reason()
    {
        Tally tally = new();
        Overlaps.CheckAll(Overlaps.Some(3, Seed).Take(400), Seed, tally);
        Overlaps.CheckLong(Enumerable.Range(1, 40).Select(seed => (ulong)seed), tally);
        Tell(tally);
        foreach (OverlapVerdict verdict in new[] { OverlapVerdict.Mergeable, OverlapVerdict.NoWay, OverlapVerdict.SourceGone })
            Assert.True(Overlaps.Of(verdict) > 100, $"too few programs have the verdict {verdict}");
    }

    [Fact]
    public void Program_equals_the_one_parsed_from_its_argument()
    {
        IEnumerable<OverlapProgram> programs = Overlaps.All(1, Seed).Take(50).Concat(Overlaps.Some(3, Seed).Take(50));
        foreach (OverlapProgram program in programs) Assert.Equal(program.ToString(), OverlapProgram.Parse(program.ToString()).ToString());
    }

    [Fact]
    public void Shifts_cover_every_number_of_sectors_up_to_three_blocks_and_sources_inside_and_around_the_base()
    {
        HashSet<int> shifts = [];
        foreach (Geometry geometry in Overlaps.Shifts)
        {
            int at = System.Array.FindIndex(geometry.Sectors, sector => sector >= 0);
            shifts.Add(geometry.Sectors[at] - at);
        }
        for (int shift = -24; shift <= 24; shift++) Assert.Contains(shift, shifts);
        Assert.Contains(Overlaps.Shifts, geometry => geometry.Sectors.Length == 16 && geometry.Sectors.All(sector => sector >= 0));
        Assert.Contains(Overlaps.Shifts, geometry => geometry.Sectors.Count(sector => sector >= 0) == Programs.Blocks * Page.Sectors
            && geometry.Sectors[0] < 0 && geometry.Sectors[^1] < 0);
    }

    private void Tell(Tally tally)
    {
        output.WriteLine(tally.ToString());
        output.WriteLine(Overlaps.Verdicts);
    }
}
