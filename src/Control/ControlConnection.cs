using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// The client's end of a control socket. The first character of each received line gives its kind: a space for a line of the result, '~'
/// for a line that the next one replaces, '.' for the end, '!' for the end with an exit code, a space and a sentence.
/// </summary>
public sealed class ControlConnection : IDisposable
{
    /// <summary>Milliseconds that a server has to answer: it answers from a thread that never blocks.</summary>
    private const int AnswerMilliseconds = 10_000;

    /// <summary>Milliseconds between two attempts to connect.</summary>
    private const int TryMilliseconds = 20;

    /// <summary>The longest line in bytes, paths and sentences included.</summary>
    private const int LongestLine = 64 << 10;

    private readonly string _path;
    private readonly int _fd;
    private readonly byte[] _buffer = new byte[LongestLine];
    private readonly MonotonicClock _clock = new();
    private readonly long _deadline;
    private long _due = long.MaxValue;
    private int _length;

    /// <summary>
    /// Connects. Exit code 66 when nothing listens at <paramref name="path"/>, 74 when the server does not accept, 77 without permission.
    /// With a <paramref name="limit"/>, in milliseconds, every call on this connection ends by then, whatever the server does.
    /// </summary>
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
        // A full backlog is no error, and no event tells when it shrinks.
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
            -Errno.EACCES or -Errno.EPERM => $"{path} is not for this user: {ErrnoText.Of(result)}",
            -Errno.ENAMETOOLONG => $"{path} is too long for a socket, which takes {UnixAddress.LongestPath} bytes",
            _ => $"{path}: {ErrnoText.Of(result)}",
        });
    }

    /// <summary>The socket; it is readable when <see cref="Take"/> has something to do.</summary>
    public int Fd => _fd;

    /// <summary>The path at which the server listens.</summary>
    public string SocketPath => _path;

    /// <summary>The server has closed the connection, or was killed.</summary>
    public bool IsClosed { get; private set; }

    /// <summary>
    /// Milliseconds that the server has left to send something; −1 after a line of kind '~', when the next line comes at the next change.
    /// </summary>
    public int Patience => _due == long.MaxValue ? -1 : (int)Math.Clamp(_due - _clock.Milliseconds, 0, AnswerMilliseconds);

    /// <summary>
    /// Sends a request and passes every line of the reply to <paramref name="show"/>, with true if the next line replaces it. Throws the
    /// server's error.
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
            // Also if the server never stops sending.
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

    /// <summary>Handles the received part of the reply without waiting. True when the reply has ended. Throws the server's error.</summary>
    public bool Take(Action<string, bool> show)
    {
        Receive();
        while (NextLine() is { } line)
        {
            _due = Math.Min(_deadline, _clock.Milliseconds + AnswerMilliseconds);
            switch (line.Length == 0 ? '\0' : line[0])
            {
                case ' ': show(line[1..], false); break;
                case '~':
                    show(line[1..], true);
                    _due = _deadline;
                    break;
                case '.': return true;
                case '!': throw ErrorOf(line);
                default: throw new SnapuserdException(ExitCode.InputOutput, $"{_path} answers in another language than that of snapuserd");
            }
        }
        if (IsClosed) throw Gone(0);
        return false;
    }

    /// <summary>The exception to throw when <see cref="Patience"/> has run out.</summary>
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
        // Data that arrived before the end is still read.
        if (got is 0 or -Errno.EPIPE or -Errno.ECONNRESET) IsClosed = true;
        else if (got < 0) throw Gone((int)got);
        else _length += (int)got;
    }

    private string? NextLine()
    {
        int end = Array.IndexOf(_buffer, (byte)'\n', 0, _length);
        if (end < 0 && _length == _buffer.Length)
            throw new SnapuserdException(ExitCode.InputOutput, $"{_path} sends a line without an end");
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
            IsClosed ? $"the server at {_path} has closed the connection" : $"{_path}: {ErrnoText.Of(errno)}");
    }
}
