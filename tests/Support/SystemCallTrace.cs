using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;

namespace Snapuserd.Tests.Support;

/// <summary>
/// One system call of a trace. <paramref name="Begin"/> and <paramref name="End"/> are lines of the trace: one call is before another if
/// its end is before the other's begin. <paramref name="Result"/> is what it returned, or "?" if it did not return.
/// </summary>
public sealed record TracedCall(int Thread, string Name, string Arguments, string Result, int Begin, int End)
{
    /// <summary>It returned, and not an error.</summary>
    public bool Succeeded => Result.Length > 0 && char.IsAsciiDigit(Result[0]);

    /// <summary>
    /// The path behind the descriptor that is its first argument, or the first string among its arguments; "" if there is neither.
    /// </summary>
    public string Path =>
        Regex.Match(Arguments, @"^\d+<([^>]*)>") is { Success: true } descriptor ? descriptor.Groups[1].Value
            : Regex.Match(Arguments, "\"([^\"]*)\"").Groups[1].Value;

    /// <summary>The last number among its arguments: the offset of a pwrite64.</summary>
    public long Offset => Name == "pwrite64" ? long.Parse(Arguments.AsSpan(Arguments.LastIndexOf(' ') + 1), CultureInfo.InvariantCulture)
        : -1;

    /// <summary>The first bytes of the data that it writes, as many as strace shows.</summary>
    public byte[] Bytes
    {
        get
        {
            string text = Regex.Match(Arguments, "\"((?:[^\"\\\\]|\\\\.)*)\"").Groups[1].Value;
            List<byte> bytes = [];
            for (int i = 0; i < text.Length; i++)
            {
                if (text[i] != '\\')
                {
                    bytes.Add((byte)text[i]);
                    continue;
                }
                char kind = text[++i];
                if (kind is < '0' or > '7')
                {
                    int known = "tnvfr".IndexOf(kind, StringComparison.Ordinal);
                    bytes.Add(known < 0 ? (byte)kind : "\t\n\v\f\r"u8[known]);
                    continue;
                }
                int value = 0, digits = 0;
                for (; digits < 3 && i + digits < text.Length && text[i + digits] is >= '0' and <= '7'; digits++)
                    value = (value * 8) + (text[i + digits] - '0');
                bytes.Add((byte)value);
                i += digits - 1;
            }
            return [.. bytes];
        }
    }

    /// <summary>A write to the file, or a change of its length.</summary>
    public bool Writes(string path) => Name is "pwrite64" or "write" or "ftruncate" && Path == path;

    /// <summary>A successful flush of the file or folder.</summary>
    public bool Flushes(string path) => Name is "fsync" or "fdatasync" && Path == path && Succeeded;

    /// <inheritdoc/>
    public override string ToString() => $"{Name}({Arguments}) = {Result}";
}

/// <summary>
/// What strace(1) saw of a program and its children, descriptors with their paths. It shows plain calls only: what a ring does is not in
/// it.
/// </summary>
public sealed class SystemCallTrace(IReadOnlyList<TracedCall> calls)
{
    private const string Unfinished = " <unfinished ...>";

    /// <summary>In the order in which they began.</summary>
    public IReadOnlyList<TracedCall> Calls => calls;

    /// <summary>
    /// The command line that runs <paramref name="command"/> and traces the calls that <paramref name="names"/> lists, with commas between
    /// them, into <paramref name="log"/>.
    /// </summary>
    public static string[] Command(string log, string names, params string[] command) =>
        ["strace", "-f", "-qq", "-y", "-s", "64", "-e", "signal=none", "-e", $"trace={names}", "-o", log, .. command];

    /// <summary>Runs the program of these tests, traced; it must end with <paramref name="code"/>.</summary>
    public static SystemCallTrace Of(string log, string names, int code, params string[] arguments)
    {
        string[] command = Command(log, names, [Binary.Path, .. arguments]);
        BinaryResult result = Binary.RunProgram(command[0], command[1..]);
        return result.ExitCode == code ? Read(log) : throw new InvalidOperationException($"expected {code}: {result}");
    }

    /// <summary>Reads what strace wrote.</summary>
    public static SystemCallTrace Read(string log)
    {
        List<TracedCall> calls = [];
        Dictionary<int, (int Line, int Place, string Text)> begun = [];
        int number = 0;
        foreach (string line in File.ReadLines(log))
        {
            number++;
            Match match = Regex.Match(line, @"^(\d+) +(.*)$");
            if (!match.Success) continue;
            int thread = int.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture), begin = number;
            string text = match.Groups[2].Value;
            if (text.EndsWith(Unfinished, StringComparison.Ordinal))
            {
                begun[thread] = (number, calls.Count, text[..^Unfinished.Length]);
                if (Parse(thread, $"{begun[thread].Text}) = ?", number, int.MaxValue) is { } open) calls.Add(open);
                continue;
            }
            if (Regex.Match(text, @"^<\.\.\. \w+ resumed>(.*)$") is { Success: true } resumed
                && begun.Remove(thread, out (int Line, int Place, string Text) start))
            {
                if (Parse(thread, start.Text + resumed.Groups[1].Value, start.Line, number) is { } whole) calls[start.Place] = whole;
                continue;
            }
            if (Parse(thread, text, begin, number) is { } call) calls.Add(call);
        }
        return new SystemCallTrace(calls);
    }

    /// <summary>The first call that <paramref name="is"/> is true of; fails if there is none.</summary>
    public TracedCall First(string what, Func<TracedCall, bool> @is) => calls.FirstOrDefault(@is)
        ?? throw new InvalidOperationException($"no call is {what}:\n{this}");

    /// <summary>The last one.</summary>
    public TracedCall Last(string what, Func<TracedCall, bool> @is) => calls.LastOrDefault(@is)
        ?? throw new InvalidOperationException($"no call is {what}:\n{this}");

    /// <summary>
    /// Fails unless <paramref name="path"/> is durable before <paramref name="publishing"/>: a flush of it has ended before, and no write
    /// to it has come between that flush's begin and the publishing call. Returns the flush.
    /// </summary>
    public TracedCall IsDurable(string path, TracedCall publishing)
    {
        TracedCall flush = calls.LastOrDefault(call => call.Flushes(path) && call.End < publishing.Begin)
            ?? throw new InvalidOperationException($"{path} is not flushed before {publishing}:\n{this}");
        if (calls.FirstOrDefault(call => call.Writes(path) && call.End > flush.Begin && call.Begin < publishing.Begin) is { } late)
            throw new InvalidOperationException($"{path}: {late} is not flushed before {publishing}:\n{this}");
        return flush;
    }

    /// <summary>All but the files that were opened.</summary>
    public override string ToString() => string.Join('\n', calls.Where(call => call.Name != "openat"));

    /// <summary>Null for what is no call.</summary>
    private static TracedCall? Parse(int thread, string text, int begin, int end)
    {
        Match match = Regex.Match(text, @"^(\w+)\((.*)\) += (.*)$", RegexOptions.Singleline);
        return match.Success ? new TracedCall(thread, match.Groups[1].Value, match.Groups[2].Value, match.Groups[3].Value, begin, end)
            : null;
    }
}
