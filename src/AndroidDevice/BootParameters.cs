using System;
using System.Collections.Generic;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// What the bootloader tells about slots and partitions (android-device §1): parameters "androidboot.X" of bootconfig and of the kernel's
/// command line. If both have a parameter, bootconfig counts, as for Android.
/// </summary>
public sealed class BootParameters
{
    private const string Prefix = "androidboot.";

    private readonly Dictionary<string, string> _values = new(StringComparer.Ordinal);

    /// <summary>
    /// The suffix of the current slot: <see cref="Slots.A"/>, <see cref="Slots.B"/>, or another text from a broken bootloader. Null if the
    /// device has no slots, or its parameters are not at hand.
    /// </summary>
    public string? Slot => _values.GetValueOrDefault("slot_suffix") is { Length: > 0 } slot ? slot : null;

    /// <summary>
    /// The name of the partition with the tables, for the current slot <paramref name="slot"/>, which may be null for a device without
    /// slots.
    /// </summary>
    public string SuperPartition(string? slot)
    {
        if (_values.GetValueOrDefault("force_super_partition") is { Length: > 0 } forced) return forced;
        return _values.GetValueOrDefault("super_partition") is { Length: > 0 } named ? named + slot : "super";
    }

    /// <summary>
    /// Parses the content of /proc/cmdline and of /proc/bootconfig. Either may be empty. Of a parameter that occurs several times, the last
    /// one counts.
    /// </summary>
    public static BootParameters Parse(string commandLine, string bootConfig)
    {
        BootParameters parameters = new();
        foreach (string word in Words(commandLine))
        {
            int equals = word.IndexOf('=', StringComparison.Ordinal);
            if (equals > 0) parameters.Add(word[..equals], word[(equals + 1)..]);
        }
        foreach (string line in bootConfig.Split('\n'))
        {
            // androidboot.X = "Y"
            int equals = line.IndexOf('=', StringComparison.Ordinal);
            if (equals > 0) parameters.Add(line[..equals].Trim(), line[(equals + 1)..].Trim().Trim('"'));
        }
        return parameters;
    }

    /// <summary>The words of a command line. Quotes keep the spaces between them, and are not part of the word.</summary>
    private static IEnumerable<string> Words(string line)
    {
        List<char> word = [];
        bool quoted = false;
        foreach (char c in line + " ")
        {
            if (c == '"') quoted = !quoted;
            else if (quoted || !char.IsWhiteSpace(c)) word.Add(c);
            else if (word.Count > 0)
            {
                yield return new string([.. word]);
                word.Clear();
            }
        }
        if (word.Count > 0) yield return new string([.. word]).TrimEnd();
    }

    private void Add(string name, string value)
    {
        if (name.StartsWith(Prefix, StringComparison.Ordinal)) _values[name[Prefix.Length..]] = value;
    }
}
