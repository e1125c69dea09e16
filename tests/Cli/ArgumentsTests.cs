using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cli;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Which command lines are accepted, and the error message for every other one.</summary>
public sealed class ArgumentsTests
{
    private static readonly Verb s_verb = new("do", "Does.", ["FILE"],
    [
        new("--path", OptionKind.Text, "FILE", "A path."),
        new("--flag", OptionKind.Flag, "", "A flag."),
        new("--count", OptionKind.Count, "N", "A number.") { Minimum = 1, Maximum = 10 },
        new("--size", OptionKind.Size, "SIZE", "A size."),
        new("--mode", OptionKind.Choice, "a|b", "A choice.") { Choices = ["a", "b"] },
        new("--hash", OptionKind.Sha256, "HEX", "A hash.") { Needs = "--path" },
    ], "", _ => ExitCode.Done);

    [Theory]
    [InlineData("--path=x", "--path", "x")]
    [InlineData("--path x", "--path", "x")]
    [InlineData("--path=a=b", "--path", "a=b")]
    [InlineData("--path -", "--path", "-")]
    [InlineData("--path -x", "--path", "-x")]
    [InlineData("--path=--x", "--path", "--x")]
    [InlineData("--mode b", "--mode", "b")]
    public void A_value_may_follow_a_blank_or_an_equals_sign(string words, string option, string expected) =>
        Assert.Equal(expected, Parse(words + " f").Text(option));

    [Fact]
    public void A_choice_that_is_not_given_is_its_first_word() => Assert.Equal("a", Parse("f").Choice("--mode"));

    [Fact]
    public void After_two_dashes_everything_is_an_operand() => Assert.Equal(["--flag"], Parse("-- --flag").Operands);

    [Theory]
    [InlineData("0", 0L)]
    [InlineData("4096", 4096L)]
    [InlineData("8k", 8192L)]
    [InlineData("8K", 8192L)]
    [InlineData("8KiB", 8192L)]
    [InlineData("32M", 33554432L)]
    [InlineData("32m", 33554432L)]
    [InlineData("32MiB", 33554432L)]
    [InlineData("2G", 2147483648L)]
    [InlineData("2GiB", 2147483648L)]
    [InlineData("9223372036854775807", long.MaxValue)]
    [InlineData("8589934591G", 8589934591L << 30)]
    public void Sizes_take_binary_suffixes(string text, long expected) =>
        Assert.Equal(expected, Parse($"--size {text} f").Number("--size", -1));

    [Theory]
    [InlineData("8589934592G")]
    [InlineData("9223372036854775808")]
    [InlineData("1.5M")]
    [InlineData("-1")]
    [InlineData("+1")]
    [InlineData("M")]
    [InlineData("8KB")]
    [InlineData("8 k")]
    [InlineData("0x10")]
    [InlineData("1e3")]
    [InlineData("８")]
    public void A_text_that_is_not_a_size_or_does_not_fit_is_refused(string text) => Refused(["--size", text, "f"], "--size");

    [Theory]
    [InlineData("--flga f", "did you mean --flag?")]
    [InlineData("--pth x f", "did you mean --path?")]
    [InlineData("--coun 3 f", "did you mean --count?")]
    [InlineData("--hepl f", "did you mean --help?")]
    [InlineData("-x f", "unknown option '-x';")]
    [InlineData("--foo f", "unknown option '--foo';")]
    [InlineData("--nothing-like-it f", "unknown option '--nothing-like-it'")]
    [InlineData("--path", "--path needs a value (FILE)")]
    [InlineData("--path= f", "--path needs a value (FILE)")]
    [InlineData("--path --flag f", "--path needs a value (FILE)")]
    [InlineData("--flag=yes f", "--flag takes no value")]
    [InlineData("--flag --flag f", "--flag is given twice")]
    [InlineData("--path x --path=x f", "--path is given twice")]
    [InlineData("--count 0 f", "0 is below the smallest, 1")]
    [InlineData("--count 11 f", "11 is above the largest, 10")]
    [InlineData("--count x f", "'x' is not a number")]
    [InlineData("--count 99999999999999999999 f", "is not a number")]
    [InlineData("--mode c f", "'c' is not one of a, b")]
    [InlineData("--path x --hash 12 f", "'12' is not 64 hexadecimal digits")]
    [InlineData("", "FILE is missing")]
    [InlineData("f g", "unexpected argument 'g'")]
    public void A_mistake_is_named(string words, string said) => Refused(words.Split(' ', StringSplitOptions.RemoveEmptyEntries), said);

    [Fact]
    public void An_option_without_the_option_that_it_needs_is_refused_with_its_name() =>
        Refused(["--hash", new string('a', 64), "f"], "--hash needs --path");

    [Fact]
    public void An_empty_operand_is_refused() => Refused([""], "FILE is empty");

    [Fact]
    public void A_path_with_a_zero_byte_is_refused() => Refused(["--path", "a\0b", "f"], "zero byte");

    [Fact]
    public void Help_ends_the_parsing_and_missing_options_are_not_reported() => Assert.True(Parse("--path x --help --garbage").Help);

    public static TheoryData<string> RealVerbs => [.. Verbs.All.Select(verb => verb.Name)];

    [Theory]
    [MemberData(nameof(RealVerbs))]
    public void Help_of_a_verb_names_each_of_its_options_once_and_fits_a_console(string name)
    {
        Verb verb = Verbs.All.Single(one => one.Name == name);
        string[] lines = verb.HelpText().Split('\n');
        Assert.All(lines, line => Assert.True(line.Length <= Verb.HelpWidth, line));
        Assert.StartsWith($"usage: snapuserd {name}", lines[0]);
        foreach (Option option in verb.Options)
            Assert.Single(lines, line => line.StartsWith($"  {option.Name} ", StringComparison.Ordinal) && line.Length > 30);
        Assert.Equal(verb.Options.Length, verb.Options.Select(option => option.Name).Distinct().Count());
        Assert.All(verb.Options, option => Assert.True(option.Needs == null || verb.Options.Any(other => other.Name == option.Needs)));
    }

    [Fact]
    public void General_help_fits_a_console() =>
        Assert.All(Verbs.HelpText().Split('\n'), line => Assert.True(line.Length <= Verb.HelpWidth, line));

    [Theory]
    [InlineData("--cow x", "x")]
    [InlineData("--cow=x --json", "x")]
    [InlineData("x", "x")]
    public void An_option_may_stand_for_the_operand(string words, string expected) =>
        Assert.Equal([expected], Arguments.Parse(Verbs.All.Single(one => one.Name == "inspect"), words.Split(' ')).Operands);

    private static Arguments Parse(string words) => Arguments.Parse(s_verb, words.Split(' ', StringSplitOptions.RemoveEmptyEntries));

    private static void Refused(string[] words, string said)
    {
        var e = Assert.Throws<SnapuserdException>(() => Arguments.Parse(s_verb, words));
        Assert.Equal(ExitCode.Usage, e.Code);
        Assert.Contains(said, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }
}
