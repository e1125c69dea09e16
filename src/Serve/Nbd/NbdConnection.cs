using System;
using System.Buffers.Binary;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One connection of the kernel to an <see cref="NbdDevice"/>, without a handshake and structured replies. It has threads of its own, more
/// than one if the kernel sends several requests at a time. Each thread receives a request, reads its data and replies. Replies are sent in
/// the order in which they are ready:
/// <code>
///   take the receive lock -> receive a request -> release the lock -> read the view -> take the send lock -> send -> again
/// </code>
/// A thread leaves the view's gate before it sends, so the merge waits for no client.
/// <para>
/// A read longer than a buffer is read and sent in parts. The header of a simple reply reports success and precedes the data. So an error
/// in the first part can be reported, but after an error in a later part the connection must be closed. The kernel then repeats the request
/// over the next connection, without a limit. Therefore, after the first such error, long requests are read to their end before the first
/// part is sent.
/// </para>
/// </summary>
internal sealed class NbdConnection
{
    /// <summary>
    /// Another thread starts after this many consecutive requests that had arrived before a thread tried to receive them. A client that
    /// sends one request at a time is faster with one thread: two would pass the receive lock back and forth.
    /// </summary>
    private const int Busy = 2;

    private readonly NbdExport _export;
    private readonly NbdSocket _socket;
    private readonly object _receiving = new();
    private readonly object _sending = new();
    private readonly Thread?[] _helpers;
    private int _helperCount;
    private int _inARow;
    private int _waiting;
    private bool _ended;

    /// <summary>Takes over the descriptor of a connected socket.</summary>
    public NbdConnection(NbdExport export, int fd)
    {
        _export = export;
        _socket = new NbdSocket(fd);
        _socket.HoldAnswers(export.BufferBytes);
        _helpers = new Thread?[export.MostHelpers];
    }

    /// <summary>True if the client announced that it disconnects.</summary>
    public bool Disconnected { get; private set; }

    /// <summary>True if at least one request was received.</summary>
    public bool WasUsed { get; private set; }

    /// <summary>Serves until the client disconnects or is dropped, then closes the socket. Never throws.</summary>
    public void Run()
    {
        try
        {
            Serve();
        }
        catch (Exception e)
        {
            Abort(e);
        }
        finally
        {
            // After this no helper is added, because AddHelper's caller checks the flag under the same lock.
            lock (_receiving) _ended = true;
            for (int i = 0; i < _helperCount; i++) _helpers[i]!.Join();
            _socket.Dispose();
        }
    }

    /// <summary>Ends the connection at once. From any thread.</summary>
    public void HangUp() => _socket.HangUp();

    private void Serve()
    {
        using ReadContext context = MakeContext();
        Serve(context);
    }

    private void Serve(ReadContext context)
    {
        while (TryReceive(out NbdRequest request)) Answer(context, request);
    }

    private ReadContext MakeContext() => new(_export.View, _export.Devices, 1, _export.BufferBytes);

    private void Help()
    {
        try
        {
            using ReadContext context = MakeContext();
            try
            {
                Serve(context);
            }
            catch (Exception e)
            {
                Abort(e);
            }
        }
        catch (SnapuserdException)
        {
            // There is not enough memory, or no descriptor, for a helper: the other threads continue without it.
        }
        _export.GiveSpare();
    }

    private void Abort(Exception e)
    {
        _export.Caught(e);
        _socket.HangUp();
    }

    private void Drop(string why)
    {
        _export.Report($"NBD: a client was dropped: {why}");
        _socket.HangUp();
    }

    /// <summary>Waits for the next request; false if the connection has ended.</summary>
    private bool TryReceive(out NbdRequest request)
    {
        Interlocked.Increment(ref _waiting);
        lock (_receiving)
        {
            Interlocked.Decrement(ref _waiting);
            request = default;
            if (_ended) return false;
            _ended = !ReceiveOne(out request);
            if (_ended) return false;
            WasUsed = true;
            _export.Count();
            _inARow = _socket.Waited ? 0 : _inARow + 1;
            if (_inARow >= Busy && Volatile.Read(ref _waiting) == 0) AddHelper();
            return true;
        }
    }

    private bool ReceiveOne(out NbdRequest request)
    {
        Span<byte> bytes = stackalloc byte[NbdWire.RequestBytes];
        request = default;
        if (_socket.Receive(bytes) < 0) return false;
        if (NbdRequest.Parse(bytes, out request) is { } why)
        {
            Drop(why);
            return false;
        }
        switch (request.Type)
        {
            case NbdWire.NBD_CMD_DISC:
                Disconnected = true;
                return false;
            case NbdWire.NBD_CMD_WRITE:
                return _socket.Skip(request.Length) == 0;
            default:
                return true;
        }
    }

