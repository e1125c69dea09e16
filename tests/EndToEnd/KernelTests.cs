using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The vector kernels beside a loop over bytes: compiled ahead of time, for the architecture that the program is compiled for.</summary>
public sealed class KernelTests(ITestOutputHelper output)
{
    [Fact]
    public void Kernels_agree_with_a_loop_over_bytes_at_all_lengths_and_alignments()
    {
        BinaryResult result = Binary.RunProgram(Binary.CompiledChecks, []);
        output.WriteLine(result.Output);
        Assert.True(result is { ExitCode: 0, Error: "" }, result.ToString());
        Assert.Contains("comparisons, all equal", result.Output);
    }
}
