using System.Linq;
using System.Text.Json;
using Snapuserd.Cli;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>JSON lines, read back by the framework's own parser.</summary>
public sealed class JsonLineTests
{
    [Fact]
    public void Every_character_comes_back_from_a_line_of_one_line()
    {
        for (int c = 0; c <= 0xffff; c++)
        {
            if (char.IsSurrogate((char)c)) continue;
            string text = $"a{(char)c}b";
            string line = JsonLine.Event("x").Add("path", text).ToString();
            Assert.DoesNotContain('\n', line);
            Assert.DoesNotContain('\r', line);
            Assert.Equal(text, JsonDocument.Parse(line).RootElement.GetProperty("path").GetString());
        }
    }

    [Fact]
    public void Lone_surrogates_become_replacement_characters_and_pairs_stay()
    {
        // In code, not in attributes: those are stored as UTF-8, which has no lone surrogates.
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
        string line = JsonLine.Event("done").Add("ops", 7L).Add("seconds", 0.25).Add("ok", true).Add("no", (string?)null).Add("list", [1u, 4294967295u]).ToString();
        Assert.Equal("""{"event":"done","ops":7,"seconds":0.25,"ok":true,"no":null,"list":[1,4294967295]}""", line);
        Assert.Equal(["event", "ops", "seconds", "ok", "no", "list"], JsonDocument.Parse(line).RootElement.EnumerateObject().Select(member => member.Name));
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    [InlineData(double.NegativeInfinity)]
    public void Numbers_that_json_has_not_become_null(double value) => Assert.Equal("{\"n\":null}", new JsonLine().Add("n", value).ToString());

    [Fact]
    public void Largest_numbers_stay_exact() => Assert.Equal("{\"n\":9223372036854775807,\"m\":-9223372036854775808}", new JsonLine().Add("n", long.MaxValue).Add("m", long.MinValue).ToString());
}
