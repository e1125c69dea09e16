using System;
using System.Text;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Boot;

/// <summary>
/// Encodes a label as udev does for the names of links in /dev/disk (systemd's encode_devnode_name): letters, digits and "#+-.:=@_" of
/// ASCII and the characters of valid UTF-8 stay, every other byte becomes \xHH. "my root" becomes "my\x20root", "/boot" becomes "\x2fboot".
/// </summary>
public static class UdevName
{
    /// <summary>
    /// The name for <paramref name="label"/>. A \xHH with two lower-case hexadecimal digits stays as it is, so that a label can also be
    /// given in udev's form, for example if it has a comma or a quote. To get those four characters literally, write \x5cxHH.
    /// </summary>
    public static string Of(string label)
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

    /// <summary>udev does not accept noncharacters as valid UTF-8 (utf8_encoded_valid_unichar).</summary>
    private static bool Stays(Rune rune) => rune.IsAscii
        ? char.IsAsciiLetterOrDigit((char)rune.Value) || "#+-.:=@_".Contains((char)rune.Value, StringComparison.Ordinal)
        : (rune.Value & 0xfffe) != 0xfffe && rune.Value is not (>= 0xfdd0 and <= 0xfdef);

    private static bool IsEscape(ReadOnlySpan<char> text) =>
        text.Length >= 4 && text[0] == '\\' && text[1] == 'x' && char.IsAsciiHexDigitLower(text[2]) && char.IsAsciiHexDigitLower(text[3]);
}
