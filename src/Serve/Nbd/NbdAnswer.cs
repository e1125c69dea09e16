using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The state of a reply's next piece.</summary>
internal enum NbdAnswerState
{
    /// <summary>There is no request.</summary>
    Free,
    /// <summary>The piece must be read, or read again.</summary>
    NeedsData,
    /// <summary>A worker is reading it.</summary>
    Reading,
    /// <summary>The piece can be sent.</summary>
    Ready,
}

/// <summary>
/// The reply to one request, in pieces that are read and sent one after the other. With structured replies each piece is a chunk, and an
/// error in any piece is reported with its offset. The header of a simple reply reports success and precedes the data. So an error in the
/// first piece can be reported, but after an error in a later piece the connection must be closed.
/// </summary>
internal sealed class NbdAnswer
{
    private readonly byte[] _head = new byte[NbdProtocol.ChunkBytes + 14];
    private NbdRequest _request;
    private long _ticks;
    private int _headBytes;
    private int _sent;
    private bool _told;

    /// <summary>The state of the next piece.</summary>
    public NbdAnswerState State { get; set; }

    /// <summary>
    /// The buffer with the piece's data while the reply waits to be sent; null if it was evicted. Set only by <see cref="NbdBuffers"/>,
    /// with its lock held.
    /// </summary>
    public NbdBuffer? Buffer { get; set; }

    /// <summary>Bytes of the piece's data.</summary>
    public int Piece { get; private set; }

    /// <summary>Bytes of data in the pieces before this one.</summary>
    public int Done { get; private set; }

    /// <summary>True if no piece follows this one.</summary>
    public bool IsLast { get; private set; }

    /// <summary>True if a part of the piece was sent. Then the rest must be sent before any other reply.</summary>
    public bool IsBegun => _sent > 0;

    /// <summary>The unsent bytes of the piece's header.</summary>
    public ReadOnlySpan<byte> Head => _head.AsSpan(Math.Min(_sent, _headBytes), Math.Max(_headBytes - _sent, 0));

    /// <summary>Offset of the first unsent byte in the piece's data.</summary>
    public int From => Math.Max(_sent - _headBytes, 0);

    /// <summary>True if the whole piece was sent.</summary>
    public bool IsSent => _sent == _headBytes + Piece;

    /// <summary>Begins the reply. A reply without data is ready at once.</summary>
    public void Begin(NbdExport export, in NbdRequest request, bool structured)
    {
        (_request, _ticks, _sent, _told, Done, Piece, IsLast) = (request, 0, 0, false, 0, 0, false);
        if (request.Type == NbdWire.NBD_CMD_READ)
        {
            int error = CheckRead(export, structured);
            if (error != 0) SetError(error, 0, structured);
            State = error != 0 ? NbdAnswerState.Ready : NbdAnswerState.NeedsData;
            return;
        }
        SetSimple(request.Type switch
        {
            NbdWire.NBD_CMD_FLUSH => request.Flags == 0 ? 0 : Errno.EINVAL,
            NbdWire.NBD_CMD_WRITE or NbdWire.NBD_CMD_TRIM or NbdWire.NBD_CMD_WRITE_ZEROES => Errno.EPERM,
            _ => Errno.EINVAL,
        });
        IsLast = true;
        State = NbdAnswerState.Ready;
    }

    /// <summary>
    /// Reads the next piece into <paramref name="buffer"/>, or rereads the unsent rest of one that was evicted. A piece has at most
    /// <paramref name="pieceBytes"/>, unless the client forbids fragments. Returns null, or the reason why the client must be dropped. Runs
    /// without the session's lock, so it leaves the state at <see cref="NbdAnswerState.Reading"/>: with another state, a second worker
    /// would send the piece while this worker still uses it.
    /// </summary>
    public string? Read(NbdExport export, ViewReader reader, Slice buffer, bool structured, int pieceBytes)
    {
        if (IsBegun)
        {
            // The header, of which at least a part was sent, promises these bytes.
            int from = From;
            return from == Piece || Fetch(reader, Done + from, buffer.Part(from, Piece - from)) >= 0 ? null : Broken(Done + from);
        }
        int part = NextPiece((_request.Flags & NbdProtocol.CommandDf) != 0 ? buffer.Length : Math.Min(pieceBytes, buffer.Length), Done);
        bool checkAll = !structured && Done == 0 && export.ReadsTwice;
        if ((checkAll && !CanRead(reader, buffer, part)) || Fetch(reader, Done, buffer.Part(0, part)) < 0)
        {
            Tell(export);
            if (!structured && Done > 0)
            {
                // If the client repeats the request, it gets an error in the header.
                export.ReadsTwice = true;
                return Broken(Done);
            }
            SetError(Errno.EIO, _request.Offset + (ulong)Done, structured);
            return null;
        }
        Piece = part;
        IsLast = Done + part == _request.Length;
        if (structured) SetChunk(NbdProtocol.ChunkOffsetData, 8 + part, _request.Offset + (ulong)Done);
        else if (Done == 0) SetSimple(0);
        else _headBytes = 0;
        if (IsLast) Tell(export);
        return null;
    }

