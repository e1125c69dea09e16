using System.Collections.Generic;
using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// Merges of whole Android devices: two phases, partitions in pieces, COWs on two block devices. After power cuts and deaths at any step,
/// also of a resume, every partition becomes its target, and nothing else on the device changes.
/// </summary>
public sealed class WholeDeviceTests(ITestOutputHelper output)
{
    /// <summary>A cut at every step, and a second one at every step of the resume after each of them.</summary>
    [Theory]
    [InlineData(Page.Size, 0)]
    [InlineData(Page.Sector, 0)]
    [InlineData(Page.Sector, 3)]
    public void Partition_that_grows_into_one_that_shrinks_survives_two_cuts_at_any_step(int grain, int oddSectors)
    {
        using Arenas arenas = new();
        Tally tally = new();
        bool pages = grain == Page.Size;
        DeviceThoroughness how = new() { Grain = grain, Cuts = pages ? 128 : 16, CutsInResume = 2, Stride = pages ? 1 : 3 };
        DeviceSimulation.Check(DeviceBuilder.Small(1, oddSectors), how, arenas, tally);
        output.WriteLine(tally.ToString());
        Assert.True(tally.Distinct > 100, $"{tally.Distinct} crash states are too few");
    }

    [Fact]
    public void Devices_of_many_layouts_survive_two_cuts()
    {
        Tally tally = new();
        DeviceSimulation.CheckAll(Enumerable.Range(1, 24).Select(seed => (ulong)seed), tally);
        output.WriteLine(tally.ToString());
        Assert.Equal((48, 0), (tally.Cases, tally.Lost));
    }

    [Fact]
    public void Random_devices_have_everything_that_makes_a_merge_of_several_partitions_hard()
    {
        HashSet<string> seen = [];
        foreach (WholeDevice device in Enumerable.Range(1, 24).Select(seed => DeviceBuilder.Random((ulong)seed)))
        {
            if (device.Plan.Merges.Select(merge => merge.Phase).Distinct().Count() == 2) seen.Add("both phases");
            foreach (PlannedMerge merge in device.Plan.Merges)
            {
                if (merge.Base.Count > 1) seen.Add("a base in pieces");
                if (merge.Cow.Select(piece => piece.Device).Distinct().Count() == 2) seen.Add("a COW on both devices");
                if (merge.Cow[0].Device == "userdata") seen.Add("a COW on userdata");
                if (merge.Record.OldPartitionBytes == 0) seen.Add("a new partition");
                if (merge.Record.OldPartitionBytes == merge.Record.DeviceBytes) seen.Add("a partition of the same size");
                if (merge.Base[0].Start % Page.Sectors != 0) seen.Add("blocks across the pages of the disk");
            }
        }
        Assert.Equal(7, seen.Count);
    }
}
