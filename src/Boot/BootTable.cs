using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Boot;

/// <summary>
/// One device of a boot: /dev/mapper/<paramref name="Name"/> over <paramref name="Base"/>. <paramref name="Origin"/> is the row's position
/// in its source, for messages.
/// </summary>
public sealed record BootRow(string Name, string Cow, string Base, string? Source, int Phase, string Origin)
{
    /// <summary>The path to mount, whatever the current target of the mapped device.</summary>
    public string Path => "/dev/mapper/" + Name;
}

/// <summary>
/// The table of a boot. A line is a row of fields separated by blanks:
/// <code>
///   name cow base [source] [phase]      # a comment begins the line or follows a blank
///   "in quotes"                         a field with blanks or '#' in it; only \" and \\ are escapes, for '"' and '\'
///   -                                   in place of the source: none
///   UUID=… LABEL=… PARTUUID=… PARTLABEL=…   in place of a path: the link that udev makes in /dev/disk,
///                                           for the label as it is or as udev writes it
/// </code>
/// </summary>
public static class BootTable
{
    /// <summary>The default path of the table.</summary>
    public const string DefaultPath = "/etc/snapuserd/table";

    /// <summary>The largest table in bytes, and the most rows of a boot: several times the number of partitions of any machine.</summary>
    public const int MostBytes = 64 << 10, MostRows = 64;

    /// <summary>The highest phase number.</summary>
    public const int LastPhase = 99;

    private const int LongestPath = Libc.PATH_MAX - 1;

    /// <summary>
    /// Parses the rows of a table; messages call it <paramref name="file"/>. Exit code 64 for the first invalid line, as "file:line: what
    /// is wrong".
    /// </summary>
    public static List<BootRow> Parse(string file, ReadOnlySpan<byte> bytes)
    {
        List<BootRow> rows = [];
        if (bytes.Length > MostBytes) throw Wrong(file, $"more than {MostBytes} bytes: too large for a table");
        for (int number = 1; bytes.Length > 0; number++)
        {
            int end = bytes.IndexOf((byte)'\n');
            ReadOnlySpan<byte> line = end < 0 ? bytes : bytes[..end];
            bytes = end < 0 ? default : bytes[(end + 1)..];
            if (line.Length > 0 && line[^1] == '\r') line = line[..^1];
            string origin = string.Create(CultureInfo.InvariantCulture, $"{file}:{number}");
            List<string> fields = Fields(origin, Decode(origin, line));
            if (fields.Count > 0) Add(rows, Row(origin, fields));
        }
        return rows;
    }

    /// <summary>Parses a row of at most five fields. The fourth may be "-" or empty, and fields after the third may be left out.</summary>
    public static BootRow Row(string origin, List<string> fields)
    {
        if (fields.Count < 3) throw Wrong(origin, $"a row has at least three fields, name cow base, and this one has {fields.Count}");
        if (fields.Count > 5)
            throw Wrong(origin, $"a row has at most five fields, name cow base source phase, and '{fields[5]}' is a sixth; a field with "
                + "blanks in it needs quotes");
        string name = fields[0];
        try
        {
            MappedDevice.CheckName(name);
        }
        catch (SnapuserdException e)
        {
            throw Wrong(origin, e.Message);
        }
        if (name[0] == '.') throw Wrong(origin, $"name is '{name}', must not begin with '.'");
        string cow = PathOf(origin, "cow", fields[1]), basePath = PathOf(origin, "base", fields[2]);
        string? source = fields.Count < 4 || fields[3] is "-" or "" ? null : PathOf(origin, "source", fields[3]);
        int phase = 1;
        if (fields.Count == 5 && fields[4].Length > 0
            && (!int.TryParse(fields[4], NumberStyles.None, CultureInfo.InvariantCulture, out phase) || phase is < 1 or > LastPhase))
            throw Wrong(origin, $"phase is '{fields[4]}', must be a number from 1 to {LastPhase}");
        if (cow == basePath) throw Wrong(origin, $"{cow} is the COW and the base");
        if (cow == source) throw Wrong(origin, $"{cow} is the COW and the source");
        return new BootRow(name, cow, basePath, source, phase, origin);
    }

