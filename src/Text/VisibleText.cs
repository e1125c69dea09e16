using System;
using System.Globalization;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Text;

/// <summary>
/// Makes text that contains names safe for its destination. A file name may contain a line feed, which would forge a record, or an escape
/// sequence, which a terminal obeys. Each byte of such a character is written as \xHH, with two small hexadecimal digits. All other bytes
/// of names (<see cref="ByteText"/>) are unchanged.
/// </summary>
public static class VisibleText
{
    /// <summary>Escapes control characters, so that any <paramref name="text"/> becomes one line. Bytes that are not UTF-8 stay.</summary>
    public static string OnOneLine(string text) => Escaped(text, bytes: false);

    /// <summary>
    /// As <see cref="OnOneLine"/>, but also escapes bytes that are not UTF-8. For a terminal, a kernel's console and everything else that
    /// expects UTF-8: for some terminals, 0x80 to 0x9F are control characters.
    /// </summary>
    public static string OnTerminal(string text) => Escaped(text, bytes: true);

    /// <summary>
    /// Characters with an effect instead of a glyph: C0, DEL and C1; the separators of lines and paragraphs; and those that change the
    /// direction of the text that follows, with which one name can look like another.
    /// </summary>
    public static bool IsControl(Rune rune) =>
        Rune.IsControl(rune) || rune.Value is 0x61c or 0x200e or 0x200f or (>= 0x2028 and <= 0x202e) or (>= 0x2066 and <= 0x2069);

    /// <summary>Appends \xHH.</summary>
    public static void AppendByte(StringBuilder text, byte value) =>
        text.Append(@"\x").Append(value.ToString("x2", CultureInfo.InvariantCulture));

    private static string Escaped(string text, bool bytes)
    {
        StringBuilder? escaped = null;
        ReadOnlySpan<char> rest = text;
        Span<byte> utf8 = stackalloc byte[4];
        while (rest.Length > 0)
        {
            ReadOnlySpan<char> from = rest;
            bool isByte = ByteText.Next(ref rest, out byte single, out Rune rune);
            ReadOnlySpan<char> taken = from[..^rest.Length];
            if (isByte ? !bytes : !IsControl(rune))
            {
                escaped?.Append(taken);
                continue;
            }
            escaped ??= new StringBuilder(text, 0, text.Length - from.Length, text.Length + 16);
            if (isByte) AppendByte(escaped, single);
            else foreach (byte one in utf8[..rune.EncodeToUtf8(utf8)]) AppendByte(escaped, one);
        }
        return escaped?.ToString() ?? text;
    }
}
