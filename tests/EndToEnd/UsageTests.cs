using System;
using System.Buffers.Binary;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Help, version, and the messages for an invalid command line.</summary>
public sealed class UsageTests
{
    private const string Hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    [Theory]
    [InlineData("")]
    [InlineData("mrege --cow x")]
    [InlineData("--nonsense")]
    [InlineData("-x")]
    [InlineData("merge")]
    [InlineData("merge --cow x")]
    [InlineData("merge --base x")]
    [InlineData("merge --cow x --base y --cwo z")]
    [InlineData("merge --cow x --base")]
    [InlineData("merge --cow --base x")]
    [InlineData("merge --cow= --base x")]
    [InlineData("merge --cow x --base y z")]
    [InlineData("merge --cow x --cow x --base y")]
    [InlineData("merge --cow x --base y --source-separate")]
    [InlineData("merge --cow x --base y --io magic")]
    [InlineData("merge --cow x --base y --queue-depth 0")]
    [InlineData("merge --cow x --base y --queue-depth 1025")]
    [InlineData("merge --cow x --base y --queue-depth many")]
    [InlineData("merge --cow x --base y --memory 1M")]
    [InlineData("merge --cow x --base y --memory 2G")]
    [InlineData("merge --cow x --base y --memory 32Q")]
    [InlineData("merge --cow x --base y --json=yes")]
    [InlineData("merge --cow x --base y --progress sometimes")]
    [InlineData("verify")]
    [InlineData("verify --cow x --sha256 " + Hash)]
    [InlineData("verify --cow x --base y --sha256 1234")]
    [InlineData("verify --cow x --source y")]
    [InlineData("inspect")]
    [InlineData("inspect x y")]
    [InlineData("inspect x --order file")]
    [InlineData("inspect x --ops --order random")]
    [InlineData("extract --cow x --base y")]
    public void Invalid_command_line_is_64_with_one_message(string words)
    {
        BinaryResult result = Binary.Run(words.Split(' ', System.StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(64, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.StartsWith("snapuserd: ", result.Error);
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
        Assert.EndsWith("\n", result.Error);
    }

    [Theory]
    [InlineData("merge --json")]
    [InlineData("mrege --json")]
    [InlineData("--json")]
    [InlineData("inspect --json x y")]
    [InlineData("merge --cow x --base y --foo --json")]
    public void With_json_among_the_arguments_an_invalid_command_line_is_reported_as_a_json_object(string words)
    {
        BinaryResult result = Binary.Run(words.Split(' '));
        Assert.Equal(64, result.ExitCode);
        JsonElement error = JsonDocument.Parse(Assert.Single(result.Output.TrimEnd('\n').Split('\n'))).RootElement;
        Assert.Equal("error", error.GetProperty("event").GetString());
        Assert.Equal(64, error.GetProperty("exit_code").GetInt32());
        Assert.Equal($"snapuserd: {error.GetProperty("message").GetString()}\n", result.Error);
    }

    [Theory]
    [InlineData("--verison", "did you mean --version?")]
    [InlineData("verion", "did you mean version?")]
    [InlineData("mrege", "did you mean merge?")]
    [InlineData("mrege", "see snapuserd --help")]
    [InlineData("merge --foo", "unknown option '--foo';")]
    [InlineData("help mrege", "did you mean merge?")]
    public void Typing_error_gets_a_suggestion_and_an_unrelated_word_gets_none(string words, string said)
    {
        BinaryResult result = Binary.Run(words.Split(' '));
        Assert.Equal((64, ""), (result.ExitCode, result.Output));
        Assert.Contains(said, result.Error);
    }

    [Fact]
    public void Help_and_version_are_verbs_as_well()
    {
        Assert.Equal(Binary.Run("--help"), Binary.Run("help"));
        Assert.Equal(Binary.Run("extract", "--help"), Binary.Run("help", "extract"));
        Assert.Equal(Binary.Run("extract", "--help"), Binary.Run("extract", "-h"));
        Assert.Equal(Binary.Run("--version"), Binary.Run("version"));
    }

    [Fact]
    public void Version_is_that_of_the_build()
    {
        BinaryResult result = Binary.Run("--version");
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        string[] lines = result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        // The file itself tells its target: the machine field of the ELF header (elf.h).
        byte[] head = new byte[20];
        using (FileStream file = File.OpenRead(Binary.CompiledFile)) file.ReadExactly(head);
        string architecture = BinaryPrimitives.ReadUInt16LittleEndian(head.AsSpan(18)) switch
        {
            62 => "amd64",
            183 => "arm64",
            ushort other => other.ToString(),
        };
        Assert.Equal("snapuserd 0.1.0", lines[0]);
        Assert.Equal($"built for: Linux on {architecture}, kernels from 5.10 on", lines[1]);
        Assert.StartsWith("tested on: Linux ", lines[2], StringComparison.Ordinal);
        Assert.Equal(3, lines.Length);
    }

    [Fact]
    public void Version_is_printed_as_an_object_too()
    {
        BinaryResult result = Binary.Run("version", "--json");
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        using JsonDocument document = JsonDocument.Parse(result.Output);
        Assert.Equal("version", document.RootElement.GetProperty("event").GetString());
        Assert.Equal("0.1.0", document.RootElement.GetProperty("version").GetString());
        Assert.Contains(document.RootElement.GetProperty("architecture").GetString(), new[] { "amd64", "arm64" });
        Assert.Equal(64, Binary.Run("version", "now").ExitCode);
        Assert.Matches("^[0-9]+[.][0-9]+(,[0-9]+[.][0-9]+)*$", document.RootElement.GetProperty("tested_kernels").GetString());
    }

    [Theory]
    [InlineData("--help")]
    [InlineData("-h")]
    public void Help_lists_every_verb_and_exit_code(string option)
    {
        BinaryResult result = Binary.Run(option);
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        string[] lines = result.Output.Split('\n');
        foreach (string verb in new[] { "merge", "verify", "inspect", "extract" })
            Assert.Single(lines, line => line.StartsWith($"  {verb} "));
        foreach (string code in new[] { "0", "64", "65", "66", "69", "70", "71", "73", "74", "75", "76", "77" })
            Assert.Single(lines, line => line.StartsWith($"  {code,-4}"));
    }

    [Theory]
    [InlineData("merge",
        "--cow --base --source --source-separate --io --queue-depth --memory --no-verify-first --allow-unsafe --json --progress")]
    [InlineData("verify", "--cow --base --sha256 --json --progress")]
    [InlineData("inspect", "--cow --ops --order --raw --json")]
    [InlineData("extract", "--cow --base --output --json --progress")]
    public void Help_of_a_verb_lists_its_options(string verb, string options)
    {
        BinaryResult result = Binary.Run(verb, "--help");
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        string[] first = result.Output.Split('\n').Where(line => line.StartsWith("  --")).Select(line => line.Split(' ')[2]).ToArray();
        Assert.All(options.Split(' '), option => Assert.Contains(option, first));
    }
}
