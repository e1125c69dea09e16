using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Snapuserd.Text;

/// <summary>
/// The members of a JSON object, such as a server's <see cref="JsonLine"/> or systemd's HibernateLocation: strings without quotes and
/// escapes, everything else as written. A nested object is one value; its members cannot be looked up.
/// </summary>
public sealed class JsonFields
{
    private readonly Dictionary<string, (string Value, bool IsString)> _members = new(StringComparer.Ordinal);

    private JsonFields()
    {
    }

    /// <summary>The members of <paramref name="line"/>; null if it is not an object, or if two members have the same name.</summary>
    public static JsonFields? Parse(string line)
    {
        JsonFields fields = new();
        int at = 0;
        if (!Take(line, ref at, '{')) return null;
        if (Take(line, ref at, '}')) return IsEnd(line, at) ? fields : null;
        do
        {
            if (String(line, ref at) is not { } key || !Take(line, ref at, ':')) return null;
            Skip(line, ref at);
            bool isString = at < line.Length && line[at] == '"';
            string? value = isString ? String(line, ref at) : at < line.Length && line[at] is '{' or '[' ? Nested(line, ref at)
                : Word(line, ref at);
            if (value == null || !fields._members.TryAdd(key, (value, isString))) return null;
        }
        while (Take(line, ref at, ','));
        return Take(line, ref at, '}') && IsEnd(line, at) ? fields : null;
    }

    /// <summary>A string; null if it is missing or not a string.</summary>
    public string? String(string key) =>
        _members.TryGetValue(key, out (string Value, bool IsString) member) && member.IsString ? member.Value : null;

    /// <summary>A value as text; "" if it is missing or null.</summary>
    public string Text(string key) => _members.TryGetValue(key, out (string Value, bool IsString) member)
        && member is { IsString: true } or { Value: not "null" } ? member.Value : "";

    /// <summary>A number without its fraction; 0 if it is missing or has an exponent.</summary>
    public long Integer(string key)
    {
        string text = Text(key);
        int point = text.IndexOf('.', StringComparison.Ordinal);
        return long.TryParse(point < 0 ? text : text.AsSpan(0, point), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture,
            out long value) ? value : 0;
    }

    private static void Skip(string line, ref int at)
    {
        while (at < line.Length && line[at] is ' ' or '\t' or '\n' or '\r') at++;
    }

    private static bool IsEnd(string line, int at)
    {
        Skip(line, ref at);
        return at == line.Length;
    }

    private static bool Take(string line, ref int at, char expected)
    {
        Skip(line, ref at);
        if (at >= line.Length || line[at] != expected) return false;
        at++;
        return true;
    }

    private static string? Word(string line, ref int at)
    {
        int end = line.AsSpan(at).IndexOfAny(',', '}');
        if (end <= 0) return null;
        string word = line.AsSpan(at, end).TrimEnd().ToString();
        at += end;
        return word;
    }

    /// <summary>An object or an array, as written: everything up to the bracket that closes it.</summary>
    private static string? Nested(string line, ref int at)
    {
        int start = at, depth = 0;
        while (at < line.Length)
        {
            char c = line[at];
            if (c == '"')
            {
                if (String(line, ref at) == null) return null;
                continue;
            }
            at++;
            if (c is '{' or '[') depth++;
            if (c is '}' or ']' && --depth == 0) return line[start..at];
        }
        return null;
    }

    private static string? String(string line, ref int at)
    {
        if (!Take(line, ref at, '"')) return null;
        StringBuilder text = new();
        for (; at < line.Length; at++)
        {
            char c = line[at];
            if (c == '"')
            {
                at++;
                return text.ToString();
            }
            if (c == '\\')
            {
                if (++at >= line.Length) return null;
                c = line[at];
                if (c == 'u')
                {
                    if (at + 4 >= line.Length || !ushort.TryParse(line.AsSpan(at + 1, 4), NumberStyles.AllowHexSpecifier,
                        CultureInfo.InvariantCulture, out ushort unit))
                        return null;
                    (c, at) = ((char)unit, at + 4);
                }
                else
                {
                    int known = "bfnrt".IndexOf(c, StringComparison.Ordinal);
                    if (known >= 0) c = "\b\f\n\r\t"[known];
                }
            }
            text.Append(c);
        }
        return null;
    }
}
