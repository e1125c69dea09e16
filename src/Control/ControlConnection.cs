using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// The client's side of the `ctl` protocol on a control socket. A request is one line; a reply has several. The first character of a reply
/// line is its kind:
/// <code>
///   ' '   part of the result
///   '~'   part of the result that the next line replaces: progress, for example
///   '.'   end of the reply
///   '!'   end of the reply with an error: exit code, space, message
/// </code>
/// </summary>
public sealed class ControlConnection : IDisposable
{
    /// <summary>
    /// Longest wait for a connection or for the next reply line, in milliseconds. Ample, because the server's thread never blocks.
    /// </summary>
    private const int AnswerMilliseconds = 10_000;

    /// <summary>Milliseconds between two attempts to connect.</summary>
    private const int TryMilliseconds = 20;

    /// <summary>Longest reply line in bytes. A status line contains the paths of COW and base and possibly an error message.</summary>
    private const int LongestLine = 64 << 10;

    private readonly string _path;
    private readonly int _fd;
    private readonly byte[] _buffer = new byte[LongestLine];
    private readonly MonotonicClock _clock = new();
    /// <summary>The time at which the limit for the whole connection ends; <see cref="long.MaxValue"/> without a limit.</summary>
    private readonly long _deadline;
    /// <summary>The time by which the next reply line must arrive; <see cref="long.MaxValue"/> while it may take any time.</summary>
    private long _due = long.MaxValue;
    private int _length;

