using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Text.RegularExpressions;
using Snapuserd.Cli;
using Snapuserd.Control;

namespace Snapuserd.Tests.Cli;

/// <summary>
/// The parts of the man page and of the bash completion that are generated from the command line definitions. Each stands between two
/// comments. <c>./build.sh docs</c> writes them, and the tests compare them.
/// </summary>
internal static partial class GeneratedDocs
{
    internal const string Begin = "what follows is written by ./build.sh docs";
    internal const string End = "end of what ./build.sh docs writes";

    /// <summary>Returns the text with its generated part replaced.</summary>
    internal static string Replace(string text, string comment, string part)
    {
        string begin = $"{comment} {Begin}\n", end = $"{comment} {End}\n";
        int from = text.IndexOf(begin, StringComparison.Ordinal) + begin.Length, to = text.IndexOf(end, StringComparison.Ordinal);
        return from < begin.Length || to < from ? throw new InvalidOperationException($"'{begin.Trim()}' and '{end.Trim()}' are missing")
            : text[..from] + part + text[to..];
    }

    /// <summary>
    /// mdoc(7): one section with a subsection per verb, whose synopsis has all options of the verb; then one section for the options that
    /// several verbs share with the same text.
    /// </summary>
    internal static string Manual(Verb[] verbs)
    {
        var text = new StringBuilder();
        var shared = verbs.SelectMany(verb => verb.Options).GroupBy(option => (option.Name, option.Help)).Where(group => group.Count() > 1)
            .Select(group => group.Key).ToHashSet();
        text.Append(".Sh VERBS\n");
        foreach (Verb verb in verbs)
        {
            text.Append($".Ss {verb.Name}\n.Bd -ragged\n.Nm\n.Cm {verb.Name}\n");
            foreach (string operand in verb.Operands) text.Append($".Ar {operand}\n");
            foreach (string operand in verb.OptionalOperands) text.Append($".Op Ar {operand}\n");
            foreach (Option option in verb.Options.OrderBy(option => !option.Required))
                text.Append(option.Required ? $".{Signature(option)}\n" : $".Op {Signature(option)}\n");
            text.Append($".Ed\n.Pp\n{Sentences(verb.Summary)}");
            Option[] own = [.. verb.Options.Where(option => !shared.Contains((option.Name, option.Help)))];
            if (own.Length > 0) AppendList(text, own);
            if (verb.Notes.Length > 0) text.Append($".Pp\n{Sentences(verb.Notes)}");
        }
        text.Append(".Sh OPTIONS OF SEVERAL VERBS\nUnless a verb says otherwise above:\n");
        AppendList(text, [.. verbs.SelectMany(verb => verb.Options).Where(option => shared.Contains((option.Name, option.Help)))
            .DistinctBy(option => (option.Name, option.Help)).OrderBy(option => option.Name, StringComparer.Ordinal)]);
        return text.ToString();
    }

    /// <summary>
    /// The table of the completion: one line per verb, one word per option, with the kind of its value after the equals sign.
    /// </summary>
    internal static string Completion(Verb[] verbs)
    {
        var text = new StringBuilder($"_snapuserd_verbs='{string.Join(' ', verbs.Select(verb => verb.Name))} help "
            + $"version'\n_snapuserd_commands='{string.Join(' ', ControlCommands.Names)}'\n_snapuserd_table() {{\n    case $1 in\n");
        foreach (Verb verb in verbs)
        {
            IEnumerable<string> words = [.. verb.Operands.Take(1).Select(_ => $"@{verb.Name}"), .. verb.Options.Select(Word), "--help"];
            text.Append($"        {verb.Name}) echo '{string.Join(' ', words)}' ;;\n");
        }
        return text.Append("    esac\n}\n").ToString();
    }

    private static string Word(Option option) => option.Kind switch
    {
        OptionKind.Flag => option.Name,
        OptionKind.Choice => $"{option.Name}={string.Join('|', option.Choices)}",
        OptionKind.Text => option.Name + option.Placeholder switch
        {
            "DEV" or "OLD" or "NEW" => "=device",
            "FILE" or "PATH" or "COW" => "=file",
            "DIR" => "=folder",
            _ => "=",
        },
        _ => option.Name + "=",
    };

    private static string Signature(Option option) => option.Kind switch
    {
        OptionKind.Flag => $"Fl {option.Name[1..]}",
        OptionKind.Choice => $"Fl {option.Name[1..]} Cm {string.Join(" | ", option.Choices)}",
        _ => $"Fl {option.Name[1..]} Ar {option.Placeholder}",
    };

    private static void AppendList(StringBuilder text, Option[] options)
    {
        text.Append(".Bl -tag -width Ds\n");
        foreach (Option option in options) text.Append($".It {Signature(option)}\n{Sentences(option.Help)}");
        text.Append(".El\n");
    }

    /// <summary>One line per sentence, as mdoc requires, with roff's control characters escaped.</summary>
    private static string Sentences(string prose)
    {
        prose = prose.Replace("\\", "\\e", StringComparison.Ordinal).Replace("`", "", StringComparison.Ordinal);
        prose = Option().Replace(prose, "\\-\\-");
        var text = new StringBuilder();
        foreach (string sentence in SentenceEnd().Split(prose))
            text.Append(sentence[0] is '.' or '\'' ? "\\&" : "").Append(sentence).Append('\n');
        return text.ToString();
    }

    [GeneratedRegex("--(?=[a-z])")]
    private static partial Regex Option();

    [GeneratedRegex(@"(?<=[.?]) (?=[^a-z])")]
    private static partial Regex SentenceEnd();
}
