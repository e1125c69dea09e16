using System;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Host;

namespace Snapuserd.Cli;

/// <summary>An invocation of a verb: its checked arguments and its output.</summary>
internal sealed record Invocation(Arguments Arguments, Output Output);

/// <summary>
/// One verb of the command line: its arguments and its action. <paramref name="Operands"/> names its positional arguments, all of them
/// required. <paramref name="Notes"/> is a paragraph for the end of its help.
/// </summary>
internal sealed record Verb(string Name, string Summary, string[] Operands, Option[] Options, string Notes, Func<Invocation, ExitCode> Run)
{
    // The column at which the text of an option begins. If the option itself is too long, its text begins on the next line.
    private const int HelpColumn = 30;

    /// <summary>Columns of a rescue console: no line of a help text is longer.</summary>
    internal const int HelpWidth = 80;

    /// <summary>The output is the result: if it cannot be written, the command has failed. A merge continues without its output.</summary>
    internal bool OutputIsResult { get; init; }

    /// <summary>Optional arguments after the operands, in this order.</summary>
    internal string[] OptionalOperands { get; init; } = [];

    /// <summary>True if the last operand may be repeated.</summary>
    internal bool OperandsRepeat { get; init; }

    /// <summary>The option that may replace the only operand.</summary>
    internal string? OperandOption { get; init; }

    internal string[] OptionNames => [.. Array.ConvertAll(Options, option => option.Name), "--help"];

    /// <summary>The text of `snapuserd VERB --help`.</summary>
    internal string HelpText()
    {
        var text = new StringBuilder($"usage: snapuserd {Name}");
        int column = text.Length;
        string[] parts =
        [
            .. Operands,
            .. Array.ConvertAll(OptionalOperands, operand => OperandsRepeat ? $"[{operand} ...]" : $"[{operand}]"),
            .. Array.ConvertAll(Array.FindAll(Options, option => option.Required), UsagePart),
            .. Array.ConvertAll(Array.FindAll(Options, option => !option.Required && option.Name != OperandOption), UsagePart),
        ];
        foreach (string part in parts)
        {
            if (column + part.Length + 1 > HelpWidth)
            {
                text.Append("\n           ");
                column = 11;
            }
            text.Append(' ').Append(part);
            column += part.Length + 1;
        }
        text.Append("\n\n").Append(Wrap(Summary, 0)).Append("\n\n");
        foreach (Option option in Options) AppendEntry(text, Signature(option), option.Help);
        AppendEntry(text, "--help, -h", "This text.");
        if (Notes.Length > 0) text.Append('\n').Append(Wrap(Notes, 0)).Append('\n');
        return text.ToString().TrimEnd('\n');
    }

    /// <summary>Appends "  LEFT       right", with the right part wrapped under itself.</summary>
    internal static void AppendEntry(StringBuilder text, string left, string right)
    {
        text.Append("  ").Append(left);
        int column = left.Length + 2;
        if (column >= HelpColumn)
        {
            text.Append('\n');
            column = 0;
        }
        text.Append(' ', HelpColumn - column).Append(Wrap(right, HelpColumn)).Append('\n');
    }

    private static string Signature(Option option) => option.Kind == OptionKind.Flag ? option.Name : $"{option.Name} {option.Placeholder}";

    private static string UsagePart(Option option) => option.Required ? Signature(option) : $"[{Signature(option)}]";

    internal static string Wrap(string text, int indent)
    {
        var wrapped = new StringBuilder();
        int column = indent;
        foreach (string word in text.Split(' '))
        {
            if (column > indent && column + 1 + word.Length > HelpWidth)
            {
                wrapped.Append('\n').Append(' ', indent);
                column = indent;
            }
            else if (column > indent)
            {
                wrapped.Append(' ');
                column++;
            }
            wrapped.Append(word);
            column += word.Length;
        }
        return wrapped.ToString();
    }
}
