using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.Cli.Boot;

/// <summary>When a boot merges.</summary>
internal enum MergePolicy
{
    /// <summary>While the system runs, from the beginning.</summary>
    Background,
    /// <summary>When `ctl merge` asks for it.</summary>
    Manual,
    /// <summary>Before anything is mounted.</summary>
    Before,
    /// <summary>Not at all: the old image is wanted, as long as there is one.</summary>
    Rollback,
}

/// <summary>What the kernel's command line says to `boot`.</summary>
internal sealed class KernelCommandLine
{
    /// <summary>Seconds that anything may ask to be waited.</summary>
    internal const int LongestWait = 3600;

    /// <summary>snapuserd=off: this boot goes without us.</summary>
    internal bool Off { get; private set; }
    /// <summary>
    /// snapuserd.merge=; unless it is there: in the background, but by hand if there is a word that nobody understands. It may have been a rollback, misspelt, and after a merge there is none.
    /// </summary>
    internal MergePolicy Merge => _merge ?? (IsDoubtful ? MergePolicy.Manual : MergePolicy.Background);

    /// <summary>When to merge is not said, and may have been meant to be.</summary>
    internal bool IsDoubtful => _merge == null && Warnings.Count > 0;

    private MergePolicy? _merge;

    /// <summary>snapuserd.device=: "auto", "ublk" or "nbd".</summary>
    internal string Device { get; private set; } = "auto";
    /// <summary>snapuserd.wait= in seconds; −1 if it does not say.</summary>
    internal int Wait { get; private set; } = -1;
    /// <summary>snapuserd.table=; null if it does not say.</summary>
    internal string? Table { get; private set; }
    /// <summary>snapuserd.verify=: decode every payload before an update is used for the first time.</summary>
    internal bool Verify { get; private set; } = true;
    /// <summary>snapuserd.row=, as many as there are.</summary>
    internal List<BootRow> Rows { get; } = [];
    /// <summary>Sentences about words that begin like ours and are not.</summary>
    internal List<string> Warnings { get; } = [];

    /// <summary>
    /// Reads a command line. Of a word that is there several times the last counts, as for the kernel; rows add up. Exit code 64 for a value that makes no sense: a machine
    /// that was told something is not to do something else.
    /// </summary>
    internal static KernelCommandLine Parse(string text)
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
    /// The words of a command line as the kernel takes them apart (lib/cmdline.c, next_arg): blanks in quotes are none, quotes around a value or the whole word are not part
    /// of it, others are; "--" ends what is the kernel's, the rest is init's. A word without '=', or that begins with it, has no value. '-' and '_' in names of modules are one; ours have neither.
    /// </summary>
    internal static List<(string Key, string? Value)> Split(string text)
    {
        List<(string, string?)> words = [];
        for (int i = 0; ;)
        {
            while (i < text.Length && IsBlank(text[i])) i++;
            if (i == text.Length) return words;
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
                if (text.AsSpan(start, end - start).SequenceEqual("--")) return words;
                words.Add((text[start..end], null));
                continue;
            }
            int from = equals + 1;
            bool quotedValue = from < end && text[from] == '"';
            if (quotedValue) from++;
            // One quote at the end is taken away for either reason, never two.
            if ((quotedValue || quotedWhole) && end > from && text[end - 1] == '"') end--;
            words.Add((text[start..equals], text[from..end]));
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
                Warnings.Add($"the kernel's command line: {Arguments.Unknown("word", key, ["snapuserd", "snapuserd.merge", "snapuserd.device", "snapuserd.verify", "snapuserd.wait", "snapuserd.table", "snapuserd.row"])}");
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
