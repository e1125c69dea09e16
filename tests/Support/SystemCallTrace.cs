using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;

namespace Snapuserd.Tests.Support;

/// <summary>
/// One system call of a trace. <paramref name="Begin"/> and <paramref name="End"/> are lines of the trace: one call precedes another if it
/// ends before the other begins. <paramref name="Result"/> is the return value, or "?" if the call did not return.
/// </summary>
public sealed record TracedCall(int Thread, string Name, string Arguments, string Result, int Begin, int End)
{
    /// <summary>The call returned, and not with an error.</summary>
    public bool Succeeded => Result.Length > 0 && char.IsAsciiDigit(Result[0]);

    /// <summary>
    /// The path of the descriptor that is the first argument, or the first string among the arguments; "" if there is neither.
    /// </summary>
    public string Path =>
        Regex.Match(Arguments, @"^\d+<([^>]*)>") is { Success: true } descriptor ? descriptor.Groups[1].Value
            : Regex.Match(Arguments, "\"([^\"]*)\"").Groups[1].Value;

    /// <summary>The old and the new name of a successful rename, relative to the folders that strace shows; null for other calls.</summary>
    public (string Old, string New)? Renamed
    {
        get
        {
            if (Name is not ("rename" or "renameat" or "renameat2") || !Succeeded) return null;
            MatchCollection names = Regex.Matches(Arguments, "(?:<([^>]*)>, )?\"([^\"]*)\"");
            return names.Count == 2 ? (Of(names[0]), Of(names[1])) : null;
            static string Of(Match name) => System.IO.Path.Combine(name.Groups[1].Value, name.Groups[2].Value);
        }
    }

    /// <summary>The last number among the arguments: the offset of a pwrite64.</summary>
    public long Offset => Name == "pwrite64" ? long.Parse(Arguments.AsSpan(Arguments.LastIndexOf(' ') + 1), CultureInfo.InvariantCulture)
        : -1;

    /// <summary>The first bytes of the written data, as many as strace shows.</summary>
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
/// The system calls of a program and its children as strace(1) reports them, descriptors with their paths. The trace contains only system
/// calls, no I/O over a ring.
/// </summary>
public sealed class SystemCallTrace(IReadOnlyList<TracedCall> calls)
{
    private const string Unfinished = " <unfinished ...>";

    /// <summary>The calls in the order in which they began.</summary>
    public IReadOnlyList<TracedCall> Calls => calls;

    /// <summary>
    /// The command line that runs <paramref name="command"/> and traces the calls in <paramref name="names"/>, a list separated by commas,
    /// into <paramref name="log"/>.
    /// </summary>
    public static string[] Command(string log, string names, params string[] command) =>
        ["strace", "-f", "-qq", "-y", "-s", "64", "-e", "signal=none", "-e", $"trace={names}", "-o", log, .. command];

    /// <summary>Runs the built program under strace; it must end with exit code <paramref name="code"/>.</summary>
    public static SystemCallTrace Of(string log, string names, int code, params string[] arguments)
    {
        string[] command = Command(log, names, [Binary.Path, .. arguments]);
        BinaryResult result = Binary.RunProgram(command[0], command[1..]);
        return result.ExitCode == code ? Read(log) : throw new InvalidOperationException($"expected {code}: {result}");
    }

    /// <summary>Reads a log of strace.</summary>
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

    /// <summary>The first call for which <paramref name="is"/> returns true; throws if there is none.</summary>
    public TracedCall First(string what, Func<TracedCall, bool> @is) => calls.FirstOrDefault(@is)
        ?? throw new InvalidOperationException($"no call is {what}:\n{this}");

    /// <summary>The last such call; throws if there is none.</summary>
    public TracedCall Last(string what, Func<TracedCall, bool> @is) => calls.LastOrDefault(@is)
        ?? throw new InvalidOperationException($"no call is {what}:\n{this}");

    /// <summary>
    /// Fails unless <paramref name="path"/> is durable before <paramref name="publishing"/>: a flush of it ended before that call, and no
    /// write to it came between the flush's begin and that call. Returns the flush.
    /// <para>
    /// A rename gives the name to another file. The flush must then be a flush of that file. Under the old name it must end before the
    /// rename begins; under the new name it must begin after the rename has ended. Writes under both names are checked. The name itself is
    /// not checked: it needs a flush of the folder (<see cref="IsNamed"/>).
    /// </para>
    /// </summary>
    public TracedCall IsDurable(string path, TracedCall publishing)
    {
        TracedCall? flush = null;
        HashSet<string> names = [];
        string? name = path;
        // Follows the renames backwards, from the last name to the first. A flush under a name must lie between the rename to that name and
        // the rename from it.
        for (int end = publishing.Begin; name != null && flush == null;)
        {
            _ = names.Add(name);
            TracedCall? named = calls.LastOrDefault(call => call.Renamed?.New == name && call.End < end);
            flush = calls.LastOrDefault(call => call.Flushes(name) && call.End < end && call.Begin > (named?.End ?? -1));
            (name, end) = (named?.Renamed?.Old, named?.Begin ?? -1);
        }
        if (flush == null) throw new InvalidOperationException($"{path} is not flushed before {publishing}:\n{this}");
        if (calls.FirstOrDefault(call => names.Any(call.Writes) && call.End > flush.Begin && call.Begin < publishing.Begin) is { } late)
            throw new InvalidOperationException($"{path}: {late} is not flushed before {publishing}:\n{this}");
        return flush;
    }

    /// <summary>
    /// Fails unless a rename gave <paramref name="path"/> a file that was already durable under its old name, and the name is durable
    /// before <paramref name="publishing"/>. For the name to be durable, a flush of the folder must begin after the rename and end before
    /// <paramref name="publishing"/>. Returns the rename.
    /// </summary>
    public TracedCall IsNamed(string path, TracedCall publishing)
    {
        TracedCall named = calls.LastOrDefault(call => call.Renamed?.New == path && call.End < publishing.Begin)
            ?? throw new InvalidOperationException($"no rename to {path} before {publishing}:\n{this}");
        _ = IsDurable(named.Renamed!.Value.Old, named);
        string folder = Path.GetDirectoryName(path)!;
        if (!calls.Any(call => call.Flushes(folder) && call.Begin > named.End && call.End < publishing.Begin))
            throw new InvalidOperationException($"{folder} is not flushed between {named} and {publishing}:\n{this}");
        return named;
    }

    /// <summary>All calls except openat.</summary>
    public override string ToString() => string.Join('\n', calls.Where(call => call.Name != "openat"));

    /// <summary>Parses one call; null if the text is not a call.</summary>
    private static TracedCall? Parse(int thread, string text, int begin, int end)
    {
        Match match = Regex.Match(text, @"^(\w+)\((.*)\) += (.*)$", RegexOptions.Singleline);
        return match.Success ? new TracedCall(thread, match.Groups[1].Value, match.Groups[2].Value, match.Groups[3].Value, begin, end)
            : null;
    }
}
