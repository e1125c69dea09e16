using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The messages of `serve --device dm-user` without such a device; tests/Serve serves dm-user requests over sockets.</summary>
public sealed class ServeDmUserTests
{
    [Theory]
    [InlineData(null, 64, "--name")]
    [InlineData("a/b", 64, "a/b")]
    [InlineData("..", 64, "'..' cannot name a dm-user device")]
    [InlineData("/dev/dm-user/.", 64, "'.' cannot name a dm-user device")]
    [InlineData("no-such-device", 69, "/dev/dm-user/no-such-device")]
    [InlineData("/dev/dm-user/no-such-device", 69, "/dev/dm-user/no-such-device cannot be opened")]
    public void Device_that_is_not_there_is_refused_and_no_path_is_printed(string? name, int exitCode, string word)
    {
        using TempFolder folder = new();
        byte[] cow = Golden.Cow("v3-zstd-256k-xor");
        File.WriteAllBytes(folder["cow"], cow);
        File.WriteAllBytes(folder["base"], Golden.Old);
        string[] arguments = ["serve", "--cow", folder["cow"], "--base", folder["base"], "--device", "dm-user"];
        BinaryResult result = Binary.Run(name == null ? arguments : [.. arguments, "--name", name]);
        Assert.True(result.ExitCode == exitCode, result.ToString());
        Assert.Contains(word, result.Error);
        Assert.Empty(result.Output);
        Assert.Equal(cow, File.ReadAllBytes(folder["cow"]));
    }
}
