using System.IO;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The vector kernels beside a loop over bytes: as compiled ahead of time for another architecture where the program is, else just in time.
/// </summary>
public sealed class KernelTests(ITestOutputHelper output)
{
    [Fact]
    public void Kernels_agree_with_a_loop_over_bytes_at_all_lengths_and_alignments()
    {
        if (Binary.Given("SNAPUSERD_KERNELS") is { } program)
        {
            BinaryResult result = Binary.RunProgram(program, []);
            output.WriteLine(result.Output);
            Assert.True(result is { ExitCode: 0, Error: "" }, result.ToString());
            return;
        }
        Assert.False(Binary.IsEmulated, "$SNAPUSERD_KERNELS is not set");
        StringWriter said = new();
        bool good = Kernels.Program.Run(said);
        output.WriteLine(said.ToString());
        Assert.True(good, said.ToString());
    }
}
