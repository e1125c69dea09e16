using System;

namespace Snapuserd.AndroidDevice;

/// <summary>The two slots of a device. Their suffixes end the names of partitions and snapshot files.</summary>
public static class Slots
{
    /// <summary>The suffix of slot 0.</summary>
    public const string A = "_a";

    /// <summary>The suffix of slot 1.</summary>
    public const string B = "_b";

    /// <summary>True if <paramref name="suffix"/> is one of the two.</summary>
    public static bool IsSlot(string? suffix) => suffix is A or B;

    /// <summary>The suffix of the other slot.</summary>
    public static string Other(string suffix) => Number(suffix) == 0 ? B : A;

    /// <summary>The number of the slot, which is also that of its table on super. Throws for anything but a suffix.</summary>
    public static int Number(string suffix) => suffix switch
    {
        A => 0,
        B => 1,
        _ => throw new ArgumentException($"{suffix} is not the suffix of a slot", nameof(suffix)),
    };
}
