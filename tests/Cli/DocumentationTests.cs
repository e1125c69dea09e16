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
}
