using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Mutants;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.MutantTests;

/// <summary>A complete run over a small assembly with its own tests.</summary>
public sealed class TrialTests
{
    private const string File = "src/Toy/Toy.cs";

    private const string Product = """
        namespace Snapuserd.Toy;
        public static class Toy
        {
            public static int Larger(int a, int b) { if (a > b) return a; return b; }
            public static int Down(int n) { while (n != 0) n--; return n; }
            public static int Deep(int n) { if (n > 0) return 1 + Deep(n - 1); return 0; }
            public static int Unseen(int n) { if (n > 3) return 1; return 2; }
            public static int Text(object o) { if (o is not string s) return 0; return s.Length; }
        }
        """;

    private const string Tests = """
        using Xunit;
        namespace Snapuserd.Toy.Tests;
        public class ToyTests
        {
            [Fact] public void Larger_of_two() => Assert.Equal(4, Toy.Larger(4, 2));
            [Fact] public void Down_to_0() => Assert.Equal(0, Toy.Down(3));
            [Fact] public void Deep_ends() => Assert.Equal(0, Toy.Deep(0));
            [Fact] public void Text_has_a_length() => Assert.Equal(2, Toy.Text("ab"));
            [Fact] public void No_block_device_but_loop_devices()
            {
                foreach (string path in System.IO.Directory.GetFileSystemEntries("/dev"))
                    Assert.Matches("^/dev/(fd|null|shm|zero|full|random|urandom|pts|ptmx|tty|stdin|stdout|stderr|"
                        + "loop-control|loop[0-9]+)$", path);
            }
        }
        """;

    [RootFact]
    public void Killed_crashed_timed_out_survived_and_unbuildable_mutants_are_distinguished()
    {
        string job = Path.Combine(Binary.Root, "build/mutants/toy");
        if (Directory.Exists(job)) Directory.Delete(job, recursive: true);
        string bin = Directory.CreateDirectory(Path.Combine(job, "bin")).FullName;
        Builds.Copy(AppContext.BaseDirectory, bin);
        Project toy = new("Snapuserd.Toy", new Dictionary<string, string> { [File] = Product }, Project.Framework(), "");
        Assert.Empty(toy.Emit(new Dictionary<string, string>(), Path.Combine(bin, "Snapuserd.Toy.dll")));
        string[] xunit = ["xunit.core.dll", "xunit.assert.dll", "Snapuserd.Toy.dll"];
        Project tests =
            new("Snapuserd.Toy.Tests", new Dictionary<string, string> { ["ToyTests.cs"] = Tests },
                Project.Framework().Concat(xunit.Select(name => Path.Combine(bin, name))), "");
        Assert.Empty(tests.Emit(new Dictionary<string, string>(), Path.Combine(bin, "Snapuserd.Toy.Tests.dll")));

        Sample sample =
            new(toy.Mutants(File).Where(mutant => mutant.Operator is Operator.Condition or Operator.Assignment), 10, 1, mutant =>
                toy.CompilesSwitched(mutant) ? BuildKind.Switched : toy.CompilesAlone(mutant) ? BuildKind.Alone : null);
        Builds.Switched(sample, _ => toy, bin);
        Trial trial = new(Path.Combine(job, "job"), TimeSpan.FromSeconds(10));
        IReadOnlyList<Measured> measured = trial.Control(bin, "Toy", sample.Mutants.Count);
        Assert.Equal(5, measured.Count);
        Dictionary<(int, Operator), Verdict> found = [];
        for (int number = 0; number < sample.Mutants.Count; number++)
        {
            (Mutant mutant, BuildKind kind) = sample.Mutants[number];
            found.Add((mutant.Line, mutant.Operator), trial.Judge(bin, number, Session.Checks(mutant, number, kind, measured, ["Toy"])));
        }
        Assert.Equal(1, sample.Unbuildable);
        Assert.Equal(5, found.Count);
        Assert.Equal((Outcome.KilledByCheck, "Toy:Snapuserd.Toy.Tests.ToyTests.Larger_of_two"),
            (found[(4, Operator.Condition)].Outcome, found[(4, Operator.Condition)].Check));
        Assert.Equal(Outcome.KilledByCheck, found[(5, Operator.Condition)].Outcome);
        Assert.Equal((Outcome.KilledByTimeout, "Toy:Snapuserd.Toy.Tests.ToyTests.Down_to_0"),
            (found[(5, Operator.Assignment)].Outcome, found[(5, Operator.Assignment)].Check));
        Assert.Equal(Outcome.KilledByCrash, found[(6, Operator.Condition)].Outcome);
        Assert.Equal((Outcome.Survived, "no check evaluates it"),
            (found[(7, Operator.Condition)].Outcome, found[(7, Operator.Condition)].Message));
        Directory.Delete(job, recursive: true);
    }
}
