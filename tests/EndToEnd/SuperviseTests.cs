using System;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`serve --supervise`, as far as it goes without a ublk driver; the guest test kills servers.</summary>
public sealed class SuperviseTests
{
    [Theory]
    [InlineData("--cow /tmp/x --base /tmp/y --device ublk --supervise", "--name")]
    [InlineData("--cow /tmp/x --base /tmp/y --name ublkb0 --supervise", "--device ublk")]
    [InlineData("--cow /tmp/x --base /tmp/y --device nbd --name nbd0 --supervise", "--device ublk")]
    [InlineData("--cow x --base /tmp/y --device ublk --name ublkb0 --supervise", "absolute paths")]
    [InlineData("--cow /x --base /tmp/y --device ublk --name ublkb0 --supervise", "absolute paths")]
    [InlineData("--cow /tmp/../x --base /tmp/y --device ublk --name ublkb0 --supervise", "absolute paths")]
    [InlineData("--cow /tmp/x --base /tmp/y --device ublk --name nbd0 --supervise", "ublkb0")]
    public void What_cannot_be_supervised_is_answered_with_64(string options, string word)
    {
        BinaryResult result = Binary.Run(["serve", .. options.Split(' ')]);
        Assert.Equal(64, result.ExitCode);
        Assert.Contains(word, result.Error, StringComparison.Ordinal);
        Assert.Equal("", result.Output);
    }

    [RootFact]
    public void Supervisor_ends_as_the_server_does_that_ends_by_itself()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["base"], new byte[8192]);
        string[] Options(string cow) => ["serve", "--cow", cow, "--base", folder["base"], "--device", "ublk", "--name", "ublkb7", "--supervise"];

        // The server opened what was named, in the root that it was given.
        File.WriteAllText(folder["no-cow"], "no cow");
        BinaryResult result = Binary.Run(Options(folder["no-cow"]));
        Assert.Equal(65, result.ExitCode);
        Assert.Contains(folder["no-cow"], result.Error, StringComparison.Ordinal);

        result = Binary.Run(Options(folder["missing"]));
        Assert.Equal(66, result.ExitCode);
        Assert.DoesNotContain("starting it again", result.Error, StringComparison.Ordinal);
    }
}