    private void AddHelper()
    {
        if (_helperCount == _helpers.Length || !_export.TryTakeSpare()) return;
        if (WorkerThread.TryStart("nbd", StackSize.Usual, Help) is { } helper) _helpers[_helperCount++] = helper;
        // Otherwise the existing threads do the work.
        else _export.GiveSpare();
    }

    private void Answer(ReadContext context, in NbdRequest request)
    {
        int error = request.Type switch
        {
            NbdWire.NBD_CMD_READ => CheckRead(request),
            NbdWire.NBD_CMD_FLUSH => request.Flags == 0 ? 0 : Errno.EINVAL,
            NbdWire.NBD_CMD_WRITE or NbdWire.NBD_CMD_TRIM or NbdWire.NBD_CMD_WRITE_ZEROES => Errno.EPERM,
            _ => Errno.EINVAL,
        };
        if (request.Type != NbdWire.NBD_CMD_READ || error != 0) SendSimple(request, error, default);
        else ReadSimple(context, request);
    }

    private int CheckRead(in NbdRequest request)
    {
        if (request.Flags != 0) return Errno.EINVAL;
        if (request.Length is 0 or > NbdExport.LongestRequest) return Errno.EINVAL;
        ulong length = (ulong)_export.View.Length;
        return request.Length > length || request.Offset > length - request.Length ? Errno.EINVAL : 0;
    }

    private void ReadSimple(ReadContext context, in NbdRequest request)
    {
        int part = Part(request, 0);
        if ((_export.ReadsTwice && !CanRead(context, request, part)) || Read(context, request, 0, part, out ReadOnlySpan<byte> bytes) < 0)
        {
            SendSimple(request, Errno.EIO, default);
            return;
        }
        // Hold the lock until all parts are sent, because no other reply may come between them.
        lock (_sending)
        {
            if (!SendSimple(request, 0, bytes)) return;
            for (int done = part; done < request.Length; done += part)
            {
                part = Part(request, done);
                if (Read(context, request, done, part, out bytes) < 0)
                {
                    _export.ReadsTwice = true;
                    Drop($"reading failed at {request.Offset + (ulong)done} in the middle of an answer");
                    return;
                }
                if (!Send(bytes, default)) return;
            }
        }
    }

    /// <summary>True if all data after the first <paramref name="done"/> bytes can be read.</summary>
    private bool CanRead(ReadContext context, in NbdRequest request, int done)
    {
        for (int part; done < request.Length; done += part)
        {
            part = Part(request, done);
            if (Fetch(context, request, done, part) < 0) return false;
        }
        return true;
    }

    /// <summary>
    /// The length of the next part. Parts after the first begin at multiples of the buffer size in the image, so that few units are split
    /// between parts.
    /// </summary>
    private int Part(in NbdRequest request, int done)
    {
        int rest = (int)request.Length - done, buffer = _export.BufferBytes;
        return rest <= buffer ? rest : buffer - (int)((request.Offset + (ulong)done) % (ulong)buffer);
    }

    /// <summary>Reads the next part. After the last part, or an error, records the request's read time.</summary>
    private int Read(ReadContext context, in NbdRequest request, int done, int part, out ReadOnlySpan<byte> bytes)
    {
        int result = Fetch(context, request, done, part);
        bytes = context[context.Buffer(0).Part(0, part)];
        if (result >= 0 && done + part < request.Length) return result;
        _export.View.RecordLatency(context.Ticks);
        context.Ticks = 0;
        return result;
    }

    private static int Fetch(ReadContext context, in NbdRequest request, int done, int part)
    {
        long began = SnapshotView.Now;
        int result = context.Reader.Read((long)request.Offset + done, context.Buffer(0).Part(0, part));
        context.Ticks += SnapshotView.Now - began;
        return result;
    }

    private bool SendSimple(in NbdRequest request, int error, ReadOnlySpan<byte> bytes)
    {
        Span<byte> header = stackalloc byte[NbdWire.ReplyBytes];
        BinaryPrimitives.WriteUInt32BigEndian(header, NbdWire.NBD_REPLY_MAGIC);
        BinaryPrimitives.WriteInt32BigEndian(header[4..], error);
        BinaryPrimitives.WriteUInt64BigEndian(header[8..], request.Cookie);
        return Send(header, bytes);
    }

    /// <summary>Sends a reply. False if the client has gone; later sends then fail as well.</summary>
    private bool Send(ReadOnlySpan<byte> header, ReadOnlySpan<byte> body)
    {
        lock (_sending)
        {
            if (_socket.Send(header, body) == 0) return true;
        }
        // A part of the reply may have been sent, so the client could not parse anything that follows.
        _socket.HangUp();
        return false;
    }
}
