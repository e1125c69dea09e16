using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>How a mutant of the sample is built.</summary>
public enum BuildKind
{
    /// <summary>Together with others, each with a switch.</summary>
    Switched,

    /// <summary>In place of the original, in a separate build.</summary>
    Alone,
}

/// <summary>The mutants that one run tries: a uniform sample of all points, without those that do not compile.</summary>
public sealed class Sample
{
    private readonly List<(Mutant Mutant, BuildKind Kind)> _mutants = [];

    /// <summary>
    /// Takes the first <paramref name="count"/> of <paramref name="points"/> that can be built, in the order that the seed gives.
    /// <paramref name="build"/> returns how a point can be built, or null if it cannot be built.
    /// </summary>
    public Sample(IEnumerable<Mutant> points, int count, ulong seed, Func<Mutant, BuildKind?> build)
    {
        foreach (Mutant mutant in Shuffled(points, seed))
        {
            if (_mutants.Count == count) break;
            if (build(mutant) is { } kind) _mutants.Add((mutant, kind));
            else Unbuildable++;
        }
    }

    /// <summary>The mutants in random order; a mutant's number is its index here.</summary>
    public IReadOnlyList<(Mutant Mutant, BuildKind Kind)> Mutants => _mutants;

    /// <summary>How many points did not compile and were replaced by the next one.</summary>
    public int Unbuildable { get; private set; }

    /// <summary>
    /// From now on the mutant is built alone. If it does not compile alone either, it is not part of the sample's builds.
    /// </summary>
    public void BuildAlone(int number) => _mutants[number] = (_mutants[number].Mutant, BuildKind.Alone);

    /// <summary>A permutation that depends only on the seed and the points (Fisher and Yates).</summary>
    public static IReadOnlyList<Mutant> Shuffled(IEnumerable<Mutant> points, ulong seed)
    {
        Mutant[] order =
            [.. points.OrderBy(point => point.Path, StringComparer.Ordinal).ThenBy(point => point.Line).ThenBy(point => point.Column)
            .ThenBy(point => point.Operator).ThenBy(point => point.Change, StringComparer.Ordinal)];
        for (int last = order.Length - 1; last > 0; last--)
        {
            int other = (int)(Next(ref seed) % (ulong)(last + 1));
            (order[last], order[other]) = (order[other], order[last]);
        }
        return order;
    }

    /// <summary>The next number of SplitMix64.</summary>
    private static ulong Next(ref ulong state)
    {
        ulong mixed = state += 0x9e3779b97f4a7c15;
        mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
        return mixed ^ (mixed >> 31);
    }
}
