using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Man pages and bash completion: they match the program, and mandoc and bash accept them.</summary>
public sealed class GeneratedDocsTests
{
    private static readonly string s_manual = Path.Combine(Binary.Root, "docs/man/snapuserd.8");
    private static readonly string s_format = Path.Combine(Binary.Root, "docs/man/snapuserd-cow.5");
    private static readonly string s_completion = Path.Combine(Binary.Root, "src/packaging/bash-completion/snapuserd");

    [Fact]
    public void Man_page_and_completion_have_the_text_of_the_command_line_definitions()
    {
        foreach ((string path, string comment, string part) in new[] { (s_manual, ".\\\"", GeneratedDocs.Manual(Verbs.All)),
            (s_completion, "#", GeneratedDocs.Completion(Verbs.All)) })
        {
            string text = File.ReadAllText(path), wanted = GeneratedDocs.Replace(text, comment, part);
            if (Environment.GetEnvironmentVariable("SNAPUSERD_WRITE_DOCS") == "1") File.WriteAllText(path, wanted);
            else Assert.True(text == wanted, $"{path} differs from the definitions of the command line: run ./build.sh docs");
        }
    }

    [Fact]
    public void Every_verb_and_option_of_the_help_is_in_the_man_page_and_the_reverse()
    {
        // Parses both as their readers see them, without the generator, which may be wrong.
        string manual = File.ReadAllText(s_manual);
        string[] sections = Regex.Split(
            Regex.Match(manual, @"^\.Sh VERBS$(.*?)^\.Sh ", RegexOptions.Multiline | RegexOptions.Singleline).Groups[1].Value,
            @"^\.Ss ", RegexOptions.Multiline)[1..];
        Assert.Equal(Verbs.All.Select(verb => verb.Name), sections.Select(section => section[..section.IndexOf('\n')]));
        string explained =
            string.Join('\n', Regex.Matches(manual, @"^\.It Fl -[a-z0-9-]+", RegexOptions.Multiline).Select(match => match.Value));
        foreach ((Verb verb, string section) in Verbs.All.Zip(sections))
        {
            string[] help = Options(Regex.Matches(verb.HelpText(), @"^  --([a-z0-9-]+)", RegexOptions.Multiline))
                .Where(name => name != "help").Order(StringComparer.Ordinal).ToArray();
            Assert.Equal(help, Options(Regex.Matches(section[..section.IndexOf(".Ed\n", StringComparison.Ordinal)],
                @"^\.(?:Op )?Fl -([a-z0-9-]+)", RegexOptions.Multiline)).Order(StringComparer.Ordinal));
            Assert.All(help, name => Assert.Contains($".It Fl -{name}", explained));
        }
        foreach (ExitCode code in Enum.GetValues<ExitCode>()) Assert.Contains($"\n.It {(int)code}\n", manual);
    }

    [Fact]
    public void Man_pages_pass_the_checks_of_mandoc()
    {
        // "style" would also demand that every referenced page is installed here.
        BinaryResult result = Binary.RunProgram("mandoc", ["-T", "lint", "-W", "warning", s_manual, s_format]);
        Assert.True(result.ExitCode == 0 && result.Output.Length + result.Error.Length == 0, result.ToString());
        // The rendered page has no roff left in it, and shows options with the two dashes that users type.
        string shown = Regex.Replace(Binary.RunProgram("mandoc", ["-T", "ascii", "-O", "width=200", s_manual]).Output, ".\b", "");
        Assert.Contains("--no-verify-first", shown);
        Assert.DoesNotMatch(@"(?m)\\[&e-]|^\.[A-Z]", shown);
    }

    [Fact]
    public void Man_pages_fit_80_columns()
    {
        foreach (string page in new[] { s_manual, s_format })
        {
            string shown = Regex.Replace(Binary.RunProgram("mandoc", ["-T", "ascii", "-O", "width=80", page]).Output, ".\b", "");
            Assert.All(shown.Split('\n'), line => Assert.True(line.Length <= 80, line));
        }
    }

