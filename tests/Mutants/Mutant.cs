using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis.Text;

namespace Snapuserd.Tests.Mutants;

/// <summary>The fixed list of operators.</summary>
public enum Operator
{
    Condition,
    Bound,
    Call,
    Swap,
    Logic,
    Assignment,
    Flush,
}

/// <summary>One replacement in a source text.</summary>
public readonly record struct Edit(TextSpan Span, string Text);

/// <summary>
/// One replacement that keeps the original: <paramref name="Outer"/> becomes <paramref name="Prefix"/>, the text of
/// <paramref name="Inner"/> with the mutants inside it, and <paramref name="Suffix"/>. "@" in both stands for the mutant's number.
/// </summary>
public readonly record struct Wrap(TextSpan Outer, TextSpan Inner, string Prefix, string Suffix);

/// <summary>One change of the product: its place, its effect, and both ways to write it.</summary>
public sealed record Mutant(string Path, int Line, int Column, Operator Operator, string Change)
{
    /// <summary>The change alone, for a separate build.</summary>
    public required IReadOnlyList<Edit> Edits { get; init; }

    /// <summary>The change with a switch, for a build together with other mutants; empty if C# has no expression for that.</summary>
    public required IReadOnlyList<Wrap> Wraps { get; init; }

    /// <summary>
    /// The start of the statement that contains the change and in front of which a call can be inserted; -1 if there is none.
    /// </summary>
    public int Statement { get; init; } = -1;

    /// <summary>The span of the member that contains the change.</summary>
    public TextSpan Member { get; init; }

    /// <summary>The change is evaluated once for the whole process, for example in a static initializer.</summary>
    public bool Static { get; init; }

    /// <summary>Identifies the mutant in every run over the same sources.</summary>
    public string Id => $"{Path}:{Line}:{Column}: {Name(Operator)}: {Change}";

    /// <summary>The project below src that contains it.</summary>
    public string Project => Path.Split('/')[1];

    public static string Name(Operator kind) => kind switch
    {
        Operator.Condition => "condition negated",
        Operator.Bound => "bound moved",
        Operator.Call => "call removed",
        Operator.Swap => "arguments swapped",
        Operator.Logic => "and/or",
        Operator.Assignment => "assignment removed",
        Operator.Flush => "flush removed",
        _ => throw new ArgumentOutOfRangeException(nameof(kind)),
    };

    /// <summary>The source text with this change alone.</summary>
    public string Apply(string text)
    {
        foreach (Edit edit in Edits.OrderByDescending(edit => edit.Span.Start))
            text = string.Concat(text.AsSpan(0, edit.Span.Start), edit.Text, text.AsSpan(edit.Span.End));
        return text;
    }
}
