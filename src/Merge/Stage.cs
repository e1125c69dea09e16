using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// Makes the new contents of a batch of ops in memory: reads sources and payloads, has the payloads decompressed, XORs. Contents fill
/// the stage's room from its start, payloads on their way from its end; the batch is full when they meet.
/// </summary>
internal sealed class Stage
{
    /// <summary>
    /// Ops per batch at the most, whatever the memory: they bound the bookkeeping (some 80 bytes each) and how long a stop request
    /// waits. 4096 ops are 16 MiB of single blocks, more than any queue needs to be busy.
    /// </summary>
    public const int MostOps = 4096;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly Slice _room;
    private readonly Slice _zeros;
    private readonly Item[] _items;
    private int _low;
    private int _high;
    private (int Item, int Error)? _failed;

    /// <summary>What the batch holds of one op: <see cref="Data"/> is what goes to the op's blocks.</summary>
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
        /// <summary>The payload as stored.</summary>
        public Slice Stored;
        /// <summary>The payload decompressed.</summary>
        public Slice Unit;
        /// <summary>Data comes from the source first.</summary>
        public bool ReadsSource;
    }

    /// <summary>A stage in <paramref name="room"/>; it must hold at least <see cref="LeastRoom"/> bytes.</summary>
    public Stage(MergeSetup setup, CowFile cow, Slice room)
    {
        _setup = setup;
        _cow = cow;
        _zeros = room.Part(0, CowOp.BlockSize);
        setup.Arena[_zeros].Clear();
        _room = room.Part(CowOp.BlockSize, room.Length - CowOp.BlockSize);
        _items = new Item[Math.Clamp(_room.Length / CowOp.BlockSize, 1, MostOps)];
        Clear();
    }

    /// <summary>
    /// Bytes a stage needs to take any single op of a COW: the block of zeros, one unit of contents, an Xor's decompressed payload, and
    /// the payload as stored: a v3 unit's is no longer than the unit, a v2 block's no longer than its 16-bit length can say.
    /// </summary>
    public static int LeastRoom(CowFile cow) => (3 * CowOp.BlockSize) + cow.MaxUnitBytes + Math.Max(cow.MaxUnitBytes, 65536) + 128;

    /// <summary>A stage in all the memory that is left; exit code 71 if that is too little.</summary>
    public static Stage InRestOf(MergeSetup setup, CowFile cow)
    {
        int least = LeastRoom(cow), room = (setup.Arena.Free - CowOp.BlockSize) & -CowOp.BlockSize;
        if (room < least)
            throw new SnapuserdException(ExitCode.OutOfResources, $"{cow.Name}: {least} bytes of buffers are needed beside its scratch, {setup.Arena.Free} are left; try a larger --memory");
        return new Stage(setup, cow, setup.Arena.Take(room)!.Value);
    }

    /// <summary>The batch, in the order in which the ops were added.</summary>
    public ReadOnlySpan<Item> Items => _items.AsSpan(0, Count);

    /// <summary>Ops in the batch.</summary>
    public int Count { get; private set; }

    /// <summary>Empties the batch.</summary>
    public void Clear()
    {
        Count = 0;
        _low = 0;
        _high = _room.Length;
    }

    /// <summary>Adds the op at <paramref name="position"/>; false when the batch is full. With <paramref name="target"/> the contents end up there, else in the room.</summary>
    public bool TryAdd(int position, Slice? target = null)
    {
        int index = _cow.Order.OpIndex(position);
        CowOp op = _cow[index];
        return TryAdd(position, index, op, target, op.IsOrdered);
    }

    /// <summary>Decodes every payload of the COW, and tells <paramref name="observer"/>. Exit code 65 at the first that does not decode, 75 when asked to stop.</summary>
    public void VerifyPayloads(IMergeObserver? observer = null)
    {
        long bytes = 0, total = 0;
        for (int index = 0; index < _cow.OpCount; index++) total += _cow[index].UnitBytes;
        for (int index = 0; index < _cow.OpCount;)
        {
            if (_setup.Stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped while checking payloads, at op {index} of {_cow.OpCount}; nothing was written");
            Clear();
            while (index < _cow.OpCount && (!_cow[index].HasData || TryAdd(index, index, _cow[index], null, false))) bytes += _cow[index++].UnitBytes;
            Produce();
            observer?.Progress(new MergeProgress(index, _cow.OpCount, bytes, total));
        }
    }

    /// <summary>Makes the contents of the whole batch. Exit code 74 if a device fails, 65 if a payload does not decode.</summary>
    public void Produce()
    {
        foreach (ref readonly Item item in Items)
        {
            if (item.ReadsSource) _setup.Io.Read(_setup.Source.Number, item.Op.SourceByte, item.Data);
            if (item.Op.HasData) _setup.Io.Read(_setup.Cow.Number, item.Op.DataOffset, item.Stored);
        }
        if (_setup.Io.Drain() is { } failure) throw Explain(failure);

        int underWay = 0;
        for (int i = 0; i < Count; i++)
        {
            ref readonly Item item = ref _items[i];
            CowCompression algorithm = item.Op.HasData && !_cow.IsRaw(item.Op) ? _cow.Compression : CowCompression.None;
            Slice target = item.ReadsSource && item.Op.Type == CowOpType.Xor ? item.Data : default;
            if (!item.Op.HasData || (algorithm == CowCompression.None && target.Length == 0)) continue;
            while (!_setup.Workers.TryPost(new DecodeJob(algorithm, item.Stored, item.Unit, target), (uint)i)) Reap(ref underWay);
            underWay++;
        }
        while (underWay > 0) Reap(ref underWay);
        if (_failed is not { } bad) return;
        _failed = null;
        throw Explain(_items[bad.Item], bad.Error);
    }

    private void Reap(ref int underWay)
    {
        _setup.Workers.WaitForEnd();
        if (!_setup.Workers.TryReap(out uint tag, out int result)) throw new InvalidOperationException("a worker ended without a result");
        underWay--;
        // Jobs end in any order; the error reported is that of the first op, so that the same file always gets the same sentence.
        if (result < 0 && (_failed is not { } bad || tag < bad.Item)) _failed = ((int)tag, result);
    }

    /// <summary>The sentence for a transfer that failed, with the op it was for.</summary>
    public SnapuserdException Explain(in TransferFailure failure)
    {
        BlockRequest request = failure.Request;
        string device = request.Device == _setup.Cow.Number ? _setup.Cow.Name : request.Device == _setup.Base.Number ? _setup.Base.Name : _setup.Source.Name;
        string what = request.Verb == BlockVerb.Read ? "reading" : "writing";
        string whose = "";
        foreach (ref readonly Item item in Items)
            if (Holds(item.Data, request.Buffer) || Holds(item.Stored, request.Buffer)) { whose = $" for {_cow.Describe(item.Index)}"; break; }
        return new SnapuserdException(ExitCode.InputOutput,
            $"{device}: {what} {request.Buffer.Length} bytes at {request.Offset}{whose} failed: {Reason.Of(failure.Errno)}");
    }

    private static bool Holds(Slice outer, Slice inner) => inner.Length > 0 && inner.Offset >= outer.Offset && inner.Offset < outer.Offset + outer.Length;

    private SnapuserdException Explain(in Item item, int error) => error switch
    {
        WorkQueue<DecodeJob>.Crashed => new SnapuserdException(ExitCode.Internal, $"{_cow.Name}: a worker failed at {_cow.Describe(item.Index)}"),
        // The file is as good as it was; the next run may have the memory.
        (int)UnitError.OutOfMemory => new SnapuserdException(ExitCode.OutOfResources, $"{_cow.Name}: {_cow.Describe(item.Index)}: {UnitDecoder.Describe(error)}"),
        _ => new SnapuserdException(ExitCode.CowCorrupt,
            $"{_cow.Name}: {_cow.Describe(item.Index)}: its payload of {item.Op.DataLength} bytes at {item.Op.DataOffset}: {UnitDecoder.Describe(error)}"),
    };

    private bool TryAdd(int position, int index, in CowOp op, Slice? target, bool readsSource)
    {
        if (Count == _items.Length) return false;
        int low = _low, high = _high;
        Item item = new() { Position = position, Index = index, Op = op, ReadsSource = readsSource };

        bool raw = op.HasData && _cow.IsRaw(op);
        bool contentsInPayload = raw && !readsSource;
        if (op.Type == CowOpType.Zero && target is null) item.Data = _zeros;
        else if (target is { } given)
        {
            item.Data = given;
            if (op.Type == CowOpType.Zero) _setup.Arena[given].Clear();
        }
        else if (Low(op.UnitBytes, ref low, high) is { } data) item.Data = data;
        else return false;

        if (op.HasData)
        {
            if (contentsInPayload) item.Stored = item.Data;
            else if (High(op.DataLength, low, ref high) is { } stored) item.Stored = stored;
            else return false;

            if (raw) item.Unit = item.Stored;
            else if (!readsSource) item.Unit = item.Data;
            else if (High(op.UnitBytes, low, ref high) is { } unit) item.Unit = unit;
            else return false;
        }
        (_low, _high) = (low, high);
        _items[Count++] = item;
        return true;
    }

    private Slice? Low(int length, ref int low, int high)
    {
        if (length > high - low) return null;
        low += length;
        return _room.Part(low - length, length);
    }

    private Slice? High(int length, int low, ref int high)
    {
        int start = (high - length) & -64;
        if (start < low) return null;
        high = start;
        return _room.Part(start, length);
    }
}
