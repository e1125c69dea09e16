using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Snapuserd.Text;

/// <summary>
/// The members of a flat JSON object, such as a server's <see cref="JsonLine"/> or systemd's HibernateLocation: strings without quotes
/// and escapes, everything else as written.
/// </summary>
public sealed class JsonFields
{
    private readonly Dictionary<string, string> _members = new(StringComparer.Ordinal);

    private JsonFields()
    {
    }

    /// <summary>The members of <paramref name="line"/>; null if it is not such an object.</summary>
    public static JsonFields? Parse(string line)
    {
        JsonFields fields = new();
        int at = 0;
        if (!Take(line, ref at, '{')) return null;
        if (Take(line, ref at, '}')) return at == line.Length ? fields : null;
        do
        {
            if (String(line, ref at) is not { } key || !Take(line, ref at, ':')) return null;
            if (at >= line.Length) return null;
            while (at < line.Length && line[at] == ' ') at++;
            string? value = at < line.Length && line[at] == '"' ? String(line, ref at) : Word(line, ref at);
            if (value == null) return null;
            fields._members[key] = value;
        }
        while (Take(line, ref at, ','));
        return Take(line, ref at, '}') && at == line.Length ? fields : null;
    }

    /// <summary>A string; "" if it is missing.</summary>
    public string Text(string key) => _members.TryGetValue(key, out string? value) && value != "null" ? value : "";

    /// <summary>A number without its fraction, which users do not need; 0 if it is missing or has an exponent.</summary>
    public long Integer(string key)
    {
        string text = Text(key);
        int point = text.IndexOf('.', StringComparison.Ordinal);
        return long.TryParse(point < 0 ? text : text.AsSpan(0, point), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value) ? value : 0;
    }

    private static bool Take(string line, ref int at, char expected)
    {
        while (at < line.Length && line[at] == ' ') at++;
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
                    if (at + 4 >= line.Length || !ushort.TryParse(line.AsSpan(at + 1, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ushort unit)) return null;
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
