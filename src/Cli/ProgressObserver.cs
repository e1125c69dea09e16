using System;
using System.Diagnostics;
using Snapuserd.Block;
using Snapuserd.Cli.Boot;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>Shows the progress of a merge, a check or an extraction as the options ask for it.</summary>
internal sealed class ProgressObserver(Invocation invocation, string what) : IMergeObserver
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private Progress? _progress;
    private long _first = -1;
    private bool _marked;

    /// <summary>Seconds since the command began.</summary>
    internal double Seconds => Stopwatch.GetElapsedTime(_start).TotalSeconds;

    /// <inheritdoc/>
    public void Progress(in MergeProgress progress)
    {
        if (_progress == null)
        {
            string choice = invocation.Arguments.Choice("--progress");
            // A bar and JSON objects on one stream would spoil each other.
            ProgressForm form = Cli.Progress.FormOf(choice, invocation.Arguments.Has("--json"), invocation.Output.HasTerminal && invocation.Output.Log != LogForm.Json);
            bool kernel = invocation.Output.Log == LogForm.Kernel;
            if (kernel && form == ProgressForm.Plain) form = ProgressForm.Silent;
            _progress = new Progress(invocation.Output, form, what, progress.BytesTotal, progress.OpsTotal, () => invocation.Output.TerminalColumns, choice == "plain") { TellsSteps = kernel && choice != "never" };
            invocation.Output.Write(Priority.Notice, "begin",
                $"{what} of {invocation.Arguments.Text("--cow") ?? invocation.Arguments.Text("--output")} begins at op {progress.OpsDone} of {progress.OpsTotal}, {Units.Bytes(progress.BytesTotal - progress.BytesDone)} are left",
                new("ops", progress.OpsDone), new("total_ops", progress.OpsTotal), new("bytes", progress.BytesDone), new("total_bytes", progress.BytesTotal));
        }
        if (_first < 0) _first = progress.BytesDone;
        if (!_marked && progress.BytesDone > _first && what == "merge" && invocation.Arguments.Text("--cow") is { } cow)
        {
            _marked = true;
            MergingMark.SayBegun(cow);
        }
        _progress.Report(progress.BytesDone, progress.OpsDone, Seconds);
    }
}
