using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>The result of a run, for people.</summary>
public static class Report
{
    /// <summary>Prints the survivors, then one line for each project, then the sum.</summary>
    public static void Print(TextWriter to, IReadOnlyList<(Mutant Mutant, Verdict Verdict)> all, int unbuildable)
    {
        foreach ((Mutant mutant, Verdict verdict) in all.Where(one => one.Verdict.Outcome == Outcome.Survived).OrderBy(one =>
            one.Mutant.Path, StringComparer.Ordinal).ThenBy(one => one.Mutant.Line))
            to.WriteLine($"survived: {mutant.Id}{(verdict.Message.Length > 0 ? $" ({verdict.Message})" : "")}");
        foreach (IGrouping<string,
            (Mutant Mutant, Verdict Verdict)> project in all.GroupBy(one => one.Mutant.Project).OrderBy(group => group.Key,
                StringComparer.Ordinal))
            to.WriteLine($"{project.Key}: {Rate([.. project.Select(one => one.Verdict)])}");
        Verdict[] verdicts = [.. all.Select(one => one.Verdict)];
        to.WriteLine($"all: {Rate(verdicts)}");
        int survived = Count(verdicts, Outcome.Survived);
        to.WriteLine($"{all.Count} mutants, {all.Count - survived} killed, {survived} survived, {unbuildable} unbuildable");
    }

    private static string Rate(Verdict[] verdicts)
    {
        int killed = verdicts.Length - Count(verdicts, Outcome.Survived);
        return FormattableString.Invariant($"{killed} of {verdicts.Length} killed ({100.0 * killed / verdicts.Length:F1} %): ")
            + $"{Count(verdicts, Outcome.KilledByCheck)} by a check, "
            + $"{Count(verdicts, Outcome.KilledByCrash)} by a crash, {Count(verdicts, Outcome.KilledByTimeout)} by a timeout";
    }

    private static int Count(Verdict[] verdicts, Outcome outcome) => verdicts.Count(verdict => verdict.Outcome == outcome);
}
