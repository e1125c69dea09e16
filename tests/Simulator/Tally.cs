using System;
using System.Diagnostics;
using System.Globalization;

namespace Snapuserd.Tests.Simulator;

/// <summary>The counters of simulations; several threads may add to them.</summary>
public sealed class Tally
{
    private readonly object _lock = new();
    private readonly long _started = Stopwatch.GetTimestamp();

    /// <summary>Programs, files or runs that were generated.</summary>
    public long Cases { get; private set; }
    /// <summary>Runs of the engine.</summary>
    public long Runs { get; private set; }
    /// <summary>Crash states reached, including repeated ones.</summary>
    public long States { get; private set; }
    /// <summary>Crash states that are distinct within their case; each was recovered.</summary>
    public long Distinct { get; private set; }
    /// <summary>Cases from which the target was not reached.</summary>
    public long Lost { get; private set; }

    /// <summary>Text that says which share of all cases has been covered; empty where the number of cases is unlimited.</summary>
    public string Covered { get; set; } = "";

    /// <summary>Seconds since the tally was created.</summary>
    public double Seconds => Stopwatch.GetElapsedTime(_started).TotalSeconds;

    public void Add(long cases = 0, long runs = 0, long states = 0, long distinct = 0, long lost = 0)
    {
        lock (_lock)
        {
            Cases += cases;
            Runs += runs;
            States += states;
            Distinct += distinct;
            Lost += lost;
        }
    }

    public void Add(Tally other)
    {
        Add(other.Cases, other.Runs, other.States, other.Distinct, other.Lost);
        if (other.Covered.Length > 0) Covered = Covered.Length == 0 ? other.Covered : $"{Covered}, {other.Covered}";
    }

    /// <summary>The counters in one line.</summary>
    public override string ToString()
    {
        double seconds = Math.Max(0.001, Seconds);
        return string.Create(CultureInfo.InvariantCulture,
            $"{Cases} cases, {Runs} runs, {States} crash states, {Distinct} distinct, {States / seconds:F0} states/s, {Runs / seconds:F0} "
            + $"runs/s, {(Covered.Length > 0 ? $"covered {Covered}, " : "")}lost {Lost}");
    }
}
