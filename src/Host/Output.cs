using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Host;

/// <summary>
/// Writes lines on standard output and standard error by direct write(2). After a stream has failed once, nothing is written to it any
/// more: a reader that went away (EPIPE) must not stop a merge. <see cref="Failure"/> keeps the errno for a command whose output is its
/// result. Everything except results is written as log records, which `--log` may send elsewhere.
/// </summary>
public sealed class Output : IMachineLog
{
    private int _resultsFd;
    private readonly int _diagnosticsFd;

    // One write per line keeps lines intact between processes up to PIPE_BUF. Longer lines grow the buffer.
    private byte[] _bytes = new byte[512];
    private readonly object _gate = new();
    private bool _resultsDead;
    private bool _diagnosticsDead;
    // The widths of the lines drawn at the end of the terminal. The cursor is after the last one.
    private int[] _bars = [];
    private bool? _resultsTerminal;
    private bool? _diagnosticsTerminal;
    private KernelLog? _kernel;
    private bool _neverWaits;
    // The last output on standard error was cut off within a line.
    private bool _endsInALine;
    private long _lost;

    /// <param name="wereClosed">The mask of <see cref="StandardDescriptors.Reserve"/>: descriptors that were closed at start stay
    /// silent.</param>
    public Output(int wereClosed, int resultsFd = 1, int diagnosticsFd = 2)
    {
        _resultsFd = resultsFd;
        _diagnosticsFd = diagnosticsFd;
        _resultsDead = ResultsWereClosed = (wereClosed & (1 << 1)) != 0;
        _diagnosticsDead = (wereClosed & (1 << 2)) != 0;
    }

    /// <summary>
    /// From here on, output that a stream does not accept at once is lost. Neither a merge nor the readers of a device may wait for a log,
    /// because the reader of the log may itself wait for that device. The number of lost messages is reported when the stream accepts data
    /// again.
    /// </summary>
    public void NeverWait()
    {
        lock (_gate) _neverWaits = true;
    }

    /// <summary>
    /// The negative errno that ended standard output, or 0. If standard output was closed at the start, that is not a failure: the caller
    /// closed it on purpose.
    /// </summary>
    public int Failure { get; private set; }

    /// <summary>True if standard error is a terminal on which a bar can be drawn.</summary>
    public bool HasTerminal => !_diagnosticsDead && Libc.IsATty(_diagnosticsFd);

    /// <summary>Columns of the terminal; 80 if unknown.</summary>
    public int TerminalColumns => TerminalSize.Columns;

    /// <summary>Columns and rows of the terminal; 80 and 24 if unknown.</summary>
    public (int Columns, int Rows) TerminalSize
    {
        get
        {
            WindowSize size = default;
            bool known = Libc.Ioctl(_diagnosticsFd, Libc.TIOCGWINSZ, ref size) >= 0;
            return (known && size.Col > 0 ? size.Col : 80, known && size.Row > 0 ? size.Row : 24);
        }
    }

    /// <summary>
    /// Prints a line of the result on standard output. On a terminal the names in it are made visible; otherwise their bytes are unchanged.
    /// </summary>
    public void Result(string line) => ResultText((_resultsTerminal ??= Libc.IsATty(_resultsFd)) ? VisibleText.OnTerminal(line) : line);

    /// <summary>Prints result text without names in it, of any number of lines.</summary>
    public void ResultText(string text) => Result(text, "\n");

    /// <summary>
    /// Prints a piece, without names in it, of a result line that is too long to be built in memory. <see cref="Result(string)"/> ends the
    /// line.
    /// </summary>
    public void ResultPiece(ReadOnlySpan<char> piece) => Result(piece, "");

    private void Result(ReadOnlySpan<char> text, ReadOnlySpan<char> end)
    {
        lock (_gate)
        {
            WipeBar();
            if (_resultsDead) return;
            int error = Write(_resultsFd, text, end);
            if (error >= 0) return;
            _resultsDead = true;
            Failure = error;
        }
    }

    /// <summary>True if standard output was closed when the program started.</summary>
    public bool ResultsWereClosed { get; }

    /// <summary>From here on standard output is for data: results go to standard error.</summary>
    public void ResultsToDiagnostics()
    {
        lock (_gate) (_resultsFd, _resultsDead, _resultsTerminal) = (_diagnosticsFd, _diagnosticsDead, null);
    }

