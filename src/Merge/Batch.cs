using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>The phases of a batch, in order.</summary>
internal enum BatchPhase
{
    /// <summary>Ops are added.</summary>
    Filling,
    /// <summary>Sources and payloads are being read.</summary>
    Reading,
    /// <summary>Payloads are being decompressed and XORed.</summary>
    Decoding,
    /// <summary>The contents are complete, or producing them has failed.</summary>
    Ready,
    /// <summary>The contents are being written to Base.</summary>
    Writing,
    /// <summary>Base has the contents.</summary>
    Written,
}

/// <summary>
/// Consecutive ops on their way from sources and payloads to Base, in one buffer:
/// <code>
/// | contents, ascending by destination ... | payloads as stored, ascending by place in the COW ... |
/// </code>
/// Data that is contiguous on a device is contiguous in memory and takes one request, whatever the order of the ops.
/// </summary>
internal sealed class Batch
{
    /// <summary>
    /// Maximum ops per batch, whatever the buffer size. It bounds the bookkeeping, about 130 bytes per op, and the decode jobs. A buffer of
    /// 3 MiB holds 768 single blocks.
    /// </summary>
    public const int MostOps = 1024;

    /// <summary>
    /// Largest gap in bytes between two payloads that is read rather than skipped. The ops of a v2 cluster lie between its payloads: 200 ×
    /// 20 bytes as Android writes them. On any device, reading 4 KiB too much costs less than another request.
    /// </summary>
    private const int MostGap = Sizes.Block;

    /// <summary>Widths of the fields of a sort key: the index of an item, the place of a piece, and the kind of the piece.</summary>
    private const int IndexBits = 12, PlaceBits = 50, KindShift = IndexBits + PlaceBits;

    /// <summary>Sources are sorted by their KiB.</summary>
    private const int SourceShift = 10;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly Slice _buffer;
    private readonly Item[] _items;
    private readonly ulong[] _byBlock;
    private readonly ulong[] _pieces;
    private readonly IoGroup _transfers = new();
    private int _contents;
    private long _skipped;
    private int _stored;
    private int _pieceCount;
    private int _cursor;
    private bool _jobFailed;
    private TransferFailure? _failure;

    /// <summary>One op of the batch: <see cref="Data"/> is written to the op's blocks.</summary>
    public struct Item
    {
        /// <summary>Position in merge order, or index in file order for a payload check.</summary>
        public int Position;
        /// <summary>Index in file order.</summary>
        public int Index;
        /// <summary>The op.</summary>
        public CowOp Op;
        /// <summary>The op's new contents, <see cref="CowOp.UnitBytes"/> long.</summary>
        public Slice Data;
        /// <summary>The payload as stored. The same as <see cref="Data"/> if the payload needs neither decompression nor XOR.</summary>
        public Slice Stored;
        /// <summary>How the payload is compressed.</summary>
        public CowCompression Compression;
        /// <summary>The contents are read from the source first.</summary>
        public bool ReadsSource;
        /// <summary>0, or the reason why the payload does not decode. Written by a worker.</summary>
        public int Error;

        /// <summary>A worker has to decompress or XOR this item.</summary>
        public readonly bool NeedsWork => Op.HasData && (Compression != CowCompression.None || ReadsSource);
    }

    /// <summary>
    /// Creates a batch in <paramref name="buffer"/>, which has at least <see cref="LeastBuffer"/> bytes and begins on a page.
    /// </summary>
    public Batch(MergeSetup setup, CowFile cow, Slice buffer, int mostOps)
    {
        _setup = setup;
        _cow = cow;
        _buffer = buffer;
        _items = new Item[mostOps];
        _byBlock = new ulong[mostOps];
        _pieces = new ulong[2 * mostOps];
    }

    /// <summary>Buffer bytes that any single op of a COW fits into: its unit, and its payload as stored.</summary>
    public static int LeastBuffer(CowFile cow) => (cow.MaxUnitBytes + cow.MaxStoredBytes + CowOp.BlockSize - 1) & -CowOp.BlockSize;