    /// <summary>
    /// Adds a row to others. Exit code 64 if it shares a name, a COW or a base with one of them, or if one of the two rows reads what the
    /// other writes: a merge writes its base and its COW. Two rows may share a source.
    /// </summary>
    public static void Add(List<BootRow> rows, BootRow row)
    {
        foreach (BootRow other in rows)
        {
            if (other.Name == row.Name) throw Wrong(row.Origin, $"the name {row.Name} is already used in {other.Origin}");
            if (other.Cow == row.Cow) throw Wrong(row.Origin, $"the COW {row.Cow} is already used in {other.Origin}");
            if (other.Base == row.Base) throw Wrong(row.Origin, $"the base {row.Base} is already used in {other.Origin}");
            Part(row, row.Cow, "COW", other, other.Base, "base");
            Part(row, row.Base, "base", other, other.Cow, "COW");
            // Refused even if phases keep the merges apart, because `ctl merge` ignores phases.
            Part(row, row.Source, "source", other, other.Base, "base");
            Part(row, row.Base, "base", other, other.Source, "source");
            Part(row, row.Source, "source", other, other.Cow, "COW");
            Part(row, row.Cow, "COW", other, other.Source, "source");
        }
        if (rows.Count == MostRows) throw Wrong(row.Origin, $"there are more than {MostRows} rows");
        rows.Add(row);
    }

    private static void Part(BootRow row, string? path, string what, BootRow other, string? otherPath, string otherWhat)
    {
        if (path != null && path == otherPath) throw Wrong(row.Origin, $"{path} is the {what} here and the {otherWhat} of {other.Origin}");
    }

    public static SnapuserdException Wrong(string origin, string what) => new(ExitCode.Usage, $"{origin}: {what}");

    private static string Decode(string origin, ReadOnlySpan<byte> line)
    {
        int zero = line.IndexOf((byte)0);
        if (zero >= 0) throw Wrong(origin, $"byte {zero + 1} of the line is zero: the table must be text");
        return ByteText.Decode(line);
    }

    private static List<string> Fields(string origin, string line)
    {
        List<string> fields = [];
        StringBuilder field = new();
        for (int i = 0; ;)
        {
            while (i < line.Length && line[i] is ' ' or '\t') i++;
            if (i == line.Length || line[i] == '#') return fields;
            field.Clear();
            if (line[i] == '"') i = Quoted(origin, line, i + 1, field);
            else
                for (; i < line.Length && line[i] is not (' ' or '\t'); i++)
                {
                    if (line[i] == '"') throw Wrong(origin, $"a quote in the middle of '{field}\"…': quotes must enclose the whole field");
                    field.Append(line[i]);
                }
            fields.Add(field.ToString());
        }
    }

    /// <summary>Parses a field up to its closing quote; returns the position after the quote.</summary>
    private static int Quoted(string origin, string line, int i, StringBuilder field)
    {
        for (; i < line.Length && line[i] != '"'; i++)
        {
            if (line[i] == '\\')
            {
                i++;
                if (i == line.Length || line[i] is not ('"' or '\\'))
                    throw Wrong(origin, "in quotes, a backslash must be followed by a quote or another backslash");
            }
            field.Append(line[i]);
        }
        if (i == line.Length) throw Wrong(origin, $"the quote before '{field}' has no closing quote");
        if (i + 1 < line.Length && line[i + 1] is not (' ' or '\t'))
            throw Wrong(origin, $"'{line[i + 1]}' follows the quote that ends '{field}': a blank is missing");
        return i + 1;
    }

    private static string PathOf(string origin, string field, string text)
    {
        ReadOnlySpan<string> tags = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];
        ReadOnlySpan<string> folders = ["by-uuid", "by-label", "by-partuuid", "by-partlabel"];
        for (int i = 0; i < tags.Length; i++)
        {
            if (!text.StartsWith(tags[i], StringComparison.Ordinal)) continue;
            string value = text[tags[i].Length..];
            if (value is "" or "." or "..") throw Wrong(origin, $"{field} is '{text}': the value after '=' must not be empty, '.' or '..'");
            text = $"/dev/disk/{folders[i]}/{UdevName.Of(value)}";
            break;
        }
        if (text.Length == 0) throw Wrong(origin, $"{field} is empty");
        if (text[0] != '/')
        {
            bool phase = field == "source" && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out _);
            int equals = text.IndexOf('=');
            if (equals > 0 && Suggestion.Unknown("tag", text[..(equals + 1)], tags) is var unknown && unknown.EndsWith('?'))
                throw Wrong(origin, $"{field} is '{text}': {unknown}");
            throw Wrong(origin, phase ? $"source is '{text}'; if that is the phase, put - before it, for no source"
                : $"{field} is '{text}', must be an absolute path, or UUID=, LABEL=, PARTUUID= or PARTLABEL= and a value");
        }
        foreach (char c in text)
            if (char.IsControl(c)) throw Wrong(origin, $"{field} has a control character in it");
        if (text.EndsWith('/') || text.Contains("//", StringComparison.Ordinal) || $"{text}/".Contains("/../", StringComparison.Ordinal)
            || $"{text}/".Contains("/./", StringComparison.Ordinal))
            throw Wrong(origin, $"{field} is '{text}': a path must not have '.', '..' or empty parts");
        if (ByteText.GetByteCount(text) > LongestPath) throw Wrong(origin, $"{field} has more than {LongestPath} bytes");
        return text;
    }
}
