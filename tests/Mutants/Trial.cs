using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>The result of a mutant.</summary>
public enum Outcome
{
    Survived,
    KilledByCheck,
    KilledByCrash,
    KilledByTimeout,
}

/// <summary>The result of a mutant, and the check that detected it with its message.</summary>
public sealed record Verdict(Outcome Outcome, string Check, string Message);

/// <summary>A check as measured without a mutant: its name, its time, and the mutants that it evaluated.</summary>
public sealed record Measured(string Check, long Milliseconds, IReadOnlySet<int> Reached)
{
    /// <summary>The project whose tests contain the check.</summary>
    public string Project => Check[..Check.IndexOf(':', StringComparison.Ordinal)];
}

/// <summary>Runs checks on one build, in a sandbox.</summary>
public sealed class Trial
{
    /// <summary>The folder of the native program, below a build.</summary>
    public const string ProgramFolder = "native";

    private readonly Sandbox _sandbox;
    private readonly string _job;
    private readonly TimeSpan _leastLimit;

    /// <summary>
    /// Every time limit is at least <paramref name="leastLimit"/>: a check that takes a millisecond alone can take a second on a busy
    /// machine.
    /// </summary>
    public Trial(string job, TimeSpan leastLimit)
    {
        _leastLimit = leastLimit;
        _job = job;
        Directory.CreateDirectory(job);
        _sandbox = new Sandbox(job);
    }

    /// <summary>
    /// Runs all checks of a project without a mutant. <paramref name="mutants"/> is the number of mutants in the build. Throws if a check
    /// fails.
    /// </summary>
    public IReadOnlyList<Measured> Control(string bin, string project, int mutants)
    {
        string reached = Path.Combine(_job, "reached");
        File.WriteAllBytes(reached, new byte[Math.Max(mutants, 1)]);
        File.SetUnixFileMode(reached, (UnixFileMode)0x1b6);
        // All tests of a project take less than this, even on a busy machine.
        long limit = (long)TimeSpan.FromMinutes(20).TotalMilliseconds;
        string[] lines =
            Run(bin, [$"{project}:\t{limit}"], TimeSpan.FromMinutes(60), new Dictionary<string,
                string>
            { ["SNAPUSERD_REACHED"] = reached }, out _);
        List<Measured> measured = [];
        foreach (string line in lines)
        {
            string[] parts = line.Split('\t');
            if (parts[0] == "pass")
                measured.Add(new Measured(parts[1], long.Parse(parts[2], CultureInfo.InvariantCulture), Numbers(parts[3])));
        }
        if (lines is not [.., "end"])
            throw new InvalidOperationException($"the judge {project} fails without a mutant: "
                + $"{(lines.Length > 0 ? lines[^1] : "it does not start")}; see {_job}");
        return measured;
    }

    /// <summary>Parses the mutant numbers in a line of results.</summary>
    public static IReadOnlySet<int> Numbers(string text) =>
        text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(number =>
            int.Parse(number, CultureInfo.InvariantCulture)).ToHashSet();

    /// <summary>
    /// Runs the checks with a mutant. A failed check kills the mutant only if it fails again when it runs alone, so that a flaky check does
    /// not count. A hung check kills it only if it hangs twice, each time for ten times its duration without a mutant.
    /// </summary>
    public Verdict Judge(string bin, int? number, IReadOnlyList<Measured> checks)
    {
        if (checks.Count == 0) return new Verdict(Outcome.Survived, "", "no check evaluates it");
        while (true)
        {
            Verdict verdict = Once(bin, number, checks);
            if (verdict.Outcome == Outcome.Survived) return verdict;
            int at = 0;
            while (at < checks.Count && checks[at].Check != verdict.Check) at++;
            // The judge did not start.
            if (at == checks.Count) return verdict;
            Verdict again = Once(bin, number, [checks[at]]);
            if (again.Outcome != Outcome.Survived) return again;
            checks = [.. checks.Skip(at + 1)];
            if (checks.Count == 0) return again;
        }
    }

    private Verdict Once(string bin, int? number, IReadOnlyList<Measured> checks)
    {
        Dictionary<string, string> environment = [];
        if (number is { } active) environment["SNAPUSERD_MUTANT"] = active.ToString(CultureInfo.InvariantCulture);
        TimeSpan all = TimeSpan.FromMinutes(2);
        List<string> plan = [];
        foreach (Measured check in checks)
        {
            TimeSpan limit = TimeSpan.FromMilliseconds(10 * check.Milliseconds);
            if (limit < _leastLimit) limit = _leastLimit;
            all += limit;
            plan.Add(string.Create(CultureInfo.InvariantCulture, $"{check.Check}\t{(long)limit.TotalMilliseconds}"));
        }
        string[] lines = Run(bin, plan, all, environment, out bool ended);
        string[] last = lines.Length > 0 ? lines[^1].Split('\t') : ["start", "the start of the judge"];
        return last[0] switch
        {
            "end" => new Verdict(Outcome.Survived, "", ""),
            "fail" => new Verdict(Outcome.KilledByCheck, last[1], last[3]),
            "timeout" => new Verdict(Outcome.KilledByTimeout, last[1], ""),
            _ => new Verdict(ended ? Outcome.KilledByCrash : Outcome.KilledByTimeout, last[1], ""),
        };
    }

    private string[] Run(string bin, IReadOnlyList<string> plan, TimeSpan limit, Dictionary<string, string> environment, out bool ended)
    {
        string planFile = Path.Combine(_job, "plan"), results = Path.Combine(_sandbox.Output, "results");
        File.WriteAllLines(planFile, plan);
        // If no program is given, the tests would build it.
        string program = Path.Combine(bin, ProgramFolder, "snapuserd");
        environment["SNAPUSERD"] = File.Exists(program) ? program : "/dev/null";
        environment["DOTNET_EnableDiagnostics"] = "0";
        environment["DOTNET_TieredPGO"] = "0";
        environment["DOTNET_GCHeapHardLimit"] = "0x90000000";
        environment["DOTNET_gcConcurrent"] = "0";
        ended = _sandbox.Run([Environment.ProcessPath!, Path.Combine(bin, "mutants.dll"), "judge", planFile, results], environment, limit);
        return File.Exists(results) ? File.ReadAllLines(results) : [];
    }
}
