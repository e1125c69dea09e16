using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Serve;

/// <summary>
/// One read of the merged image. Data that needs no decoding is read directly into the caller's buffer; parts that are adjacent on the
/// device and in the image share one request. Payloads are read into the read's own memory and decoded from there.
/// <code>
///   enter the gate -> plan as much as the memory holds -> read -> leave the gate -> decode -> again, until all is there
/// </code>
/// So a merge that waits for readers waits only for their device reads, never for decoding or for a client that receives the data.
/// </summary>
internal sealed class ViewRead
{
    /// <summary>
    /// Memory for stored payloads: enough to read 1 MiB, compressed to an eighth, in one round. A thousand concurrent reads take about 128
    /// MiB.
    /// </summary>
    private const int StoredBytes = 128 << 10;

    /// <summary>
    /// The maximum number of requests of one round: 1 MiB of scattered single blocks needs 256. A hundred requests need a few KiB of
    /// bookkeeping.
    /// </summary>
    private const int MostPieces = 256;

    private readonly SnapshotView _view;
    private readonly IoScheduler _io;
    private readonly Arena _arena;
    private readonly UnitDecoder _decoder;
    private readonly Slice _stored;
    private readonly Slice _unit;
    private readonly Slice _block;
    private readonly Piece[] _pieces = new Piece[MostPieces];
    private readonly Item[] _items = new Item[MostPieces];
    private readonly IoGroup _transfers = new();
    private Slice _buffer;
    private long _offset;
    private int _planned;
    private int _pieceCount;
    private int _itemCount;
    private int _storedUsed;
    private int _cursor;
    // The position in the merge order that the last lookup found; the next lookup usually finds the following one.
    private int _place;
    private int _pass;
    private bool _entered;
    private bool _ended;

    private struct Piece
    {
        public int Device;
        public long Offset;
        public Slice Memory;
    }

    /// <summary>An op whose payload must be decoded: the bytes of its unit from <see cref="From"/> on go to <see cref="Target"/>.</summary>
    private struct Item
    {
        public int Index;
        public CowOp Op;
        public Slice Stored;
        public Slice Target;
        public int From;
        /// <summary>The memory for an Xor's source block: the target itself if the whole block is requested.</summary>
        public Slice Source;
    }

    public ViewRead(SnapshotView view, IoScheduler io, Arena arena, Slice memory, UnitDecoder decoder)
    {
        _view = view;
        _io = io;
        _arena = arena;
        _decoder = decoder;
        int unit = view.Cow.MaxUnitBytes;
        _unit = memory.Part(0, unit);
        _block = memory.Part(unit, CowOp.BlockSize);
        _stored = memory.Part(unit + CowOp.BlockSize, memory.Length - unit - CowOp.BlockSize);
    }

    /// <summary>
    /// The memory that a read needs, in bytes: for a decoded unit, a decoded Xor block, and payloads. The last part is large enough for the
    /// longest payload together with an Xor's source block.
    /// </summary>
    public static int MemoryBytes(CowFile cow) =>
        (cow.MaxUnitBytes + CowOp.BlockSize + Math.Max(StoredBytes, cow.MaxStoredBytes + CowOp.BlockSize) + CowOp.BlockSize - 1)
        & -CowOp.BlockSize;

    /// <summary>The tag that the caller passed to <see cref="Begin"/>.</summary>
    public uint Tag { get; private set; }

    /// <summary>The requested number of bytes after success, or a negative errno.</summary>
    public int Result { get; private set; }

    /// <summary>Payloads decoded by all reads that used this object.</summary>
    public long Decodes { get; private set; }

    /// <summary>Begins a read: plans the first round and issues its requests.</summary>
    public void Begin(long offset, Slice buffer, uint tag)
    {
        (_offset, _buffer, Tag, Result, _ended, _planned) = (offset, buffer, tag, buffer.Length, false, 0);
        if (offset < 0 || offset > _view.Length - buffer.Length) End(-Errno.EINVAL);
        else if (buffer.Length == 0) _ended = true;
        else BeginRound();
    }