    /// <summary>
    /// Connects and sends the greeting. Exit code 66 if no server listens at <paramref name="path"/>, 74 if the server does not accept the
    /// connection in time, 77 without permission.
    /// </summary>
    /// <param name="path">The path of the server's socket.</param>
    /// <param name="limit">
    /// Milliseconds from now for all calls on this connection together, even if the server keeps sending; 0 for no such limit.
    /// </param>
    public ControlConnection(string path, int limit = 0)
    {
        _path = path;
        _deadline = limit > 0 ? _clock.Milliseconds + limit : long.MaxValue;
        _fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        if (_fd < 0)
        {
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Open, _fd), _fd == -Errno.EAFNOSUPPORT
                ? $"nothing listens at {path}: this kernel has no Unix sockets"
                : $"cannot make a socket: {ErrnoText.Of(_fd)}");
        }
        int result;
        // EAGAIN: the server's backlog is full. Poll cannot wait for a free place in it, so try again at intervals.
        for (long end = Math.Min(_deadline, _clock.Milliseconds + AnswerMilliseconds); (result = Libc.Connect(_fd, path)) == -Errno.EAGAIN
            && _clock.Milliseconds < end;)
            Libc.Sleep(TryMilliseconds);
        if (result >= 0) result = (int)Send(ControlServer.Greeting);
        if (result >= 0) return;
        Dispose();
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Open, result), result switch
        {
            -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ECONNREFUSED => $"nothing listens at {path}",
            -Errno.EAGAIN => $"{path} does not answer",
            -Errno.EACCES or -Errno.EPERM => $"cannot connect to {path}: {ErrnoText.Of(result)}; try as root or as the server's user",
            -Errno.ENAMETOOLONG => $"cannot connect to {path}: the path of a socket has at most {UnixAddress.LongestPath} bytes",
            _ => $"cannot connect to {path}: {ErrnoText.Of(result)}",
        });
    }

    /// <summary>The socket; it is readable when <see cref="Take"/> has something to do.</summary>
    public int Fd => _fd;

    /// <summary>The path at which the server listens.</summary>
    public string SocketPath => _path;

    /// <summary>The server has closed the connection, or was killed.</summary>
    public bool IsClosed { get; private set; }

    /// <summary>
    /// The timeout for poll: milliseconds until the next reply line is late, 0 if it is late. −1 for no timeout: before the first request,
    /// and after a '~' line of a connection without a limit, because the next line comes only when something changes.
    /// </summary>
    public int Patience => _due == long.MaxValue ? -1 : (int)Math.Clamp(_due - _clock.Milliseconds, 0, AnswerMilliseconds);

    /// <summary>
    /// Sends a request and passes every line of the reply to <paramref name="show"/>; its second argument is true for a '~' line. Throws
    /// the server's error.
    /// </summary>
    public void Ask(string request, Action<string, bool> show)
    {
        Begin(request);
        Finish(show);
    }

    /// <summary>Receives the whole reply to the last request.</summary>
    public void Finish(Action<string, bool> show)
    {
        while (!Take(show))
        {
            Span<PollFd> one = [new PollFd { Fd = _fd, Events = Libc.POLLIN }];
            int patience = Patience;
            // A server that keeps sending makes every poll succeed, so check the time without poll.
            int ready = patience == 0 ? 0 : Libc.Poll(one, patience);
            if (ready == 0) throw Silent();
        }
    }

    /// <summary>
    /// Sends a request with descriptors, which the kernel duplicates for the server; <see cref="Take"/> receives the reply.
    /// </summary>
    public void Begin(string request, ReadOnlySpan<int> descriptors)
    {
        _due = Math.Min(_deadline, _clock.Milliseconds + AnswerMilliseconds);
        ReadOnlySpan<byte> line = ByteText.Encode(request + "\n");
        nint sent;
        do sent = Libc.SendDescriptors(_fd, line, descriptors, Libc.MSG_NOSIGNAL);
        while (Retry.Interrupted(sent));
        if (sent >= 0) sent = Send(line[(int)sent..]);
        if (sent < 0) throw Gone((int)sent);
    }

    /// <summary>Sends a request; <see cref="Take"/> receives the reply.</summary>
    public void Begin(string request)
    {
        _due = Math.Min(_deadline, _clock.Milliseconds + AnswerMilliseconds);
        nint sent = Send(ByteText.Encode(request + "\n"));
        if (sent < 0) throw Gone((int)sent);
    }

    /// <summary>
    /// Receives without blocking and passes complete lines to <paramref name="show"/>. True at the end of the reply. Throws the server's
    /// error, or exit code 74 if the connection ends before the reply does.
    /// </summary>
    public bool Take(Action<string, bool> show)
    {
        Receive();
        while (NextLine() is { } line)
        {
            _due = Math.Min(_deadline, _clock.Milliseconds + AnswerMilliseconds);
            switch (line.Length == 0 ? '\0' : line[0])
            {
                case ' ':
                    show(line[1..], false);
                    break;
                case '~':
                    show(line[1..], true);
                    _due = _deadline;
                    break;
                case '.':
                    return true;
                case '!':
                    throw ErrorOf(line);
                default:
                    throw new SnapuserdException(ExitCode.InputOutput,
                    $"unexpected reply from {_path}; check that it is a control socket of snapuserd");
            }
        }
        if (IsClosed) throw Gone(0);
        return false;
    }

    /// <summary>The exception to throw when <see cref="Patience"/> is 0.</summary>
    public SnapuserdException Silent() => new(ExitCode.InputOutput, $"{_path} does not answer");

    public void Dispose() => _ = Libc.Close(_fd);

    private static SnapuserdException ErrorOf(string line)
    {
        int space = line.IndexOf(' ');
        return space > 1 && int.TryParse(line.AsSpan(1, space - 1), out int code) && code is > 0 and < 128
            ? new SnapuserdException((ExitCode)code, line[(space + 1)..])
            : new SnapuserdException(ExitCode.InputOutput, line[1..]);
    }

    private nint Send(ReadOnlySpan<byte> rest)
    {
        while (rest.Length > 0)
        {
            nint sent = Libc.Send(_fd, rest, Libc.MSG_NOSIGNAL);
            if (Retry.Interrupted(sent)) continue;
            if (sent < 0) return sent;
            rest = rest[(int)sent..];
        }
        return 0;
    }

    private void Receive()
    {
        if (_length == _buffer.Length || IsClosed) return;
        nint got = Libc.Recv(_fd, _buffer.AsSpan(_length), Libc.MSG_DONTWAIT);
        if (got is -Errno.EINTR or -Errno.EAGAIN) return;
        // Take handles the complete lines in the buffer before it reports that the connection has ended.
        if (got is 0 or -Errno.EPIPE or -Errno.ECONNRESET) IsClosed = true;
        else if (got < 0) throw Gone((int)got);
        else _length += (int)got;
    }

    private string? NextLine()
    {
        int end = Array.IndexOf(_buffer, (byte)'\n', 0, _length);
        if (end < 0 && _length == _buffer.Length)
            throw new SnapuserdException(ExitCode.InputOutput, $"a reply line from {_path} is longer than {LongestLine} bytes");
        if (end < 0) return null;
        string line = ByteText.Decode(_buffer.AsSpan(0, end));
        _length -= end + 1;
        Array.Copy(_buffer, end + 1, _buffer, 0, _length);
        return line;
    }

    private SnapuserdException Gone(int errno)
    {
        IsClosed |= errno is 0 or -Errno.EPIPE or -Errno.ECONNRESET;
        return new SnapuserdException(ExitCode.InputOutput,
            IsClosed ? $"the server at {_path} has closed the connection" : $"the connection to {_path} failed: {ErrnoText.Of(errno)}");
    }
}
