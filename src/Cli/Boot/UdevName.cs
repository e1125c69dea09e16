using System;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// How udev writes a label as the name of a link in /dev/disk (systemd's encode_devnode_name): letters, digits and "#+-.:=@_" of ASCII
/// and the characters of valid UTF-8 stay, every other byte is \xHH.
/// "my root" is "my\x20root", "/boot" is "\x2fboot".
/// </summary>
internal static class UdevName
{
    /// <summary>
    /// The name for <paramref name="label"/>. A \xHH with two small hexadecimal digits stays as it is, so that a label can also be
    /// given as udev shows it, with a comma or a quote in it; whoever means
    /// those four characters writes \x5cxHH.
    /// </summary>
    internal static string Of(string label)
    {
        StringBuilder name = new();
        ReadOnlySpan<char> rest = label;
        Span<byte> utf8 = stackalloc byte[4];
        while (rest.Length > 0)
        {
            if (IsEscape(rest))
            {
                name.Append(rest[..4]);
                rest = rest[4..];
                continue;
            }
            ReadOnlySpan<char> from = rest;
            if (ByteText.Next(ref rest, out byte single, out Rune rune)) VisibleText.AppendByte(name, single);
            else if (Stays(rune)) name.Append(from[..^rest.Length]);
            else foreach (byte one in utf8[..rune.EncodeToUtf8(utf8)]) VisibleText.AppendByte(name, one);
        }
        return name.ToString();
    }

    /// <summary>udev takes no noncharacter for valid UTF-8 (utf8_encoded_valid_unichar).</summary>
    private static bool Stays(Rune rune) => rune.IsAscii
        ? char.IsAsciiLetterOrDigit((char)rune.Value) || "#+-.:=@_".Contains((char)rune.Value, StringComparison.Ordinal)
        : (rune.Value & 0xfffe) != 0xfffe && rune.Value is not (>= 0xfdd0 and <= 0xfdef);

    private static bool IsEscape(ReadOnlySpan<char> text) =>
        text.Length >= 4 && text[0] == '\\' && text[1] == 'x' && char.IsAsciiHexDigitLower(text[2]) && char.IsAsciiHexDigitLower(text[3]);
}