    /// <summary>Does everything that is possible without waiting. True if the read has ended.</summary>
    public bool Advance()
    {
        while (!_ended)
        {
            if (_cursor < _pieceCount) Issue();
            if (_cursor < _pieceCount || !_transfers.IsDone) return false;
            EndRound();
        }
        return true;
    }

    /// <summary>Ends the read. Its device requests must have ended. The result is not valid.</summary>
    public void Abandon()
    {
        if (_entered) Leave();
        _ended = true;
    }

    private void BeginRound()
    {
        (_pieceCount, _itemCount, _storedUsed, _cursor) = (0, 0, 0, 0);
        _pass = _view.Gate.Enter();
        _entered = true;
        Plan(_view.Gate.Locations);
        Issue();
    }

    private void EndRound()
    {
        Leave();
        if (_transfers.TakeFailure() is { } failure)
        {
            (MergeDevice cow, MergeDevice target, MergeDevice source) = _view.Devices;
            string device = failure.Request.Device == cow.Number ? cow.Name : failure.Request.Device == target.Number ? target.Name
                : source.Name;
            Fail($"{device}: reading {failure.Request.Buffer.Length - failure.Done} bytes at {failure.Request.Offset + failure.Done} "
                + $"failed: {ErrnoText.Of(failure.Errno)}");
            return;
        }
        for (int i = 0; i < _itemCount; i++)
        {
            int error = Decode(_items[i]);
            if (error == 0) continue;
            Fail($"{_view.Cow.Name}: {_view.Cow.Describe(_items[i].Index)}: its payload of {_items[i].Op.DataLength} bytes at "
                + $"{_items[i].Op.DataOffset}: {UnitDecoder.Describe(error)}");
            return;
        }
        if (_planned == _buffer.Length) _ended = true;
        else BeginRound();
    }

    private void Leave()
    {
        _entered = false;
        _view.Gate.Leave(_pass);
    }

    private void Fail(string why)
    {
        _view.Report($"{why}; a read of {_buffer.Length} bytes at {_offset} gets an I/O error");
        End(-Errno.EIO);
    }

    private void End(int errno)
    {
        Result = errno;
        _ended = true;
    }

    /// <summary>
    /// Plans the part of the read that begins at <see cref="_planned"/>, until the read is complete or the round is full.
    /// </summary>
    private void Plan(OpLocations locations)
    {
        MergeOrder order = _view.Cow.Order;
        (MergeDevice cow, MergeDevice target, MergeDevice source) = _view.Devices;
        while (_planned < _buffer.Length && _pieceCount < MostPieces && _itemCount < MostPieces)
        {
            long at = _offset + _planned;
            int wanted = _buffer.Length - _planned;
            if (locations.Counted == order.Count)
            {
                // Everything is merged.
                Read(target.Number, at, wanted);
                continue;
            }
            long block = at / CowOp.BlockSize;
            int position = order.PositionWriting(block, ref _place);
            if (position < 0)
            {
                long rest = ((block + 1) * CowOp.BlockSize) - at;
                if (wanted > rest)
                {
                    long next = order.NextWritten(block + 1);
                    if (next <= (at + wanted) / CowOp.BlockSize) wanted = (int)Math.Min(wanted, (next * CowOp.BlockSize) - at);
                }
                Read(target.Number, at, wanted);
                continue;
            }
            int index = order.OpIndex(position);
            CowOp op = _view.Cow[index];
            int from = (int)(at - ((long)op.NewBlock * CowOp.BlockSize));
            wanted = Math.Min(wanted, op.UnitBytes - from);
            if (position < locations.Counted) Read(target.Number, at, wanted);
            else if (position - locations.Counted < locations.Window)
                Copy(_view.WindowBlock(position - locations.Counted).Slice(from, wanted));
            else if (op.Type == CowOpType.Copy) Read(source.Number, op.SourceByte + from, wanted);
            else if (op.Type == CowOpType.Zero) Target(wanted).Clear();
            else if (op.Type == CowOpType.Replace && _view.Cow.IsRaw(op) && op.DataLength == op.UnitBytes)
                Read(cow.Number, op.DataOffset + from, wanted);
            else if (op.Type == CowOpType.Replace && (op.Blocks > 1 || wanted < op.UnitBytes)
                && _view.Cache.TryCopy(index, from, _arena[_buffer.Part(_planned, wanted)]))
                _planned += wanted;
            else if (!TryAdd(index, op, from, wanted)) return;
        }
    }

