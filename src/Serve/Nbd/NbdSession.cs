using System;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One client of an <see cref="NbdServer"/> from its first byte to its last: a descriptor and what is known of its requests, and neither a thread nor a buffer. Workers take turns
/// at it when epoll says that it has sent something or takes something:
/// <code>
///   turn: send what waits -> receive what there are places for -> read at most one piece -> send it -> let epoll choose whose turn is next
/// </code>
/// No worker waits for a client. The socket does not block; what the client does not take waits in <see cref="NbdBuffers"/> and may be evicted from there. Several workers may have
/// a turn at one session, each with another of its answers.
/// <para>
/// A session that owes nothing is kept for ever. It is dropped when the handshake is not done, or when the client takes nothing of what it asked for, within the time that the
/// options give.
/// </para>
/// </summary>
internal sealed class NbdSession
{
    /// <summary>Parts of a handshake in one turn. A client needs a dozen.</summary>
    private const int PartsPerTurn = 64;

    /// <summary>Requests in a row that were there when the one before them was answered, after which more than one worker serves the client.</summary>
    private const int Busy = 2;

    /// <summary>Data of a write, which are thrown away before it is refused, up to here: no client sends more than the longest request.</summary>
    private const uint MostSkipped = 2 * NbdExport.LongestRequest;

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

    /// <summary>Takes over the descriptor of a connected socket that does not block. <paramref name="id"/> is what epoll is to say for it.</summary>
    public NbdSession(NbdServer server, NbdExport export, int fd, ulong id, int socketBytes)
    {
        (_server, _export, _fd, Id) = (server, export, fd, id);
        _pieceBytes = Math.Min(export.BufferBytes, socketBytes);
        _negotiation = new NbdNegotiation(export);
        _startedAt = server.Now;
        _ = Libc.SetSockOpt(fd, Libc.SOL_SOCKET, Libc.SO_SNDBUF, socketBytes);
    }

    public ulong Id { get; }

