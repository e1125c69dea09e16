using System;
using System.Globalization;
using System.IO;
using System.Runtime.InteropServices;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Older container runtimes refuse statx with EPERM. Files are then looked up with fstatat, whose struct differs between architectures:
/// sizes, types and identities must still be right.
/// </summary>
public sealed class StatTests : IDisposable
{
    private const int EPERM = 1;
    private static readonly Lazy<string> s_refuse = new(() => CProgram.Compile("Support", "refuse"));

    private readonly TempFolder _folder = new();
    private readonly string _cow, _base;

    public StatTests()
    {
        (_cow, _base) = (_folder["cow"], _folder["base"]);
        File.WriteAllBytes(_cow, Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_base, Golden.Old);
    }

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("merge")]
    [InlineData("verify")]
    public void Without_statx_a_verb_works(string verb)
    {
        BinaryResult result = WithoutStatx(verb, "--cow", _cow, "--base", _base, "--progress", "never");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(verb == "merge" ? Golden.New : Golden.Old, File.ReadAllBytes(_base));
    }

    [Fact]
    public void Without_statx_types_sizes_and_identities_are_right()
    {
        File.CreateSymbolicLink(_folder["link"], _cow);
        Refused(64, _cow, _folder["link"]);
        Refused(64, _folder.Path, _base);
        Refused(64, _cow, "/dev/null");
        File.WriteAllBytes(_folder["short"], Golden.Old[..^4096]);
        Refused(65, _cow, _folder["short"]);
    }

    private void Refused(int code, string cow, string target)
    {
        BinaryResult result = WithoutStatx("merge", "--cow", cow, "--base", target, "--progress", "never");
        Assert.True(result.ExitCode == code, result.ToString());
    }

    private static BinaryResult WithoutStatx(params string[] arguments)
    {
        // The number of this machine's architecture: an emulator passes the call on.
        int statx = RuntimeInformation.OSArchitecture == Architecture.Arm64 ? 291 : 332;
        return Binary.RunProgram(s_refuse.Value,
            [EPERM.ToString(CultureInfo.InvariantCulture), statx.ToString(CultureInfo.InvariantCulture), Binary.Path, .. arguments]);
    }
}
