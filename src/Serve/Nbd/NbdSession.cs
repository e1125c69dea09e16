using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One client of an <see cref="NbdServer"/>: a descriptor and the state of its requests, without a thread or a buffer of its own. A worker
/// runs a turn when epoll reports the socket readable or writable:
/// <code>
///   turn: send pending data -> receive requests while slots are free -> read at most one piece -> send it -> rearm epoll
/// </code>
/// A worker never waits for a client. The socket is non-blocking; data that the socket does not accept stays in <see cref="NbdBuffers"/>,
/// where it may be evicted. Several workers may run turns of one session at the same time, each for a different answer.
/// <para>
/// An idle session is not dropped. Deadlines apply only to the handshake and to the client's progress in reading replies.
/// </para>
/// </summary>
internal sealed class NbdSession
{
    /// <summary>The maximum number of handshake parts that are handled in one turn. A client sends about a dozen.</summary>
    private const int PartsPerTurn = 64;

    /// <summary>
    /// After this many consecutive replies, at the end of each of which another request had already arrived, more than one worker serves
    /// the client.
    /// </summary>
    private const int Busy = 2;

    private readonly NbdServer _server;
    private readonly NbdExport _export;
    private readonly object _gate = new();
    private readonly byte[] _header = new byte[NbdWire.RequestBytes];
    private readonly int _pieceBytes;
    private readonly long _startedAt;
    private NbdNegotiation? _negotiation;
    private NbdAnswer?[] _answers = [];
    private NbdRequest _write;
    private byte[]? _unsent;
    private NbdAnswer? _sending;
    private int _fd;
    private int _headerBytes;
    private uint _skip;
    private int _count;
    private int _cursor;
    private int _inARow;
    private int _inside;
    private uint _armed;
    private long _progressAt;
    private int _queued;
    private bool _structured;
    private bool _owes;
    private bool _blocked;
    private bool _ended;
    private bool _dead;

    /// <summary>Takes ownership of a connected, non-blocking socket. <paramref name="id"/> is its epoll data.</summary>
    public NbdSession(NbdServer server, NbdExport export, int fd, ulong id, int socketBytes)
    {
        (_server, _export, _fd, Id) = (server, export, fd, id);
        _pieceBytes = Math.Min(export.BufferBytes, socketBytes);
        _negotiation = new NbdNegotiation(export);
        _startedAt = server.Now;
        _ = Libc.SetSockOpt(fd, Libc.SOL_SOCKET, Libc.SO_SNDBUF, socketBytes);
    }

    public ulong Id { get; }

