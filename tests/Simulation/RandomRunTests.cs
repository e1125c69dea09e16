using System.Linq;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

public sealed class RandomRunTests(ITestOutputHelper output)
{
    [Fact]
    public void Long_merges_that_crash_and_stop_repeatedly_under_changing_options_reach_the_target()
    {
        Tally tally = new();
        RandomRuns.CheckAll(Enumerable.Range(1, 600).Select(seed => (ulong)seed), tally);
        output.WriteLine(tally.ToString());
        Assert.Equal(600, tally.Cases);
        Assert.True(tally.Runs > 3000);
    }
}
