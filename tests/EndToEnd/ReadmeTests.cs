using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The session in the README works as printed there, with smaller images.</summary>
public sealed class ReadmeTests
{
    [Fact]
    public void Commands_of_the_session_work()
    {
        List<string> commands = [.. Session()];
        Assert.Equal("tests/demo-images.sh .", commands[0]);
        using TempFolder folder = new();
        // Most blocks are new, so at 4 MiB per second the merge takes longer than the second after which it is killed.
        byte[] image = new byte[24 << 20];
        new Random(1).NextBytes(image);
        File.WriteAllBytes(folder["old.img"], image);
        new Random(2).NextBytes(image.AsSpan(4 << 20));
        File.WriteAllBytes(folder["new.img"], image);
        Directory.CreateDirectory(folder["bin"]);
        File.CreateSymbolicLink(folder["bin/snapuserd"], Binary.Path);

        // A person types more slowly than a shell reads a script, so the script waits for the socket.
        IEnumerable<string> lines =
            commands.Skip(1).Select(command => command.EndsWith('&') ? $"{command}\nuntil [ -S view ]; do sleep 0.05; done" : command);
        string script = $"set -x\ncd '{folder.Path}'\nPATH={folder["bin"]}:$PATH\n{string.Join('\n', lines)}";
        BinaryResult result = Binary.RunProgram("bash", ["-c", script]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("\nserved: the new image\n", result.Output, StringComparison.Ordinal);
        Assert.EndsWith("\ndisk.img and new.img are identical\n", result.Output, StringComparison.Ordinal);
    }

    /// <summary>The commands after the prompts of the README's session.</summary>
    private static IEnumerable<string> Session()
    {
        const string prompt = "    $ ", more = "    > ";
        string command = "";
        foreach (string line in File.ReadLines(Path.Combine(Binary.Root, "README.md")))
        {
            if (!line.StartsWith(prompt, StringComparison.Ordinal) && !line.StartsWith(more, StringComparison.Ordinal)) continue;
            command += line[prompt.Length..];
            if (command.EndsWith('\\'))
            {
                command = command[..^1];
                continue;
            }
            yield return command;
            command = "";
        }
    }
}
