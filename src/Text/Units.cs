using System;
using System.Globalization;

namespace Snapuserd.Text;

/// <summary>Formats numbers for people.</summary>
public static class Units
{
    private static readonly string[] s_names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    /// <summary>"0 B", "512 B", "8 MiB", "1.4 GiB": powers of 1024, with at most one decimal place and none if it would be 0.</summary>
    public static string Bytes(double bytes)
    {
        int unit = 0;
        while (bytes >= 1024 && unit < s_names.Length - 1)
        {
            bytes /= 1024;
            unit++;
        }
        return $"{bytes.ToString(unit == 0 || bytes >= 100 ? "0" : "0.#", CultureInfo.InvariantCulture)} {s_names[unit]}";
    }

    /// <summary>"1 op", "2 ops". Give <paramref name="many"/> if the plural is not made by an s.</summary>
    public static string Count(long number, string one, string? many = null) =>
        $"{number.ToString(CultureInfo.InvariantCulture)} {(number == 1 ? one : many ?? one + "s")}";

    /// <summary>"0.3 ms", "1250 ms".</summary>
    public static string Milliseconds(double seconds) =>
        $"{(seconds * 1000).ToString(seconds >= 0.01 ? "0" : "0.0##", CultureInfo.InvariantCulture)} ms";

    /// <summary>"0:07", "12:30", "3:00:00".</summary>
    public static string Duration(double seconds)
    {
        long whole = (long)Math.Min(Math.Max(seconds, 0), 359_999);
        return whole >= 3600
            ? string.Create(CultureInfo.InvariantCulture, $"{whole / 3600}:{whole / 60 % 60:00}:{whole % 60:00}")
            : string.Create(CultureInfo.InvariantCulture, $"{whole / 60}:{whole % 60:00}");
    }
}
