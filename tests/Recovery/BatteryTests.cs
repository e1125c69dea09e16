using System.IO;
using Snapuserd.Recovery;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Recovery;

/// <summary>The warning for a battery that is nearly empty.</summary>
public sealed class BatteryTests
{
    [Theory]
    [InlineData("Battery", "Discharging", "14", true)]
    [InlineData("Battery", "Discharging", "0", true)]
    [InlineData("Battery", "Discharging", "15", false)]
    [InlineData("Battery", "Charging", "3", false)]
    [InlineData("Battery", "Full", "3", false)]
    [InlineData("Battery", "Unknown", "3", true)]
    [InlineData("USB", "Discharging", "3", false)]
    [InlineData("Battery", "Discharging", "unknown", false)]
    public void Battery_is_warned_of_only_if_it_is_low_and_not_being_charged(string type, string status, string capacity, bool warns)
    {
        using TempFolder folder = new();
        Directory.CreateDirectory(folder["battery"]);
        File.WriteAllText(folder["battery/type"], type + "\n");
        File.WriteAllText(folder["battery/status"], status + "\n");
        File.WriteAllText(folder["battery/capacity"], capacity + "\n");
        string warning = Battery.Warning(folder.Path) ?? "";
        Assert.Equal(warns, warning.Contains($"the battery is at {capacity}%", System.StringComparison.Ordinal));
    }

    [Fact]
    public void Machine_without_a_battery_is_not_warned()
    {
        using TempFolder folder = new();
        Assert.Null(Battery.Warning(folder["missing"]));
    }
}
