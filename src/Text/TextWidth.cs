using System.Globalization;
using System.Text;

namespace Snapuserd.Text;

/// <summary>Columns of text on a terminal: none for a combining character, two for East Asian scripts and pictures.</summary>
public static class TextWidth
{
    /// <summary>Columns of <paramref name="text"/>, which must have no control characters.</summary>
    public static int Of(string text)
    {
        int columns = 0;
        foreach (Rune rune in text.EnumerateRunes()) columns += Of(rune);
        return columns;
    }

    /// <summary>The longest prefix of <paramref name="text"/> that fits <paramref name="columns"/>.</summary>
    public static string Cut(string text, int columns)
    {
        int taken = 0, length = 0;
        foreach (Rune rune in text.EnumerateRunes())
        {
            taken += Of(rune);
            if (taken > columns) return text[..length];
            length += rune.Utf16SequenceLength;
        }
        return text;
    }

    private static int Of(Rune rune) => rune.Value switch
    {
        < 0x300 => 1,
        _ when Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark
            or UnicodeCategory.Format => 0,
        (>= 0x1100 and <= 0x115f) or (>= 0x2e80 and <= 0xa4cf) or (>= 0xac00 and <= 0xd7a3) or (>= 0xf900 and <= 0xfaff)
            or (>= 0xfe30 and <= 0xfe6f)
            or (>= 0xff00 and <= 0xff60) or (>= 0xffe0 and <= 0xffe6) or (>= 0x1f300 and <= 0x1faff) or (>= 0x20000 and <= 0x3fffd) => 2,
        _ => 1,
    };
}
