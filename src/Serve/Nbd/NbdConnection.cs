using System;
using System.Buffers.Binary;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One connection of the kernel to an <see cref="NbdDevice"/>, from its first byte to its last; without handshake and structured replies.
/// Threads of its own, more when it asks for more than one thing at a time, take its requests in turn, each reads and answers the one it
/// took, and answers go out in the order in
/// which they are ready:
/// <code>
///   take the receive lock -> receive a request -> let go -> read the view -> take the send lock -> send -> again
/// </code>
/// The view was left when the bytes were in the buffer, so that the merge waits for no reader.
/// <para>
/// A read that is longer than a buffer is read and sent in parts. A simple reply says in its header that all is well, before the data: an
/// error in the first part is still told, after that the only truth left is to hang up. The kernel asks the same again then, over the next
/// connection and for as long as it takes; so once that has happened, long requests are read to their end before the first part is sent.
/// </para>
/// </summary>
internal sealed class NbdConnection
{
    /// <summary>Data of a write, which are thrown away before it is refused, up to here: no client sends more than the longest request.</summary>
    private const uint MostSkipped = 2 * NbdExport.LongestRequest;

    /// <summary>
    /// Requests in a row that were there before somebody came for them, after which there is another thread. A client that asks for one thing at a time is served quickest by one:
    /// two would hand the receive lock to and fro.
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

    /// <summary>The client said that it is leaving.</summary>
    public bool Disconnected { get; private set; }

    /// <summary>At least one request came.</summary>
    public bool WasUsed { get; private set; }

    /// <summary>Serves until the client has left or was dropped; then the socket is closed. Never throws.</summary>
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
            // None is added any more: whoever adds one looks at the flag under the same lock.
            lock (_receiving) _ended = true;
            for (int i = 0; i < _helperCount; i++) _helpers[i]!.Join();
            _socket.Dispose();
        }
    }

    /// <summary>Ends it now. From any thread.</summary>
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
            // No memory or no descriptor for another one: the first thread goes on alone.
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

    /// <summary>Waits for the next request; false when there is none any more.</summary>
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
        if (!NbdRequest.TryParse(bytes, out request))
        {
            Drop("a request without its magic came");
            return false;
        }
        switch (request.Type)
        {
            case NbdWire.NBD_CMD_DISC:
                Disconnected = true;
                return false;
            case NbdWire.NBD_CMD_WRITE when request.Length > MostSkipped:
                Drop($"it wants to write {request.Length} bytes at once, to an export that is read-only");
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
        Thread helper = new(Help, NbdExport.StackBytes) { IsBackground = true, Name = "nbd" };
        try
        {
            helper.Start();
            _helpers[_helperCount++] = helper;
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            // Those that there are do the work.
            _export.GiveSpare();
        }
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
        // The parts belong together; nothing may come between.
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

    /// <summary>Whether everything from <paramref name="done"/> on can be read.</summary>
    private bool CanRead(ReadContext context, in NbdRequest request, int done)
    {
        for (int part; done < request.Length; done += part)
        {
            part = Part(request, done);
            if (Fetch(context, request, done, part) < 0) return false;
        }
        return true;
    }

    /// <summary>Parts behind the first begin where the buffer's multiples lie in the image, so that they tear few units.</summary>
    private int Part(in NbdRequest request, int done)
    {
        int rest = (int)request.Length - done, buffer = _export.BufferBytes;
        return rest <= buffer ? rest : buffer - (int)((request.Offset + (ulong)done) % (ulong)buffer);
    }

    /// <summary>Reads the next part; with the last one, and with an error, the request is as good as answered.</summary>
    private int Read(ReadContext context, in NbdRequest request, int done, int part, out ReadOnlySpan<byte> bytes)
    {
        int result = Fetch(context, request, done, part);
        bytes = context[context.Buffer(0).Part(0, part)];
        if (result >= 0 && done + part < request.Length) return result;
        _export.View.Took(context.Ticks);
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
        Span<byte> head = stackalloc byte[NbdWire.ReplyBytes];
        BinaryPrimitives.WriteUInt32BigEndian(head, NbdWire.NBD_REPLY_MAGIC);
        BinaryPrimitives.WriteInt32BigEndian(head[4..], error);
        BinaryPrimitives.WriteUInt64BigEndian(head[8..], request.Cookie);
        return Send(head, bytes);
    }

    /// <summary>False when the client has gone: what comes after it finds that out as well.</summary>
    private bool Send(ReadOnlySpan<byte> head, ReadOnlySpan<byte> body)
    {
        lock (_sending)
        {
            if (_socket.Send(head, body) == 0) return true;
        }
        // Half an answer may have gone out; nothing that follows would be understood.
        _socket.HangUp();
        return false;
    }
}
