using System;
using System.Collections.Generic;
using System.Linq;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;

namespace Snapuserd.Tests.Mutants;

/// <summary>Lists every change that the operators produce in one source file.</summary>
public sealed partial class Operators
{
    private const string Switch = "global::SnapuserdMutants.Switch";

    private static readonly string[] s_flushes = ["FSync", "FDataSync", "SyncFs", "SyncFileRange", "MakeDurable"];

    private readonly SemanticModel _model;
    private readonly string _path;
    private readonly List<Mutant> _found = [];

    private Operators(SemanticModel model, string path)
    {
        _model = model;
        _path = path;
    }

    /// <summary>All changes, in the order of the text.</summary>
    public static IReadOnlyList<Mutant> All(SemanticModel model, string path)
    {
        Operators operators = new(model, path);
        foreach (SyntaxNode node in model.SyntaxTree.GetRoot().DescendantNodes()) operators.Visit(node);
        return operators._found;
    }

    private void Visit(SyntaxNode node)
    {
        switch (node)
        {
            case IfStatementSyntax s: Negate(s.Condition); break;
            case WhileStatementSyntax s: Negate(s.Condition); break;
            case DoStatementSyntax s: Negate(s.Condition); break;
            case ForStatementSyntax { Condition: { } condition }: Negate(condition); break;
            case ConditionalExpressionSyntax s: Negate(s.Condition); break;
            case WhenClauseSyntax s: Negate(s.Condition); break;
            case CatchFilterClauseSyntax s: Negate(s.FilterExpression); break;
            case BinaryExpressionSyntax binary when IsComparison(binary):
                Move(binary.Right,
                _model.GetTypeInfo(binary.Right).ConvertedType); break;
            case BinaryExpressionSyntax binary when binary.IsKind(SyntaxKind.LogicalAndExpression)
                || binary.IsKind(SyntaxKind.LogicalOrExpression):
                Exchange(binary);
                foreach (ExpressionSyntax side in new[] { binary.Left, binary.Right })
                    if (Bare(side).Kind() is not (SyntaxKind.LogicalAndExpression or SyntaxKind.LogicalOrExpression)) Negate(side);
                break;
            case RelationalPatternSyntax pattern: MoveConstant(pattern.Expression); break;
            case RangeExpressionSyntax range:
                foreach (ExpressionSyntax? end in new[] { range.LeftOperand, range.RightOperand })
                    if (end is not null) Move(end, _model.GetTypeInfo(end).Type);
                break;
            case ExpressionStatementSyntax statement: Remove(statement); break;
            case ArrowExpressionClauseSyntax arrow: Remove(arrow); break;
            case LambdaExpressionSyntax { ExpressionBody: { } body } lambda:
                if (_model.GetSymbolInfo(lambda).Symbol is IMethodSymbol { ReturnsVoid: true } && Removal(body) is { } removal)
                    Add(body, removal, body.ToString(), "{ }", [new Edit(body.Span, "{ }")],
                        [new Wrap(body.Span, body.Span, $"{{ if (!{Switch}.Is(@)) {{ ", "; } }")]);
                break;
        }
        if (node is BaseArgumentListSyntax arguments && node is not BracketedArgumentListSyntax) Swap(arguments);
        if (node is InvocationExpressionSyntax call) RemoveFlush(call);
    }

    private void Negate(ExpressionSyntax condition)
    {
        if (_model.GetConstantValue(condition).HasValue) return;
        TextSpan span = condition.Span;
        Add(condition, Operator.Condition, condition.ToString(), $"!({condition})", [new Edit(span, $"!({condition})")],
            [new Wrap(span, span, $"({Switch}.Is(@) ^ (", "))")]);
    }

    private static ExpressionSyntax Bare(ExpressionSyntax expression) => expression is ParenthesizedExpressionSyntax inner
        ? Bare(inner.Expression) : expression;

    private static bool IsComparison(BinaryExpressionSyntax binary) =>
        binary.Kind() is SyntaxKind.LessThanExpression or SyntaxKind.LessThanOrEqualExpression
            or SyntaxKind.GreaterThanExpression or SyntaxKind.GreaterThanOrEqualExpression;

    private static bool IsInteger(ITypeSymbol? type) =>
        type?.SpecialType is SpecialType.System_Int32 or SpecialType.System_UInt32 or SpecialType.System_Int64
        or SpecialType.System_UInt64 or SpecialType.System_IntPtr or SpecialType.System_UIntPtr;

    private void Move(ExpressionSyntax bound, ITypeSymbol? type)
    {
        if (!IsInteger(type)) return;
        string name = type!.ToDisplayString(SymbolDisplayFormat.FullyQualifiedFormat);
        foreach (string by in new[] { "+ 1", "- 1" })
            Add(bound, Operator.Bound, bound.ToString(), $"{bound} {by}", [new Edit(bound.Span, $"(({bound}) {by})")],
                [new Wrap(bound.Span, bound.Span, $"{Switch}.Plus<{name}>(@, ({name})(", $"), {by})")]);
    }