    /// <summary>Records that another <paramref name="bytes"/> bytes were sent.</summary>
    public void Sent(int bytes) => _sent += bytes;

    /// <summary>Starts the next piece.</summary>
    public void Next()
    {
        Done += Piece;
        (Piece, _sent, _headBytes) = (0, 0, 0);
        State = NbdAnswerState.NeedsData;
    }

    private int CheckRead(NbdExport export, bool structured)
    {
        if ((_request.Flags & ~(structured ? NbdProtocol.CommandDf : 0)) != 0) return Errno.EINVAL;
        if (_request.Length is 0 or > NbdExport.LongestRequest) return Errno.EINVAL;
        ulong length = (ulong)export.View.Length;
        if (_request.Length > length || _request.Offset > length - _request.Length) return Errno.EINVAL;
        return (_request.Flags & NbdProtocol.CommandDf) != 0 && _request.Length > export.BufferBytes ? Errno.EOVERFLOW : 0;
    }

    /// <summary>
    /// The length of the next piece. Pieces after the first begin at multiples of <paramref name="pieceBytes"/> in the image, so that few
    /// units are split between pieces.
    /// </summary>
    private int NextPiece(int pieceBytes, int done)
    {
        int rest = (int)_request.Length - done;
        return rest <= pieceBytes ? rest : pieceBytes - (int)((_request.Offset + (ulong)done) % (ulong)pieceBytes);
    }

    /// <summary>True if everything after the first <paramref name="done"/> bytes can be read.</summary>
    private bool CanRead(ViewReader reader, Slice buffer, int done)
    {
        for (int part; done < _request.Length; done += part)
        {
            part = NextPiece(buffer.Length, done);
            if (Fetch(reader, done, buffer.Part(0, part)) < 0) return false;
        }
        return true;
    }

    private int Fetch(ViewReader reader, int at, Slice target)
    {
        long began = SnapshotView.Now;
        int result = reader.Read((long)_request.Offset + at, target);
        _ticks += SnapshotView.Now - began;
        return result;
    }

    /// <summary>Records the read's duration, once per request.</summary>
    private void Tell(NbdExport export)
    {
        if (!_told) export.View.RecordLatency(_ticks);
        _told = true;
    }

    private string Broken(int at) =>
        $"reading failed at {_request.Offset + (ulong)at} in the middle of an answer, which can only be reported by ending the connection";

    private void SetError(int error, ulong offset, bool structured)
    {
        (Piece, IsLast) = (0, true);
        if (!structured)
        {
            SetSimple(error);
            return;
        }
        // The error in 32 bits, the length of the message in 16 bits (0: no message), and for a failed read its offset.
        bool known = error == Errno.EIO;
        SetChunk(known ? NbdProtocol.ChunkErrorOffset : NbdProtocol.ChunkError, known ? 14 : 6, 0);
        BinaryPrimitives.WriteInt32BigEndian(_head.AsSpan(NbdProtocol.ChunkBytes), error);
        BinaryPrimitives.WriteUInt16BigEndian(_head.AsSpan(NbdProtocol.ChunkBytes + 4), 0);
        BinaryPrimitives.WriteUInt64BigEndian(_head.AsSpan(NbdProtocol.ChunkBytes + 6), offset);
        _headBytes = NbdProtocol.ChunkBytes + (known ? 14 : 6);
    }

    private void SetSimple(int error)
    {
        BinaryPrimitives.WriteUInt32BigEndian(_head, NbdWire.NBD_REPLY_MAGIC);
        BinaryPrimitives.WriteInt32BigEndian(_head.AsSpan(4), error);
        BinaryPrimitives.WriteUInt64BigEndian(_head.AsSpan(8), _request.Cookie);
        _headBytes = NbdWire.ReplyBytes;
    }

    /// <summary>
    /// Sets the header of a chunk, and the offset that follows it. <paramref name="length"/> counts all bytes after the header, including
    /// the offset.
    /// </summary>
    private void SetChunk(ushort type, int length, ulong offset)
    {
        BinaryPrimitives.WriteUInt32BigEndian(_head, NbdProtocol.StructuredReplyMagic);
        BinaryPrimitives.WriteUInt16BigEndian(_head.AsSpan(4), IsLast ? NbdProtocol.ChunkDone : (ushort)0);
        BinaryPrimitives.WriteUInt16BigEndian(_head.AsSpan(6), type);
        BinaryPrimitives.WriteUInt64BigEndian(_head.AsSpan(8), _request.Cookie);
        BinaryPrimitives.WriteInt32BigEndian(_head.AsSpan(16), length);
        BinaryPrimitives.WriteUInt64BigEndian(_head.AsSpan(NbdProtocol.ChunkBytes), offset);
        _headBytes = NbdProtocol.ChunkBytes + 8;
    }
}
