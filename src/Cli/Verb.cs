using System;
using System.Text;
using Snapuserd.Block;

namespace Snapuserd.Cli;

/// <summary>A verb that was called: its arguments, checked, and where its lines go.</summary>
internal sealed record Invocation(Arguments Arguments, Output Output);

/// <summary>
/// One verb of the command line: what it takes and what it does. <paramref name="Operands"/> names its positional arguments, all of them
/// required. <paramref name="Notes"/> is a paragraph for the end of its help.
/// </summary>
internal sealed record Verb(string Name, string Summary, string[] Operands, Option[] Options, string Notes, Func<Invocation, ExitCode> Run)
{
    // Column of the second half of a help line. The longest option of any verb fits before it.
    private const int HelpColumn = 30;

    // What a rescue console shows without wrapping.
    private const int HelpWidth = 96;

    /// <summary>The output is the result: if it cannot be written, the command has failed. A merge goes on without its output.</summary>
    internal bool OutputIsResult { get; init; }

    /// <summary>What may follow the operands, in this order.</summary>
    internal string[] OptionalOperands { get; init; } = [];

    /// <summary>The last of them may come any number of times.</summary>
    internal bool OperandsRepeat { get; init; }

    /// <summary>The option that may stand for the only operand.</summary>
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

    /// <summary>"  LEFT       right", the right part wrapped below itself.</summary>
    internal static void AppendEntry(StringBuilder text, string left, string right) =>
        text.Append("  ").Append(left.PadRight(HelpColumn - 3)).Append(' ').Append(Wrap(right, HelpColumn)).Append('\n');

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
