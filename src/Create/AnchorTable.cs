using System;
using System.Threading;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Anchors: positions chosen by the bytes before them, so that they move with their content by any number of bytes. An anchor is a position
/// where the highest bits of the rolling hash are all 0; the whole hash is its key. The table holds the keys of the pending blocks of the
/// new image, and for each key its lowest position in the old image. Several threads fill it. Its content does not depend on the order of
/// the threads.
/// </summary>
internal sealed class AnchorTable : IDisposable
{
    /// <summary>
    /// Density of anchors if memory allows: one in 2^8 bytes, so that hardly any block has no anchor and an edited block keeps some.
    /// </summary>
    private const int DensestShift = 8;

    /// <summary>Bytes per slot: a key and a position.</summary>
    private const int SlotBytes = 16;

    private const long Nowhere = long.MaxValue;

    private readonly NativeArray<ulong> _keys;
    private readonly NativeArray<long> _places;
    private readonly long _mask;
    private readonly long _limit;
    private int _shift = 64 - DensestShift;
    private long _count;
    private bool _full;

    /// <summary>An empty table for <paramref name="pendingBlocks"/> pending blocks, of at most <paramref name="bytes"/>.</summary>
    public AnchorTable(NativeTally tally, long bytes, long pendingBlocks)
    {
        // The table is half full if every block has the expected number of anchors.
        long wanted = pendingBlocks * (CowOp.BlockSize >> DensestShift) * 2, slots = 1024;
        while (slots < wanted && slots * 2 * SlotBytes <= bytes) slots *= 2;
        _mask = slots - 1;
        // Above this load linear probing becomes slow.
        _limit = slots / 4 * 3;
        // Start with a density that can fit: a failed attempt costs another read of all pending blocks.
        while (pendingBlocks * (CowOp.BlockSize >> (64 - _shift)) > _limit) _shift--;
        _keys = new NativeArray<ulong>(tally, slots, "the anchors");
        _places = new NativeArray<long>(tally, slots, "the anchors");
    }

    /// <summary>True if more keys were added than fit. Then call <see cref="Sparser"/> and add all keys again.</summary>
    public bool IsFull => Volatile.Read(ref _full);

    /// <summary>The hash of an anchor, shifted right by this many bits, is 0. Read it once before a loop over bytes.</summary>
    public int Shift => _shift;

    /// <summary>Empties the table and halves the density of anchors.</summary>
    public void Sparser()
    {
        _shift--;
        _count = 0;
        _full = false;
        for (long i = 0; i <= _mask; i++) _keys[i] = 0;
    }

    /// <summary>Adds a key without a position.</summary>
    public void Add(ulong key)
    {
        if (key == 0 || IsFull) return;
        for (long slot = Home(key); ; slot = (slot + 1) & _mask)
        {
            ulong held = Volatile.Read(ref _keys[slot]);
            if (held == 0) held = Interlocked.CompareExchange(ref _keys[slot], key, 0);
            if (held == key) return;
            if (held != 0) continue;
            _places[slot] = Nowhere;
            if (Interlocked.Increment(ref _count) > _limit) Volatile.Write(ref _full, true);
            return;
        }
    }

    /// <summary>
    /// Records that the old image has the key's bytes before byte <paramref name="place"/>. Keys that were not added are ignored.
    /// </summary>
    public void Place(ulong key, long place)
    {
        long slot = Slot(key);
        if (slot < 0) return;
        ref long held = ref _places[slot];
        for (long seen = Volatile.Read(ref held); place < seen;)
        {
            long before = Interlocked.CompareExchange(ref held, place, seen);
            if (before == seen) return;
            seen = before;
        }
    }

    /// <summary>The position of the key's bytes in the old image, or -1 if it does not have them.</summary>
    public long Find(ulong key)
    {
        long slot = Slot(key);
        return slot < 0 || _places[slot] == Nowhere ? -1 : _places[slot];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _keys.Dispose();
        _places.Dispose();
    }

    private long Home(ulong key) => (long)(BlockHash.Mix(key) & (ulong)_mask);

