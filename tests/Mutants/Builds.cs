using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>Writes mutated assemblies into folders that already contain everything else.</summary>
public static class Builds
{
    /// <summary>Copies every file of a folder. Makes the target folder writable for all, because tests may create files there.</summary>
    public static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        File.SetUnixFileMode(to, (UnixFileMode)0x3ff);
        foreach (string file in Directory.EnumerateFiles(from)) File.Copy(file, Path.Combine(to, Path.GetFileName(file)), overwrite: true);
    }

    /// <summary>Writes the assembly with one mutant in place of the original.</summary>
    public static void Alone(Mutant mutant, Project project, string bin)
    {
        Dictionary<string, string> changed = new() { [mutant.Path] = mutant.Apply(project.Text(mutant.Path)) };
        IReadOnlyList<BuildError> errors = project.Emit(changed, Path.Combine(bin, project.Assembly + ".dll"));
        if (errors.Count > 0) throw new InvalidOperationException($"{mutant.Id} does not compile: {errors[0].Message}");
    }

    /// <summary>
    /// Writes the assemblies with all switched mutants. For each mutant that is built alone, they contain a call that records when the
    /// mutant would be evaluated. If the mutants of a file do not compile together, each of them is built alone instead.
    /// </summary>
    /// <returns>The changed sources, by path.</returns>
    public static IReadOnlyDictionary<string, string> Switched(Sample sample, Func<Mutant, Project> projectOf, string bin)
    {
        (Mutant Mutant, int Number)[] all = [.. sample.Mutants.Select((mutant, number) => (mutant.Mutant, number))];
        Dictionary<string, string> sources = [];
        foreach (IGrouping<Project, (Mutant Mutant, int Number)> group in all.GroupBy(one => projectOf(one.Mutant)))
            while (true)
            {
                Dictionary<string, string> changed = group.GroupBy(one => one.Mutant.Path)
                    .ToDictionary(file => file.Key, file =>
                        Schema.Render(group.Key.Text(file.Key), file.SelectMany(one => Wraps(sample, one.Mutant, one.Number))));
                IReadOnlyList<BuildError> errors = group.Key.Emit(changed, Path.Combine(bin, group.Key.Assembly + ".dll"));
                if (errors.Count == 0)
                {
                    foreach ((string path, string text) in changed) sources.Add(path, text);
                    break;
                }
                HashSet<string> bad = [.. errors.Select(error => error.Path)];
                int[] more =
                    [.. group.Where(one => bad.Contains(one.Mutant.Path)
                        && sample.Mutants[one.Number].Kind == BuildKind.Switched).Select(one => one.Number)];
                if (more.Length == 0) throw new InvalidOperationException($"{group.Key.Assembly} does not compile: {errors[0].Message}");
                string where = string.Join(", ", bad);
                Console.Error.WriteLine($"mutants: {more.Length} mutants of {where} do not compile together: {errors[0].Message}");
                foreach (int number in more) sample.BuildAlone(number);
            }
        return sources;
    }

    /// <summary>
    /// Compiles the program with the same switches to native code, with the project's own script, from a copy of the sources in
    /// <paramref name="tree"/>.
    /// </summary>
    public static void Program(string root, IReadOnlyDictionary<string, string> changed, string tree, string output)
    {
        foreach (string folder in new[] { "src", "interop" })
            foreach (string path in Directory.EnumerateFiles(Path.Combine(root, folder), "*", SearchOption.AllDirectories))
            {
                string name = Path.GetRelativePath(root, path), to = Path.Combine(tree, name);
                if (name.Contains("/obj/", StringComparison.Ordinal) || name.Contains("/bin/", StringComparison.Ordinal)) continue;
                Directory.CreateDirectory(Path.GetDirectoryName(to)!);
                if (changed.TryGetValue(name, out string? text)) File.WriteAllText(to, text);
                else File.Copy(path, to, overwrite: true);
            }
        foreach (string project in changed.Keys.Select(path => path.Split('/')[1]).Distinct())
            File.WriteAllText(Path.Combine(tree, "src", project, "Switch.cs"), Schema.SwitchSource);
        File.Copy(Path.Combine(root, "build.sh"), Path.Combine(tree, "build.sh"), overwrite: true);
        // A mutant may cause a compiler warning.
        string properties = File.ReadAllText(Path.Combine(root, "Directory.Build.props"));
        foreach (string strict in new[] { "TreatWarningsAsErrors", "EnforceCodeStyleInBuild" })
            properties = properties.Replace($"<{strict}>true<", $"<{strict}>false<", StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(tree, "Directory.Build.props"), properties);
        using Process build =
            Process.Start(new ProcessStartInfo("sh",
                [Path.Combine(tree, "build.sh"), "publish", output])
            { RedirectStandardOutput = true })!;
        string said = build.StandardOutput.ReadToEnd();
        build.WaitForExit();
        if (build.ExitCode != 0) throw new InvalidOperationException($"the program does not compile with its mutants: {said}");
    }

    private static IEnumerable<Wrap> Wraps(Sample sample, Mutant mutant, int number)
    {
        if (sample.Mutants[number].Kind == BuildKind.Switched) return Schema.Numbered(mutant, number);
        return mutant.Statement >= 0 ? [Schema.Mark(number, mutant.Statement)] : [];
    }
}
