using System;
using System.Diagnostics;
using System.Globalization;

namespace Snapuserd.Tests.Simulator;

/// <summary>What simulations have done so far; several threads may add to it.</summary>
public sealed class Tally
{
    private readonly object _lock = new();
    private readonly long _started = Stopwatch.GetTimestamp();

    /// <summary>Programs, files or runs that were generated.</summary>
    public long Cases { get; private set; }
    /// <summary>Runs of the engine.</summary>
    public long Runs { get; private set; }
    /// <summary>Crash states met, repeated ones included.</summary>
    public long States { get; private set; }
    /// <summary>Crash states that differ within their case, each of which was recovered.</summary>
    public long Distinct { get; private set; }
    /// <summary>Cases from which the target was not reached.</summary>
    public long Lost { get; private set; }

    /// <summary>Which share of everything there is has been gone through, in words; empty where there is no everything.</summary>
    public string Covered { get; set; } = "";

    /// <summary>Seconds since this began to count.</summary>
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

    /// <summary>One line.</summary>
    public override string ToString()
    {
        double seconds = Math.Max(0.001, Seconds);
        return string.Create(CultureInfo.InvariantCulture,
            $"{Cases} cases, {Runs} runs, {States} crash states, {Distinct} distinct, {States / seconds:F0} states/s, {Runs / seconds:F0} runs/s, {(Covered.Length > 0 ? $"covered {Covered}, " : "")}lost {Lost}");
    }
}
