using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// A client's socket: receives and sends whole messages. One thread receives and one sends at a time; any thread may hang up to end both.
/// </summary>
internal sealed class NbdSocket : IDisposable
{
    /// <summary>Size of the receive buffer: one system call receives dozens of a busy client's requests.</summary>
    private const int AheadBytes = 4096;

    private readonly object _closing = new();
    private readonly byte[] _ahead = new byte[AheadBytes];
    private int _first;
    private int _count;
    private int _fd;

    /// <summary>Takes over the descriptor.</summary>
    public NbdSocket(int fd) => _fd = fd;

    /// <summary>
    /// Enlarges the send buffer, so that a thread can send a reply of up to that many bytes without waiting, if the kernel permits that
    /// size.
    /// </summary>
    public void HoldAnswers(int bytes) => _ = Libc.SetSockOpt(_fd, Libc.SOL_SOCKET, Libc.SO_SNDBUF, bytes);

    /// <summary>True if the last <see cref="Receive"/> had to wait for the peer.</summary>
    public bool Waited { get; private set; }

    /// <summary>
    /// Fills <paramref name="target"/>. Returns 0, −ENODATA if the stream ends before the first byte, −ECONNRESET if it ends later, or
    /// another negative errno.
    /// </summary>
    public int Receive(Span<byte> target)
    {
        bool begun = false;
        Waited = false;
        while (!target.IsEmpty)
        {
            if (_count == 0)
            {
                nint got = Libc.Recv(_fd, _ahead, Waited ? 0 : Libc.MSG_DONTWAIT);
                if (got == -Errno.EAGAIN && !Waited)
                {
                    Waited = true;
                    continue;
                }
                if (Retry.Interrupted(got)) continue;
                if (got < 0) return (int)got;
                if (got == 0) return begun ? -Errno.ECONNRESET : -Errno.ENODATA;
                (_first, _count) = (0, (int)got);
            }
            int part = Math.Min(_count, target.Length);
            _ahead.AsSpan(_first, part).CopyTo(target);
            (_first, _count) = (_first + part, _count - part);
            target = target[part..];
            begun = true;
        }
        return 0;
    }

    /// <summary>Receives bytes and discards them. Returns 0 or a negative errno.</summary>
    public int Skip(long bytes)
    {
        Span<byte> rest = stackalloc byte[1024];
        while (bytes > 0)
        {
            int part = (int)Math.Min(bytes, rest.Length);
            int error = Receive(rest[..part]);
            if (error < 0) return error;
            bytes -= part;
        }
        return 0;
    }

    /// <summary>Sends the header and the body completely, and waits for a slow peer. Returns 0 or a negative errno.</summary>
    public int Send(ReadOnlySpan<byte> header, ReadOnlySpan<byte> body)
    {
        while (header.Length + body.Length > 0)
        {
            nint sent = Libc.SendMsg(_fd, header, body, Libc.MSG_NOSIGNAL);
            if (Retry.Interrupted(sent)) continue;
            if (sent < 0) return (int)sent;
            int ofHead = (int)Math.Min(sent, header.Length);
            header = header[ofHead..];
            body = body[((int)sent - ofHead)..];
        }
        return 0;
    }

    /// <summary>Ends the connection: a pending Receive or Send fails or gets the end of the stream.</summary>
    public void HangUp()
    {
        // Without the lock, the descriptor might be closed and reused for another file in between.
        lock (_closing)
        {
            if (_fd >= 0) _ = Libc.Shutdown(_fd, Libc.SHUT_RDWR);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_closing)
        {
            if (_fd >= 0) _ = Libc.Close(_fd);
            _fd = -1;
        }
    }
}
