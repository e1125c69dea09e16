using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Mutants;

/// <summary>The options of a run.</summary>
public sealed record Request
{
    public int Count { get; init; } = 200;
    public ulong Seed { get; init; }
    public int Jobs { get; init; } = 2;
    public string Only { get; init; } = "";
    /// <summary>The judges, separated by commas; all of them if empty.</summary>
    public string Judges { get; init; } = "";
    /// <summary>Lists the sample and runs nothing.</summary>
    public bool List { get; init; }
    /// <summary>Lists the mutants of the sample that no check evaluates, and tries none.</summary>
    public bool Reach { get; init; }
}

/// <summary>The command `mutants --count N --seed S --jobs N --only PATH`: docs/mutants.md.</summary>
public static class Program
{
    public static int Main(string[] args)
    {
        if (args is ["judge", var plan, var results]) return Judge.Run(plan, results);
        Request request = new();
        for (int at = 0; at < args.Length; at++)
        {
            string value = at + 1 < args.Length ? args[at + 1] : "";
            switch (args[at])
            {
                case "--list": request = request with { List = true }; continue;
                case "--reach": request = request with { Reach = true }; continue;
                case "--count" when int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int count)
                    && count > 0:
                    request = request with { Count = count }; break;
                case "--seed" when ulong.TryParse(value, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong seed):
                    request =
                    request with { Seed = seed }; break;
                case "--jobs" when int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int jobs)
                    && jobs is 1 or 2:
                    request = request with { Jobs = jobs }; break;
                case "--only" when value.Length > 0: request = request with { Only = value }; break;
                case "--judges" when value.Length > 0: request = request with { Judges = value }; break;
                default:
                    Console.Error.WriteLine($"mutants: {args[at]} {value}: unknown option or value");
                    Console.Error.WriteLine("usage: mutants [--count N] [--seed HEX] [--jobs 1|2]"
                        + " [--only PATH,…] [--judges PROJECT,…] [--list | --reach]");
                    return 64;
            }
            at++;
        }
        try
        {
            return new Session(Binary.Root, request).Run();
        }
        catch (InvalidOperationException e)
        {
            Console.Error.WriteLine($"mutants: {e.Message}");
            return 1;
        }
    }
}