    private void MoveConstant(ExpressionSyntax bound)
    {
        if (!IsInteger(_model.GetTypeInfo(bound).ConvertedType)) return;
        foreach (string by in new[] { "+ 1", "- 1" })
            Add(bound, Operator.Bound, bound.ToString(), $"{bound} {by}", [new Edit(bound.Span, $"({bound}) {by}")], []);
    }

    private void Exchange(BinaryExpressionSyntax binary)
    {
        string other = binary.IsKind(SyntaxKind.LogicalAndExpression) ? "||" : "&&";
        string text = $"({Operand(binary.Left)} {other} {Operand(binary.Right)})";
        Add(binary, Operator.Logic, binary.ToString(), text, [new Edit(binary.Span, text)],
            [new Wrap(binary.Span, binary.Span, $"({Switch}.Is(@) ? {text} : (", "))")]);
    }

    private static string Operand(ExpressionSyntax operand) =>
        operand.Kind() is SyntaxKind.LogicalAndExpression or SyntaxKind.LogicalOrExpression ? $"({operand})" : operand.ToString();

    /// <summary>
    /// The operator that removes this expression where its value is not used; null if it is neither a call nor an assignment.
    /// </summary>
    private static Operator? Removal(ExpressionSyntax expression) => expression switch
    {
        InvocationExpressionSyntax call => IsFlush(call) ? Operator.Flush : Operator.Call,
        ConditionalAccessExpressionSyntax access => Removal(access.WhenNotNull),
        AssignmentExpressionSyntax { Left: IdentifierNameSyntax { Identifier.Text: "_" }, Right: var right } =>
            Removal(right) is Operator.Call or Operator.Flush ? Removal(right) : null,
        AssignmentExpressionSyntax => Operator.Assignment,
        PrefixUnaryExpressionSyntax prefix when prefix.Kind() is SyntaxKind.PreIncrementExpression or SyntaxKind.PreDecrementExpression =>
            Operator.Assignment,
        PostfixUnaryExpressionSyntax postfix
            when postfix.Kind() is SyntaxKind.PostIncrementExpression or SyntaxKind.PostDecrementExpression => Operator.Assignment,
        _ => null,
    };

    private void Remove(ExpressionStatementSyntax statement)
    {
        if (Removal(statement.Expression) is not { } removal) return;
        TextSpan span = statement.Span;
        Add(statement, removal, statement.ToString(), ";", [new Edit(span, "{ }")],
            [new Wrap(span, span, $"{{ if (!{Switch}.Is(@)) {{ ", " } }")]);
    }

    private void Remove(ArrowExpressionClauseSyntax arrow)
    {
        if (Removal(arrow.Expression) is not { } removal
            || _model.GetDeclaredSymbol(arrow.Parent!) is not IMethodSymbol { ReturnsVoid: true }) return;
        TextSpan body = TextSpan.FromBounds(arrow.SpanStart, arrow.GetLastToken().GetNextToken().Span.End);
        Add(arrow.Expression, removal, arrow.ToString(), "{ }", [new Edit(body, "{ }")],
            [new Wrap(body, arrow.Expression.Span, $"{{ if (!{Switch}.Is(@)) {{ ", "; } }")]);
    }

    private static bool IsFlush(InvocationExpressionSyntax call)
    {
        string name = call.Expression switch
        {
            MemberAccessExpressionSyntax access => access.Name.Identifier.Text,
            MemberBindingExpressionSyntax binding => binding.Name.Identifier.Text,
            SimpleNameSyntax simple => simple.Identifier.Text,
            _ => "",
        };
        // Some flushes are calls of classes that only flush.
        return s_flushes.Contains(name) || FlushName().IsMatch(name)
            || call.Expression.ToString() is "FolderFlush.Of" or "FileFlush.Of" or "FileFlush.OfData";
    }

    /// <summary>Removes a flush whose value is used: the call is not made, and its value reports success.</summary>
    private void RemoveFlush(InvocationExpressionSyntax call)
    {
        if (!IsFlush(call)
            || call.Parent is ExpressionStatementSyntax
                or AssignmentExpressionSyntax { Left: IdentifierNameSyntax { Identifier.Text: "_" } })
            return;
        if (_model.GetTypeInfo(call).Type is not { SpecialType: not SpecialType.System_Void } type) return;
        // Without the call, its out variables still need a value.
        List<string> given = [];
        foreach (ArgumentSyntax argument in call.ArgumentList.Arguments)
            if (argument.RefKindKeyword.IsKind(SyntaxKind.OutKeyword)) given.Add(argument.ToString());
        string name = type.ToDisplayString(SymbolDisplayFormat.FullyQualifiedFormat);
        string value = type switch
        {
            { SpecialType: SpecialType.System_Boolean } => "true",
            INamedTypeSymbol { OriginalDefinition.SpecialType: SpecialType.System_Collections_Generic_IEnumerable_T } list =>
                $"global::System.Array.Empty<{list.TypeArguments[0].ToDisplayString(SymbolDisplayFormat.FullyQualifiedFormat)}>()",
            _ => given.Count == 1 ? $"{Switch}.Done<{name}>({given[0]})" : $"default({name})",
        };
        string without = given.Count == 1 ? $"{Switch}.Done<{name}>({Regex.Replace(given[0], @"^out (int|var) ", "out ")})" : value;
        Add(call, Operator.Flush, call.ToString(), value, [new Edit(call.Span, value)],
            [new Wrap(call.Span, call.Span, given.Count == 1 ? $"(!{Switch}.Is(@) ? " : $"({Switch}.Is(@) ? {value} : (", given.Count == 1
                ? $" : {without})" : "))")]);
    }

