using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// Lines on standard output and standard error by plain write(2). A stream that fails once is silent from then on: a reader that went away
/// (EPIPE) must not stop a merge. <see cref="Failure"/> keeps the errno for a command whose output is its result. What happens beside the results is
/// told in records, which `--log` may send elsewhere.
/// </summary>
internal sealed class Output : ILog
{
    private int _resultsFd;
    private readonly int _diagnosticsFd;

    // One write per line keeps lines whole between processes up to PIPE_BUF; longer ones grow the buffer.
    private byte[] _bytes = new byte[512];
    private readonly object _gate = new();
    private bool _resultsDead;
    private bool _diagnosticsDead;
    private bool _barIsUp;
    private bool? _resultsTerminal;
    private bool? _diagnosticsTerminal;
    private KernelLog? _kernel;

    /// <param name="wereClosed">The mask of <see cref="StandardDescriptors.Reserve"/>: what was closed at start stays silent.</param>
    internal Output(int wereClosed, int resultsFd = 1, int diagnosticsFd = 2)
    {
        _resultsFd = resultsFd;
        _diagnosticsFd = diagnosticsFd;
        _resultsDead = ResultsWereClosed = (wereClosed & (1 << 1)) != 0;
        _diagnosticsDead = (wereClosed & (1 << 2)) != 0;
    }

    /// <summary>The negative errno that ended standard output, or 0. A closed one is no failure: whoever closed it wants nothing.</summary>
    internal int Failure { get; private set; }

    /// <summary>Whether standard error is a terminal that a bar can be drawn on.</summary>
    internal bool HasTerminal => !_diagnosticsDead && Libc.IsATty(_diagnosticsFd);

    /// <summary>Columns of the terminal; 80 if it does not say.</summary>
    internal int TerminalColumns
    {
        get
        {
            WindowSize size = default;
            return Libc.Ioctl(_diagnosticsFd, Libc.TIOCGWINSZ, ref size) >= 0 && size.Col > 0 ? size.Col : 80;
        }
    }

    /// <summary>A line of the result, on standard output: with the bytes of the names in it as they are, unless it is a terminal.</summary>
    internal void Result(string line) => ResultText((_resultsTerminal ??= Libc.IsATty(_resultsFd)) ? VisibleText.OnTerminal(line) : line);

    /// <summary>Text of the result without names in it, of any number of lines.</summary>
    internal void ResultText(string text) => Result(text, "\n");

    /// <summary>A piece, without names in it, of a line of the result that is too long to be built in memory; <see cref="Result(string)"/> ends the line.</summary>
    internal void ResultPiece(ReadOnlySpan<char> piece) => Result(piece, "");

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

    /// <summary>Standard output was closed when the program started.</summary>
    internal bool ResultsWereClosed { get; }

    /// <summary>From here on standard output is for data: results go to standard error.</summary>
    internal void ResultsToDiagnostics()
    {
        lock (_gate) (_resultsFd, _resultsDead, _resultsTerminal) = (_diagnosticsFd, _diagnosticsDead, null);
    }

    /// <summary>Where records go.</summary>
    internal LogForm Log { get; private set; }

    /// <summary>Sends records there from here on. Where the kernel's log cannot be written, they stay on standard error, with a sentence about that.</summary>
    internal void LogTo(LogForm form)
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

    /// <summary>How far it is, which has a form of its own on standard error and a rhythm of its own in the kernel's log: the caller asks for <see cref="Log"/>.</summary>
    internal void WriteProgress(string line, params ReadOnlySpan<LogValue> values)
    {
        lock (_gate)
        {
            if (_kernel != null) TellKernel(Priority.Information, line);
            else Line(Log == LogForm.Json ? Json(Priority.Information, "progress", line, values) : line);
        }
    }

    /// <summary>Where a defect showed, behind the record that says so.</summary>
    internal void WriteTrace(string trace)
    {
        lock (_gate)
        {
            if (_kernel != null) TellKernel(Priority.Error, trace);
            else Line(Log == LogForm.Json ? Json(Priority.Error, "trace", trace, default) : trace);
        }
    }

    /// <summary>Draws <paramref name="bar"/> over the last line of the terminal; the next line wipes it away.</summary>
    internal void Bar(string bar)
    {
        lock (_gate)
        {
            if (_diagnosticsDead) return;
            if (Write(_diagnosticsFd, $"\r{VisibleText.OnTerminal(bar)}", "\e[K") < 0) _diagnosticsDead = true;
            _barIsUp = true;
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
        Line(Record($"{KernelLog.Path} cannot be written, so the log goes to standard error: {Reason.Of(error)}"));
    }

    private static string Json(Priority priority, string name, string sentence, ReadOnlySpan<LogValue> values)
    {
        _ = Libc.ClockGetTime(Libc.CLOCK_MONOTONIC, out TimeSpec now);
        JsonLine line = new JsonLine().Add("priority", (int)priority).Add("event", name).Add("message", sentence).Add("uptime", now.Sec + (now.Nsec / 1e9));
        foreach (LogValue value in values) line.Add(value.Key, value.Value);
        return line.ToString();
    }

    /// <summary>One sentence is one line, whatever a path in it contains.</summary>
    private string Record(string sentence) => $"snapuserd: {((_diagnosticsTerminal ??= Libc.IsATty(_diagnosticsFd)) ? VisibleText.OnTerminal(sentence) : VisibleText.OnOneLine(sentence))}";

    private void Line(string line)
    {
        WipeBar();
        if (!_diagnosticsDead && Write(_diagnosticsFd, line, "\n") < 0) _diagnosticsDead = true;
    }

    private void WipeBar()
    {
        if (!_barIsUp) return;
        _barIsUp = false;
        if (!_diagnosticsDead && Write(_diagnosticsFd, "\r", "\e[K") < 0) _diagnosticsDead = true;
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
            nint written = Libc.Write(fd, rest);
            if (written == -Errno.EINTR) continue;
            if (written == -Errno.EAGAIN)
            {
                // Somebody made the pipe or terminal non-blocking for all who share it; wait as a blocking write would have.
                Span<PollFd> one = [new PollFd { Fd = fd, Events = Libc.POLLOUT }];
                int ready = Libc.Poll(one, -1);
                if (ready >= 0 || ready == -Errno.EINTR) continue;
                return ready;
            }
            if (written < 0) return (int)written;
            rest = rest[(int)written..];
        }
        return 0;
    }
}
