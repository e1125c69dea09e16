using System;
using System.Collections.Generic;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// Gives a model its barriers, without the one named <c>removed</c> if given. A test can then check that the barrier is needed.
/// </summary>
internal sealed class Barriers(string? removed = null)
{
    private readonly List<string> _names = [];

    /// <summary>Names of all barriers that the model has asked for.</summary>
    internal IReadOnlyList<string> Names => _names;

    /// <summary>The order of an access; plain if its barrier is removed. An update remains a single step.</summary>
    internal Order Of(string name, Order order) => Has(name) ? order : Order.Plain;

    /// <summary>The order of an access whose barrier is weakened instead of removed.</summary>
    internal Order Of(string name, Order order, Order weaker) => Has(name) ? order : weaker;

    /// <summary>Whether the model includes a step of the protocol.</summary>
    internal bool Has(string name)
    {
        _names.Add(name);
        return name != removed;
    }
}

/// <summary>
/// A member of the source that a model represents. Its text must match the patterns in this order, so a change to the code forces a change
/// to the model.
/// </summary>
/// <param name="File">Path from the root.</param>
/// <param name="Member">The text with which the member begins, up to its body.</param>
/// <param name="Patterns">Regular expressions.</param>
internal sealed record Source(string File, string Member, params string[] Patterns);

/// <summary>A way in which two threads, or a thread and the kernel, share memory without a lock.</summary>
internal sealed record Protocol
{
    internal required string Name { get; init; }

    internal required Func<Barriers, MemoryProgram> Make { get; init; }

    /// <summary>The members that implement the protocol.</summary>
    internal required Source[] Sources { get; init; }

    /// <summary>Barriers without which the model still holds, and why the code has them.</summary>
    internal Dictionary<string, string> NotNeeded { get; init; } = [];

    /// <summary>
    /// Fields that the protocol depends on: file, name, and the uses that are allowed without Volatile or Interlocked, each as a pattern of
    /// a line.
    /// </summary>
    internal (string File, string Field, string[] PlainUses)[] Fields { get; init; } = [];

    /// <summary>
    /// Members that run only under a lock of their callers: file, name, and how often the file declares or calls the member. A new caller
    /// fails the test until its lock is among the <see cref="Sources"/>.
    /// </summary>
    internal (string File, string Member, int Times)[] Mentions { get; init; } = [];

    /// <inheritdoc/>
    public override string ToString() => Name;
}
