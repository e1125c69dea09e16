using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Boot;

/// <summary>When a boot merges.</summary>
public enum MergePolicy
{
    /// <summary>While the system runs, from the start of the server.</summary>
    Background,
    /// <summary>When `ctl merge` requests it.</summary>
    Manual,
    /// <summary>Before anything is mounted.</summary>
    Before,
    /// <summary>Never: the old image is used while it exists.</summary>
    Rollback,
}

/// <summary>The kernel's command line, as far as it concerns `boot`.</summary>
public sealed class KernelCommandLine
{
    /// <summary>The longest wait in seconds that an option may request.</summary>
    public const int LongestWait = 3600;

    /// <summary>snapuserd=off: this boot does not use snapuserd.</summary>
    public bool Off { get; private set; }
    /// <summary>
    /// The value of snapuserd.merge=. The default is Background. If there is an unknown word, the default is Manual: the word may be a
    /// misspelt rollback, which a merge would make impossible.
    /// </summary>
    public MergePolicy Merge => _merge ?? (IsUnknown ? MergePolicy.Manual : MergePolicy.Background);

    /// <summary>True if the time of the merge is not given, and an unknown word may have been meant to give it.</summary>
    public bool IsUnknown => _merge == null && Warnings.Count > 0;

    private MergePolicy? _merge;

    /// <summary>snapuserd.device=: "auto", "ublk" or "nbd".</summary>
    public string Device { get; private set; } = "auto";
    /// <summary>snapuserd.wait= in seconds; −1 if it is not given.</summary>
    public int Wait { get; private set; } = -1;
    /// <summary>snapuserd.table=; null if it is not given.</summary>
    public string? Table { get; private set; }
    /// <summary>snapuserd.verify=: decode every payload before an update is used for the first time.</summary>
    public bool Verify { get; private set; } = true;
    /// <summary>All rows of snapuserd.row=.</summary>
    public List<BootRow> Rows { get; } = [];
    /// <summary>Sentences about unknown parameters that begin with "snapuserd.".</summary>
    public List<string> Warnings { get; } = [];

    /// <summary>
    /// Parses a command line. If a word occurs several times, the last one counts, as for the kernel; all snapuserd.row= count. Throws with
    /// exit code 64 (EX_USAGE) for an invalid value, because a machine must not do anything other than what was requested.
    /// </summary>
    public static KernelCommandLine Parse(string text)
    {
        KernelCommandLine line = new();
        foreach ((string key, string? value) in Split(text))
        {
            if (key == "snapuserd") line.Off = Choose(key, value, "on", "off") == 1;
            else if (key.StartsWith("snapuserd.", StringComparison.Ordinal)) line.Take(key, value);
        }
        return line;
    }

    /// <summary>
    /// Splits a command line into parameters as the kernel does (lib/cmdline.c, next_arg). Blanks in quotes do not separate parameters.
    /// Quotes around a value or the whole word are removed, other quotes are kept. "--" ends the kernel's part; the rest is init's. A word
    /// without '=', or that begins with it, has no value. The kernel treats '-' and '_' in names of modules as equal; snapuserd's
    /// parameters have neither.
    /// </summary>
    public static List<(string Key, string? Value)> Split(string text)
    {
        List<(string, string?)> parameters = [];
        for (int i = 0; ;)
        {
            while (i < text.Length && IsBlank(text[i])) i++;
            if (i == text.Length) return parameters;
            bool quotedWhole = text[i] == '"', inQuotes = quotedWhole;
            int start = quotedWhole ? ++i : i, equals = start;
            for (; i < text.Length && (inQuotes || !IsBlank(text[i])); i++)
            {
                if (equals == start && text[i] == '=') equals = i;
                if (text[i] == '"') inQuotes = !inQuotes;
            }
            int end = i;
            if (equals == start)
            {
                if (quotedWhole && end > start && text[end - 1] == '"') end--;
                if (text.AsSpan(start, end - start).SequenceEqual("--")) return parameters;
                parameters.Add((text[start..end], null));
                continue;
            }
            int from = equals + 1;
            bool quotedValue = from < end && text[from] == '"';
            if (quotedValue) from++;
            // One quote at the end is removed for either reason, never two.
            if ((quotedValue || quotedWhole) && end > from && text[end - 1] == '"') end--;
            parameters.Add((text[start..equals], text[from..end]));
        }
    }

    private void Take(string key, string? value)
    {
        switch (key)
        {
            case "snapuserd.merge":
                _merge = (MergePolicy)Choose(key, value, "background", "manual", "before", "rollback");
                break;
            case "snapuserd.device":
                ReadOnlySpan<string> kinds = ["auto", "ublk", "nbd"];
                Device = kinds[Choose(key, value, kinds)];
                break;
            case "snapuserd.verify":
                Verify = Choose(key, value, "on", "off") == 0;
                break;
            case "snapuserd.wait":
                if (!int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int seconds) || seconds > LongestWait)
                    throw Wrong(key, value, $"must be a number of seconds, at most {LongestWait}");
                Wait = seconds;
                break;
            case "snapuserd.table":
                if (value == null || !value.StartsWith('/')) throw Wrong(key, value, "must be an absolute path");
                Table = value;
                break;
            case "snapuserd.row":
                if (string.IsNullOrEmpty(value)) throw Wrong(key, value, "must be name,cow,base[,source[,phase]]");
                BootTable.Add(Rows, BootTable.Row($"{key}={value}", [.. value.Split(',')]));
                break;
            default:
                Warnings.Add("the kernel's command line: " + Suggestion.Unknown("word", key,
                    ["snapuserd", "snapuserd.merge", "snapuserd.device", "snapuserd.verify", "snapuserd.wait", "snapuserd.table",
                        "snapuserd.row"]));
                break;
        }
    }

    private static int Choose(string key, string? value, params ReadOnlySpan<string> choices)
    {
        for (int i = 0; i < choices.Length; i++)
            if (choices[i] == value) return i;
        throw Wrong(key, value, $"must be one of {string.Join(", ", choices.ToArray())}");
    }

    private static SnapuserdException Wrong(string key, string? value, string rule) =>
        new(ExitCode.Usage, $"the kernel's command line: {key} {(value == null ? "has no value" : $"is '{value}'")}, {rule}");

    private static bool IsBlank(char c) => c is ' ' or (>= '\t' and <= '\r');
}
