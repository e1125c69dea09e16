using System;
using System.Globalization;
using System.Text;

namespace Snapuserd.Cli;

/// <summary>
/// One JSON object on one line (RFC 8259), keys in the order in which they were added. Text that is not valid UTF-16, which a path can
/// turn into, comes out as U+FFFD; everything below U+0020 is escaped, so the line stays one line.
/// </summary>
internal sealed class JsonLine
{
    private readonly StringBuilder _text = new("{");

    /// <summary>An object whose first member says what it reports.</summary>
    internal static JsonLine Event(string name) => new JsonLine().Add("event", name);

    internal JsonLine Add(string key, string? value)
    {
        Key(key);
        if (value == null) _text.Append("null"); else Quote(value);
        return this;
    }

    internal JsonLine Add(string key, long value)
    {
        Key(key);
        _text.Append(value.ToString(CultureInfo.InvariantCulture));
        return this;
    }

    internal JsonLine Add(string key, bool value)
    {
        Key(key);
        _text.Append(value ? "true" : "false");
        return this;
    }

    /// <summary>A number with six digits behind the point: microseconds, if it is seconds. NaN and infinities, which JSON has not, become null.</summary>
    internal JsonLine Add(string key, double value)
    {
        Key(key);
        _text.Append(double.IsFinite(value) ? value.ToString("0.######", CultureInfo.InvariantCulture) : "null");
        return this;
    }

    internal JsonLine Add(string key, ReadOnlySpan<uint> values)
    {
        Key(key);
        _text.Append('[');
        for (int i = 0; i < values.Length; i++)
        {
            if (i > 0) _text.Append(',');
            _text.Append(values[i].ToString(CultureInfo.InvariantCulture));
        }
        _text.Append(']');
        return this;
    }

    /// <summary>The finished line, without a line feed.</summary>
    public override string ToString() => _text.ToString() + "}";

    private void Key(string key)
    {
        if (_text.Length > 1) _text.Append(',');
        Quote(key);
        _text.Append(':');
    }

    private void Quote(string text)
    {
        _text.Append('"');
        for (int i = 0; i < text.Length; i++)
        {
            char c = text[i];
            switch (c)
            {
                case '"': _text.Append("\\\""); break;
                case '\\': _text.Append("\\\\"); break;
                case '\n': _text.Append("\\n"); break;
                case '\r': _text.Append("\\r"); break;
                case '\t': _text.Append("\\t"); break;
                case < ' ' or '\x7f': _text.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture)); break;
                default:
                    if (char.IsHighSurrogate(c) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1])) _text.Append(c).Append(text[++i]);
                    else _text.Append(char.IsSurrogate(c) ? '\ufffd' : c);
                    break;
            }
        }
        _text.Append('"');
    }
}
