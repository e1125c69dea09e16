using System;
using System.Collections.Generic;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>Gives a model its barriers, but one: what the model would be if the code lost that one.</summary>
internal sealed class Barriers(string? removed = null)
{
    private readonly List<string> _names = [];

    /// <summary>All that were asked for.</summary>
    internal IReadOnlyList<string> Names => _names;

    /// <summary>The order of an access; plain if its barrier was removed. An update stays one step all the same.</summary>
    internal Order Of(string name, Order order) => Has(name) ? order : Order.Plain;

    /// <summary>An access whose barrier is weakened instead of removed.</summary>
    internal Order Of(string name, Order order, Order weaker) => Has(name) ? order : weaker;

    /// <summary>A step of the protocol that can be left out.</summary>
    internal bool Has(string name)
    {
        _names.Add(name);
        return name != removed;
    }
}

/// <summary>
/// A member of the source that a model stands for. Its text has to match the patterns in this order; so a change there has to be made in
/// the model, too.
/// </summary>
/// <param name="File">Path from the root.</param>
/// <param name="Member">How the member begins, up to its body.</param>
/// <param name="Patterns">Regular expressions.</param>
internal sealed record Source(string File, string Member, params string[] Patterns);

/// <summary>A way in which two threads, or a thread and the kernel, share memory without a lock.</summary>
internal sealed record Protocol
{
    internal required string Name { get; init; }

    internal required Func<Barriers, MemoryProgram> Make { get; init; }

    /// <summary>Where it is in the code.</summary>
    internal required Source[] Sources { get; init; }

    /// <summary>Barriers without which the model still holds, and why the code has them.</summary>
    internal Dictionary<string, string> NotNeeded { get; init; } = [];

    /// <summary>
    /// Fields that all of this depends on: file, name, and the places where it may be used without Volatile or Interlocked, each a
    /// pattern of a line.
    /// </summary>
    internal (string File, string Field, string[] PlainUses)[] Fields { get; init; } = [];

    /// <summary>
    /// Members that run only under a lock which their callers take: file, name, and how often the file declares or calls it. A new caller
    /// fails the test until its lock is among the <see cref="Sources"/>.
    /// </summary>
    internal (string File, string Member, int Times)[] Mentions { get; init; } = [];

    /// <inheritdoc/>
    public override string ToString() => Name;
}