    private void Swap(BaseArgumentListSyntax list)
    {
        // The order of the arguments has no effect in these calls.
        if (list.Parent is InvocationExpressionSyntax { Expression: var called }
            && called.ToString() is "Math.Min" or "Math.Max" or "ReferenceEquals" or "nameof") return;
        SeparatedSyntaxList<ArgumentSyntax> arguments = list.Arguments;
        for (int i = 0; i < arguments.Count; i++)
            for (int j = i + 1; j < arguments.Count; j++)
                if (IsPlain(arguments[i]) && IsPlain(arguments[j])) Swap(list, arguments[i].Expression, arguments[j].Expression);
    }

    private static bool IsPlain(ArgumentSyntax argument) => argument.RefKindKeyword.IsKind(SyntaxKind.None) && argument.NameColon is null;

    private void Swap(BaseArgumentListSyntax list, ExpressionSyntax first, ExpressionSyntax second)
    {
        TypeInfo one = _model.GetTypeInfo(first), other = _model.GetTypeInfo(second);
        if (one.Type is null || !SymbolEqualityComparer.Default.Equals(one.Type, other.Type) || first.ToString() == second.ToString())
            return;
        Add(first, Operator.Swap, list.Parent!.ToString(), $"{second} for {first}",
            [new Edit(first.Span, second.ToString()), new Edit(second.Span, first.ToString())],
            [Choice(first, second, one.ConvertedType ?? one.Type), Choice(second, first, other.ConvertedType ?? one.Type)]);
    }

    private static Wrap Choice(ExpressionSyntax here, ExpressionSyntax there, ITypeSymbol type)
    {
        string name = type.ToDisplayString(SymbolDisplayFormat.FullyQualifiedFormat);
        return new Wrap(here.Span, here.Span, $"({Switch}.Is(@) ? ({name})({there}) : ({name})(", "))");
    }

    private void Add(SyntaxNode node, Operator kind, string old, string changed, IReadOnlyList<Edit> edits, IReadOnlyList<Wrap> wraps)
    {
        LinePosition at = _model.SyntaxTree.GetLineSpan(node.Span).StartLinePosition;
        SyntaxNode member = node.FirstAncestorOrSelf<MemberDeclarationSyntax>() ?? node;
        bool isStatic = member is FieldDeclarationSyntax or PropertyDeclarationSyntax or ConstructorDeclarationSyntax
            && ((MemberDeclarationSyntax)member).Modifiers.Any(SyntaxKind.StaticKeyword)
            && (member is not PropertyDeclarationSyntax property || property.Initializer?.Span.Contains(node.Span) == true);
        _found.Add(new Mutant(_path, at.Line + 1, at.Character + 1, kind, $"{Short(old)} → {Short(changed)}")
        {
            Edits = edits,
            Wraps = wraps,
            Member = member.FullSpan,
            Static = isStatic,
            Statement = StatementOf(node),
        });
    }

    /// <summary>
    /// The position for a call that is made whenever the node may be evaluated: before the nearest statement of a block in the same
    /// function; -1 if there is none.
    /// </summary>
    private static int StatementOf(SyntaxNode node)
    {
        for (SyntaxNode? at = node; at is not null and not MemberDeclarationSyntax; at = at.Parent)
        {
            if (at is AnonymousFunctionExpressionSyntax or LocalFunctionStatementSyntax) return -1;
            if (at is StatementSyntax and not BlockSyntax && at.Parent is BlockSyntax or SwitchSectionSyntax) return at.SpanStart;
        }
        return -1;
    }

    private static string Short(string text)
    {
        text = Blanks().Replace(text, " ");
        return text.Length <= 100 ? text : $"{text.AsSpan(0, 60)} … {text.AsSpan(text.Length - 36)}";
    }

    [GeneratedRegex(@"\s+")]
    private static partial Regex Blanks();

    [GeneratedRegex("^(Begin|Check)?Flush($|[A-Z])")]
    private static partial Regex FlushName();
}
