using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using Snapuserd.Cli;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Each option of each verb with each kind of invalid value: exit code 64 and one message that names the option.</summary>
public sealed class OptionTests
{
    public static IEnumerable<object[]> WrongValues =>
        from verb in Verbs.All
        from option in verb.Options
        from wrong in Wrong(option)
        select new object[] { verb.Name, wrong };

    [Theory]
    [MemberData(nameof(WrongValues))]
    public void Wrong_value_of_an_option_is_64_and_names_it(string verb, string words)
    {
        string[] split = words.Split(' ');
        BinaryResult result = Binary.Run([verb, .. split]);
        Assert.True(result.ExitCode == 64, result.ToString());
        if (split[^1] == "--json") Assert.StartsWith("{\"event\":\"error\",\"exit_code\":64,", result.Output, StringComparison.Ordinal);
        else Assert.Equal("", result.Output);
        Assert.StartsWith($"snapuserd: {verb}: ", result.Error, StringComparison.Ordinal);
        Assert.Contains(split[0].Split('=')[0], result.Error, StringComparison.Ordinal);
        Assert.Equal(1, result.Error.Count(c => c == '\n'));
    }

    private static IEnumerable<string> Wrong(Option option)
    {
        if (option.Kind == OptionKind.Flag) return [$"{option.Name}=yes", $"{option.Name} {option.Name}"];
        string good = option.Kind switch
        {
            OptionKind.Choice => option.Choices[0],
            OptionKind.Sha256 => new string('0', 64),
            OptionKind.Count or OptionKind.Size => option.Minimum.ToString(CultureInfo.InvariantCulture),
            _ => "x",
        };
        string[] always = [option.Name, $"{option.Name}=", $"{option.Name} {good} {option.Name} {good}"];
        string With(long number) => $"{option.Name} {number.ToString(CultureInfo.InvariantCulture)}";
        return option.Kind switch
        {
            OptionKind.Choice => [.. always, $"{option.Name} {option.Choices[0]}x"],
            OptionKind.Sha256 => [.. always, $"{option.Name} {good[1..]}", $"{option.Name} {good[1..]}g"],
            OptionKind.Count or OptionKind.Size =>
            [
                .. always, $"{option.Name} many", $"{option.Name} -1", $"{option.Name} 1.5",
                .. option.Minimum > 0 ? [With(option.Minimum - 1)] : Array.Empty<string>(),
                .. option.Maximum < long.MaxValue ? [With(option.Maximum + 1)] : Array.Empty<string>(),
            ],
            _ => always,
        };
    }
}