    /// <summary>Position of the first op.</summary>
    public int From { get; private set; }

    /// <summary>Position after the last op. An op with nothing to write is counted, but is not an item.</summary>
    public int To { get; private set; }

    /// <summary>The step of the plan that the batch belongs to.</summary>
    public MergeStep Step { get; private set; }

    /// <summary>The safe-from count: from this durable count on every op of the batch may be written without the journal.</summary>
    public int SafeFrom { get; private set; }

    /// <summary>The durable count that the plan expects when the batch is written. A plain batch's safe-from count is no higher.</summary>
    public int Expected { get; private set; }

    /// <summary>Number of items.</summary>
    public int Count { get; private set; }

    /// <summary>Jobs that workers have not finished yet.</summary>
    public int Jobs { get; private set; }

    /// <summary>The tag of its jobs: the batch's number in the pipeline.</summary>
    public uint Tag { get; init; }

    /// <summary>The buffer is charged to the quota of this merge.</summary>
    public bool IsTaken { get; set; }

    /// <summary>The current phase.</summary>
    public BatchPhase Phase { get; private set; }

    /// <summary>The items, in the order in which they were added.</summary>
    public ReadOnlySpan<Item> Items => _items.AsSpan(0, Count);

    /// <summary>Resets the batch to begin with the op at <paramref name="from"/>.</summary>
    public void Clear(int from, MergeStep step = default, int expected = 0)
    {
        (From, To, Step, SafeFrom, Expected) = (from, from, step, 0, expected);
        (Count, _contents, _skipped, _stored, _pieceCount, _cursor, Jobs, _jobFailed, _failure) = (0, 0, 0, 0, 0, 0, 0, false, null);
        Phase = BatchPhase.Filling;
    }

    /// <summary>Bytes of the units of all its ops, written or not.</summary>
    public long Bytes => _contents + _skipped;

    /// <summary>Returns the buffer's memory to the system until its next use.</summary>
    public void Forget() => _setup.Arena.Forget(_buffer);

    /// <summary>Counts the op at <see cref="To"/>, which has a unit of <paramref name="bytes"/> bytes and nothing to write.</summary>
    public void Skip(int bytes)
    {
        _skipped += bytes;
        To++;
    }

    /// <summary>Adds the op at <see cref="To"/>. False if it does not fit.</summary>
    public bool TryAdd(int limit)
    {
        if (!TryAddAt(To)) return false;
        SafeFrom = Math.Max(SafeFrom, limit);
        To++;
        return true;
    }

    /// <summary>Adds the op at <paramref name="position"/>, independent of <see cref="To"/>. False if it does not fit.</summary>
    public bool TryAddAt(int position)
    {
        int index = _cow.Order.OpIndex(position);
        CowOp op = _cow[index];
        return TryAdd(position, index, op, op.IsOrdered);
    }

    /// <summary>
    /// Adds the payload of the op with <paramref name="index"/> in file order, only to be decoded. False if it does not fit.
    /// </summary>
    public bool TryAddPayload(int index)
    {
        if (!TryAdd(index, index, _cow[index], readsSource: false)) return false;
        To = index + 1;
        return true;
    }

    /// <summary>
    /// Ends the filling: assigns all contents and payloads their places in the buffer. <see cref="Advance"/> issues the reads.
    /// </summary>
    public void Close()
    {
        PlaceContents();
        PlacePayloads();
        AddSources();
        _pieces.AsSpan(0, _pieceCount).Sort();
        Phase = BatchPhase.Reading;
    }

    /// <summary>
    /// Issues requests and jobs while the queues accept them. Moves the batch from reading to ready, or from writing to written. True if
    /// anything changed.
    /// </summary>
    public bool Advance()
    {
        bool changed = false;
        if (Phase == BatchPhase.Reading)
        {
            changed = IssueReads();
            if (_cursor < _pieceCount || !_transfers.IsDone) return changed;
            _cursor = 0;
            _failure = _transfers.TakeFailure();
            Phase = _failure is null ? BatchPhase.Decoding : BatchPhase.Ready;
            changed = true;
        }
        if (Phase == BatchPhase.Decoding)
        {
            changed |= PostJobs();
            if (_cursor < Count || Jobs > 0) return changed;
            Phase = BatchPhase.Ready;
            return true;
        }
        if (Phase == BatchPhase.Writing)
        {
            changed = IssueWrites(wait: false);
            if (_cursor < Count || !_transfers.IsDone) return changed;
            _failure = _transfers.TakeFailure();
            Phase = BatchPhase.Written;
            return true;
        }
        return changed;
    }

