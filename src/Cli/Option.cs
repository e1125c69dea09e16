using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>The kind of an option's value.</summary>
internal enum OptionKind
{
    /// <summary>No value.</summary>
    Flag,
    /// <summary>A path or name.</summary>
    Text,
    /// <summary>A decimal number without suffix.</summary>
    Count,
    /// <summary>Bytes, with an optional suffix k, M, G, KiB, MiB or GiB (powers of 1024).</summary>
    Size,
    /// <summary>One of a fixed set of words.</summary>
    Choice,
    /// <summary>64 hexadecimal digits.</summary>
    Sha256,
}

/// <summary>One option of a verb: its <paramref name="Name"/> with the two dashes, and one sentence for the help text.</summary>
internal sealed record Option(string Name, OptionKind Kind, string Placeholder, string Help)
{
    /// <summary>True if the verb requires this option.</summary>
    internal bool Required { get; init; }

    /// <summary>The words of a <see cref="OptionKind.Choice"/>; the first is the default.</summary>
    internal string[] Choices { get; init; } = [];

    /// <summary>Smallest value of a Count or Size.</summary>
    internal long Minimum { get; init; }

    /// <summary>Largest value of a Count or Size.</summary>
    internal long Maximum { get; init; } = long.MaxValue;

    /// <summary>What "-" would mean as a file name, for the error that refuses it; null if "-" is an ordinary value.</summary>
    internal string? DashIs { get; init; }

    /// <summary><see cref="DashIs"/> for a file that is read.</summary>
    internal const string StandardInput = "standard input, which cannot be read in any order";

    /// <summary>Another option that this one requires.</summary>
    internal string? Needs { get; init; }
}

/// <summary>
/// The checked values of a verb's options. For an error in a command line, throws one sentence with <see cref="ExitCode.Usage"/>.
/// </summary>
internal sealed class Arguments
{
    private readonly Verb _verb;
    private readonly Dictionary<string, (string Text, long Number)> _values = new(StringComparer.Ordinal);
    private readonly List<string> _operands = [];

    private Arguments(Verb verb) => _verb = verb;

    /// <summary>`--help` was among the arguments before the first error.</summary>
    internal bool Help { get; private set; }

    /// <summary>The positional arguments, as many as <see cref="Verb.Operands"/> and <see cref="Verb.OptionalOperands"/> allow.</summary>
    internal IReadOnlyList<string> Operands => _operands;

    /// <summary>True if the option was given.</summary>
    internal bool Has(string option) => _values.ContainsKey(option);

    /// <summary>The text of an option as it was given, or null.</summary>
    internal string? Text(string option) => _values.TryGetValue(option, out var value) ? value.Text : null;

    /// <summary>The text of a required option.</summary>
    internal string Required(string option) => Text(option) ?? throw new InvalidOperationException($"{option} is not a required option");

    /// <summary>The number of a Count or Size, or <paramref name="otherwise"/> if the option was not given.</summary>
    internal long Number(string option, long otherwise) => _values.TryGetValue(option, out var value) ? value.Number : otherwise;

    /// <summary>The word of a Choice; its first one if the option was not given.</summary>
    internal string Choice(string option) => Text(option) ?? Array.Find(_verb.Options, one => one.Name == option)!.Choices[0];

    /// <summary>Reads the arguments after the verb.</summary>
    internal static Arguments Parse(Verb verb, ReadOnlySpan<string> commandLine)
    {
        var arguments = new Arguments(verb);
        bool onlyOperands = false;
        for (int i = 0; i < commandLine.Length; i++)
        {
            string word = commandLine[i];
            if (onlyOperands || word is "-" or "" || word[0] != '-') { arguments.AddOperand(word); continue; }
            if (word == "--") { onlyOperands = true; continue; }
            if (word is "--help" or "-h") { arguments.Help = true; return arguments; }

            int equals = word.IndexOf('=');
            string name = equals < 0 ? word : word[..equals];
            Option option = Array.Find(verb.Options, one => one.Name == name)
                ?? throw arguments.Wrong(Suggestion.Unknown("option", name, verb.OptionNames));
            string text = "";
            if (option.Kind == OptionKind.Flag)
            {
                if (equals >= 0) throw arguments.Wrong($"option {name} takes no value");
            }
            else if (equals >= 0)
            {
                text = word[(equals + 1)..];
            }
            else if (i + 1 < commandLine.Length && !commandLine[i + 1].StartsWith("--", StringComparison.Ordinal))
            {
                text = commandLine[++i];
            }
            if (option.Kind != OptionKind.Flag && text.Length == 0)
                throw arguments.Wrong($"option {name} needs a value ({option.Placeholder})");
            if (!arguments._values.TryAdd(name, (text, arguments.Check(option, text))))
                throw arguments.Wrong($"option {name} is given twice");
        }
        arguments.CheckWhole();
        return arguments;
    }