    private Span<byte> Target(int bytes)
    {
        Span<byte> target = _arena[_buffer.Part(_planned, bytes)];
        _planned += bytes;
        return target;
    }

    private void Copy(ReadOnlySpan<byte> bytes) => bytes.CopyTo(Target(bytes.Length));

    private void Read(int device, long offset, int bytes)
    {
        AddPiece(device, offset, _buffer.Part(_planned, bytes));
        _planned += bytes;
    }

    /// <summary>Adds an op whose payload must be decoded; false if it does not fit into this round.</summary>
    private bool TryAdd(int index, in CowOp op, int from, int wanted)
    {
        bool whole = wanted == op.UnitBytes, xor = op.Type == CowOpType.Xor;
        int memory = op.DataLength + (xor && !whole ? CowOp.BlockSize : 0);
        if (memory > _stored.Length - _storedUsed || _pieceCount > MostPieces - 2) return false;
        Slice target = _buffer.Part(_planned, wanted);
        Item item = new() { Index = index, Op = op, From = from, Target = target, Stored = _stored.Part(_storedUsed, op.DataLength) };
        AddPiece(_view.Devices.Cow.Number, op.DataOffset, item.Stored);
        if (xor)
        {
            item.Source = whole ? target : _stored.Part(_storedUsed + op.DataLength, CowOp.BlockSize);
            AddPiece(_view.Devices.Source.Number, op.SourceByte, item.Source);
        }
        _items[_itemCount++] = item;
        _storedUsed += memory;
        _planned += wanted;
        return true;
    }

    /// <summary>
    /// Adds a range of a device. It extends an earlier range that ends where this one begins, on the device and in memory.
    /// </summary>
    private void AddPiece(int device, long offset, Slice memory)
    {
        // Payloads and sources of consecutive Xor ops alternate, so check the last two ranges.
        for (int i = _pieceCount - 1; i >= Math.Max(0, _pieceCount - 2); i--)
        {
            ref Piece last = ref _pieces[i];
            if (last.Device != device || last.Offset + last.Memory.Length != offset
                || last.Memory.Offset + last.Memory.Length != memory.Offset)
                continue;
            last.Memory = new Slice(last.Memory.Offset, last.Memory.Length + memory.Length);
            return;
        }
        _pieces[_pieceCount++] = new Piece { Device = device, Offset = offset, Memory = memory };
    }

    private void Issue()
    {
        while (_cursor < _pieceCount && _io.HasRoom)
        {
            ref readonly Piece piece = ref _pieces[_cursor++];
            _io.Read(piece.Device, piece.Offset, piece.Memory, _transfers);
        }
    }

    private int Decode(in Item item)
    {
        CowCompression algorithm = _view.Cow.AlgorithmOf(item.Op);
        if (algorithm != CowCompression.None) Decodes++;
        ReadOnlySpan<byte> stored = _arena[item.Stored];
        Span<byte> target = _arena[item.Target];
        if (item.Op.Type == CowOpType.Xor)
        {
            Span<byte> block = _arena[item.Source];
            if (algorithm != CowCompression.None)
            {
                int error = _decoder.Decode(algorithm, stored, _arena[_block]);
                if (error < 0) return error;
                stored = _arena[_block];
            }
            if (stored.Length != block.Length) return (int)UnitError.RawLength;
            XorKernel.XorInto(block, stored);
            if (item.Source != item.Target) block.Slice(item.From, target.Length).CopyTo(target);
            return 0;
        }
        if (target.Length == item.Op.UnitBytes) return _decoder.Decode(algorithm, stored, target);
        Span<byte> unit = _arena[_unit.Part(0, item.Op.UnitBytes)];
        int result = _decoder.Decode(algorithm, stored, unit);
        if (result < 0) return result;
        unit.Slice(item.From, target.Length).CopyTo(target);
        _view.Cache.Keep(item.Index, unit);
        return 0;
    }
}