    /// <summary>The reads or writes in flight.</summary>
    public IoGroup Pending => _transfers;

    /// <summary>True if <see cref="ThrowIfFailed"/> would throw.</summary>
    public bool HasFailed => _failure is not null || _jobFailed;

    /// <summary>Records that a job of this batch has ended.</summary>
    public void JobEnded(int result)
    {
        Jobs--;
        _jobFailed |= result < 0;
    }

    /// <summary>
    /// Throws exit code 74 if a device failed, 65 if a payload does not decode, 71 if a worker ran out of memory. The error names the first
    /// op concerned.
    /// </summary>
    public void ThrowIfFailed()
    {
        if (_failure is { } failure) throw Explain(failure);
        foreach (ref readonly Item item in Items)
            if (item.Error < 0) throw Explain(item);
        if (_jobFailed)
            throw new SnapuserdException(ExitCode.Internal,
                $"{_cow.Name}: a worker failed between {_cow.Describe(_items[0].Index)} and {_cow.Describe(_items[Count - 1].Index)}");
    }

    /// <summary>
    /// Begins to write the contents to Base. <see cref="Advance"/> issues the rest, unless <paramref name="wait"/> asks to wait for space
    /// in the queue.
    /// </summary>
    public void BeginWriting(bool wait = false)
    {
        if (Phase != BatchPhase.Ready) throw new InvalidOperationException($"a batch that is {Phase} cannot be written");
        Phase = BatchPhase.Writing;
        _cursor = 0;
        if (wait) IssueWrites(wait);
    }

    /// <summary>
    /// Runs on a worker: produces the contents of the items from <paramref name="from"/> to before <paramref name="to"/> that have a
    /// payload. Returns 0 or the first error.
    /// </summary>
    public int Decode(int from, int to, UnitDecoder decoder, Span<byte> block)
    {
        int first = 0;
        foreach (ref Item item in _items.AsSpan(from, to - from))
        {
            if (!item.NeedsWork) continue;
            item.Error = Decode(item, decoder, block);
            if (first == 0) first = item.Error;
        }
        return first;
    }

    /// <summary>The error for a failed transfer, with the op it was for.</summary>
    public SnapuserdException Explain(in TransferFailure failure)
    {
        BlockRequest request = failure.Request;
        string device = request.Device == _setup.Cow.Number ? _setup.Cow.Name : request.Device == _setup.Base.Number ? _setup.Base.Name
            : _setup.Source.Name;
        string what = request.Verb == BlockVerb.Read ? "reading" : "writing";
        int first = request.Buffer.Offset + failure.Done;
        string whose = "";
        foreach (ref readonly Item item in Items)
            if (Holds(item.Data, first) || Holds(item.Stored, first)) { whose = $" for {_cow.Describe(item.Index)}"; break; }
        return new SnapuserdException(ExitCode.InputOutput,
            $"{device}: {what} {request.Buffer.Length - failure.Done} bytes at {request.Offset + failure.Done}{whose} failed: "
            + $"{ErrnoText.Of(failure.Errno)}");
    }

    private static bool Holds(Slice slice, int offset) => offset >= slice.Offset && offset < slice.Offset + slice.Length;

    private SnapuserdException Explain(in Item item) => item.Error == (int)UnitError.OutOfMemory
        // The file is intact; the next run may have enough memory.
        ? new SnapuserdException(ExitCode.OutOfResources, $"{_cow.Name}: {_cow.Describe(item.Index)}: {UnitDecoder.Describe(item.Error)}")
        : new SnapuserdException(ExitCode.CowCorrupt,
            $"{_cow.Name}: {_cow.Describe(item.Index)}: its payload of {item.Op.DataLength} bytes at {item.Op.DataOffset}: "
            + $"{UnitDecoder.Describe(item.Error)}");

