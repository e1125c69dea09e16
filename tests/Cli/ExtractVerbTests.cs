using System;
using System.Linq;
using Snapuserd.Cli;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Which command lines write the image to standard output.</summary>
public sealed class ExtractVerbTests
{
    [Theory]
    [InlineData("--output=-", true)]
    [InlineData("--output -", true)]
    [InlineData("--cow c --base b --output -", true)]
    [InlineData("--output - --cow c", true)]
    [InlineData("--output=- --cow c", true)]
    [InlineData("--cow c --output=-", true)]
    [InlineData("x --output -", true)]
    [InlineData("--output a --output -", true)]
    [InlineData("", false)]
    [InlineData("-", false)]
    [InlineData("--output", false)]
    [InlineData("--cow - --output", false)]
    [InlineData("--output a", false)]
    [InlineData("--output=a", false)]
    [InlineData("--output a -", false)]
    [InlineData("--cow -", false)]
    [InlineData("- --output", false)]
    [InlineData("--cow=- --output ./-", false)]
    public void The_image_is_streamed_if_the_output_is_a_dash(string words, bool streams)
    {
        string[] split = words.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(streams, ExtractVerb.Streams(One("extract"), split));
        Assert.False(ExtractVerb.Streams(One("verify"), split));
    }

    private static Verb One(string name) => Verbs.All.Single(verb => verb.Name == name);
}
