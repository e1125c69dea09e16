using System;
using System.Globalization;

namespace Snapuserd.Tests.Simulator;

/// <summary>What a simulation is told: how long it may take, from which seed it goes on, and which part of the work is its own.</summary>
public sealed record Budget
{
    /// <summary>Seconds after which to begin nothing new.</summary>
    public int Seconds { get; init; } = 60;
    /// <summary>The seed of everything that is left to chance.</summary>
    public ulong Seed { get; init; } = 1;
    /// <summary>What else was said: words that only the simulation understands.</summary>
    public string[] Words { get; init; } = [];
}

/// <summary>
/// `simulator NAME [--seconds N] [--seed N] [WORD …]` runs one simulation. The last line on standard output is its counts; a failure prints what was
/// lost, the seed, and the command that repeats it, and ends with 1.
/// </summary>
public static class Program
{
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
                case "--seconds": budget = budget with { Seconds = int.Parse(value, CultureInfo.InvariantCulture) }; break;
                case "--seed": budget = budget with { Seed = ulong.Parse(value, CultureInfo.InvariantCulture) }; break;
                default: return Usage();
            }
        }
        budget = budget with { Words = args[at..] };
        switch (args[0])
        {
            default: return Usage();
        }
    }

    private static int Usage()
    {
        Console.Error.WriteLine("usage: simulator NAME [--seconds N] [--seed N] [WORD ...]");
        return 64;
    }
}
