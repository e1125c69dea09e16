using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Which folders below src may use each other. tests/lint.sh checks the references between projects.</summary>
public sealed partial class LayoutTests
{
    /// <summary>The command line decides what to do; other projects do it.</summary>
    private const int MostLinesOfCli = 3000;

    [GeneratedRegex("""^(?:(?:public|internal) )?(?:(?:sealed|static|abstract|readonly|partial|unsafe|ref) )*"""
        + """(?:class|record struct|record|struct|interface|enum) (\w+)""", RegexOptions.Multiline)]
    private static partial Regex TypeDeclaration();

    [GeneratedRegex(@"\w+")]
    private static partial Regex Word();

    [GeneratedRegex("""//.*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""")]
    private static partial Regex CommentOrText();

    private static IEnumerable<string> Sources(string folder) => Directory.EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories)
        .Where(path => !path.Contains("/bin/", StringComparison.Ordinal) && !path.Contains("/obj/", StringComparison.Ordinal));

    /// <summary>
    /// Folders that use each other, directly or indirectly: one sentence for each pair, with the type that one uses of the other.
    /// </summary>
    private static List<string> Circles(IEnumerable<(string Path, string Text)> files)
    {
        (string Folder, string File, string Code)[] read =
            [
                .. files.Select(
                    file => (Path.GetDirectoryName(file.Path)!, Path.GetFileName(file.Path), CommentOrText().Replace(file.Text, " "))),
            ];
        Dictionary<string, string> homes = [];
        foreach ((string folder, _, string code) in read)
            foreach (Match match in TypeDeclaration().Matches(code)) homes[match.Groups[1].Value] = folder;
        Dictionary<(string From, string To), string> uses = [];
        foreach ((string folder, string file, string code) in read)
        {
            foreach (string word in Word().Matches(code).Select(match => match.Value).Distinct())
                if (homes.TryGetValue(word, out string? home) && home != folder)
                    uses.TryAdd((folder, home), $"{folder}/{file} uses {word} of {home}");
        }
        HashSet<(string From, string To)> reached = [.. uses.Keys];
        string[] folders = [.. read.Select(one => one.Folder).Distinct()];
        foreach (string by in folders)
            foreach (string from in folders)
                foreach (string to in folders)
                    if (reached.Contains((from, by)) && reached.Contains((by, to))) reached.Add((from, to));
        return [.. uses.Where(use => reached.Contains((use.Key.To, use.Key.From))).Select(use => use.Value).Order(StringComparer.Ordinal)];
    }

    [Fact]
    public void Folders_of_a_project_do_not_use_one_another_in_a_circle()
    {
        string src = Path.Combine(Binary.Root, "src");
        foreach (string project in Directory.EnumerateDirectories(src))
        {
            List<string> circles = Circles(Sources(project).Select(path => (Path.GetRelativePath(src, path), File.ReadAllText(path))));
            Assert.True(circles.Count == 0, string.Join('\n', circles));
        }
    }

    [Fact]
    public void Circle_is_found_and_named()
    {
        (string, string)[] files =
        [
            ("Project/A.cs", "public sealed class A { B.C x; /* D */ } // D\n"),
            ("Project/Sub/B.cs", "public static class B { const string Text = \"A\"; }\n"),
            ("Project/Other/D.cs", "internal record struct D(int X);\n"),
        ];
        Assert.Empty(Circles(files));
        Assert.Equal(["Project/A.cs uses B of Project/Sub", "Project/Sub/E.cs uses A of Project"],
            Circles([.. files, ("Project/Sub/E.cs", "enum E { F = A.G }\n")]));
        Assert.Equal(3,
            Circles([.. files, ("Project/Sub/E.cs", "enum E { F = D.G }\n"), ("Project/Other/H.cs", "class H { A a; }\n")]).Count);
    }

    [Fact]
    public void Command_line_is_short_and_does_nothing_to_files_and_devices()
    {
        string cli = Path.Combine(Binary.Root, "src", "Cli");
        int lines = Sources(cli).Sum(path => File.ReadLines(path).Count());
        Assert.True(lines <= MostLinesOfCli, $"src/Cli has {lines} lines, more than {MostLinesOfCli}");
        Regex acts = new(@"BlockDevice\.Open|FileFlush|FolderFlush|Libc\.(Open|Rename|Unlink|MkDir|FSync|PWrite|PRead|Statx)|Libc\.O_");
        // Output has the process's streams and the kernel's log.
        string[] offences = [.. Sources(cli).Where(path => Path.GetFileName(path) != "Output.cs")
            .SelectMany(path => File.ReadLines(path).Where(line => acts.IsMatch(CommentOrText().Replace(line, " ")))
                .Select(line => $"{Path.GetFileName(path)}: {line.Trim()}"))];
        Assert.True(offences.Length == 0, string.Join('\n', offences));
    }
}
