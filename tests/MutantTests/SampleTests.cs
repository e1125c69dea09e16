using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Mutants;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.MutantTests;

/// <summary>Which mutants a run tries, which verdicts it keeps, and how it counts.</summary>
public sealed class SampleTests
{
    private static Mutant Point(int line) => new("src/Toy/Toy.cs", line, 1, Operator.Call, "F(); → ;") { Edits = [], Wraps = [] };

    private static IEnumerable<Mutant> Points => Enumerable.Range(1, 50).Select(Point);

    private static int[] Lines(Sample sample) => [.. sample.Mutants.Select(mutant => mutant.Mutant.Line)];

    [Fact]
    public void Every_file_of_the_scope_counts_once()
    {
        IReadOnlyList<string> files = Scope.Files(Binary.Root);
        Assert.Equal(files.Distinct(), files);
        Assert.Contains("src/Merge/Lifecycle/MergeMarker.cs", files);
    }

    [Fact]
    public void Sample_depends_on_the_seed_and_not_on_the_order_of_the_points()
    {
        Sample one = new(Points, 10, 7, _ => BuildKind.Switched), other = new(Points.Reverse(), 10, 7, _ => BuildKind.Switched);
        Assert.Equal(Lines(one), Lines(other));
        Assert.Equal(10, Lines(one).Distinct().Count());
        Assert.NotEqual(Lines(one), Lines(new Sample(Points, 10, 8, _ => BuildKind.Switched)));
    }

    [Fact]
    public void Every_point_is_drawn_about_equally_often()
    {
        int[] drawn = new int[51];
        for (ulong seed = 0; seed < 2000; seed++)
            foreach (int line in Lines(new Sample(Points, 10, seed, _ => BuildKind.Switched))) drawn[line]++;
        // The expected value is 400 each, with a standard deviation of 18.
        Assert.All(drawn.Skip(1), count => Assert.InRange(count, 310, 490));
    }

    [Fact]
    public void Unbuildable_mutants_are_replaced_by_the_next_and_counted()
    {
        Sample all = new(Points, 50, 7, _ => BuildKind.Switched), some =
            new(Points, 10, 7, mutant => mutant.Line % 2 == 0 ? BuildKind.Alone : null);
        Assert.Equal(Lines(all).Where(line => line % 2 == 0).Take(10), Lines(some));
        Assert.Equal(Lines(all).TakeWhile(line => line != Lines(some)[^1]).Count(line => line % 2 == 1), some.Unbuildable);
    }

    [Fact]
    public void Verdicts_survive_an_interrupted_run()
    {
        using TempFolder folder = new();
        Store first = new(folder["results"]);
        Assert.Null(first.Find("a"));
        first.Keep("a", new Verdict(Outcome.KilledByCheck, "Toy:Test", "1\t2\n3"));
        first.Keep("b", new Verdict(Outcome.Survived, "", ""));
        File.AppendAllText(folder["results"], "c\tSurvi");
        Store second = new(folder["results"]);
        Assert.Equal(new Verdict(Outcome.KilledByCheck, "Toy:Test", "1 2 3"), second.Find("a"));
        Assert.Equal(Outcome.Survived, second.Find("b")!.Outcome);
        Assert.Null(second.Find("c"));
        second.Keep("c", new Verdict(Outcome.KilledByCrash, "Toy:Test", ""));
        Assert.Equal(Outcome.KilledByCrash, new Store(folder["results"]).Find("c")!.Outcome);
    }

    [Fact]
    public void Checks_that_evaluate_a_mutant_run_with_its_project_first_and_then_by_speed()
    {
        Mutant mutant = Point(1);
        Measured[] measured =
        [
            new("Other:a", 1, new HashSet<int> { 0 }), new("Toy:slow", 9, new HashSet<int> { 0 }),
                new("Toy:quick", 2, new HashSet<int> { 0, 1 }), new("Toy:not", 1, new HashSet<int> { 1 }),
        ];
        string[] Names(Mutant of, BuildKind kind) =>
            [.. Session.Checks(of, 0, kind, measured, ["Other", "Toy"]).Select(check => check.Check)];
        Assert.Equal(["Toy:quick", "Toy:slow", "Other:a"], Names(mutant, BuildKind.Switched));
        Assert.Equal(["Toy:not", "Toy:quick", "Toy:slow", "Other:a"], Names(mutant with { Static = true }, BuildKind.Switched));
        Assert.Equal(["Toy:not", "Toy:quick", "Toy:slow", "Other:a"], Names(mutant, BuildKind.Alone));
        Assert.Equal(["Toy:quick", "Toy:slow", "Other:a"], Names(mutant with { Statement = 5 }, BuildKind.Alone));
    }

    [Fact]
    public void Report_names_survivors_and_counts_kills_by_kind()
    {
        StringWriter text = new();
        Verdict check = new(Outcome.KilledByCheck, "Toy:t", "");
        Report.Print(text,
            [(Point(3), new Verdict(Outcome.Survived, "", "no check evaluates it")), (Point(1), check),
                (Point(2), check with { Outcome = Outcome.KilledByCrash }), (Point(4), check with { Outcome = Outcome.KilledByTimeout })],
                    5);
        Assert.Equal(
            """
            survived: src/Toy/Toy.cs:3:1: call removed: F(); → ; (no check evaluates it)
            Toy: 3 of 4 killed (75.0 %): 1 by a check, 1 by a crash, 1 by a timeout
            all: 3 of 4 killed (75.0 %): 1 by a check, 1 by a crash, 1 by a timeout
            4 mutants, 3 killed, 1 survived, 5 unbuildable

            """, text.ToString());
    }
}
