using System;
using System.Globalization;

namespace Snapuserd.Tests.Simulator;

/// <summary>Options of a simulation: its time limit, its first seed, and its own arguments.</summary>
public sealed record Budget
{
    /// <summary>Seconds after which the simulation begins no new case.</summary>
    public int Seconds { get; init; } = 60;
    /// <summary>The seed of every random choice.</summary>
    public ulong Seed { get; init; } = 1;
    /// <summary>Further arguments, which only the simulation interprets.</summary>
    public string[] Words { get; init; } = [];
    /// <summary>The counters to which a simulation adds its results.</summary>
    public Tally Tally { get; init; } = new();
}

/// <summary>
/// `simulator NAME [--seconds N] [--seed N] [WORD …]` runs one simulation, `simulator all` every one of them, each for its share of the
/// seconds. The last line on standard output is the counts. A failure prints what was lost, the seed, and the command that repeats it; the
/// exit code is 1.
/// </summary>
public static class Program
{
    /// <summary>All simulations: the name of each, and its share of the seconds of `all`.</summary>
    private static readonly (string Name, int Share, Func<Budget, int> Run)[] Simulations =
    [
        ("programs", 5, Programs.Simulate),
        ("overlaps", 2, Overlaps.Simulate),
        ("random", 4, RandomRuns.Simulate),
        ("cases", 1, SmallCases.Simulate),
        ("android", 2, AndroidSimulation.Simulate),
        ("faults", 1, Faults.Simulate),
        ("devices", 2, DeviceSimulation.Simulate),
    ];

    public static int Main(string[] args)
    {
        if (args.Length == 0) return Usage();
        Budget budget = new();
        int at = 1;
        for (; at < args.Length && args[at].StartsWith("--", StringComparison.Ordinal); at += 2)
        {
            if (at + 1 == args.Length) return Usage();
            string value = args[at + 1];
            switch (args[at])
            {
                case "--seconds" when int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int seconds):
                    budget = budget with { Seconds = seconds }; break;
                case "--seed" when ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out ulong seed):
                    budget = budget with { Seed = seed }; break;
                default:
                    Console.Error.WriteLine(
                        $"simulator: {args[at]} {value}: expected --seconds or --seed, and a whole number of 0 or more");
                    return Usage();
            }
        }
        budget = budget with { Words = args[at..] };
        // The battery has a time limit like a test.
        if (args[0] != "battery") Explorer.ReadersEvery = 1;
        switch (args[0])
        {
            case "all": return All(budget);
            case "fuzz": return Fuzz.Run(budget);
            // These two test the simulator itself and have no time limit.
            case "battery": return Battery.Simulate(budget);
            case "sabotage": return Sabotages.Simulate(budget);
        }
        foreach ((string name, _, Func<Budget, int> run) in Simulations)
        {
            if (name != args[0]) continue;
            int result = run(budget);
            Console.WriteLine(SimReaders.Counts);
            return result;
        }
        Console.Error.WriteLine($"simulator: there is no simulation called {args[0]}");
        return Usage();
    }

    private static int All(Budget budget)
    {
        int shares = 0, status = 0;
        foreach ((_, int share, _) in Simulations) shares += share;
        foreach ((_, int share, Func<Budget, int> run) in Simulations)
        {
            Budget part = budget with { Seconds = Math.Max(1, budget.Seconds * share / shares), Tally = new Tally() };
            status |= run(part);
            budget.Tally.Add(part.Tally);
        }
        Console.WriteLine(SimReaders.Counts);
        Console.WriteLine($"all, seed {budget.Seed}: {budget.Tally}");
        return status;
    }

    /// <summary>The exception of a simulation that has lost data, with the command that repeats it.</summary>
    public static LostDataException Lost(string name, string again, Exception what) =>
        new($"{what.Message}\nagain with: ./build.sh simulate {name} {again}", what);

    /// <summary>Prints the last lines of a simulation that has lost data; returns its exit code.</summary>
    public static int Failed(string name, Budget budget, LostDataException what)
    {
        budget.Tally.Add(lost: 1);
        Console.WriteLine(what);
        Console.WriteLine($"{name}: LOST: {what.Message}");
        return 1;
    }

    private static int Usage()
    {
        Console.Error.WriteLine("usage: simulator NAME [--seconds N] [--seed N] [WORD ...]");
        Console.Error.WriteLine("names: all");
        foreach ((string name, _, _) in Simulations) Console.Error.WriteLine($"       {name}");
        Console.Error.WriteLine("       fuzz [FILE]");
        Console.Error.WriteLine("       sabotage all | NAME ...");
        Console.Error.WriteLine("       battery");
        return 64;
    }
}
