using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>Writes mutated assemblies into folders that hold everything else already.</summary>
public static class Builds
{
    /// <summary>Copies every file of a folder. Tests may put files of their own beside the copies.</summary>
    public static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        File.SetUnixFileMode(to, (UnixFileMode)0x3ff);
        foreach (string file in Directory.EnumerateFiles(from)) File.Copy(file, Path.Combine(to, Path.GetFileName(file)), overwrite: true);
    }

    /// <summary>The assembly with one mutant in place of the original.</summary>
    public static void Alone(Mutant mutant, Project project, string bin)
    {
        Dictionary<string, string> changed = new() { [mutant.Path] = mutant.Apply(project.Text(mutant.Path)) };
        IReadOnlyList<BuildError> errors = project.Emit(changed, Path.Combine(bin, project.Assembly + ".dll"));
        if (errors.Count > 0) throw new InvalidOperationException($"{mutant.Id} does not compile: {errors[0].Message}");
    }

    /// <summary>
    /// All mutants that have a switch, and for each of the others a mark where it would be evaluated. A file whose mutants do not compile together
    /// has each of them built alone instead.
    /// </summary>
    public static void Switched(Sample sample, Func<Mutant, Project> projectOf, string bin)
    {
        (Mutant Mutant, int Number)[] all = [.. sample.Mutants.Select((mutant, number) => (mutant.Mutant, number))];
        foreach (IGrouping<Project, (Mutant Mutant, int Number)> group in all.GroupBy(one => projectOf(one.Mutant)))
            while (true)
            {
                Dictionary<string, string> changed = group.GroupBy(one => one.Mutant.Path)
                    .ToDictionary(file => file.Key, file => Schema.Render(group.Key.Text(file.Key), file.SelectMany(one => Wraps(sample, one.Mutant, one.Number))));
                IReadOnlyList<BuildError> errors = group.Key.Emit(changed, Path.Combine(bin, group.Key.Assembly + ".dll"));
                if (errors.Count == 0) break;
                HashSet<string> bad = [.. errors.Select(error => error.Path)];
                int[] more = [.. group.Where(one => bad.Contains(one.Mutant.Path) && sample.Mutants[one.Number].Kind == BuildKind.Switched).Select(one => one.Number)];
                if (more.Length == 0) throw new InvalidOperationException($"{group.Key.Assembly} does not compile: {errors[0].Message}");
                Console.Error.WriteLine($"mutants: {more.Length} mutants of {string.Join(", ", bad)} do not compile together: {errors[0].Message}");
                foreach (int number in more) sample.BuildAlone(number);
            }
    }

    private static IEnumerable<Wrap> Wraps(Sample sample, Mutant mutant, int number)
    {
        if (sample.Mutants[number].Kind == BuildKind.Switched) return Schema.Numbered(mutant, number);
        return mutant.Statement >= 0 ? [Schema.Mark(number, mutant.Statement)] : [];
    }
}
