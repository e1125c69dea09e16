using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>Every request of small merges fails in every way (<see cref="FaultSweep"/>); those of golden COWs are sampled.</summary>
public sealed class FaultTests(ITestOutputHelper output)
{
    public static IEnumerable<object[]> Small =>
        from name in SmallCases.Names from window in new[] { 2, 3 } select new object[] { name, window };

    public static IEnumerable<object[]> Sampled => Faults.GoldenStrides.Select(golden => new object[] { golden.Name, golden.Stride });

    [Theory]
    [MemberData(nameof(Small))]
    public void Any_fault_of_any_request_is_absorbed_or_stops_the_merge_where_the_next_run_continues(string name, int window)
    {
        int sweeps = 0;
        Faults.Small(name, window, (ulong)window, 1, sweep =>
        {
            output.WriteLine(sweep.Counts);
            Assert.True(sweep.Absorbed > 100 && sweep.Stopped > 100 && sweep.Recovered > 10, sweep.Counts);
            sweeps++;
        });
        Assert.InRange(sweeps, 2, 3);
    }

    [Fact]
    public void Any_fault_with_many_requests_in_flight_is_absorbed_or_stops_the_merge_where_the_next_run_continues()
    {
        using FaultSweep sweep = new(Faults.Stream(), 6);
        sweep.Sweep(stride: 5);
        sweep.SweepWaits(stride: 3);
        sweep.SweepReads(stride: 5);
        output.WriteLine(sweep.Counts);
        Assert.True(sweep.Absorbed > 100 && sweep.Stopped > 100 && sweep.Recovered > 10, sweep.Counts);
    }

    [Theory]
    [MemberData(nameof(Sampled))]
    public void Faults_of_a_whole_merge_are_absorbed_or_stop_it_where_the_next_run_continues(string name, int stride)
    {
        using FaultSweep sweep = new(Faults.Golden(name), 5);
        sweep.Sweep(stride, 17);
        output.WriteLine(sweep.Counts);
        Assert.True(sweep.Absorbed > 5 && sweep.Stopped > 5, sweep.Counts);
    }

    [Theory]
    [InlineData("chain-up")]
    [InlineData("separate-source")]
    [InlineData("compressed")]
    public void Fault_that_a_sweep_does_not_expect_is_reported_with_seed_and_request(string name)
    {
        // The target of another case: the sweep must reject every result of the engine.
        MergeCase merge = SmallCases.Make(name);
        using FaultSweep sweep = new(merge with { Target = merge.Base }, 4);
        LostDataException error = Assert.Throws<LostDataException>(() => sweep.Sweep());
        Assert.Contains("seed 4", error.Message, StringComparison.Ordinal);
        Assert.Contains("request", error.Message, StringComparison.Ordinal);
    }
}
