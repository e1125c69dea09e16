using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.Loader;
using Snapuserd.Tests.Mutants;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.MutantTests;

/// <summary>A mutant that its switch turns on behaves like the mutant built alone.</summary>
public sealed class SchemaTests
{
    private const string File = "src/Toy/Toy.cs";

    private const string Source = """
        using System;
        using System.Collections.Generic;
        using System.Text;
        public static class Toy
        {
            private static int s_state;
            private static int State { get => s_state; set => s_state = value; }
            private static int Sync(out int left) { left = 5; return 7; }
            private static int FSync(int n) { s_state += n; return 3; }
            private static int Pair(int a, int b) => 10 * a + b;
            private static void Both(long a, long b) => s_state += (int)(3 * a - b);
            public static string Run(int x, int y)
            {
                State = x;
                uint u = (uint)x;
                StringBuilder log = new();
                if (x < y && y > 2 || x == 4) log.Append('a'); else log.Append('b');
                if (x > 1 && (y < 3 || u >= 2u)) s_state++;
                else if (x < 0) return "negative";
                for (int i = 0; i < Math.Abs(y) && i < 5; i++) { if (log.Length > 500) return "long"; if (i == x) continue; log.Append(i); }
                Both(x, y); Both(x, 2);
                if (FSync(x > y ? x : y) != 3) log.Append('f');
                log.Append(Pair(Pair(x, y), x < y ? 1 : 2));
                Action twice = () => s_state *= 2;
                twice();
                bool both = x > 0 && y > 0;
                if (both || Sync(out int left) > 2 && left < 6) log.Append("l");
                try { log.Append("abcdef"[(x & 3)..(y & 7)]); }
                catch (ArgumentOutOfRangeException e) when (e.ParamName != "none") { log.Append('r'); }
                return log.Append(State).ToString();
            }
        }
        """;

    [Fact]
    public void Switched_mutant_behaves_like_the_one_built_alone_and_with_all_switches_off_the_original_runs()
    {
        Project toy = new("Toy", new Dictionary<string, string> { [File] = Source }, Project.Framework(), "");
        Sample sample =
            new(toy.Mutants(File), int.MaxValue, 1, mutant => toy.CompilesSwitched(mutant) ? BuildKind.Switched : toy.CompilesAlone(mutant)
                ? BuildKind.Alone : null);
        (Mutant Mutant, int Number)[] tried =
            [.. sample.Mutants.Select((one, number) => (one.Mutant, Number: number)).Where(one =>
                sample.Mutants[one.Number].Kind == BuildKind.Switched && toy.CompilesAlone(one.Mutant))];
        // The original and every tried mutant, each in its own namespace, so that they are built in one call of the compiler.
        Project each =
            new("Each", tried.ToDictionary(one => $"{one.Number}.cs", one => Within($"M{one.Number}", one.Mutant.Apply(Source))),
                Project.Framework(), Within("Plain", Source));
        using TempFolder folder = new();
        Builds.Switched(sample, _ => toy, folder.Path);
        Assert.Empty(each.Emit(new Dictionary<string, string>(), folder["Each.dll"]));
        string plain = Outputs(folder["Each.dll"], "Plain.Toy", "");
        Assert.Equal(plain, Outputs(folder["Toy.dll"], "Toy", ""));
        int different = 0;
        foreach ((Mutant mutant, int number) in tried)
        {
            string expected = Outputs(folder["Each.dll"], $"M{number}.Toy", ""), found = Outputs(folder["Toy.dll"], "Toy", $"{number}");
            Assert.True(expected == found, $"{mutant.Id}: alone {expected}, switched {found}");
            if (expected != plain) different++;
        }
        Assert.True(tried.Length > 60, $"only {tried.Length} mutants were compared");
        Assert.True(different > tried.Length * 3 / 4, $"only {different} of {tried.Length} mutants change the output");
    }

    private static string Within(string name, string source) =>
        source.Replace("public static class Toy", $"namespace {name};\npublic static class Toy", StringComparison.Ordinal);

    /// <summary>Loads a fresh copy of the assembly, because the switch is read only once.</summary>
    private static string Outputs(string assembly, string type, string mutant)
    {
        Environment.SetEnvironmentVariable("SNAPUSERD_MUTANT", mutant);
        AssemblyLoadContext context = new(null, isCollectible: true);
        try
        {
            using MemoryStream image = new(System.IO.File.ReadAllBytes(assembly));
            MethodInfo run = context.LoadFromStream(image).GetType(type)!.GetMethod("Run")!;
            return string.Join(' ', from x in Enumerable.Range(-1, 7) from y in Enumerable.Range(-1, 7) select Output(run, x, y));
        }
        finally
        {
            Environment.SetEnvironmentVariable("SNAPUSERD_MUTANT", null);
            context.Unload();
        }
    }

    private static string Output(MethodInfo run, int x, int y)
    {
        try
        {
            return (string)run.Invoke(null, [x, y])!;
        }
        catch (TargetInvocationException e)
        {
            return e.InnerException!.GetType().Name;
        }
    }
}
