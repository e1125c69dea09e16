using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Runs the benchmarks with tiny sizes, so that they stay working. The measured values are meaningless here.</summary>
public sealed class BenchmarkTests
{
    [Fact]
    public void Every_benchmark_prints_the_ceiling_our_result_and_the_ratio()
    {
        var output = new StringWriter();
        Benchmarks.Program.Run(output, Binary.Path, tiny: true);
        string[] lines = output.ToString().TrimEnd('\n').Split('\n').Where(line => line.StartsWith("  ")).ToArray();
        Assert.Equal(12, lines.Length);
        Assert.All(lines, line =>
            Assert.Matches(@"ceiling [0-9.]+ \[[0-9.]+-[0-9.]+\] .*, ours [0-9.]+ \[[0-9.]+-[0-9.]+\] .*, ratio [0-9]+\.[0-9]{2}", line));
    }
}
