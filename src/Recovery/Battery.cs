using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.Recovery;

/// <summary>The charge of the batteries, as the kernel tells it.</summary>
public static class Battery
{
    /// <summary>Below this charge, in percent, a merge should not begin without a charger.</summary>
    private const int Low = 15;

    private const int MostBytes = 256;

    /// <summary>
    /// A warning if a battery is nearly empty and not being charged; null otherwise, also if there is no battery.
    /// <paramref name="supplies"/> is the kernel's folder of power supplies.
    /// </summary>
    public static string? Warning(string supplies = "/sys/class/power_supply")
    {
        foreach (string name in FolderNames.In(supplies))
        {
            string folder = $"{supplies}/{name}";
            if (Text($"{folder}/type") != "Battery" || Text($"{folder}/status") is "Charging" or "Full") continue;
            if (int.TryParse(Text($"{folder}/capacity"), NumberStyles.None, CultureInfo.InvariantCulture, out int percent) && percent < Low)
                return string.Create(CultureInfo.InvariantCulture,
                    $"the battery is at {percent}% and is not being charged: connect a charger. If the power fails, nothing is lost; the "
                    + $"same command goes on");
        }
        return null;
    }

    private static string Text(string path)
    {
        try
        {
            return SmallFile.Read(path, MostBytes) is { } bytes ? System.Text.Encoding.ASCII.GetString(bytes).Trim() : "";
        }
        catch (SnapuserdException)
        {
            return "";
        }
    }
}