    private long Slot(ulong key)
    {
        if (key == 0) return -1;
        for (long slot = Home(key); ; slot = (slot + 1) & _mask)
        {
            ulong held = _keys[slot];
            if (held == key) return slot;
            if (held == 0) return -1;
        }
    }
}

/// <summary>Adds the anchors of the pending blocks of the new image to the table.</summary>
internal sealed class AnchorPass : IPassWorker
{
    private readonly Comparison _comparison;
    private readonly AnchorTable _table;
    private readonly WorkerBuffers _buffers;

    private AnchorPass(Comparison comparison, AnchorTable table)
    {
        _comparison = comparison;
        _table = table;
        _buffers = new WorkerBuffers(comparison.Tally);
    }

    /// <summary>Adds the anchors, as dense as the table can hold them.</summary>
    public static void Run(Comparison comparison, AnchorTable table)
    {
        while (true)
        {
            comparison.Run(DiffStage.FindAnchors, comparison.TargetBlocks, () => new AnchorPass(comparison, table));
            if (!table.IsFull) return;
            table.Sparser();
        }
    }

    public void Do(long task)
    {
        if (_table.IsFull) return;
        PendingWindows windows = new(_comparison, _buffers, task);
        while (windows.Next())
        {
            Span<PackedChange> changes = windows.Changes;
            for (int i = 0; i < changes.Length; i++)
                if (changes[i].IsPending) AddAnchors(windows.Bytes.Slice(i * CowOp.BlockSize, CowOp.BlockSize));
        }
    }

    public void Dispose() => _buffers.Dispose();

    private void AddAnchors(ReadOnlySpan<byte> block)
    {
        ulong hash = 0;
        int shift = _table.Shift;
        ReadOnlySpan<ulong> words = GearHash.Words;
        for (int i = 0; i < block.Length; i++)
        {
            hash = GearHash.Roll(words, hash, block[i]);
            if (hash >> shift == 0 && i >= GearHash.Window - 1) _table.Add(hash);
        }
    }
}

/// <summary>Finds the table's anchors in the whole old image.</summary>
internal sealed class PlacePass : IPassWorker
{
    private readonly Comparison _comparison;
    private readonly AnchorTable _table;
    private readonly WorkerBuffers _buffers;
    private HoleCursor _holes;

    private PlacePass(Comparison comparison, AnchorTable table)
    {
        _comparison = comparison;
        _table = table;
        _holes = new HoleCursor(comparison.Source);
        _buffers = new WorkerBuffers(comparison.Tally);
    }

    public static void Run(Comparison comparison, AnchorTable table) =>
        comparison.Run(DiffStage.FindPlaces, comparison.SourceBlocks, () => new PlacePass(comparison, table));

    public void Do(long task)
    {
        long start = task * Comparison.TaskBlocks * CowOp.BlockSize;
        long end = Math.Min(start + ((long)Comparison.TaskBlocks * CowOp.BlockSize), _comparison.Source.Length);
        for (long window = start; window < end; window += WorkerBuffers.WindowBytes)
        {
            int length = (int)Math.Min(WorkerBuffers.WindowBytes, end - window);
            // An anchor in zeros is useless. Only few of the skipped anchors depend on bytes before the hole.
            if (_holes.Covers(window, length)) continue;
            int history = (int)Math.Min(window, GearHash.Window - 1);
            Span<byte> bytes = _buffers.Source[..(history + length)];
            _comparison.Source.Read(window - history, bytes);
            PlaceAnchors(bytes, window - history, window == 0 ? GearHash.Window - 1 : history);
        }
    }

    public void Dispose() => _buffers.Dispose();

    private void PlaceAnchors(ReadOnlySpan<byte> bytes, long offset, int first)
    {
        ulong hash = 0, last = 0;
        int shift = _table.Shift;
        ReadOnlySpan<ulong> words = GearHash.Words;
        for (int i = 0; i < bytes.Length; i++)
        {
            hash = GearHash.Roll(words, hash, bytes[i]);
            // A run of one byte value has the same hash throughout. Its first position is the lowest.
            if (hash >> shift != 0 || hash == last || i < first) continue;
            _table.Place(hash, offset + i + 1);
            last = hash;
        }
    }
}