    public static TheoryData<string, string> Completions => new()
    {
        { "", "merge serve verify inspect create extract help version --help --version" },
        { "me", "merge" },
        { "help ex", "extract" },
        { "merge --c", "--cow" },
        { "merge --cow x --b", "--base" },
        { "merge --io ", "auto uring sync" },
        { "merge --io u", "uring" },
        { "merge --io=", "auto uring sync" },
        { "merge --io=s", "sync" },
        { "merge --log ", "stderr kmsg json" },
        { "serve --device n", "nbd" },
        { "merge --memory ", "" },
        { "merge --cow ", "folder/ image.img a\\ b.cow" },
        { "merge --cow im", "image.img" },
        { "merge --cow=im", "image.img" },
        { "merge --cow folder/", "folder/inner.cow" },
        { "merge --json --json", "" },
        { "inspect ", "folder/ image.img a\\ b.cow" },
        { "inspect -", "--cow --ops --order --raw --json --help" },
        { "inspect --order r", "reverse-merge" },
        { "ctl p", "pause" },
        { "ctl --json st", "status stop" },
        { "ctl --socket im", "image.img" },
        { "nonsense --", "" },
        { "merge --nonsense ", "" },
    };

    [Theory]
    [MemberData(nameof(Completions))]
    public void Bash_completes(string typed, string expected)
    {
        using TempFolder folder = new();
        foreach (string name in new[] { "image.img", "a b.cow" }) File.WriteAllText(folder[name], "");
        Directory.CreateDirectory(folder["folder"]);
        File.WriteAllText(folder["folder/inner.cow"], "");
        string[] said = Complete(folder.Path, typed);
        string[] wanted = expected.Replace("\\ ", "\0", StringComparison.Ordinal).Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Select(word => word.Replace('\0', ' ')).ToArray();
        // The first words are a list that grows with the verbs; other tests compare all of it.
        if (typed.Length == 0) Assert.Subset(said.ToHashSet(), wanted.ToHashSet());
        else Assert.Equal(wanted.Order(StringComparer.Ordinal), said.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Bash_completes_every_option_of_every_verb()
    {
        using TempFolder folder = new();
        Assert.Equal(Verbs.All.Select(verb => verb.Name).Concat(["help", "version", "--help", "--version"]).Order(StringComparer.Ordinal),
            Complete(folder.Path, "").Order(StringComparer.Ordinal));
        foreach (Verb verb in Verbs.All)
            Assert.Equal(verb.OptionNames.Order(StringComparer.Ordinal),
                Complete(folder.Path, verb.Name + " --").Order(StringComparer.Ordinal));
    }

    [RootFact]
    public void Bash_completes_devices()
    {
        using TempFolder folder = new();
        Assert.Equal(0, Binary.RunProgram("mknod", [folder["block"], "b", "7", "250"]).ExitCode);
        Assert.Equal(0, Binary.RunProgram("mknod", [folder["null"], "c", "1", "3"]).ExitCode);
        File.WriteAllText(folder["base.img"], "");
        Assert.Equal(["base.img", "block"], Complete(folder.Path, "merge --base b").Order(StringComparer.Ordinal));
        Assert.Empty(Complete(folder.Path, "merge --base n"));
    }

    private static IEnumerable<string> Options(MatchCollection matches) => matches.Select(match => match.Groups[1].Value);

    /// <summary>
    /// The words that bash offers after <paramref name="typed"/>. Words are split as bash splits them, at blanks and equals signs.
    /// </summary>
    private static string[] Complete(string folder, string typed)
    {
        const string script = """
            cd "$2" || exit 1
            . "$1" || exit 1
            COMP_LINE="snapuserd $3"
            COMP_POINT=${#COMP_LINE}
            read -r -a words <<<"${COMP_LINE//=/ = }"
            COMP_WORDS=("${words[@]}")
            case $COMP_LINE in *' ') COMP_WORDS+=('') ;; esac
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            complete -p snapuserd >/dev/null || exit 1
            _snapuserd snapuserd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            [ ${#COMPREPLY[@]} -eq 0 ] || printf '%s\n' "${COMPREPLY[@]}"
            """;
        // HOME is unset, as in a shell that an init script starts.
        BinaryResult result =
            Binary.RunProgram("env", ["--unset=HOME", "bash", "--norc", "-u", "-c", script, "bash", s_completion, folder, typed]);
        Assert.True(result.ExitCode == 0 && result.Error.Length == 0, result.ToString());
        return result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }
}
