using Snapuserd.AndroidDevice;
using Xunit;

namespace Snapuserd.Tests.AndroidDevice;

public sealed class BootParametersTests
{
    [Theory]
    [InlineData("", "", null)]
    [InlineData("quiet root=/dev/sda1", "", null)]
    [InlineData("console=tty0 androidboot.slot_suffix=_b quiet\n", "", "_b")]
    [InlineData("androidboot.slot_suffix=", "", null)]
    [InlineData("androidboot.slot_suffix=_a androidboot.slot_suffix=_b", "", "_b")]
    [InlineData("androidboot.slot_suffix", "", null)]
    [InlineData("xandroidboot.slot_suffix=_a", "", null)]
    [InlineData("", "androidboot.hardware = \"x\"\nandroidboot.slot_suffix = \"_b\"\n", "_b")]
    [InlineData("androidboot.slot_suffix=_a", "androidboot.slot_suffix = \"_b\"", "_b")]
    [InlineData("dyndbg=\"file a +p\" \"androidboot.slot_suffix=_a\"", "", "_a")]
    [InlineData("note=\"androidboot.slot_suffix=_a", "", null)]
    public void Slot_is_that_of_bootconfig_or_of_the_command_line(string line, string config, string? slot) =>
        Assert.Equal(slot, BootParameters.Parse(line, config).Slot);

    [Theory]
    [InlineData("", "_a", "super")]
    [InlineData("androidboot.super_partition=system", "_a", "system_a")]
    [InlineData("androidboot.super_partition=main", null, "main")]
    [InlineData("androidboot.super_partition=system androidboot.force_super_partition=super_x", "_a", "super_x")]
    public void Super_partition_has_the_name_that_the_bootloader_gives(string line, string? slot, string name) =>
        Assert.Equal(name, BootParameters.Parse(line, "").SuperPartition(slot));
}