    private bool TryAdd(int position, int index, in CowOp op, bool readsSource)
    {
        if (Count == _items.Length) return false;
        Item item = new() { Position = position, Index = index, Op = op, ReadsSource = readsSource };
        if (op.HasData) item.Compression = _cow.AlgorithmOf(op);
        int stored = item.NeedsWork ? op.DataLength : 0;
        if (op.UnitBytes + stored > _buffer.Length - _contents - _stored) return false;
        _contents += op.UnitBytes;
        _stored += stored;
        _items[Count++] = item;
        return true;
    }

    /// <summary>
    /// Places the contents, ascending by destination. A payload that needs neither decompression nor XOR is read directly into its place.
    /// </summary>
    private void PlaceContents()
    {
        Span<ulong> order = _byBlock.AsSpan(0, Count);
        for (int i = 0; i < Count; i++) order[i] = ((ulong)_items[i].Op.NewBlock << IndexBits) | (uint)i;
        order.Sort();
        int at = 0;
        foreach (ulong key in order)
        {
            ref Item item = ref _items[Index(key)];
            item.Data = _buffer.Part(at, item.Op.UnitBytes);
            at += item.Op.UnitBytes;
            if (item.Op.Type == CowOpType.Zero) _setup.Arena[item.Data].Clear();
            if (!item.Op.HasData || item.NeedsWork) continue;
            item.Stored = item.Data;
            AddPiece(item.Op.DataOffset, PieceKind.Payload, Index(key));
        }
    }

    /// <summary>
    /// Places the other payloads after the contents, ascending by place in the COW. Small gaps of the file are kept in memory too, so that
    /// one request can read across them.
    /// </summary>
    private void PlacePayloads()
    {
        int before = _pieceCount;
        for (int i = 0; i < Count; i++)
            if (_items[i].NeedsWork) AddPiece(_items[i].Op.DataOffset, PieceKind.Payload, i);
        Span<ulong> pieces = _pieces.AsSpan(before, _pieceCount - before);
        pieces.Sort();
        int at = _contents, spare = _buffer.Length - _contents - _stored;
        long end = -1;
        foreach (ulong piece in pieces)
        {
            ref Item item = ref _items[Index(piece)];
            long gap = item.Op.DataOffset - end;
            if (end >= 0 && gap > 0 && gap <= MostGap && gap <= spare)
            {
                at += (int)gap;
                spare -= (int)gap;
            }
            item.Stored = _buffer.Part(at, item.Op.DataLength);
            at += item.Op.DataLength;
            end = item.Op.DataOffset + item.Op.DataLength;
        }
    }

    private void AddSources()
    {
        for (int i = 0; i < Count; i++)
            if (_items[i].ReadsSource) AddPiece(_items[i].Op.SourceByte, PieceKind.Source, i);
    }

    internal enum PieceKind
    {
        Source = 0,
        Payload = 1,
    }

    /// <summary>Adds a read to the list that <see cref="Close"/> sorts.</summary>
    private void AddPiece(long offset, PieceKind kind, int index) => _pieces[_pieceCount++] = PieceKey(kind, offset, index);

    /// <summary>
    /// Kind:1 at bit 62, place:50, index:12; sorts by kind, then by place. A payload's place is its byte offset, which has 48 bits
    /// (cow-format §12). A source's place is its offset in KiB: a Copy's source is a block number of 48 bits, so its byte offset has 60.
    /// Sources within one KiB, which only unaligned Xors can have, sort by index. The order decides which reads are joined, not their
    /// content.
    /// </summary>
    internal static ulong PieceKey(PieceKind kind, long offset, int index)
    {
        ulong place = (ulong)(kind == PieceKind.Source ? offset >> SourceShift : offset);
        if (place >> PlaceBits != 0 || (uint)index >> IndexBits != 0)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{kind} {index} at {offset} does not fit into a sort key");
        return ((ulong)kind << KindShift) | (place << IndexBits) | (uint)index;
    }

