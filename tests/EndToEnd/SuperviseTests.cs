using System;
using System.IO;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`serve --supervise` on systems without a ublk driver; the guest test kills servers.</summary>
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
    public void Options_that_cannot_be_supervised_are_64(string options, string word)
    {
        BinaryResult result = Binary.Run(["serve", .. options.Split(' ')]);
        Assert.Equal(64, result.ExitCode);
        Assert.Contains(word, result.Error, StringComparison.Ordinal);
        Assert.Equal("", result.Output);
    }

    [RootFact]
    public void Supervisor_ends_with_the_exit_code_of_a_server_that_ends_by_itself()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["base"], new byte[8192]);
        string[] Options(string cow) =>
        [
            "serve", "--cow", cow, "--base", folder["base"], "--device", "ublk", "--name", "ublkb7", "--supervise",
        ];

        // The server opened the named files in the given root.
        File.WriteAllText(folder["no-cow"], "no cow");
        BinaryResult result = Binary.Run(Options(folder["no-cow"]));
        Assert.Equal(65, result.ExitCode);
        Assert.Contains(folder["no-cow"], result.Error, StringComparison.Ordinal);

        result = Binary.Run(Options(folder["missing"]));
        Assert.Equal(66, result.ExitCode);
        Assert.DoesNotContain("starting it again", result.Error, StringComparison.Ordinal);
    }

    [RootFact]
    public void Server_inherits_the_descriptor_for_the_record_of_its_requests()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["base"], new byte[8192]);
        string log = folder["log"];
        BinaryResult result =
            Binary.RunProgram("strace", ["-f", "-qq", "-v", "-s", "4096", "-e", "trace=execve,execveat,pread64", "-o", log,
                Binary.Path, "serve", "--cow", folder["missing"], "--base", folder["base"], "--device", "ublk", "--name", "ublkb7",
                "--supervise"]);
        Assert.Equal(66, result.ExitCode);
        Assert.DoesNotContain("are lost if", result.Error, StringComparison.Ordinal);
        Assert.Contains("SNAPUSERD_NAME=ublkb7", File.ReadAllText(log), StringComparison.Ordinal);
        Match given = Regex.Match(File.ReadAllText(log), "SNAPUSERD_REQUESTS=([0-9]+)");
        Assert.True(given.Success, "the server does not inherit a descriptor for its requests");
        // The record exists and contains no request.
        Assert.Contains($"pread64({given.Groups[1].Value}, \"\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\", 10, 0) = 10", File.ReadAllText(log),
            StringComparison.Ordinal);
    }
}
