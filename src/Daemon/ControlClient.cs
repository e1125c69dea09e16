using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Daemon;

/// <summary>
/// One connection of a <see cref="ControlServer"/>. What comes in is the server thread's alone; what goes out is under the gate, because answers come from any thread. There is one
/// request at a time: the next is looked at when the answer to the last one has ended and left.
/// </summary>
internal sealed class ControlClient(int fd, ControlOptions options, Action ring)
{
    /// <summary>Bytes of a message or line, and one more: a longer message is recognised by it, and a line has a line feed.</summary>
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

    /// <summary>Nothing more is to be done; the server closes it.</summary>
    public bool IsOver
    {
        get
        {
            lock (_gate) return _dropped || (_waiting == 0 && _reply == null && (_closing || _peerEnded));
        }
    }

    /// <summary>What the server's poll is to wait for: a request if one may come, room for what waits; 0 if it is another thread's turn.</summary>
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

    /// <summary>The client has hung up while its request is under way; nothing about its socket is news any more.</summary>
    public bool HungUp { get; private set; }

    /// <summary>It has not said a word yet, nor the whole of a greeting; looks whether there is one by now. For the server's thread.</summary>
    public bool IsSilent
    {
        get
        {
            if (_language == Language.Unknown && !_peerEnded) Receive();
            return _language == Language.Unknown;
        }
    }

    /// <summary>Whether somebody still wants what this reply yields.</summary>
    public bool Wants(ControlReply reply)
    {
        lock (_gate) return !_dropped && !HungUp && _reply == reply;
    }

    /// <summary>The descriptors that have come and that no request has taken, which are the caller's from here on. For the server's thread, while it looks at a request.</summary>
    public int[] TakeDescriptors()
    {
        int[] taken = _descriptors[.._descriptorCount];
        _descriptorCount = 0;
        return taken;
    }

    /// <summary>The other end is root's or of the own user, whatever other users the socket lets in.</summary>
    public bool IsOwner => Libc.GetSockOpt(Fd, Libc.SOL_SOCKET, Libc.SO_PEERCRED, out PeerCredentials peer) >= 0 && (peer.Uid == 0 || peer.Uid == Libc.GetEUid());

    /// <summary>A part of an answer, from any thread.</summary>
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

    /// <summary>There is news on the socket.</summary>
    public void React(short events)
    {
        if ((events & (Libc.POLLIN | Libc.POLLHUP | Libc.POLLERR)) == 0) return;
        if (!IsBusy) Receive();
        else if ((events & (Libc.POLLHUP | Libc.POLLERR)) != 0) HangUp();
    }

    /// <summary>Goes on as far as it can without waiting: sends what waits, and takes up what was received. True if it is to be called again, whatever poll says.</summary>
    public bool Advance()
    {
        // Its socket is not polled any more, and what it sent before it left is still to be done.
        if (HungUp && !IsBusy && !_peerEnded) Receive();
        while (Flush() && _language == Language.Lines && TakeLine() is { } line) Ask(options.Lines, line);
        return HungUp && !IsBusy && !_peerEnded;
    }

    /// <summary>For the server that ends: whoever answers later finds nobody.</summary>
    public void Close()
    {
        lock (_gate) _dropped = true;
        // Where a sandbox refuses close, the client is to see the end all the same.
        _ = Libc.Shutdown(Fd, Libc.SHUT_RDWR);
        _ = Libc.Close(Fd);
        ForgetDescriptors();
    }

    private void ForgetDescriptors()
    {
        foreach (int one in TakeDescriptors()) _ = Libc.Close(one);
    }

    /// <summary>An answer is under way or on its way out.</summary>
    private bool IsBusy
    {
        get
        {
            lock (_gate) return _reply != null || _waiting > 0;
        }
    }

    /// <summary>Nobody will read an answer. What was sent before the end is still done: whoever says "detach" and leaves means it.</summary>
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
        // Most clients never need it: what is small goes out at once.
        if (_output.Length < _waiting + bytes) Array.Resize(ref _output, Math.Max(_waiting + bytes, _output.Length * 2));
        int end = _waiting + ByteText.Encode(part, _output.AsSpan(_waiting));
        if (line) _output[end] = (byte)'\n';
        _waiting += bytes;
        return true;
    }

    /// <summary>Sends what the socket takes. True if nothing waits any more and there is no answer to wait for.</summary>
    private bool Flush()
    {
        lock (_gate)
        {
            int sent = 0;
            while (sent < _waiting)
            {
                nint done = Libc.Send(Fd, _output.AsSpan(sent, _waiting - sent), Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                if (done == -Errno.EINTR) continue;
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
            // Those of the last message are meant.
            ForgetDescriptors();
            fds[..count].CopyTo(_descriptors);
            _descriptorCount = count;
        }
        if (got is -Errno.EAGAIN or -Errno.EINTR && !HungUp) return;
        if (got <= 0)
        {
            // Half an end is an end as well: it has its answers, and asks for nothing more. What is left of a line was never sent whole.
            _peerEnded = true;
            return;
        }
        _received += (int)got;
        if (_language == Language.Unknown && !Recognise()) return;
        if (_language == Language.Messages)
        {
            int length = _received;
            _received = 0;
            // Acting on the first part of a message that was meant to be longer could mean acting on another path.
            if (length > ControlServer.LongestRequest) Refuse("fail");
            else Ask(options.Messages, ByteText.Decode(_input.AsSpan(0, length)));
        }
        // Lines are taken by Advance, which comes next.
    }

    /// <summary>Lines if the connection begins with the greeting, however its bytes arrive; messages otherwise. False while it may still be both.</summary>
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
            if (_received == InputBytes) Refuse("!64 a line has 512 bytes at the most");
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
            // A defect of ours, or no memory; the others go on.
            options.Report?.Invoke($"a control request failed: {e.Message}");
            reply.End(_language == Language.Lines ? "!70 the request failed" : "fail", close: true);
        }
    }
}
