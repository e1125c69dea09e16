using System.Collections.Generic;
using System.Linq;
using Snapuserd.Tests.Mutants;
using Xunit;

namespace Snapuserd.Tests.MutantTests;

/// <summary>Each operator finds exactly its places.</summary>
public sealed class OperatorTests
{
    private const string File = "src/Toy/Toy.cs";

    private static Project Toy(string members) =>
        new("Toy", new Dictionary<string,
            string>
        { [File] = $"using System;\nusing System.Collections.Generic;\npublic class Toy\n{{\n{members}\n}}\n" },
                Project.Framework(), "");

    private static void Gives(string members, params string[] changes) =>
        Assert.Equal(changes, Toy(members).Mutants(File).Select(mutant => $"{Mutant.Name(mutant.Operator)}: {mutant.Change}"));

    [Fact]
    public void Conditions_of_every_statement_and_expression_are_negated_unless_they_are_constant() => Gives(
        """
        int M(bool a, int n)
        {
            if (a) n++;
            while (a) n--;
            do n -= 2; while (a);
            for (; a;) n += 2;
            while (true) break;
            for (; ;) break;
            try { } catch (Exception e) when (e.Message == "") { }
            switch (n) { case 1 when a: break; }
            return a ? 1 : 2;
        }
        """,
        "condition negated: a → !(a)", "assignment removed: n++; → ;", "condition negated: a → !(a)", "assignment removed: n--; → ;",
        "condition negated: a → !(a)", "assignment removed: n -= 2; → ;", "condition negated: a → !(a)", "assignment removed: n += 2; → ;",
        "condition negated: e.Message == \"\" → !(e.Message == \"\")", "condition negated: a → !(a)", "condition negated: a → !(a)");

    [Fact]
    public void Bounds_of_integers_are_moved_in_comparisons_ranges_and_patterns() => Gives(
        """
        bool A(int a, long b) => a < b;
        bool B(double a) => a < 2;
        bool C(uint a) => a is > 3;
        ReadOnlySpan<byte> D(byte[] a, int n) => a.AsSpan()[n..^1];
        bool E(int a) => a == 2;
        """,
        "bound moved: b → b + 1", "bound moved: b → b - 1", "bound moved: 3 → 3 + 1", "bound moved: 3 → 3 - 1", "bound moved: n → n + 1",
            "bound moved: n → n - 1");

    [Fact]
    public void Calls_whose_value_is_not_used_are_removed() => Gives(
        """
        int F() => 1;
        void G(Toy? t, List<int> l)
        {
            F();
            _ = F();
            t?.F();
            int used = F();
            Action a = () => F();
            Func<int> b = () => F();
        }
        void H() => F();
        """,
        "call removed: F(); → ;", "call removed: _ = F(); → ;", "call removed: t?.F(); → ;", "call removed: F() → { }",
            "call removed: => F() → { }");

    [Fact]
    public void Assignments_are_removed_where_they_are_statements() => Gives(
        """
        int _x;
        int P { get => _x; set => _x = value; }
        void M(int y)
        {
            _x = y;
            _x |= 2;
            _x++;
            int local = 3;
            _ = local;
            for (int i = 0; i != 2; i++) { }
        }
        """,
        "assignment removed: => _x = value → { }", "assignment removed: _x = y; → ;", "assignment removed: _x |= 2; → ;",
            "assignment removed: _x++; → ;",
        "condition negated: i != 2 → !(i != 2)");

    [Fact]
    public void Arguments_of_one_type_are_swapped_pair_by_pair() => Gives(
        """
        static int F(int a, int b, int c) => 0;
        static int G(int a, long b) => 0;
        static int H(ref int a, int b) => 0;
        int M(int x, int y, long z) => F(x, y, 3) + F(x, x, x) + G(x, z) + G(x, y) + H(ref x, y) + Math.Max(x, y);
        """,
        "arguments swapped: F(x, y, 3) → y for x", "arguments swapped: F(x, y, 3) → 3 for x", "arguments swapped: F(x, y, 3) → 3 for y",
            "arguments swapped: G(x, y) → y for x");

    [Fact]
    public void And_and_or_are_exchanged_and_their_operands_negated() => Gives(
        "bool M(bool a, bool b, bool c) => a && b || c;",
        "and/or: a && b || c → ((a && b) && c)", "condition negated: c → !(c)", "and/or: a && b → (a || b)", "condition negated: a → !(a)",
            "condition negated: b → !(b)");

    [Fact]
    public void Flushes_are_removed_and_report_success() => Gives(
        """
        static int FSync(int fd) => 0;
        static bool Flush() => true;
        static void FlushBase() { }
        static IEnumerable<int> FlushAll() => [];
        static class FileFlush { internal static int Of(int fd) => 0; }
        void M()
        {
            FSync(1);
            FlushBase();
            int r = FSync(2);
            bool f = Flush();
            int g = FileFlush.Of(3);
            foreach (int one in FlushAll()) { }
        }
        """,
        "flush removed: FSync(1); → ;", "flush removed: FlushBase(); → ;", "flush removed: FSync(2) → default(int)",
            "flush removed: Flush() → true", "flush removed: FileFlush.Of(3) → default(int)",
        "flush removed: FlushAll() → global::System.Array.Empty<int>()");

    [Fact]
    public void Mutant_that_does_not_compile_is_built_neither_switched_nor_alone()
    {
        Project toy = Toy("int M(object o) { if (o is not string s) return 0; return s.Length; }");
        Mutant mutant = Assert.Single(toy.Mutants(File));
        Assert.False(toy.CompilesSwitched(mutant));
        Assert.False(toy.CompilesAlone(mutant));
    }

    [Fact]
    public void Mutant_that_compiles_only_without_a_switch_is_built_alone()
    {
        Project toy = Toy("bool M(int n) => n is > 3;");
        foreach (Mutant mutant in toy.Mutants(File))
        {
            Assert.False(toy.CompilesSwitched(mutant));
            Assert.True(toy.CompilesAlone(mutant));
        }
    }

    [Fact]
    public void Mutant_in_a_static_initializer_is_marked_as_static()
    {
        Project toy =
            Toy("static bool s_a = Environment.ProcessorCount > 1; bool _b = Environment.ProcessorCount > 1;"
                + " static bool C => Environment.ProcessorCount > 1;");
        Assert.Equal([true, true, false, false, false, false], toy.Mutants(File).Select(mutant => mutant.Static));
    }
}
