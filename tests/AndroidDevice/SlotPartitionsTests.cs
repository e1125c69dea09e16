using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDevice;

/// <summary>Which partitions of each golden device can be read by their extents.</summary>
public sealed class SlotPartitionsTests
{
    private static SlotPartitions Of(string name, bool merged)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        DeviceFacts facts = DeviceReader.Read(device.Slot, device.Metadata,
            device.Devices.ToDictionary(one => one, one => (IByteSource)new MemorySource(device.Device(one))));
        return SlotPartitions.Of(facts, UpdatePlan.Of(facts), _ => merged);
    }

    [Theory]
    [InlineData("first-phase-begin", "odm_b", "product_b system_b system_dlkm_b vendor_b")]
    [InlineData("unverified-source", "odm_a product_a system_a vendor_a", "")]
    [InlineData("unverified-target", "odm_b", "product_b system_b system_dlkm_b vendor_b")]
    [InlineData("merge-completed", "odm_b product_b system_b system_dlkm_b vendor_b", "")]
    public void Partitions_whose_update_is_not_merged_are_left_out(string name, string readable, string leftOut)
    {
        SlotPartitions slot = Of(name, merged: false);
        Assert.Null(slot.Refusal);
        Assert.Equal(readable, string.Join(' ', slot.Partitions.Select(one => one.Name).Order()));
        Assert.Equal(leftOut, string.Join(' ', slot.LeftOut.Select(one => one.Name).Order()));
    }

    [Fact]
    public void Merged_partitions_are_readable_with_the_pieces_of_the_new_table()
    {
        SlotPartitions slot = Of("first-phase-begin", merged: true);
        Assert.Empty(slot.LeftOut);
        Assert.Equal("super:18432+2048 super:16384+2048 super:22528+2048",
            string.Join(' ', slot.Partitions.First(one => one.Name == "product_b").Pieces));
    }

    [Theory]
    [InlineData("wrong-slot")]
    [InlineData("damaged-both")]
    public void Slot_that_is_partly_overwritten_or_damaged_is_refused(string name) => Assert.NotNull(Of(name, merged: false).Refusal);
}
