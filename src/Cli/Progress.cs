using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>The form in which progress is shown.</summary>
internal enum ProgressForm
{
    Silent,
    /// <summary>Periodic lines on standard error.</summary>
    Plain,
    /// <summary>Periodic JSON objects on standard output.</summary>
    Json,
    /// <summary>A bar on the terminal.</summary>
    Bar,
}

/// <summary>
/// The progress of a long run. The fraction done is that of the bytes, because an op may stand for one block or for sixty-four. It never
/// decreases. Every report includes the time, in seconds of any monotonic clock.
/// </summary>
internal sealed class Progress
{
    // A bar that is drawn less often looks stuck. A bar that is drawn more often burdens a serial console.
    private const double BarInterval = 0.1;

    // Lines go to logs: one in five seconds suffices to show activity.
    private const double PlainInterval = 5;
    private const double JsonInterval = 1;

    // The kernel's log gets one record for each tenth of the work, at most one per second. So even a fast merge writes at most five of the
    // ten records that the kernel accepts in five seconds.
    private const int Steps = 10;
    private const double StepInterval = 1;

    private readonly Output _output;
    private readonly ProgressForm _form;
    private readonly string _what;
    private readonly long _totalBytes;
    private readonly long _totalOps;
    private readonly Func<int> _columns;
    private readonly bool _asked;
    private bool _ended;
    private bool _announced;
    private long _bytes;
    private long _ops;
    private readonly RateMeter _meter = new();
    private double _shownAt = double.NegativeInfinity;
    private int _step;
    private double _steppedAt = double.NegativeInfinity;

    /// <param name="what">The verb, which begins the line: "merge".</param>
    /// <param name="columns">Width of the terminal, read before every bar because terminals are resized.</param>
    /// <param name="asked">Lines were explicitly requested: the first comes at once, and one at the end, however short the run is.</param>
    internal Progress(Output output, ProgressForm form, string what, long totalBytes, long totalOps, Func<int> columns, bool asked = false)
    {
        _output = output;
        _form = form;
        _what = what;
        _totalBytes = totalBytes;
        _totalOps = totalOps;
        _columns = columns;
        _asked = asked;
    }

    /// <summary>True for one of several phases: an event precedes its first JSON object.</summary>
    internal bool Announces { get; init; }

    /// <summary>Also reports every tenth of the work to the kernel's log.</summary>
    internal bool TellsSteps { get; init; }

    /// <summary>The form that `--progress` and `--json` select on these streams.</summary>
    internal static ProgressForm FormOf(string choice, bool json, bool terminal) => (choice, json, terminal) switch
    {
        ("never", _, _) => ProgressForm.Silent,
        ("plain", true, _) => ProgressForm.Json,
        ("plain", _, _) => ProgressForm.Plain,
        (_, _, true) => ProgressForm.Bar,
        (_, true, _) => ProgressForm.Json,
        _ => ProgressForm.Plain,
    };

    /// <summary>
    /// Reports <paramref name="bytes"/> and <paramref name="ops"/> done at <paramref name="now"/>, counted from the start of the merge,
    /// including the work of earlier runs.
    /// </summary>
    internal void Report(long bytes, long ops, double now)
    {
        _bytes = Math.Min(Math.Max(_bytes, bytes), _totalBytes);
        _ops = Math.Min(Math.Max(_ops, ops), _totalOps);
        bool first = _meter.Measure(_bytes, now);
        // A bar appears at once. The first line is due after one interval, so that short runs stay short in logs.
        if (first && _form != ProgressForm.Bar && !_asked) _shownAt = now;
        if (TellsSteps) Step(now, first);
        double interval = _form switch { ProgressForm.Bar => BarInterval, ProgressForm.Json => JsonInterval, _ => PlainInterval };
        bool last = _asked && !_ended && _bytes == _totalBytes;
        if (_form == ProgressForm.Silent || _ended || (now - _shownAt < interval && !last)) return;
        _ended = last;
        _shownAt = now;
        switch (_form)
        {
            case ProgressForm.Bar:
                _output.Bar(Line(_columns() - 1));
                break;
            case ProgressForm.Json:
                if (Announces && !_announced)
                    _output.Result(JsonLine.Event("phase").Add("phase", _what).Add("total_ops", _totalOps).Add("total_bytes", _totalBytes)
                        .ToString());
                _announced = true;
                _output.Result(JsonLine.Event("progress").Add("phase", _what).Add("ops", _ops).Add("total_ops", _totalOps)
                    .Add("bytes", _bytes).Add("total_bytes", _totalBytes).Add("bytes_per_second", _meter.BytesPerSecond).ToString());
                break;
            default:
                _output.WriteProgress(Line(int.MaxValue), Values);
                break;
        }
    }

    private LogValue[] Values => [new("ops", _ops), new("total_ops", _totalOps), new("bytes", _bytes), new("total_bytes", _totalBytes),
        new("bytes_per_second", _meter.BytesPerSecond)];

    private void Step(double now, bool first)
    {
        int step = _totalBytes == 0 ? Steps : (int)((double)_bytes / _totalBytes * Steps);
        bool due = first || (step > _step && now - _steppedAt >= StepInterval);
        if (!due) return;
        (_step, _steppedAt) = (step, now);
        // The caller reports the beginning.
        if (!first) _output.WriteProgress(Line(int.MaxValue), Values);
    }

    /// <summary>
    /// One line of at most <paramref name="columns"/> characters with a bar in it. With int.MaxValue the full line without a bar.
    /// </summary>
    private string Line(int columns) => Line(_what, _bytes, _totalBytes, _ops, _totalOps, _meter.BytesPerSecond, columns);

    /// <summary>
    /// The line of a run that has done <paramref name="bytes"/>. <paramref name="rate"/> is in bytes per second; 0 if it is unknown.
    /// </summary>
    internal static string Line(string what, long bytes, long totalBytes, long ops, long totalOps, double rate, int columns)
    {
        double share = totalBytes == 0 ? 1 : (double)bytes / totalBytes;
        // Truncated, not rounded: 100 % appears only when nothing is left.
        string percent = string.Create(CultureInfo.InvariantCulture, $" {(int)(share * 100),3}%");
        // A long name is cut at its end; the percentage stays.
        string head = (columns == int.MaxValue ? what : TextWidth.Cut(what, Math.Max(0, columns - percent.Length))) + percent;
        string[] tails =
        [
            $" {Units.Bytes(bytes)} of {Units.Bytes(totalBytes)}",
            rate > 0 && bytes < totalBytes ? $", {Units.Duration((totalBytes - bytes) / rate)} left" : "",
            rate > 0 ? $", {Units.Bytes(rate)}/s" : "",
            totalOps > 0 ? string.Create(CultureInfo.InvariantCulture, $", {ops} of {totalOps} ops") : "",
        ];
        if (columns == int.MaxValue) return head + string.Concat(tails);

        // The bar has a fixed width, so that its filled part never shrinks. Parts that do not fit are left out, from the end.
        const int narrowestWithBar = 40;
        const int mostCells = 48;
        var line = new StringBuilder(head);
        if (columns >= narrowestWithBar)
        {
            int cells = Math.Min(columns / 4, mostCells);
            int full = (int)(cells * share);
            line.Append(" [").Append('#', full).Append('.', cells - full).Append(']');
        }
        int free = columns - TextWidth.Of(line.ToString());
        int kept = 0;
        while (kept < tails.Length && tails[kept].Length <= free) free -= tails[kept++].Length;
        for (int i = 0; i < kept; i++) line.Append(tails[i]);
        return TextWidth.Cut(line.ToString(), Math.Max(columns, 0));
    }
}
