using System.Collections.Generic;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>What happens before the first managed line: the environment, and a runtime that cannot start.</summary>
public sealed class StartTests
{
    private const string Vector = "v3-zstd-4k-xor";

    [Theory]
    [InlineData("DOTNET_GCHeapHardLimit", "1000")]
    [InlineData("DOTNET_GCHeapHardLimit", "1")]
    [InlineData("DOTNET_gcServer", "1")]
    [InlineData("DOTNET_GCgen0size", "ffffffffff")]
    [InlineData("DOTNET_GCRegionRange", "1000")]
    [InlineData("DOTNET_GCRegionSize", "10000000000")]
    [InlineData("DOTNET_GCName", "nothing.so")]
    [InlineData("DOTNET_GCLargePages", "1")]
    [InlineData("DOTNET_GCHeapHardLimitPercent", "0")]
    [InlineData("DOTNET_DbgEnableMiniDump", "1")]
    [InlineData("DOTNET_EnableEventPipe", "1")]
    [InlineData("DOTNET_Thread_DefaultStackSize", "1")]
    [InlineData("DOTNET_EnableSSE42", "0")]
    [InlineData("DOTNET_EnableHWIntrinsic", "0")]
    [InlineData("DOTNET_TotallyUnknown", "")]
    [InlineData("COMPlus_GCHeapHardLimit", "1000")]
    public void A_variable_of_the_NET_runtime_in_the_environment_does_not_keep_a_merge_from_its_target(string name, string value)
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(folder["base"], Golden.Old);
        BinaryResult result = Binary.RunProgram(Binary.Path, ["merge", "--cow", folder["cow"], "--base", folder["base"], "--progress", "never"],
            new Dictionary<string, string> { [name] = value });
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(folder["base"]));
    }
}