    private static int Index(ulong key) => (int)(key & ((1 << IndexBits) - 1));

    private BlockRequest Piece(int number)
    {
        ulong key = _pieces[number];
        ref readonly Item item = ref _items[Index(key)];
        return key >> KindShift == (ulong)PieceKind.Source
            ? new BlockRequest(BlockVerb.Read, _setup.Source.Number, item.Op.SourceByte, item.Data, 0)
            : new BlockRequest(BlockVerb.Read, _setup.Cow.Number, item.Op.DataOffset, item.Stored, 0);
    }

    private bool IssueReads()
    {
        int from = _cursor;
        while (_cursor < _pieceCount && _setup.Io.HasRoom)
        {
            BlockRequest read = Piece(_cursor++);
            while (_cursor < _pieceCount && TryExtend(ref read, Piece(_cursor))) _cursor++;
            _setup.Io.Read(read.Device, read.Offset, read.Buffer, _transfers);
        }
        return _cursor > from;
    }

    /// <summary>
    /// Joins two requests if the second follows the first both on the device and in memory. Between payloads a gap is permitted.
    /// </summary>
    private bool TryExtend(ref BlockRequest request, in BlockRequest next)
    {
        if (next.Device != request.Device) return false;
        long gap = next.Offset - (request.Offset + request.Buffer.Length);
        long gapInMemory = next.Buffer.Offset - ((long)request.Buffer.Offset + request.Buffer.Length);
        // A gap between contents in memory holds other contents, which a read must not overwrite. Payloads lie after all contents.
        bool payloads = request.Device == _setup.Cow.Number && request.Buffer.Offset >= _buffer.Offset + _contents;
        if (gap != gapInMemory || gap < 0 || (gap > 0 && !payloads)) return false;
        int length = request.Buffer.Length + (int)gap + next.Buffer.Length;
        if (length > _setup.Options.RequestBytes) return false;
        request = request with { Buffer = new Slice(request.Buffer.Offset, length) };
        return true;
    }

    private bool PostJobs()
    {
        bool posted = false;
        while (_cursor < Count)
        {
            int to = _cursor, bytes = 0;
            for (; to < Count && (to == _cursor || bytes < _setup.Options.JobBytes); to++)
                if (_items[to].NeedsWork) bytes += _items[to].Op.UnitBytes;
            if (bytes > 0)
            {
                if (!_setup.Workers.TryPost(new DecodeJob(this, _cursor, to), Tag)) return posted;
                Jobs++;
                posted = true;
            }
            _cursor = to;
        }
        return posted;
    }

    private int Decode(in Item item, UnitDecoder decoder, Span<byte> block)
    {
        ReadOnlySpan<byte> stored = _setup.Arena[item.Stored];
        Span<byte> data = _setup.Arena[item.Data];
        if (!item.ReadsSource) return decoder.Decode(item.Compression, stored, data);
        if (item.Compression != CowCompression.None)
        {
            int result = decoder.Decode(item.Compression, stored, block);
            if (result < 0) return result;
            stored = block;
        }
        XorKernel.XorInto(data, stored);
        return 0;
    }

    private bool IssueWrites(bool wait)
    {
        int from = _cursor;
        while (_cursor < Count && (wait || _setup.Io.HasRoom))
        {
            ref readonly Item first = ref _items[Index(_byBlock[_cursor++])];
            long offset = (long)first.Op.NewBlock * CowOp.BlockSize;
            Slice run = first.Data;
            while (_cursor < Count)
            {
                ref readonly Item next = ref _items[Index(_byBlock[_cursor])];
                if ((long)next.Op.NewBlock * CowOp.BlockSize != offset + run.Length
                    || run.Length + next.Data.Length > _setup.Options.RequestBytes)
                    break;
                run = new Slice(run.Offset, run.Length + next.Data.Length);
                _cursor++;
            }
            _setup.Io.Write(_setup.Base.Number, offset, run, _transfers);
        }
        return _cursor > from;
    }
}
