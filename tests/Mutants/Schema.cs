using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Text;
using Microsoft.CodeAnalysis.Text;

namespace Snapuserd.Tests.Mutants;

/// <summary>Writes one source text that contains many mutants, each with its switch.</summary>
public static class Schema
{
    /// <summary>
    /// The class that every mutated assembly contains. $SNAPUSERD_MUTANT is the number of the active mutant. While $SNAPUSERD_REACHED names
    /// a file, byte n of it becomes 1 when this process or another one evaluates mutant n.
    /// </summary>
    public const string SwitchSource = """
        namespace SnapuserdMutants
        {
            internal static class Switch
            {
                private static readonly int s_active =
                    int.TryParse(System.Environment.GetEnvironmentVariable("SNAPUSERD_MUTANT"), out int number) ? number : -1;
                private static readonly System.IO.MemoryMappedFiles.MemoryMappedViewAccessor? s_reached = Open();

                private static System.IO.MemoryMappedFiles.MemoryMappedViewAccessor? Open()
                {
                    string? path = System.Environment.GetEnvironmentVariable("SNAPUSERD_REACHED");
                    if (string.IsNullOrEmpty(path)) return null;
                    try
                    {
                        return System.IO.MemoryMappedFiles.MemoryMappedFile
                            .CreateFromFile(path, System.IO.FileMode.Open).CreateViewAccessor();
                    }
                    catch (System.Exception e) when (e is System.IO.IOException or System.UnauthorizedAccessException)
                    {
                        return null;
                    }
                }

                public static void Reach(int number) => s_reached?.Write(number, (byte)1);

                public static bool Is(int number)
                {
                    s_reached?.Write(number, (byte)1);
                    return number == s_active;
                }

                public static T Plus<T>(int number, T bound, int by) where T : System.Numerics.IBinaryInteger<T> =>
                    Is(number) ? unchecked(bound + T.CreateTruncating(by)) : bound;

                public static T Done<T>(out int left)
                {
                    left = 0;
                    return default!;
                }
            }
        }
        """;

    /// <summary>The text with these mutants, each with its number and its switch.</summary>
    public static string Render(string text, IEnumerable<(int Number, Mutant Mutant)> mutants) =>
        Render(text, mutants.SelectMany(one => Numbered(one.Mutant, one.Number)));

    /// <summary>The wraps of a mutant, with its number filled in.</summary>
    public static IEnumerable<Wrap> Numbered(Mutant mutant, int number) =>
        mutant.Wraps.Select(wrap => wrap with { Prefix = Numbered(wrap.Prefix, number), Suffix = Numbered(wrap.Suffix, number) });

    /// <summary>A call inserted before the statement. It records that a mutant that is built alone would be evaluated there.</summary>
    public static Wrap Mark(int number, int statement) =>
        new(new TextSpan(statement, 0), new TextSpan(statement, 0),
            string.Create(CultureInfo.InvariantCulture, $"global::SnapuserdMutants.Switch.Reach({number}); "), "");

    /// <summary>The text with all wraps. Two wraps may overlap only if one is inside the other or their spans are equal.</summary>
    public static string Render(string text, IEnumerable<Wrap> wraps)
    {
        Wrap[] sorted =
            [.. wraps.OrderBy(wrap => wrap.Outer.Start).ThenBy(wrap => wrap.Outer.Length > 0).ThenByDescending(wrap => wrap.Outer.Length)];
        int next = 0;
        StringBuilder result = new();
        Write(new TextSpan(0, text.Length));
        return result.ToString();

        void Write(TextSpan span)
        {
            int at = span.Start;
            while (next < sorted.Length && sorted[next].Outer.End <= span.End
                && sorted[next].Outer.Start < Math.Max(span.End, span.Start + 1))
            {
                TextSpan outer = sorted[next].Outer, inner = sorted[next].Inner;
                int first = next;
                while (next < sorted.Length && sorted[next].Outer == outer) next++;
                int last = next;
                result.Append(text, at, outer.Start - at);
                for (int i = first; i < last; i++) result.Append(sorted[i].Prefix);
                Write(inner);
                for (int i = last - 1; i >= first; i--) result.Append(sorted[i].Suffix);
                at = outer.End;
            }
            result.Append(text, at, span.End - at);
        }
    }

    private static string Numbered(string text, int number) =>
        text.Replace("Is(@)", $"Is({number})", StringComparison.Ordinal).Replace(">(@,", $">({number},", StringComparison.Ordinal);
}
