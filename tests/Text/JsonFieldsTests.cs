using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Text;

/// <summary>Which lines are an object, and its members.</summary>
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
    public void What_is_no_object_is_none(string line) => Assert.Null(JsonFields.Parse(line));

    [Fact]
    public void Members_have_their_names_in_any_order_with_any_blanks_and_not_those_of_objects_inside()
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
