using System.Globalization;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The collector's settings (src/Collector.props) work for a heap that is filled to its limit: with arrays of any size, in regions of both
/// kinds. A full heap throws OutOfMemoryException, and the program ends with exit code 71; a full heap never causes a memory fault. With an
/// address range of 64 MiB, all of these cases except the first ended in a fault.
/// </summary>
public sealed class HeapTests
{
    [Theory]
    // Bytes per array, number of arrays, exit code.
    [InlineData(1000, 10_000, 0)]
    [InlineData(1000, 34_000, 0)]
    [InlineData(1000, 100_000, 71)]
    [InlineData(60_000, 500, 0)]
    [InlineData(60_000, 2000, 71)]
    [InlineData(1_000_000, 100, 71)]
    [InlineData(9_000_000, 2, 0)]
    [InlineData(9_000_000, 20, 71)]
    [InlineData(40_000_000, 1, 0)]
    [InlineData(40_000_000, 2, 71)]
    public void Full_heap_ends_with_71_and_never_with_a_fault(int bytes, int count, int exitCode)
    {
        BinaryResult result = Binary.RunProgram(Binary.CompiledChecks,
            ["fill", bytes.ToString(CultureInfo.InvariantCulture), count.ToString(CultureInfo.InvariantCulture)]);
        Assert.True(result.ExitCode == exitCode, result.ToString());
    }
}
