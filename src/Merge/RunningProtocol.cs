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
    /// <summary>None runs.</summary>
    None,
    /// <summary>Makes the previous run's writes durable, then finishes or discards its window.</summary>
    Recovery,
    /// <summary>Makes durable what is written, and counts it.</summary>
    Checkpoint,
    /// <summary>Saves a window in scratch and claims it.</summary>
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
/// The protocol that runs, with its name. A protocol is a sequence of waits: each step begins I/O and yields what must be done before the
/// next step.
/// </summary>
internal sealed class RunningProtocol
{
    private IEnumerator<IPending>? _steps;

    /// <summary>Which one runs.</summary>
    public MergeProtocol Name { get; private set; }

    /// <summary>True while one runs.</summary>
    public bool IsRunning => Name != MergeProtocol.None;

    /// <summary>True while it waits for readers. They wake the queue, and a merge that must stop does not wait for them.</summary>
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

    /// <summary>Takes every step that does not have to wait. True if it took any.</summary>
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
