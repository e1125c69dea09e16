using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>What the documentation says of the code, and what the code says of the documentation.</summary>
public sealed class DocumentationTests
{
    private static readonly string s_readme = File.ReadAllText(Path.Combine(Binary.Root, "README.md"));

    private static IEnumerable<string> Sources(params string[] folders) => folders
        .SelectMany(folder => Directory.EnumerateFiles(Path.Combine(Binary.Root, folder), "*.cs", SearchOption.AllDirectories))
        .Where(file => !file.Contains("/obj/", StringComparison.Ordinal) && !file.Contains("/bin/", StringComparison.Ordinal));

    [Theory]
    [InlineData("cow-format", "docs/format.md")]
    [InlineData("design", "docs/design.md")]
    [InlineData("daemon", "docs/daemon.md")]
    public void Every_section_that_a_comment_cites_exists(string name, string document)
    {
        string text = File.ReadAllText(Path.Combine(Binary.Root, document));
        int cited = 0;
        foreach (string file in Sources("src", "interop", "tests"))
        {
            foreach (Match match in Regex.Matches(File.ReadAllText(file), $@"\b{name} §([0-9]+(\.[0-9]+)?)"))
            {
                cited++;
                string section = match.Groups[1].Value;
                string pattern = section.Contains('.') ? $@"\*\*[0-9., ]*\b{Regex.Escape(section)}\b" : $@"^## {section}\. ";
                Assert.True(Regex.IsMatch(text, pattern, RegexOptions.Multiline), $"{file} cites {name} §{section}, which {document} has not");
            }
        }
        Assert.True(cited > 5, $"only {cited} citations: the pattern finds nothing any more");
    }

    [Fact]
    public void The_readme_has_every_exit_code_verb_and_json_key()
    {
        foreach (ExitCode code in Enum.GetValues<ExitCode>()) Assert.Contains($"\n| {(int)code} | ", s_readme);
        foreach (Verb verb in Verbs.All) Assert.Contains($"\n    snapuserd {verb.Name} ", s_readme);
        string[] keys = Sources("src/Cli").SelectMany(file => Regex.Matches(File.ReadAllText(file), @"(\.Add|\.Event|new LogValue)\(""(?<key>[a-z0-9_]+)""|new\(""(?<key>[a-z0-9_]+)""(?!, "")")).Select(match => match.Groups["key"].Value).Distinct().ToArray();
        Assert.True(keys.Length > 40, $"only {keys.Length} keys");
        Assert.All(keys, key => Assert.Contains($"`{key}`", s_readme));
    }

    /// <summary>A row whose test or sabotage was renamed or removed promises what nothing checks.</summary>
    [Fact]
    public void Every_test_sabotage_and_method_that_the_page_of_publications_names_exists()
    {
        string page = File.ReadAllText(Path.Combine(Binary.Root, "docs/publication.md"));
        Dictionary<string, string> tests = TextByType("tests"), product = TextByType("src");
        int named = 0;
        // A type of the product or of the tests, perhaps with a member.
        foreach (Match match in Regex.Matches(page, @"`([A-Z]\w+?)(?:\.(\w+))?`"))
        {
            (string type, string member) = (match.Groups[1].Value, match.Groups[2].Value);
            named++;
            if (type.Contains('_', StringComparison.Ordinal))
            {
                string both = tests["PublicationOrderTests"] + tests["PublicationPowerCutTests"];
                Assert.Contains($"public void {type}(", both, StringComparison.Ordinal);
                continue;
            }
            string? text = product.GetValueOrDefault(type) ?? tests.GetValueOrDefault(type);
            Assert.True(text != null, $"there is no {type}");
            Assert.True(member.Length == 0 || Regex.IsMatch(text, $@"\b{member}\b ?[(=,]"), $"{type} has no {member}");
        }
        Assert.True(named > 50, $"only {named} names: the pattern finds nothing any more");

        int sabotages = 0;
        foreach (string row in page.Split('\n').Where(line => Regex.IsMatch(line, @"^\| [0-9]+ \|")))
        {
            // Only the first table has this column.
            string[] cells = row.Split('|');
            if (cells.Length < 8) continue;
            foreach (Match match in Regex.Matches(cells[6], "`([a-z0-9-]+)`"))
            {
                sabotages++;
                Assert.Contains($"new(\"{match.Groups[1].Value}\",", tests["Sabotages"], StringComparison.Ordinal);
            }
        }
        Assert.True(sabotages > 15, $"only {sabotages} sabotages");
    }

    /// <summary>A file of the product that begins to flush or to rename fails this until the page says what for.</summary>
    [Fact]
    public void Every_file_that_flushes_or_renames_is_on_the_page_of_publications()
    {
        string page = File.ReadAllText(Path.Combine(Binary.Root, "docs/publication.md"));
        const string calls = @"(Libc\.(FSync|FDataSync|SyncFs|Rename\w*)|FileFlush\.Of)\(";
        string[] files = [.. TextByType("src").Where(type => Regex.IsMatch(type.Value, calls)).Select(type => type.Key)];
        Assert.True(files.Length > 8, string.Join(", ", files));
        Assert.All(files, file => Assert.Matches($@"`{file}\b", page));
    }

    /// <summary>The source of each type, by the name of its file.</summary>
    private static Dictionary<string, string> TextByType(string folder) => Sources(folder)
        .GroupBy(file => Path.GetFileNameWithoutExtension(file)!)
        .ToDictionary(same => same.Key, same => string.Concat(same.Select(File.ReadAllText)));
}
