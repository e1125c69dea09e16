using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Conformance;

/// <summary>`create` of the built program on the pair of images from which Android's writer made the golden COWs.</summary>
public sealed class CreateTests(ITestOutputHelper output) : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Every golden COW but the one without scratch, which `create` does not write: an Xor in place could not be merged safely. Android's
    /// brotli files are of level 5, and ours of the default level, as the others.
    /// </summary>
    public static IEnumerable<object[]> Rows => Golden.Cows.Where(cow => cow.Scratch).Select(cow => new object[] { cow.Name });

    [Theory]
    [MemberData(nameof(Rows))]
    public void Created_cow_is_no_larger_than_Android_s_and_merges_to_the_target(string name)
    {
        GoldenCow row = Golden.Row(name);
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        List<string> arguments =
        [
            "create", "--source", _folder["old"], "--target", _folder["new"], "--output", _folder["cow"], "--format", $"{row.Version}",
            "--compression", row.Compression.Split(',')[0], "--json",
        ];
        if (row.Version == 3) arguments.AddRange(["--block-factor", $"{row.Factor}"]);
        if (row.Xor > 0) arguments.Add("--xor");
        BinaryResult created = Binary.Run([.. arguments]);
        Assert.True(created.ExitCode == 0, created.ToString());

        JsonElement done = JsonDocument.Parse(created.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        long bytes = new FileInfo(_folder["cow"]).Length;
        output.WriteLine($"{name}: ours {bytes}, Android's {row.CowBytes}; {done}");
        Assert.Equal(bytes, done.GetProperty("bytes").GetInt64());
        Assert.True(bytes <= row.CowBytes, $"{bytes} bytes, Android needs {row.CowBytes}");
        Assert.True(done.GetProperty("checked").GetBoolean());

        BinaryResult inspected = Binary.Run("inspect", _folder["cow"]);
        Assert.True(inspected.ExitCode == 0, inspected.ToString());
        Assert.Contains("Android can merge this", inspected.Output);
        BinaryResult merged = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["old"], "--json");
        Assert.True(merged.ExitCode == 0, merged.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["old"]));
        JsonElement merge = JsonDocument.Parse(merged.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        Assert.Equal(done.GetProperty("journaled").GetInt32(), merge.GetProperty("journaled").GetInt32());
    }
}
