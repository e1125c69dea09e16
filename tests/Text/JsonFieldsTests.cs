using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Text;

/// <summary>Parses lines of JSON: which lines are objects, and their members.</summary>
public sealed class JsonFieldsTests
{
    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("{\"a\"}")]
    [InlineData("{\"a\":}")]
    [InlineData("{\"a\":1,}")]
    [InlineData("{\"a\":\"")]
    [InlineData("{\"a\":\"\\u00")]
    [InlineData("{\"a\":1}x")]
    [InlineData("cow: merging")]
    [InlineData("{\"a\":{\"b\":1}")]
    [InlineData("{\"a\":[1,2}")]
    [InlineData("{\"a\":1,\"a\":2}")]
    [InlineData("{\"a\":1} {")]
    public void A_line_that_is_not_a_json_object_or_repeats_a_name_is_refused(string line) => Assert.Null(JsonFields.Parse(line));

    [Fact]
    public void Members_are_found_in_any_order_with_any_blanks_and_not_in_nested_objects()
    {
        JsonFields? fields = JsonFields.Parse(" {\t\"b\" : \"x,}\\\"y\" ,\r\n \"in\" : { \"a\" : \"}\", \"c\":[{\"d\":1}] }, "
            + "\"list\":[1,\"]\"], \"a\":-12.5 , \"n\":null,\"w\":\"null\" } \n");
        Assert.NotNull(fields);
        Assert.Equal(("x,}\"y", "null", null, null, null),
            (fields.String("b"), fields.String("w"), fields.String("n"), fields.String("a"), fields.String("d")));
        Assert.Equal(("{ \"a\" : \"}\", \"c\":[{\"d\":1}] }", "[1,\"]\"]", "", "null", ""),
            (fields.Text("in"), fields.Text("list"), fields.Text("n"), fields.Text("w"), fields.Text("c")));
        Assert.Equal((-12, 0), (fields.Integer("a"), fields.Integer("none")));
    }
}