    /// <summary>Greets the client and begins to listen to it. Returns 0 or a negative errno.</summary>
    public int Start()
    {
        lock (_gate)
        {
            Span<byte> hello = stackalloc byte[32];
            hello = hello[..NbdNegotiation.Greet(hello)];
            // A fresh socket takes these few bytes; one that does not is a client that has gone.
            _ = Libc.SendMsg(_fd, hello, default, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
            _armed = Libc.EPOLLIN;
            return Libc.EpollCtl(_server.Epoll, Libc.EPOLL_CTL_ADD, _fd, _armed | Libc.EPOLLONESHOT, Id);
        }
    }

    /// <summary>
    /// A turn, after epoll has said <paramref name="events"/>, or 0 after a turn that returned true: there is more to read at once, so either another turn or
    /// <see cref="Yield"/> follows. Never throws.
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
                // Another worker may go on with the next request meanwhile. A client that asks for one thing at a time is served quickest by one worker.
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

    /// <summary>Lets epoll choose whose turn is next: this session is in line again as soon as its socket takes something.</summary>
    public void Yield()
    {
        lock (_gate)
        {
            if (_fd >= 0 && !_dead) Arm(_armed | Libc.EPOLLOUT);
        }
    }

    /// <summary>No more requests; those that came are answered. From any thread.</summary>
    public void StopReceiving()
    {
        lock (_gate)
        {
            if (_fd >= 0) _ = Libc.Shutdown(_fd, Libc.SHUT_RD);
        }
    }

    /// <summary>Ends it now. From any thread.</summary>
    public void HangUp()
    {
        if (!TryEnter()) return;
        lock (_gate) Kill(null);
        Leave();
    }

    /// <summary>Drops the client if its time is over; otherwise lowers <paramref name="next"/> to the moment at which that is to be asked again, if there is one.</summary>
    public void CheckTime(NbdOptions options, ref long next)
    {
        if (!TryEnter()) return;
        lock (_gate)
        {
            long now = _server.Now;
            if (_dead)
            {
                // A worker is about to close it.
            }
            else if (_negotiation != null || _unsent != null)
            {
                long end = _startedAt + (options.HandshakeSeconds * 1000L);
                if (now >= end) Kill($"it did not end the handshake within {options.HandshakeSeconds} seconds");
                else next = Math.Min(next, end);
            }
            else if (_owes)
            {
                long wait = options.AnswerSeconds * 1000L;
                if (now >= _progressAt + wait)
                {
                    int queued = Queued();
                    if (queued == 0 && !_blocked)
                    {
                        _owes = false;
                    }
                    else if (queued == 0 || queued < _queued)
                    {
                        // It takes something, though not enough yet for more to be sent. The kernel frees memory by the message, some 40 KiB.
                        (_queued, _progressAt) = (queued, now);
                    }
                    else
                    {
                        Kill($"it took nothing of what it asked for in {options.AnswerSeconds} seconds");
                    }
                }
                if (!_dead && _owes) next = Math.Min(next, _progressAt + wait);
            }
        }
        Leave();
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

    /// <summary>The last one out of a session that is over closes it.</summary>
    private void Leave()
    {
        lock (_gate)
        {
            if (--_inside > 0 || !(_dead || (_ended && _count == 0 && _unsent == null))) return;
            _ = Libc.EpollCtl(_server.Epoll, Libc.EPOLL_CTL_DEL, _fd, 0, 0);
            _ = Libc.Close(_fd);
            _fd = -1;
            ReleaseParked();
        }
        _server.Remove(this);
    }

    /// <summary>It is over; <paramref name="why"/> the client is dropped, null if it has left.</summary>
    private void Kill(string? why)
    {
        if (_dead) return;
        _dead = true;
        if (why != null) _export.Report($"NBD: a client was dropped: {why}");
        _ = Libc.Shutdown(_fd, Libc.SHUT_RDWR);
        ReleaseParked();
    }

    private void ReleaseParked()
    {
        foreach (NbdAnswer? answer in _answers)
        {
            if (answer == null || _server.Buffers.Reclaim(answer) is not { } buffer) continue;
            _server.Buffers.Give(buffer);
        }
    }

    /// <summary>The client has taken something, or has gone, which sending will show.</summary>
    private void Unblock()
    {
        if (!_blocked) return;
        _blocked = false;
        _progressAt = _server.Now;
    }

    /// <summary>Asks epoll for what the session waits for.</summary>
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

    /// <summary>Sends what waits. False if the client does not take all of it.</summary>
    private bool Flush()
    {
        if (_dead || _blocked) return false;
        if (_unsent is { } rest)
        {
            _unsent = null;
            if (!SendReply(rest)) return false;
        }
        // What has begun comes first; there may be nothing to send of it yet.
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

    /// <summary>Sends as much of a piece as the client takes. Consumes the buffer.</summary>
    private void Send(NbdAnswer answer, NbdBuffer? buffer)
    {
        int from = answer.From;
        ReadOnlySpan<byte> body = buffer == null ? default : _server.Data(buffer, from, answer.Piece - from);
        Owe();
        nint sent;
        do sent = Libc.SendMsg(_fd, answer.Head, body, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
        while (sent == -Errno.EINTR);
        _queued = Queued();
        if (sent < 0 && sent != -Errno.EAGAIN)
        {
            // It has gone. Half an answer may have gone out; nothing that follows would be understood.
            if (buffer != null) _server.Buffers.Give(buffer);
            Kill(null);
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
            // Pieces of a simple reply belong together; between chunks there may be others.
            _sending = _structured ? null : answer;
        }
    }

    /// <summary>There will be something for the client to take, from now on if it has taken all so far.</summary>
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

    /// <summary>Bytes of memory that hold what the client has not taken.</summary>
    private int Queued()
    {
        int queued = 0;
        return Libc.Ioctl(_fd, Libc.TIOCOUTQ, ref queued) < 0 ? 0 : queued;
    }

    /// <summary>
    /// Takes what the client sent: some parts of a handshake, or as many requests as there are places for, or some of the data of a write. True if there was a request.
    /// </summary>
    private bool Receive(NbdWorker worker)
    {
        for (int i = 0; _negotiation != null; i++)
        {
            if (_ended || i == PartsPerTurn || !Negotiate(worker)) return false;
        }
        int free = _export.MostAnswers - _count;
        if (_ended || free == 0) return false;
        // So many bytes hold no more requests than that, whatever they are.
        int wanted = _skip > 0 ? (int)Math.Min(_skip, (uint)worker.Scratch.Length) : Math.Min(free * _header.Length, worker.Scratch.Length) - _headerBytes;
        ReadOnlySpan<byte> bytes = worker.Scratch.AsSpan(0, ReceiveInto(worker.Scratch.AsSpan(0, wanted)));
        bool begun = false;
        while (!bytes.IsEmpty && !_ended && !_dead)
        {
            if (_skip > 0)
            {
                // The data of a write that is going to be refused.
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

    /// <summary>A header is complete. True if its request has begun.</summary>
    private bool TakeRequest()
    {
        if (!NbdRequest.TryParse(_header, out NbdRequest request))
        {
            Kill("a request without its magic came");
            return false;
        }
        switch (request.Type)
        {
            case NbdWire.NBD_CMD_DISC:
                _ended = true;
                return false;
            case NbdWire.NBD_CMD_WRITE when request.Length > MostSkipped:
                Kill($"it wants to write {request.Length} bytes at once, to an export that is read-only");
                return false;
            case NbdWire.NBD_CMD_WRITE when request.Length > 0:
                (_write, _skip) = (request, request.Length);
                return false;
            default:
                Begin(request);
                return true;
        }
    }

    /// <summary>Takes one part of the handshake, or some of its bytes. False if there is nothing to take now.</summary>
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

    /// <summary>Sends a reply of the handshake; what the client does not take waits in memory of its own.</summary>
    private bool SendReply(ReadOnlySpan<byte> reply)
    {
        if (reply.IsEmpty) return true;
        nint sent;
        do sent = Libc.SendMsg(_fd, reply, default, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
        while (sent == -Errno.EINTR);
        if (sent < 0 && sent != -Errno.EAGAIN)
        {
            Kill(null);
            return false;
        }
        reply = reply[(int)Math.Max(sent, 0)..];
        if (reply.IsEmpty) return true;
        _unsent = reply.ToArray();
        _blocked = true;
        return false;
    }

    /// <summary>Receives what is there. 0 if nothing is, and when the client has ended or has gone.</summary>
    private int ReceiveInto(Span<byte> target)
    {
        nint got;
        do got = Libc.Recv(_fd, target, Libc.MSG_DONTWAIT);
        while (got == -Errno.EINTR);
        if (got > 0) return (int)got;
        // It may have closed its sending half only: what it has asked for is still answered.
        if (got == 0) _ended = true;
        else if (got != -Errno.EAGAIN) Kill(null);
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

    /// <summary>An answer that is to be read now: the one that others wait for, or the next in turn. Null while the client does not take what there is.</summary>
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

    /// <summary>Reads a piece, without the lock, and sends it if nothing else is being sent.</summary>
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
