using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Conformance;

/// <summary>
/// The program's files and messages do not depend on the architecture that it is compiled for. If the other program runs in an emulator,
/// its results are compared with those of this machine's program; otherwise, two runs of one program are compared.
/// </summary>
public sealed partial class OtherArchitectureTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static IEnumerable<object[]> Codecs =>
        from compression in new[] { "none", "gz,9", "brotli,5", "lz4,1", "zstd,19" }
        from factor in new[] { "2", "4k", "64k", "256k" }
        from option in new[] { "--xor", "--no-check" }
        select new object[] { compression, factor, option };

    public static IEnumerable<object[]> Files =>
        Golden.Cows.Select(cow => cow.Name).Concat(Golden.Halves.Select(half => half.Name)).Select(name => new object[] { name });

    [Theory]
    [MemberData(nameof(Codecs))]
    public void Create_writes_the_same_file(string compression, string factor, string option)
    {
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        string[] arguments =
        [
            "create", "--source", _folder["old"], "--target", _folder["new"], "--compression", compression, option,
            .. factor == "2" ? ["--format", "2"] : new[] { "--block-factor", factor },
        ];
        BinaryResult native = Answer(Binary.Native, [.. arguments, "--output", _folder["native"]]);
        Assert.Equal(native, Answer(Binary.Path, [.. arguments, "--output", _folder["cow"]]));
        Assert.True(File.ReadAllBytes(_folder["native"]).AsSpan().SequenceEqual(File.ReadAllBytes(_folder["cow"])));
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Inspect_prints_the_same(string name)
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(name));
        foreach (string order in new[] { "file", "merge" })
        {
            BinaryResult native = Answer(Binary.Native, "inspect", _folder["cow"], "--ops", "--json", "--order", order);
            Assert.NotEqual("", native.Output);
            Assert.Equal(native, Answer(Binary.Path, "inspect", _folder["cow"], "--ops", "--json", "--order", order));
        }
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Merge_leaves_the_same_cow(string name)
    {
        byte[] before = Golden.Halves.Any(half => half.Name == name) ? Golden.HalfBase(name) : Golden.Old;
        byte[][] cows = [.. new[] { Binary.Native, Binary.Path }.Select(program =>
        {
            File.WriteAllBytes(_folder["cow"], Golden.Cow(name));
            File.WriteAllBytes(_folder["base"], before);
            Answer(program, "merge", "--cow", _folder["cow"], "--base", _folder["base"], "--io", "sync", "--allow-unsafe",
                "--threads", "1");
            Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
            return File.ReadAllBytes(_folder["cow"]);
        })];
        Assert.True(cows[0].AsSpan().SequenceEqual(cows[1]));
    }

    private static BinaryResult Answer(string program, params string[] arguments)
    {
        string[] quiet = arguments[0] == "inspect" ? [] : ["--progress", "never"];
        BinaryResult result = Binary.RunProgram(program, [.. arguments, .. quiet]);
        Assert.True(result.ExitCode == 0, result.ToString());
        // The elapsed time is not compared.
        string said = Seconds().Replace(result.Output, "");
        return new BinaryResult(0, arguments[0] == "inspect" ? said : "", result.Error);
    }

    [GeneratedRegex("\"parse_seconds\":[0-9.e-]+")]
    private static partial Regex Seconds();
}
