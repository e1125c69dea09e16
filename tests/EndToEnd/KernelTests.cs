using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Compares the vector kernels with a loop over bytes, compiled ahead of time for the program's architecture.</summary>
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