    /// <summary>The destination of log records.</summary>
    public LogForm Log { get; private set; }

    /// <summary>
    /// Sets the destination of log records. If the kernel's log cannot be written, records stay on standard error, and a message says so.
    /// </summary>
    public void LogTo(LogForm form)
    {
        lock (_gate)
        {
            Log = form;
            if (form != LogForm.Kernel) return;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, KernelLog.Path, Libc.O_WRONLY | Libc.O_CLOEXEC);
            if (fd >= 0) _kernel = new KernelLog(fd, new MonotonicClock(), Libc.GetPid());
            else LeaveKernelLog(fd);
        }
    }

    /// <inheritdoc/>
    public void Write(Priority priority, string name, string sentence, params ReadOnlySpan<LogValue> values)
    {
        lock (_gate)
        {
            if (_kernel != null) TellKernel(priority, sentence);
            else if (Log == LogForm.Json) Line(Json(priority, name, sentence, values));
            else if (priority <= Priority.Warning) Line(Record(sentence));
        }
    }

    /// <summary>
    /// Writes a record to the kernel's log as well, whatever the destination of the others: for messages that concern all users of the
    /// machine.
    /// </summary>
    public void WriteForMachine(Priority priority, string name, string sentence)
    {
        Write(priority, name, sentence);
        lock (_gate)
        {
            if (_kernel != null) return;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, KernelLog.Path, Libc.O_WRONLY | Libc.O_CLOEXEC);
            if (fd < 0) return;
            _ = new KernelLog(fd, new MonotonicClock(), Libc.GetPid()).Write(priority, sentence);
            _ = Libc.Close(fd);
        }
    }

    /// <summary>
    /// Writes a progress record. Progress has its own form on standard error and its own interval in the kernel's log, so the caller checks
    /// <see cref="Log"/>.
    /// </summary>
    public void WriteProgress(string line, params ReadOnlySpan<LogValue> values)
    {
        lock (_gate)
        {
            if (_kernel != null) TellKernel(Priority.Information, line);
            else Line(Log == LogForm.Json ? Json(Priority.Information, "progress", line, values) : line);
        }
    }

    /// <summary>Writes the stack trace of an internal error, after its record.</summary>
    public void WriteTrace(string trace)
    {
        lock (_gate)
        {
            if (_kernel != null) TellKernel(Priority.Error, trace);
            else Line(Log == LogForm.Json ? Json(Priority.Error, "trace", trace, default) : trace);
        }
    }

    /// <summary>Draws <paramref name="bar"/> over the last line of the terminal. The next line of output erases it.</summary>
    public void Bar(string bar)
    {
        lock (_gate)
        {
            if (_diagnosticsDead) return;
            if (Write(_diagnosticsFd, $"\r{VisibleText.OnTerminal(bar)}", "\e[K") < 0) _diagnosticsDead = true;
            _bars = [0];
        }
    }

    /// <summary>
    /// Draws lines over the end of the terminal, in place of the previous ones. The next line of output erases them. Each line is cut to
    /// the width; lines in excess of the terminal's rows are omitted from the end. The width may have changed: a narrower terminal has
    /// wrapped the old lines into several rows.
    /// </summary>
    public void Bars(IReadOnlyList<string> bars)
    {
        lock (_gate)
        {
            if (_diagnosticsDead) return;
            (int columns, int rows) = TerminalSize;
            StringBuilder text = new(Erasure(columns));
            int count = bars.Count <= rows ? bars.Count : Math.Max(1, rows - 1);
            int[] widths = new int[count < bars.Count ? count + 1 : count];
            for (int i = 0; i < widths.Length; i++)
            {
                string bar = i < count ? VisibleText.OnTerminal(bars[i]) : $"and {bars.Count - count} more";
                bar = TextWidth.Cut(bar, columns - 1);
                widths[i] = TextWidth.Of(bar);
                text.Append(i > 0 ? "\r\n" : "").Append(bar);
            }
            if (Write(_diagnosticsFd, text.ToString(), "") < 0) _diagnosticsDead = true;
            _bars = widths;
        }
    }

    private void TellKernel(Priority priority, string sentence)
    {
        int error = _kernel!.Write(priority, sentence);
        if (error >= 0) return;
        LeaveKernelLog(error);
        if (priority <= Priority.Warning) Line(Record(sentence));
    }

    private void LeaveKernelLog(int error)
    {
        (_kernel, Log) = (null, LogForm.StandardError);
        Line(Record($"{KernelLog.Path} cannot be written, so the log goes to standard error: {ErrnoText.Of(error)}"));
    }

    private static string Json(Priority priority, string name, string sentence, ReadOnlySpan<LogValue> values)
    {
        _ = Libc.ClockGetTime(Libc.CLOCK_MONOTONIC, out TimeSpec now);
        JsonLine line = new JsonLine().Add("priority", (int)priority).Add("event", name).Add("message", sentence)
            .Add("uptime", now.Sec + (now.Nsec / 1e9));
        foreach (LogValue value in values) line.Add(value.Key, value.Value);
        return line.ToString();
    }

    /// <summary>The text of a record. One record is one line, whatever a path in it contains.</summary>
    private string Record(string sentence)
    {
        bool isTerminal = _diagnosticsTerminal ??= Libc.IsATty(_diagnosticsFd);
        return $"snapuserd: {(isTerminal ? VisibleText.OnTerminal(sentence) : VisibleText.OnOneLine(sentence))}";
    }

    private void Line(string line)
    {
        WipeBar();
        TellLost();
        if (!_diagnosticsDead && Write(_diagnosticsFd, line, "\n") < 0) _diagnosticsDead = true;
    }

    private void TellLost()
    {
        if (_lost == 0 || _diagnosticsDead || !TakesMore(_diagnosticsFd)) return;
        string sentence = $"standard output or standard error was full; messages lost: {_lost}";
        string line = Log == LogForm.Json ? Json(Priority.Warning, "messages_lost", sentence, default) : Record(sentence);
        if (_endsInALine) line = "\n" + line;
        (_lost, _endsInALine) = (0, false);
        if (Write(_diagnosticsFd, line, "\n") < 0) _diagnosticsDead = true;
    }

    /// <summary>True if a write would not block: the stream accepts data, or the write would fail at once.</summary>
    private static bool TakesMore(int fd)
    {
        Span<PollFd> one = [new PollFd { Fd = fd, Events = Libc.POLLOUT }];
        return Libc.Poll(one, 0) != 0;
    }

    private void WipeBar()
    {
        if (_bars.Length == 0) return;
        string erasure = Erasure(TerminalColumns);
        _bars = [];
        if (!_diagnosticsDead && Write(_diagnosticsFd, erasure, "") < 0) _diagnosticsDead = true;
    }

    /// <summary>The escape sequence that erases the drawn lines and leaves the cursor at the start of the first.</summary>
    private string Erasure(int columns)
    {
        if (_bars.Length == 0) return "";
        int rows = 0;
        foreach (int width in _bars) rows += Math.Max(1, ((width - 1) / columns) + 1);
        return rows == 1 ? "\r\e[K" : string.Create(CultureInfo.InvariantCulture, $"\r\e[{rows - 1}A\e[J");
    }

    private int Write(int fd, ReadOnlySpan<char> text, ReadOnlySpan<char> end)
    {
        int most = ByteText.GetByteCount(text) + end.Length;
        if (_bytes.Length < most) _bytes = new byte[most];
        int length = ByteText.Encode(text, _bytes);
        length += ByteText.Encode(end, _bytes.AsSpan(length));

        ReadOnlySpan<byte> rest = _bytes.AsSpan(0, length);
        while (rest.Length > 0)
        {
            // If poll reports that a pipe accepts data, it accepts at least this many bytes without blocking.
            int piece = _neverWaits ? Math.Min(rest.Length, Libc.PIPE_BUF) : rest.Length;
            nint written = _neverWaits && !TakesMore(fd) ? -Errno.EAGAIN : Libc.Write(fd, rest[..piece]);
            if (Retry.Interrupted(written)) continue;
            if (written == -Errno.EAGAIN && _neverWaits)
            {
                _lost++;
                _endsInALine |= rest.Length < length && fd == _diagnosticsFd;
                return 0;
            }
            if (written == -Errno.EAGAIN)
            {
                // Another process made the shared pipe or terminal non-blocking. Wait as a blocking write would.
                Span<PollFd> one = [new PollFd { Fd = fd, Events = Libc.POLLOUT }];
                int ready = Libc.Poll(one, -1);
                if (ready >= 0 || Retry.Interrupted(ready)) continue;
                return ready;
            }
            if (written < 0) return (int)written;
            rest = rest[(int)written..];
        }
        return 0;
    }
}
