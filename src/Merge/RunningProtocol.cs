using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Merge;

/// <summary>
/// The protocols of <see cref="MergeProtocols"/>: sequences of writes and flushes that must not be mixed. One runs at a time, beside the
/// writes of plain batches. A window passes through three of them: <see cref="Journal"/>, <see cref="AwaitReaders"/>,
/// <see cref="WriteWindow"/>.
/// </summary>
internal enum MergeProtocol
{
    /// <summary>No protocol runs.</summary>
    None,
    /// <summary>Makes the previous run's writes durable, then finishes or discards its window.</summary>
    Recovery,
    /// <summary>Makes the written ops durable and counts them.</summary>
    Checkpoint,
    /// <summary>Saves a window in scratch and then marks it valid there.</summary>
    Journal,
    /// <summary>
    /// The window is durable in scratch and published. Waits until the last reader that may use its sources has left. Nothing of the
    /// window is written to Base yet.
    /// </summary>
    AwaitReaders,
    /// <summary>Writes the window to Base and counts it.</summary>
    WriteWindow,
    /// <summary>Writes Xors in place without scratch, and counts them.</summary>
    WriteUnsafe,
}

/// <summary>
/// Runs one protocol at a time. A protocol is an iterator: each step begins I/O and yields the operation that must be done before the next
/// step.
/// </summary>
internal sealed class RunningProtocol
{
    private IEnumerator<IPending>? _steps;

    /// <summary>The protocol that runs.</summary>
    public MergeProtocol Name { get; private set; }

    /// <summary>True while a protocol runs.</summary>
    public bool IsRunning => Name != MergeProtocol.None;

    /// <summary>
    /// True while the protocol waits for readers. The last of them wakes the queue. A merge that must stop does not wait for them.
    /// </summary>
    public bool AwaitsReaders => Name == MergeProtocol.AwaitReaders;

    /// <summary>Begins a protocol with its first step.</summary>
    public void Begin(MergeProtocol name, IEnumerable<IPending> steps)
    {
        if (IsRunning) throw new InvalidOperationException($"{name} cannot begin while {Name} runs");
        Name = name;
        _steps = steps.GetEnumerator();
        Step();
    }

    /// <summary>Called by the running protocol: its next steps are those of <paramref name="name"/>.</summary>
    public void SwitchTo(MergeProtocol name) => Name = name;

    /// <summary>Runs the next steps until one has to wait. True if any step ran.</summary>
    public bool Continue()
    {
        bool changed = false;
        while (_steps is { Current.IsDone: true })
        {
            Step();
            changed = true;
        }
        return changed;
    }

    private void Step()
    {
        if (_steps!.MoveNext()) return;
        _steps.Dispose();
        (_steps, Name) = (null, MergeProtocol.None);
    }
}
