using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// One connection of a <see cref="ControlServer"/>. Only the server's thread touches the input. The output is guarded by the gate, because
/// any thread may reply. One request is handled at a time: the next one only after the whole reply to the last was sent.
/// </summary>
internal sealed class ControlClient(int fd, ControlOptions options, Action ring)
{
    /// <summary>
    /// Bytes of the longest message or line, and one more: it detects a longer message, and a line ends with a line feed.
    /// </summary>
    private const int InputBytes = ControlServer.LongestRequest + 1;

    private enum Language
    {
        Unknown,
        Messages,
        Lines,
    }

    private readonly object _gate = new();
    private readonly byte[] _input = new byte[InputBytes];
    private readonly int[] _descriptors = new int[Libc.MostDescriptors];
    private int _received;
    private int _descriptorCount;
    private Language _language;
    private bool _peerEnded;
    private byte[] _output = [];
    private int _waiting;
    private ControlReply? _reply;
    private bool _closing;
    private bool _dropped;

    /// <summary>The socket.</summary>
    public int Fd { get; } = fd;

    /// <summary>Nothing is left to do; the server closes the connection.</summary>
    public bool IsOver
    {
        get
        {
            lock (_gate) return _dropped || (_waiting == 0 && _reply == null && (_closing || _peerEnded));
        }
    }

    /// <summary>
    /// The events for the server's poll: input if a request may come, output while a reply waits to be sent; 0 while another thread
    /// prepares the reply.
    /// </summary>
    public short Events
    {
        get
        {
            lock (_gate)
            {
                if (_waiting > 0) return Libc.POLLOUT;
                return _reply != null || _closing || _peerEnded ? (short)0 : Libc.POLLIN;
            }
        }
    }

    /// <summary>The client hung up while its request was handled; the server no longer polls its socket.</summary>
    public bool HungUp { get; private set; }

    /// <summary>
    /// The client has sent nothing yet, or only part of a greeting. Receives first, so that the result is current. For the server's thread.
    /// </summary>
    public bool IsSilent
    {
        get
        {
            if (_language == Language.Unknown && !_peerEnded) Receive();
            return _language == Language.Unknown;
        }
    }

    /// <summary>True while the client still waits for this reply.</summary>
    public bool Wants(ControlReply reply)
    {
        lock (_gate) return !_dropped && !HungUp && _reply == reply;
    }

    /// <summary>
    /// Returns the received descriptors that no request has taken; the caller owns them from here on. For the server's thread, while it
    /// handles a request.
    /// </summary>
    public int[] TakeDescriptors()
    {
        int[] taken = _descriptors[.._descriptorCount];
        _descriptorCount = 0;
        return taken;
    }

    /// <summary>The peer is root or the server's own user, whichever other users the socket admits.</summary>
    public bool IsOwner => Libc.GetSockOpt(Fd, Libc.SOL_SOCKET, Libc.SO_PEERCRED, out PeerCredentials peer) >= 0
        && (peer.Uid == 0 || peer.Uid == Libc.GetEUid());

    /// <summary>Adds a part of a reply. From any thread.</summary>
    public bool Append(ControlReply reply, string? part, bool last, bool close)
    {
        bool taken;
        lock (_gate)
        {
            if (_dropped || _reply != reply) return false;
            taken = !HungUp;
            if (part != null && taken) taken = TryStore(part);
            if (last)
            {
                _reply = null;
                _closing |= close;
            }
        }
        ring();
        return taken;
    }

    /// <summary>Handles the events that poll returned for the socket.</summary>
    public void React(short events)
    {
        if ((events & (Libc.POLLIN | Libc.POLLHUP | Libc.POLLERR)) == 0) return;
        if (!IsBusy) Receive();
        else if ((events & (Libc.POLLHUP | Libc.POLLERR)) != 0) HangUp();
    }

    /// <summary>
    /// Makes progress without blocking: sends the waiting output and handles received requests. True if it must be called again without
    /// waiting for poll.
    /// </summary>
    public bool Advance()
    {
        // The socket is no longer polled, but requests that the client sent before it hung up are still handled.
        if (HungUp && !IsBusy && !_peerEnded) Receive();
        while (Flush() && _language == Language.Lines && TakeLine() is { } line) Ask(options.Lines, line);
        return HungUp && !IsBusy && !_peerEnded;
    }

    /// <summary>Closes the connection; later replies are discarded.</summary>
    public void Close()
    {
        lock (_gate) _dropped = true;
        // If a sandbox forbids close, the client still sees the end.
        _ = Libc.Shutdown(Fd, Libc.SHUT_RDWR);
        _ = Libc.Close(Fd);
        ForgetDescriptors();
    }

    private void ForgetDescriptors()
    {
        foreach (int one in TakeDescriptors()) _ = Libc.Close(one);
    }

