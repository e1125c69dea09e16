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

/// <summary>Checks the documentation against the code, and the code against the documentation.</summary>
public sealed class DocumentationTests
{
    private static string Page(string path) => File.ReadAllText(Path.Combine(Binary.Root, path));

    private static IEnumerable<string> Sources(params string[] folders) => folders
        .SelectMany(folder => Directory.EnumerateFiles(Path.Combine(Binary.Root, folder), "*.cs", SearchOption.AllDirectories))
        .Where(file => !file.Contains("/obj/", StringComparison.Ordinal) && !file.Contains("/bin/", StringComparison.Ordinal));

    [Theory]
    [InlineData("cow-format", "docs/format.md")]
    [InlineData("design", "docs/design.md")]
    [InlineData("daemon", "docs/daemon.md")]
    public void Every_section_that_a_comment_cites_exists(string name, string document)
    {
        string text = Page(document);
        int cited = 0;
        foreach (string file in Sources("src", "interop", "tests"))
        {
            foreach (Match match in Regex.Matches(File.ReadAllText(file), $@"\b{name} §([0-9]+(\.[0-9]+)?)"))
            {
                cited++;
                string section = match.Groups[1].Value;
                string pattern = section.Contains('.') ? $@"\*\*[0-9., ]*\b{Regex.Escape(section)}\b" : $@"^## {section}\. ";
                Assert.True(Regex.IsMatch(text, pattern, RegexOptions.Multiline),
                    $"{file} cites {name} §{section}, which {document} does not have");
            }
        }
        Assert.True(cited > 5, $"only {cited} citations: the pattern finds nothing any more");
    }

    [Fact]
    public void The_page_of_exit_codes_has_each_of_them()
    {
        string page = Page("docs/exit-codes.md");
        foreach (ExitCode code in Enum.GetValues<ExitCode>()) Assert.Contains($"\n| {(int)code} | ", page);
    }

    [Fact]
    public void The_index_has_every_verb_and_every_page()
    {
        string index = Page("docs/README.md");
        foreach (Verb verb in Verbs.All) Assert.Contains($"\n    snapuserd {verb.Name} ", index);
        foreach (string file in Directory.EnumerateFiles(Path.Combine(Binary.Root, "docs"), "*.md"))
            if (Path.GetFileName(file) is var name && name != "README.md") Assert.Contains($"]({name})", index);
    }

    /// <summary>
    /// Every link between pages of this repository leads to a file. A renamed page fails this until its links are updated.
    /// </summary>
    [Fact]
    public void Every_link_to_a_file_leads_to_one()
    {
        int links = 0;
        foreach (string file in Directory.EnumerateFiles(Path.Combine(Binary.Root, "docs"), "*.md")
            .Append(Path.Combine(Binary.Root, "README.md")))
        {
            string text = File.ReadAllText(file);
            foreach (Match match in Regex.Matches(text, @"\]\((?<to>[^)#:\s]+)(#[^)]*)?\)|(src|srcset)=""(?<to>[^"":]+)"""))
            {
                links++;
                string to = Path.Combine(Path.GetDirectoryName(file)!, match.Groups["to"].Value);
                Assert.True(Path.Exists(to), $"{file} links to {match.Groups["to"].Value}, which does not exist");
            }
        }
        Assert.True(links > 40, $"only {links} links: the pattern finds nothing any more");
    }

    /// <summary>The walk through the code names files. A file that moves fails this until the page is updated.</summary>
    [Fact]
    public void Every_file_that_the_page_for_contributors_names_exists()
    {
        string[] named =
        [
            .. Regex.Matches(Page("docs/contributing.md"), @"`((?:src|interop|tests|docs)/[A-Za-z0-9_./-]+)`")
                .Select(match => match.Groups[1].Value),
        ];
        Assert.True(named.Length > 20, $"only {named.Length} files: the pattern finds nothing any more");
        Assert.All(named, path => Assert.True(Path.Exists(Path.Combine(Binary.Root, path)), path));
    }

    [Fact]
    public void The_page_of_json_has_every_key()
    {
        string page = Page("docs/json-and-log.md");
        string[] folders = ["src/Cli", "src/Control", "src/Host", "src/Images", "src/Boot", "src/AndroidDaemon", "src/Recovery"];
        string[] keys = Sources(folders).SelectMany(file => Regex.Matches(File.ReadAllText(file),
            @"(\.Add|\.Event|new LogValue)\(""(?<key>[a-z0-9_]+)""|new\(""(?<key>[a-z0-9_]+)""(?!, "")"))
            .Select(match => match.Groups["key"].Value).Distinct().ToArray();
        Assert.True(keys.Length > 40, $"only {keys.Length} keys");
        Assert.All(keys, key => Assert.Contains($"`{key}`", page));
    }

    /// <summary>If a row named a test or sabotage that does not exist, no test would check what the row promises.</summary>
    [Fact]
    public void Every_test_sabotage_and_method_that_the_page_of_publications_names_exists()
    {
        string page = Page("docs/publication.md");
        Dictionary<string, string> tests = TextByType("tests"), product = TextByType("src");
        int named = 0;
        // A type of the product or of the tests, possibly with a member.
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
        foreach (string row in page.Split('\n').Where(line => Regex.IsMatch(line, @"^\| [0-9]+[a-z]? \|")))
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

    /// <summary>A product file that starts to flush or to rename fails this until the page gives the purpose.</summary>
    [Fact]
    public void Every_file_that_flushes_or_renames_is_on_the_page_of_publications()
    {
        string page = Page("docs/publication.md");
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
