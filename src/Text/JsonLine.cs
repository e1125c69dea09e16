using System;
using System.Globalization;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Text;

/// <summary>
/// One JSON object on one line (RFC 8259), keys in the order of addition. Always valid Unicode, even if a name is not
/// (<see cref="ByteText"/>). In every string, a byte that is not part of valid UTF-8 is the four characters \xHH, with two small
/// hexadecimal digits, and a backslash is \x5c. Replacing each \xHH of a parsed string by that byte gives the bytes of the original name.
/// Control characters have JSON's own escapes, so the text stays on one line and cannot affect a terminal.
/// </summary>
public sealed class JsonLine
{
    private readonly StringBuilder _text = new("{");

    /// <summary>An object whose first member names the event that it reports.</summary>
    public static JsonLine Event(string name) => new JsonLine().Add("event", name);

    public JsonLine Add(string key, string? value)
    {
        Key(key);
        if (value == null) _text.Append("null"); else Quote(value);
        return this;
    }

    public JsonLine Add(string key, long value)
    {
        Key(key);
        _text.Append(value.ToString(CultureInfo.InvariantCulture));
        return this;
    }

    public JsonLine Add(string key, bool value)
    {
        Key(key);
        _text.Append(value ? "true" : "false");
        return this;
    }

    /// <summary>
    /// A number with six decimal places: microseconds, if it is seconds. NaN and infinities, which JSON lacks, become null.
    /// </summary>
    public JsonLine Add(string key, double value)
    {
        Key(key);
        _text.Append(double.IsFinite(value) ? value.ToString("0.######", CultureInfo.InvariantCulture) : "null");
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
        ReadOnlySpan<char> rest = text;
        Span<char> pair = stackalloc char[2];
        while (rest.Length > 0)
        {
            if (ByteText.Next(ref rest, out byte single, out Rune rune))
            {
                // In JSON, the backslash of \xHH must itself be escaped by a backslash.
                VisibleText.AppendByte(_text.Append('\\'), single);
                continue;
            }
            switch (rune.Value)
            {
                case '"': _text.Append("\\\""); break;
                case '\\': _text.Append("\\\\x5c"); break;
                case '\n': _text.Append("\\n"); break;
                case '\r': _text.Append("\\r"); break;
                case '\t': _text.Append("\\t"); break;
                default:
                    // All control characters are below U+10000, so four digits suffice.
                    if (VisibleText.IsControl(rune)) _text.Append("\\u").Append(rune.Value.ToString("x4", CultureInfo.InvariantCulture));
                    else _text.Append(pair[..rune.EncodeToUtf16(pair)]);
                    break;
            }
        }
        _text.Append('"');
    }
}
