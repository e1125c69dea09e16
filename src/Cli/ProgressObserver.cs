using System;
using System.Diagnostics;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>Shows the progress of a merge, a check or an extraction as the options ask for it.</summary>
internal sealed class ProgressObserver(Invocation invocation, string what) : IMergeObserver
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private Progress? _progress;

    /// <summary>Seconds since the command began.</summary>
    internal double Seconds => Stopwatch.GetElapsedTime(_start).TotalSeconds;

    /// <inheritdoc/>
    public void Progress(in MergeProgress progress)
    {
        if (_progress == null)
        {
            string choice = invocation.Arguments.Choice("--progress");
            ProgressForm form = Cli.Progress.FormOf(choice, invocation.Arguments.Has("--json"), invocation.Output.HasTerminal);
            _progress = new Progress(invocation.Output, form, what, progress.BytesTotal, progress.OpsTotal, () => invocation.Output.TerminalColumns, choice == "plain");
        }
        _progress.Report(progress.BytesDone, progress.OpsDone, Seconds);
    }
}