    /// <summary>Sends the greeting, and registers the socket with epoll. Returns 0 or a negative errno.</summary>
    public int Start()
    {
        lock (_gate)
        {
            Span<byte> hello = stackalloc byte[32];
            hello = hello[..NbdNegotiation.Greet(hello)];
            // A new socket accepts these few bytes, unless the client has already gone.
            nint greeted = Libc.SendMsg(_fd, hello, default, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
            if (greeted is -Errno.EPERM or -Errno.ENOSYS) return (int)greeted;
            _armed = Libc.EPOLLIN;
            return Libc.EpollCtl(_server.Epoll, Libc.EPOLL_CTL_ADD, _fd, _armed | Libc.EPOLLONESHOT, Id);
        }
    }

    /// <summary>
    /// Runs a turn. <paramref name="events"/> are those of epoll, or 0 after a turn that returned true. If this returns true, another piece
    /// can be read at once, and the caller must run another turn or call <see cref="Yield"/>. Never throws.
    /// </summary>
    public bool Turn(NbdWorker worker, uint events)
    {
        if (!TryEnter()) return false;
        bool more = false;
        try
        {
            NbdAnswer? answer;
            lock (_gate)
            {
                if (events != 0) _armed = 0;
                if ((events & ~Libc.EPOLLIN) != 0) Unblock();
                if (Flush()) _ = Receive(worker);
                answer = TakeWork();
                // Let another worker take the next request. A client with one request at a time is faster with one worker.
                if (answer != null && _inARow >= Busy) Arm();
            }
            if (answer != null) Read(worker, answer);
            lock (_gate)
            {
                if (answer != null && !_dead && !_blocked) _inARow = Receive(worker) ? _inARow + 1 : 0;
                more = !_dead && !_blocked && HasWork();
                Arm();
            }
        }
        catch (Exception e)
        {
            _export.Caught(e);
            lock (_gate) Kill(null);
        }
        Leave();
        return more;
    }

    /// <summary>
    /// Ends a series of turns that has more work. epoll reports the session again when its socket is writable, after the other sessions
    /// that are ready.
    /// </summary>
    public void Yield()
    {
        lock (_gate)
        {
            if (_fd >= 0 && !_dead) Arm(_armed | Libc.EPOLLOUT);
        }
    }

    /// <summary>Stops receiving; requests that have arrived are still answered. May be called from any thread.</summary>
    public void StopReceiving()
    {
        lock (_gate)
        {
            if (_fd >= 0) _ = Libc.Shutdown(_fd, Libc.SHUT_RD);
        }
    }

    /// <summary>Closes the connection at once. May be called from any thread.</summary>
    public void HangUp()
    {
        if (!TryEnter()) return;
        lock (_gate) Kill(null);
        Leave();
    }

    /// <summary>
    /// Drops the client if its deadline has passed; otherwise lowers <paramref name="next"/> to its deadline, if it has one.
    /// </summary>
    public void CheckTime(NbdOptions options, ref long next)
    {
        if (!TryEnter()) return;
        lock (_gate)
        {
            long now = _server.Now;
            if (_dead)
            {
                // The last thread that leaves closes the session.
            }
            else if (_negotiation != null || _unsent != null)
            {
                CheckHandshake(options.HandshakeSeconds, now, ref next);
            }
            else if (_owes)
            {
                CheckAnswers(options.AnswerSeconds, now, ref next);
            }
        }
        Leave();
    }

    /// <summary>Drops the client if its handshake takes too long.</summary>
    private void CheckHandshake(int seconds, long now, ref long next)
    {
        long end = _startedAt + (seconds * 1000L);
        if (now >= end) Kill($"it did not finish the handshake within {seconds} seconds");
        else next = Math.Min(next, end);
    }

    /// <summary>Drops the client if it has read nothing of its replies for too long.</summary>
    private void CheckAnswers(int seconds, long now, ref long next)
    {
        long end = _progressAt + (seconds * 1000L);
        if (now < end)
        {
            next = Math.Min(next, end);
            return;
        }
        int queued = Queued();
        if (queued == 0 && !_blocked)
        {
            _owes = false;
        }
        else if (queued == 0 || queued < _queued)
        {
            // The client reads, but not yet enough to make the socket writable: the kernel frees socket memory by whole messages of about
            // 40 KiB.
            (_queued, _progressAt) = (queued, now);
            next = Math.Min(next, now + (seconds * 1000L));
        }
        else
        {
            Kill($"it read nothing of its replies for {seconds} seconds");
        }
    }

    private bool TryEnter()
    {
        lock (_gate)
        {
            if (_fd < 0) return false;
            _inside++;
            return true;
        }
    }

    /// <summary>Called after <see cref="TryEnter"/>. The last thread that leaves a session that has ended closes the socket.</summary>
    private void Leave()
    {
        lock (_gate)
        {
            if (--_inside > 0 || !(_dead || (_ended && _count == 0 && _unsent == null))) return;
            _ = Libc.EpollCtl(_server.Epoll, Libc.EPOLL_CTL_DEL, _fd, 0, 0);
            // If a sandbox forbids close, the client still sees the end.
            if (!_dead) _ = Libc.Shutdown(_fd, Libc.SHUT_RDWR);
            _ = Libc.Close(_fd);
            _fd = -1;
            ReleaseParked();
        }
        _server.Remove(this);
    }

    /// <summary>
    /// Ends the session. <paramref name="why"/> is the reason for dropping the client, or null if there is nothing to report.
    /// </summary>
    private void Kill(string? why)
    {
        if (_dead) return;
        _dead = true;
        if (why != null) _export.Report($"NBD: a client was dropped: {why}");
        _ = Libc.Shutdown(_fd, Libc.SHUT_RDWR);
        ReleaseParked();
    }

    /// <summary>
    /// Ends the session after a failed call on the socket: the client has gone, or a sandbox forbids the call, which fails the server.
    /// </summary>
    private void Gone(nint errno)
    {
        Kill(null);
        _export.FailIfForbidden(errno);
    }

    private void ReleaseParked()
    {
        foreach (NbdAnswer? answer in _answers)
        {
            if (answer == null || _server.Buffers.Reclaim(answer) is not { } buffer) continue;
            _server.Buffers.Give(buffer);
        }
    }

    /// <summary>Called when the socket is writable again, or when the client has gone; then the next send fails.</summary>
    private void Unblock()
    {
        if (!_blocked) return;
        _blocked = false;
        _progressAt = _server.Now;
    }

    /// <summary>Arms epoll for the event that the session waits for.</summary>
    private void Arm()
    {
        if (_dead || _fd < 0) return;
        if (_blocked) Arm(Libc.EPOLLOUT);
        else if (!_ended && (_negotiation != null || _count < _export.MostAnswers)) Arm(Libc.EPOLLIN);
    }

    private void Arm(uint events)
    {
        if ((events & ~_armed) == 0) return;
        _armed |= events;
        _ = Libc.EpollCtl(_server.Epoll, Libc.EPOLL_CTL_MOD, _fd, _armed | Libc.EPOLLONESHOT, Id);
    }

    /// <summary>Sends all pending data. False if the socket is full or the session has ended.</summary>
    private bool Flush()
    {
        if (_dead || _blocked) return false;
        if (_unsent is { } rest)
        {
            _unsent = null;
            if (!SendReply(rest)) return false;
        }
        // A reply that was sent in part comes first, and blocks the others while its next piece is being read.
        if (_sending != null)
        {
            if (_sending.State == NbdAnswerState.Ready) SendParked(_sending);
            if (_sending != null) return !_dead && !_blocked;
        }
        foreach (NbdAnswer? answer in _answers)
        {
            if (_dead || _blocked || _sending != null) break;
            if (answer is { State: NbdAnswerState.Ready }) SendParked(answer);
        }
        return !_dead && !_blocked;
    }

    private void SendParked(NbdAnswer answer)
    {
        if (answer.Piece == 0)
        {
            Send(answer, null);
            return;
        }
        if (_server.Buffers.Reclaim(answer) is { } buffer) Send(answer, buffer);
        else answer.State = NbdAnswerState.NeedsData;
    }

    /// <summary>Sends as much of a piece as the socket accepts. Parks or returns the buffer.</summary>
    private void Send(NbdAnswer answer, NbdBuffer? buffer)
    {
        int from = answer.From;
        ReadOnlySpan<byte> body = buffer == null ? default : _server.Data(buffer, from, answer.Piece - from);
        Owe();
        nint sent;
        do sent = Libc.SendMsg(_fd, answer.Head, body, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
        while (Retry.Interrupted(sent));
        _queued = Queued();
        if (sent < 0 && sent != -Errno.EAGAIN)
        {
            if (buffer != null) _server.Buffers.Give(buffer);
            Gone(sent);
            return;
        }
        if (sent > 0) answer.Sent((int)sent);
        if (!answer.IsSent)
        {
            _blocked = true;
            if (answer.IsBegun) _sending = answer;
            if (buffer != null) _server.Buffers.Park(answer, buffer);
            return;
        }
        if (buffer != null) _server.Buffers.Give(buffer);
        if (answer.IsLast)
        {
            answer.State = NbdAnswerState.Free;
            _count--;
            _sending = null;
        }
        else
        {
            answer.Next();
            // Other replies may be sent between the chunks of a structured reply, but not between the pieces of a simple one.
            _sending = _structured ? null : answer;
        }
    }

    /// <summary>Called before every send: starts the deadline, or restarts it if the client has read since the last send.</summary>
    private void Owe()
    {
        if (!_owes)
        {
            _owes = true;
            _progressAt = _server.Now;
            _server.Watch();
            return;
        }
        int queued = Queued();
        if (queued == 0 || queued < _queued) _progressAt = _server.Now;
    }

    /// <summary>The socket memory, in bytes, of sent data that the client has not read.</summary>
    private int Queued()
    {
        int queued = 0;
        return Libc.Ioctl(_fd, Libc.TIOCOUTQ, ref queued) < 0 ? 0 : queued;
    }

    /// <summary>
    /// Receives parts of a handshake, or requests (at most as many as there are free slots) and payloads of writes. True if a request has
    /// begun.
    /// </summary>
    private bool Receive(NbdWorker worker)
    {
        for (int i = 0; _negotiation != null; i++)
        {
            if (_ended || i == PartsPerTurn || !Negotiate(worker)) return false;
        }
        int free = _export.MostAnswers - _count;
        if (_ended || free == 0) return false;
        // Limit the bytes so that they contain at most as many requests as there are free slots.
        int most = worker.Scratch.Length;
        int wanted = _skip > 0 ? (int)Math.Min(_skip, (uint)most) : Math.Min(free * _header.Length, most) - _headerBytes;
        ReadOnlySpan<byte> bytes = worker.Scratch.AsSpan(0, ReceiveInto(worker.Scratch.AsSpan(0, wanted)));
        bool begun = false;
        while (!bytes.IsEmpty && !_ended && !_dead)
        {
            if (_skip > 0)
            {
                // Discard the payload of a write, which is refused afterwards.
                int skipped = (int)Math.Min(_skip, (uint)bytes.Length);
                bytes = bytes[skipped..];
                _skip -= (uint)skipped;
                if (_skip > 0) break;
                Begin(_write);
                begun = true;
                continue;
            }
            int part = Math.Min(_header.Length - _headerBytes, bytes.Length);
            bytes[..part].CopyTo(_header.AsSpan(_headerBytes));
            bytes = bytes[part..];
            _headerBytes += part;
            if (_headerBytes < _header.Length) break;
            _headerBytes = 0;
            begun |= TakeRequest();
        }
        return begun;
    }

    /// <summary>Handles a complete request header. True if the request has begun.</summary>
    private bool TakeRequest()
    {
        if (NbdRequest.Parse(_header, out NbdRequest request) is { } why)
        {
            Kill(why);
            return false;
        }
        switch (request.Type)
        {
            case NbdWire.NBD_CMD_DISC:
                _ended = true;
                return false;
            case NbdWire.NBD_CMD_WRITE when request.Length > 0:
                (_write, _skip) = (request, request.Length);
                return false;
            default:
                Begin(request);
                return true;
        }
    }

    /// <summary>
    /// Receives and handles one part of the handshake, or some bytes of it. False if the caller must not receive more now.
    /// </summary>
    private bool Negotiate(NbdWorker worker)
    {
        int got = ReceiveInto(worker.Scratch.AsSpan(0, Math.Min(_negotiation!.Wanted, worker.Scratch.Length)));
        if (got == 0) return false;
        NegotiationStep step = _negotiation.Feed(worker.Scratch.AsSpan(0, got), worker.Reply, out int replyBytes);
        if (step == NegotiationStep.Drop)
        {
            Kill(_negotiation.Why);
            return false;
        }
        if (step == NegotiationStep.Leave) _ended = true;
        if (step == NegotiationStep.Done)
        {
            _structured = _negotiation.Structured;
            _negotiation = null;
        }
        return SendReply(worker.Reply.AsSpan(0, replyBytes)) && !_ended;
    }

    /// <summary>Sends a reply of the handshake; stores a copy of the bytes that the socket does not accept.</summary>
    private bool SendReply(ReadOnlySpan<byte> reply)
    {
        if (reply.IsEmpty) return true;
        nint sent;
        do sent = Libc.SendMsg(_fd, reply, default, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
        while (Retry.Interrupted(sent));
        if (sent < 0 && sent != -Errno.EAGAIN)
        {
            Gone(sent);
            return false;
        }
        reply = reply[(int)Math.Max(sent, 0)..];
        if (reply.IsEmpty) return true;
        _unsent = reply.ToArray();
        _blocked = true;
        return false;
    }

    /// <summary>
    /// Receives without waiting. Returns the number of bytes, or 0 if nothing has arrived, at the end of the stream, or after an error; the
    /// last two end the session.
    /// </summary>
    private int ReceiveInto(Span<byte> target)
    {
        nint got;
        do got = Libc.Recv(_fd, target, Libc.MSG_DONTWAIT);
        while (Retry.Interrupted(got));
        if (got > 0) return (int)got;
        // The client may have shut down only its sending direction, so answer the requests that have arrived.
        if (got == 0) _ended = true;
        else if (got != -Errno.EAGAIN) Gone(got);
        return 0;
    }

    private void Begin(in NbdRequest request)
    {
        _export.Count();
        if (_answers.Length == 0) _answers = new NbdAnswer?[_export.MostAnswers];
        int place = 0;
        while (_answers[place] is { State: not NbdAnswerState.Free }) place++;
        NbdAnswer answer = _answers[place] ??= new NbdAnswer();
        answer.Begin(_export, request, _structured);
        _count++;
        if (answer.State == NbdAnswerState.Ready) _ = Flush();
    }

    private bool HasWork()
    {
        foreach (NbdAnswer? answer in _answers)
        {
            if (answer is { State: NbdAnswerState.NeedsData }) return true;
        }
        return false;
    }

    /// <summary>
    /// Picks the reply whose next piece is read now: the one that was sent in part, or the next in turn. Null if there is none, or while
    /// the socket is full.
    /// </summary>
    private NbdAnswer? TakeWork()
    {
        if (_dead || _blocked) return null;
        NbdAnswer? found = _sending is { State: NbdAnswerState.NeedsData } ? _sending : null;
        for (int i = 0; found == null && i < _answers.Length; i++)
        {
            _cursor = (_cursor + 1) % _answers.Length;
            if (_answers[_cursor] is { State: NbdAnswerState.NeedsData } next) found = next;
        }
        if (found != null) found.State = NbdAnswerState.Reading;
        return found;
    }

    /// <summary>Reads a piece without the lock, and then sends it, unless another reply was sent only in part.</summary>
    private void Read(NbdWorker worker, NbdAnswer answer)
    {
        NbdBuffer buffer = _server.Buffers.Take();
        bool kept = false;
        try
        {
            string? why = answer.Read(_export, worker.Reader, buffer.Slice, _structured, _pieceBytes);
            lock (_gate)
            {
                answer.State = NbdAnswerState.Ready;
                if (why != null) Kill(why);
                if (_dead) return;
                if (answer.Piece == 0)
                {
                    _ = Flush();
                    return;
                }
                kept = true;
                if (!_blocked && (_sending == null || _sending == answer)) Send(answer, buffer);
                else _server.Buffers.Park(answer, buffer);
                _ = Flush();
            }
        }
        finally
        {
            if (!kept) _server.Buffers.Give(buffer);
        }
    }
}
