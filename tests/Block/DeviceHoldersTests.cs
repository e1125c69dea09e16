using System;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Device-mapper devices over another device; the guest test android has real ones.</summary>
public sealed class DeviceHoldersTests
{
    private const string Mounts = """
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
        30 22 253:4 / /mnt/with\040blank ro,relatime - ext4 /dev/dm-4 ro
        31 22 253:4 /sub /vendor ro,relatime - ext4 /dev/dm-4 ro
        32 22 253:40 / /other ro,relatime - ext4 /dev/dm-40 ro

        """;

    [Fact]
    public void Mount_points_are_those_of_the_device()
    {
        Assert.Equal(["/mnt/with blank", "/vendor"], DeviceHolders.MountPoints(Mounts, 253, 4));
        Assert.Equal(["/"], DeviceHolders.MountPoints(Mounts, 8, 1));
        Assert.Empty(DeviceHolders.MountPoints(Mounts, 253, 5));
        Assert.Empty(DeviceHolders.MountPoints("", 253, 4));
    }

    [Fact]
    public void File_has_no_holders()
    {
        using TempFolder folder = new();
        System.IO.File.WriteAllBytes(folder["file"], new byte[4096]);
        using BlockDevice file = BlockDevice.Open(folder["file"], DeviceAccess.Read);
        Assert.Empty(DeviceHolders.Of(file));
    }

    [RootFact]
    public void Loop_device_that_nothing_lies_on_has_no_holders()
    {
        using TempFolder folder = new();
        System.IO.File.WriteAllBytes(folder["file"], new byte[1 << 20]);
        using LoopDevice loop = new(folder["file"]);
        using BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Read);
        Assert.Empty(DeviceHolders.Of(device));
    }
}
