using System;
using System.Diagnostics;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>
/// Shows the progress of a merge, a check or an extraction in the form that the options select, phase by phase. The check of the payloads
/// before a merge has its own bar, rate and remaining time. With JSON progress an event announces each phase.
/// </summary>
/// <param name="what">The phase that <see cref="Progress"/> reports.</param>
/// <param name="isPart">True if other phases with their own observers come before or after this one, so that it must be announced.</param>
internal sealed class ProgressObserver(Invocation invocation, string what, bool isPart = false) : IMergeObserver
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private Progress? _progress;
    private string _phase = "";
    private bool _isNext;

    /// <summary>Seconds since the command began.</summary>
    internal double Seconds => Stopwatch.GetElapsedTime(_start).TotalSeconds;

    /// <inheritdoc/>
    public void Checking(in MergeProgress progress) => Report("check", progress);

    /// <inheritdoc/>
    public void Progress(in MergeProgress progress)
    {
        Report(what, progress);
    }

    private void Report(string phase, in MergeProgress progress)
    {
        if (_progress == null || _phase != phase)
        {
            _isNext = _phase.Length > 0;
            _phase = phase;
            string choice = invocation.Arguments.Choice("--progress");
            // A bar and JSON objects would corrupt each other on one stream.
            ProgressForm form = Cli.Progress.FormOf(choice, invocation.Arguments.Has("--json"),
                invocation.Output.HasTerminal && invocation.Output.Log != LogForm.Json);
            bool kernel = invocation.Output.Log == LogForm.Kernel;
            if (kernel && form == ProgressForm.Plain) form = ProgressForm.Silent;
            _progress = new Progress(invocation.Output, form, phase, progress.BytesTotal, progress.OpsTotal,
                () => invocation.Output.TerminalColumns, choice == "plain")
            {
                Announces = isPart || _isNext || phase != what,
                TellsSteps = kernel && choice != "never",
            };
            // Report the beginning of the work itself, not that of the check before it.
            if (phase == what) TellBegin(progress);
        }
        _progress.Report(progress.BytesDone, progress.OpsDone, Seconds);
    }

    private void TellBegin(in MergeProgress progress) =>
        invocation.Output.Write(Priority.Notice, "begin",
            $"{what} of {invocation.Arguments.Text("--cow") ?? invocation.Arguments.Text("--output") ?? "the update"} begins at op "
            + $"{progress.OpsDone} of {progress.OpsTotal}, {Units.Bytes(progress.BytesTotal - progress.BytesDone)} are left",
            new("ops", progress.OpsDone), new("total_ops", progress.OpsTotal), new("bytes", progress.BytesDone),
            new("total_bytes", progress.BytesTotal));
}
