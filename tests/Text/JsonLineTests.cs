using System.Linq;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Snapuserd.Interop;
using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Text;

/// <summary>JSON lines, read back with the framework's own parser.</summary>
public sealed class JsonLineTests
{
    [Fact]
    public void Every_character_comes_back_from_a_single_line()
    {
        for (int c = 0; c <= 0xffff; c++)
        {
            if (char.IsSurrogate((char)c)) continue;
            string text = $"a{(char)c}b";
            string line = JsonLine.Event("x").Add("path", text).ToString();
            Assert.DoesNotContain('\n', line);
            Assert.DoesNotContain('\r', line);
            // The backslash is the only character with another spelling, because it begins the escape of a byte.
            Assert.Equal(text.Replace("\\", "\\x5c"), JsonDocument.Parse(line).RootElement.GetProperty("path").GetString());
        }
    }

    [Fact]
    public void Every_name_of_one_and_two_bytes_comes_back_through_a_parser()
    {
        for (int length = 1; length <= 2; length++)
            for (int all = 0; all < 1 << (8 * length); all++)
                Roundtrip([.. Enumerable.Range(0, length).Select(i => (byte)(all >> (8 * i)))]);
    }

    [Fact]
    public void Longer_names_of_the_bytes_that_matter_come_back_through_a_parser()
    {
        byte[] alphabet =
        [
            0x0a, 0x1b, 0x22, 0x41, 0x5c, 0x5c, 0x78, 0x66, 0x7f, 0x80, 0x9f, 0xb2, 0xbf, 0xc0, 0xc3, 0xe2, 0xed, 0xf0, 0xf4, 0xff,
        ];
        const int seed = 1913;
        System.Random random = new(seed);
        for (int i = 0; i < 20_000; i++)
            Roundtrip([.. Enumerable.Range(0, random.Next(16)).Select(_ => alphabet[random.Next(alphabet.Length)])]);
    }

    [Fact]
    public void Bytes_that_are_not_utf8_and_backslashes_are_escaped()
    {
        Assert.Equal("""{"t":"a\\xffb\\x5cxff\\x5c\u001b\u2028\u202e\u0085"}""",
            new JsonLine().Add("t", "a\udcffb\\xff\\\u001b\u2028\u202e\u0085").ToString());
    }

    /// <summary>
    /// The line must be valid UTF-8. In it a parser finds a string of valid Unicode, and that string, with each \xHH replaced, has the
    /// bytes of the name.
    /// </summary>
    private static void Roundtrip(byte[] name)
    {
        string line = new JsonLine().Add("path", ByteText.Decode(name)).ToString();
        byte[] utf8 = ByteText.Encode(line);
        string parsed = JsonDocument.Parse(new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(utf8)).RootElement
            .GetProperty("path").GetString()!;
        MatchCollection escapes = Regex.Matches(parsed, @"\\x[0-9a-f]{2}");
        Assert.Equal(parsed.Count(c => c == '\\'), escapes.Count);
        // Latin-1 has a character for each byte.
        string bytes = Regex.Replace(Encoding.Latin1.GetString(Encoding.UTF8.GetBytes(parsed)), @"\\x([0-9a-f]{2})",
            escape => ((char)System.Convert.ToByte(escape.Groups[1].Value, 16)).ToString());
        Assert.Equal(System.Convert.ToHexString(name), System.Convert.ToHexString(Encoding.Latin1.GetBytes(bytes)));
    }

    [Fact]
    public void Lone_surrogates_become_replacement_characters_and_pairs_stay()
    {
        // In code, not in attributes: attributes store strings as UTF-8, which has no lone surrogates.
        (string Text, string Expected)[] cases =
        [
            ("\ud83d\ude00", "\ud83d\ude00"), ("\ud83d", "\ufffd"), ("\ude00x", "\ufffdx"), ("\ud83d\ud83d\ude00", "\ufffd\ud83d\ude00"),
        ];
        foreach ((string text, string expected) in cases)
            Assert.Equal(expected, JsonDocument.Parse(new JsonLine().Add("t", text).ToString()).RootElement.GetProperty("t").GetString());
    }

    [Fact]
    public void Keys_keep_their_order_and_values_their_types()
    {
        string line = JsonLine.Event("done").Add("ops", 7L).Add("seconds", 0.25).Add("ok", true).Add("no", (string?)null)
            .Add("last", 4294967295L).ToString();
        Assert.Equal("""{"event":"done","ops":7,"seconds":0.25,"ok":true,"no":null,"last":4294967295}""", line);
        Assert.Equal(["event", "ops", "seconds", "ok", "no", "last"],
            JsonDocument.Parse(line).RootElement.EnumerateObject().Select(member => member.Name));
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    [InlineData(double.NegativeInfinity)]
    public void Numbers_that_json_does_not_have_become_null(double value) =>
        Assert.Equal("{\"n\":null}", new JsonLine().Add("n", value).ToString());

    [Fact]
    public void Largest_numbers_stay_exact() => Assert.Equal("{\"n\":9223372036854775807,\"m\":-9223372036854775808}",
        new JsonLine().Add("n", long.MaxValue).Add("m", long.MinValue).ToString());
}