    /// <summary>A reply is being prepared or sent.</summary>
    private bool IsBusy
    {
        get
        {
            lock (_gate) return _reply != null || _waiting > 0;
        }
    }

    /// <summary>
    /// Records that the client will read no more replies. Requests that it sent before are still handled: a client may send "detach" and
    /// leave.
    /// </summary>
    private void HangUp()
    {
        lock (_gate)
        {
            HungUp = true;
            _waiting = 0;
        }
    }

    private bool TryStore(string part)
    {
        bool line = _language == Language.Lines;
        int bytes = ByteText.GetByteCount(part) + (line ? 1 : 0);
        if (_waiting + bytes > ControlServer.MostWaiting)
        {
            _dropped = true;
            return false;
        }
        // The buffer grows only on demand: most clients get small replies.
        if (_output.Length < _waiting + bytes) Array.Resize(ref _output, Math.Max(_waiting + bytes, _output.Length * 2));
        int end = _waiting + ByteText.Encode(part, _output.AsSpan(_waiting));
        if (line) _output[end] = (byte)'\n';
        _waiting += bytes;
        return true;
    }

    /// <summary>Sends as much output as the socket accepts. True if nothing is left to send and no reply is outstanding.</summary>
    private bool Flush()
    {
        lock (_gate)
        {
            int sent = 0;
            while (sent < _waiting)
            {
                nint done = Libc.Send(Fd, _output.AsSpan(sent, _waiting - sent), Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                if (Retry.Interrupted(done)) continue;
                if (done == -Errno.EAGAIN) break;
                if (done < 0)
                {
                    (HungUp, sent) = (true, _waiting);
                    break;
                }
                sent += (int)done;
            }
            if (sent > 0 && sent < _waiting) _output.AsSpan(sent, _waiting - sent).CopyTo(_output);
            _waiting -= sent;
            return _waiting == 0 && _reply == null && !_closing && !_dropped;
        }
    }

    private void Receive()
    {
        Span<int> fds = stackalloc int[Libc.MostDescriptors];
        nint got = Libc.ReceiveDescriptors(Fd, _input.AsSpan(_received), fds, out int count, Libc.MSG_DONTWAIT);
        if (count > 0)
        {
            // Only the descriptors of the last message count.
            ForgetDescriptors();
            fds[..count].CopyTo(_descriptors);
            _descriptorCount = count;
        }
        if (got is -Errno.EAGAIN or -Errno.EINTR && !HungUp) return;
        if (got <= 0)
        {
            // A half-closed connection is treated as ended: outstanding replies are sent, and no new requests are read. A partial line is
            // ignored.
            _peerEnded = true;
            return;
        }
        _received += (int)got;
        if (_language == Language.Unknown && !Recognise()) return;
        if (_language == Language.Messages)
        {
            int length = _received;
            _received = 0;
            // Acting on a prefix of a longer message could mean acting on another path.
            if (length > ControlServer.LongestRequest) Refuse("fail");
            else Ask(options.Messages, ByteText.Decode(_input.AsSpan(0, length)));
        }
        // Advance, which runs next, handles lines.
    }

    /// <summary>
    /// Chooses lines if the connection begins with the greeting, in however many parts it arrives, and messages otherwise. False while both
    /// are possible.
    /// </summary>
    private bool Recognise()
    {
        ReadOnlySpan<byte> greeting = ControlServer.Greeting, received = _input.AsSpan(0, _received);
        if (received.Length < greeting.Length && greeting.StartsWith(received)) return false;
        if (received.StartsWith(greeting))
        {
            _language = Language.Lines;
            Forget(greeting.Length);
        }
        else
        {
            _language = Language.Messages;
        }
        return true;
    }

    private string? TakeLine()
    {
        int length = _input.AsSpan(0, _received).IndexOf((byte)'\n');
        if (length < 0)
        {
            if (_received == InputBytes) Refuse("!64 a request line has at most 512 bytes");
            return null;
        }
        string line = ByteText.Decode(_input.AsSpan(0, length));
        Forget(length + 1);
        return line;
    }

    private void Forget(int bytes)
    {
        _input.AsSpan(bytes, _received - bytes).CopyTo(_input);
        _received -= bytes;
    }

    private void Refuse(string why)
    {
        lock (_gate)
        {
            _ = TryStore(why);
            _closing = true;
        }
    }

    private void Ask(IControlRequests? requests, string text)
    {
        ControlReply reply = new(this);
        lock (_gate) _reply = reply;
        if (requests == null)
        {
            reply.End(_language == Language.Lines ? "!69 this server does not know ctl" : "fail", close: true);
            return;
        }
        try
        {
            requests.Request(text, reply);
        }
        catch (Exception e)
        {
            // An internal error, or no memory; other requests are not affected.
            options.Report?.Invoke($"a control request failed: {e.Message}");
            reply.End(_language == Language.Lines ? "!70 the request failed" : "fail", close: true);
        }
    }
}