    /// <summary>The failure for wrong usage of the verb (64).</summary>
    internal SnapuserdException Wrong(string what) =>
        new(ExitCode.Usage, $"{_verb.Name}: {what}{(what.EndsWith('?') ? "" : ";")} see snapuserd {_verb.Name} --help");

    private void AddOperand(string word)
    {
        if (_operands.Count >= _verb.Operands.Length + _verb.OptionalOperands.Length && !_verb.OperandsRepeat)
            throw Wrong($"unexpected argument '{word}'");
        if (word.Length == 0)
        {
            int optional = Math.Min(_operands.Count - _verb.Operands.Length, _verb.OptionalOperands.Length - 1);
            string operand = optional < 0 ? _verb.Operands[_operands.Count] : _verb.OptionalOperands[optional];
            throw Wrong($"{operand} is empty");
        }
        _operands.Add(word);
    }

    private void CheckWhole()
    {
        if (_verb.OperandOption is { } name && Text(name) is { } operand)
        {
            if (_operands.Count > 0) throw Wrong($"{_verb.Operands[0]} is given twice");
            _operands.Add(operand);
        }
        else if (_operands.Count > 0 && Array.Find(_verb.Options, one => one.Name == _verb.OperandOption) is { } option)
        {
            if (_operands[0] == "-" && option.DashIs is { } stream)
                throw Wrong($"{_verb.Operands[0]} '-' would be {stream}; a file of that name is ./-");
        }
        if (_operands.Count < _verb.Operands.Length) throw Wrong($"{_verb.Operands[_operands.Count]} is missing");
        foreach (Option option in _verb.Options)
        {
            if (option.Required && !Has(option.Name)) throw Wrong($"option {option.Name} {option.Placeholder} is missing");
            if (option.Needs != null && Has(option.Name) && !Has(option.Needs)) throw Wrong($"option {option.Name} needs {option.Needs}");
        }
    }

    private long Check(Option option, string text)
    {
        switch (option.Kind)
        {
            case OptionKind.Count:
                if (!long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long count))
                    throw Wrong($"option {option.Name}: '{text}' is not a number");
                return InRange(option, text, count);
            case OptionKind.Size:
                return InRange(option, text,
                    ParseSize(text) ?? throw Wrong($"option {option.Name}: '{text}' is not a size such as 33554432, 32M or 32MiB"));
            case OptionKind.Choice:
                if (Array.IndexOf(option.Choices, text) < 0)
                    throw Wrong($"option {option.Name}: '{text}' is not one of {string.Join(", ", option.Choices)}");
                return 0;
            case OptionKind.Sha256:
                if (text.Length != 64 || text.AsSpan().ContainsAnyExcept("0123456789abcdefABCDEF"))
                    throw Wrong($"option {option.Name}: '{text}' is not 64 hexadecimal digits");
                return 0;
            default:
                if (text.Contains('\0')) throw Wrong($"option {option.Name}: a path has no zero byte");
                if (text == "-" && option.DashIs is { } stream)
                    throw Wrong($"option {option.Name}: '-' would be {stream}; a file of that name is ./-");
                return 0;
        }
    }

    private long InRange(Option option, string text, long number)
    {
        if (number < option.Minimum) throw Wrong($"option {option.Name}: {text} is below the smallest, {Shown(option, option.Minimum)}");
        if (number > option.Maximum) throw Wrong($"option {option.Name}: {text} is above the largest, {Shown(option, option.Maximum)}");
        return number;
    }

    private static string Shown(Option option, long number) =>
        option.Kind == OptionKind.Size ? Units.Bytes(number) : number.ToString(CultureInfo.InvariantCulture);

    /// <summary>A size in bytes, or null if the text is not a size or does not fit 63 bits.</summary>
    internal static long? ParseSize(string text)
    {
        int digits = text.AsSpan().IndexOfAnyExceptInRange('0', '9');
        if (digits < 0) digits = text.Length;
        if (!long.TryParse(text.AsSpan(0, digits), NumberStyles.None, CultureInfo.InvariantCulture, out long number)) return null;
        int shift = text[digits..] switch
        {
            "" => 0,
            "k" or "K" or "KiB" => 10,
            "m" or "M" or "MiB" => 20,
            "g" or "G" or "GiB" => 30,
            _ => -1,
        };
        return shift < 0 || number > long.MaxValue >> shift ? null : number << shift;
    }
}
