using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Simulator;

/// <summary>How a run of the model ended.</summary>
public enum AndroidEnd
{
    /// <summary>Everything is merged and counted.</summary>
    Merged,
    /// <summary>Android rejects the file, or its daemon crashes on it; nothing was written.</summary>
    Refused,
    /// <summary>
    /// Read-ahead fails at every start (merge.md §8 step 4): the partition stays "merging" for ever, and nothing was written to Base.
    /// </summary>
    Stuck,
}

/// <summary>How a run of the model ended, and for an unsuccessful one the reason.</summary>
public readonly record struct AndroidOutcome(AndroidEnd End, string Why = "");

/// <summary>
/// A plain, slow model of Android's snapuserd as merge.md describes it (§3 start, §4 scratch, §5 read-ahead, §6 merge, §7 order of stores
/// and syncs, §8 reconstruction, §11 reads), over simulated devices. It shares nothing with src/Merge: order, windows, groups, scratch and
/// counts are its own.
/// <para>
/// Its I/O is Android's. The scratch is a shared mapping of the COW: every store is in the page cache at once, outlives the process, and
/// may reach the medium at any time in any version that the page had. msync and fsync make durable what they cover. Base is written through
/// the page cache. The run starts without flushing what it finds.
/// </para>
/// <para>
/// Where merge.md says 2 MiB and 510, the sizes here follow the header's buffer_size, so that windows of two ops can be tried. A window
/// holds as many ops as both the entries and the slots have space for. Left out: device errors, the fallback of io_uring, pause and resume,
/// and the cap cow_op_merge_size. Reads do not begin after three seconds while the scratch map is not rebuilt, and two threads never race
/// on that map (lessons §3.3, 9).
/// </para>
/// <para>
/// Android itself is not crash-safe in these cases; callers must allow for them:
/// <list type="bullet">
/// <item>Defect 5: with num_merge_ops = 0, Android does not count the start as a resume. Until the merge thread starts window 0, readers
/// get the blocks of that window from the Source, which a crash inside window 0 has half overwritten.
/// <see cref="ReadsHalfOverwrittenSource"/> names the blocks.</item>
/// <item>Defect 7: count and state are two stores. A crash between them leaves state 2 with the entries of the ops before the count. From
/// then on Android is <see cref="AndroidEnd.Stuck"/>; only Android leaves such a state.</item>
/// <item>Without scratch a crash inside a window that reads what it overwrites loses data: <see cref="IsCrashSafe"/>.</item>
/// <item>It relies on a count that it found in the page cache, and writes Base. If the process that wrote that count died before flushing
/// it, and the power fails while Android continues the merge, the old count comes back: <see cref="TrustsUnflushedCount"/>. The same is
/// true of data that a failed flush has dropped; no test here creates that case.</item>
/// </list>
/// </para>
/// </summary>
public sealed class AndroidModel
{
    private enum Group
    {
        Pending,
        Ready,
        InProgress,
        Completed,
    }

    // merge.md §6.2: the most blocks in one batch of Replace and Zero ops.
    private const int BatchBlocks = 256;
    // merge.md §3 step 4: the window size when there is no scratch to derive one from.
    private const int WindowWithoutScratch = 510;
    private const byte Valid = 2;

    private readonly SimDisk _cowDisk;
    private readonly SimDisk _base;
    private readonly SimDisk _source;
    private readonly AndroidCow _cow = null!;
    private readonly string? _refusal;
    private readonly bool _hasScratch;
    private readonly int _metadataBytes;
    private readonly byte[] _anonymous = [];
    private readonly bool _resumeMerge;
    private readonly bool _orderedAtLoad;
    private readonly bool _hadWindowAtLoad;
    private readonly int _loadedFrom;
    private readonly int _safeFrom;
    private readonly List<(uint Block, int Position)> _chunks = [];
    private readonly Group[] _groups = [];
    private readonly byte[] _metadata = [];
    private readonly byte[] _data = [];
    private readonly Chance _chance;

    private bool _populateFromCow;
    private bool _readEarly;
    private long _write;
    private int _count;
    private int _flushedCount;
    private Dictionary<uint, long> _map = [];

    /// <summary>
    /// Starts a handler (merge.md §3). <paramref name="known"/> is the COW if it has been read before; <paramref name="seed"/> decides how
    /// far read-ahead runs in front of the merge.
    /// </summary>
    public AndroidModel(SimDisk[] disks, AndroidCow? known = null, ulong seed = 1)
    {
        _cowDisk = disks[0];
        _base = disks[1];
        _source = disks.Length > 2 ? disks[2] : disks[1];
        _chance = new Chance(seed);
        try
        {
            _cow = known != null && known.Describes(_cowDisk.Cache) ? known : new AndroidCow(_cowDisk.Cache);
        }
        catch (AndroidRefusesException e)
        {
            _refusal = e.Message;
            return;
        }
        _hasScratch = _cow.ScratchBytes > 0;
        int scratch = _hasScratch ? _cow.ScratchBytes : 2 << 20;
        _metadataBytes = scratch * 16 / Page.Size;
        Window = _hasScratch ? Math.Min((scratch - _metadataBytes) / Page.Size, ((_metadataBytes - 1) / 16) - 1) : WindowWithoutScratch;

        long count = (long)Header();
        if (count > Order.Count) _refusal = $"num_merge_ops is {count} of {Order.Count}";
        else if (Window < 1) _refusal = "the scratch holds no window";
        if (_refusal != null) return;
        _count = _flushedCount = _loadedFrom = (int)count;
        _resumeMerge = _count != 0;

        int ordered = 0, plain = -1;
        for (int position = _count; position < Order.Count; position++)
        {
            _chunks.Add((Order[position].NewBlock, position));
            if (!Order[position].IsOrdered) plain = position;
            else if (plain >= 0)
                _refusal = $"the merge thread asserts at the {Order[position].Type} of block {Order[position].NewBlock} after the "
                    + $"{Order[plain].Type} of block {Order[plain].NewBlock}";
            else ordered++;
        }
        _chunks.Sort();
        _orderedAtLoad = ordered > 0;
        _groups = new Group[(ordered + Window - 1) / Window];
        _hadWindowAtLoad = _populateFromCow = _hasScratch && _orderedAtLoad && Mapping(_cow.HeaderBytes, 1)[0] == Valid;
        _metadata = new byte[_metadataBytes];
        _data = new byte[Math.Min(Window, ordered) * Page.Size];
        // Allocates only the used part of Android's 2 MiB of anonymous memory.
        if (!_hasScratch) _anonymous = new byte[_cow.HeaderBytes + _metadataBytes + _data.Length];
        if (!_hasScratch) _safeFrom = EndOfOverlaps();
    }

    /// <summary>Called after every store, write and sync, each of which changes what a crash would leave.</summary>
    public Action Step { get; init; } = () => { };

    /// <summary>
    /// Called with a name after the location of some blocks changes; the callback may try <see cref="Read"/> for each of them.
    /// </summary>
    public Action<string> Moment { get; init; } = _ => { };

    /// <summary>
    /// Replace and Zero ops after which Base is flushed and the count moves; earlier Android versions used 2048, 8192 and 512 (merge.md
    /// §6.3).
    /// </summary>
    public int CommitOps { get; init; } = 256;

    /// <summary>
    /// After any crash, Android can merge the remaining ops: there is scratch, or no window from the durable count on reads what it
    /// overwrites.
    /// </summary>
    public bool IsCrashSafe => _flushedCount >= _safeFrom;

    /// <summary>
    /// Base was written before the count that permits it was flushed. A power cut may restore the older count, whose ops read data that is
    /// overwritten.
    /// </summary>
    public bool TrustsUnflushedCount { get; private set; }

    /// <summary>Maximum number of ops per window and group.</summary>
    public int Window { get; }

    /// <summary>num_merge_ops at this point of the run.</summary>
    public int Count => _count;

    /// <summary>This run has advanced <see cref="Count"/>.</summary>
    public bool Committed => _count > _loadedFrom;

    /// <summary>The COW, which a later start may reuse.</summary>
    public AndroidCow Cow => _cow;

    private List<AndroidOp> Order => _cow.Order;

    /// <summary>Merges the remaining ops.</summary>
    public AndroidOutcome Merge()
    {
        if (_refusal != null) return new AndroidOutcome(AndroidEnd.Refused, _refusal);
        // On a resume, reads begin once the scratch map is rebuilt; otherwise at once.
        if (!(_resumeMerge && _populateFromCow)) Moment("loaded");

        int position = _count;
        for (int window = 0; position < Order.Count && Order[position].IsOrdered; window++)
        {
            int blocks;
            if (_populateFromCow)
            {
                if (Reconstruct(position, out blocks) is { } why) return new AndroidOutcome(AndroidEnd.Stuck, why);
            }
            else
            {
                blocks = WindowAt(position);
                if (window == 0 || !_readEarly) ReadAhead(position, blocks);
                StoreWindow(position, blocks);
            }
            Persist();
            Moment("window persisted");
            // Read-ahead reads the next window either before or after this one is merged.
            int next = position + blocks, nextBlocks = WindowAt(next);
            _readEarly = nextBlocks > 0 && _chance.Percent(50);
            if (_readEarly) ReadAhead(next, nextBlocks);

            if (window >= _groups.Length) return new AndroidOutcome(AndroidEnd.Stuck, $"window {window} has no group");
            _groups[window] = Group.Ready;
            Moment("readers drained");
            _groups[window] = Group.InProgress;
            for (int i = 0; i < blocks; i++)
            {
                WriteBase(Order[position + i].NewBlock, Mapping(SlotOffset(i), Page.Size));
                Moment("window partly written");
            }
            Flush(_base);
            Commit(blocks);
            _groups[window] = Group.Completed;
            position += blocks;
            Moment("window completed");
        }

        MergeReplaceAndZero(position);
        return new AndroidOutcome(AndroidEnd.Merged);
    }

    /// <summary>The 4096 bytes that a reader gets for <paramref name="block"/> now (merge.md §11); null for an I/O error.</summary>
    public byte[]? Read(uint block)
    {
        int at = _chunks.BinarySearch((block, 0), Comparer<(uint Block, int Position)>.Create((a, b) => a.Block.CompareTo(b.Block)));
        if (at < 0)
        {
            int previous = ~at - 1;
            if (previous < 0) return FromBase(block);
            AndroidOp before = Order[_chunks[previous].Position];
            if (before.Type != CowOpType.Replace || block - before.NewBlock >= before.Blocks) return FromBase(block);
            return _cow.Unit(before).AsSpan((int)(block - before.NewBlock) * Page.Size, Page.Size).ToArray();
        }
        int position = _chunks[at].Position;
        AndroidOp op = Order[position];
        if (op.Type == CowOpType.Replace) return _cow.Unit(op).AsSpan(0, Page.Size).ToArray();
        if (op.Type == CowOpType.Zero) return new byte[Page.Size];
        switch (GroupOf(position))
        {
            case Group.Pending:
                return _resumeMerge && _map.TryGetValue(block, out long address) ? Mapping(address, Page.Size) : FromSource(op);
            case Group.Completed:
                return FromBase(block);
            default:
                return _map.TryGetValue(block, out long slot) ? Mapping(slot, Page.Size) : null;
        }
    }

    /// <summary>
    /// Defect 5: this block is in the window that a crash interrupted, and is still read from Source because num_merge_ops was 0 at load.
    /// </summary>
    public bool ReadsHalfOverwrittenSource(uint block)
    {
        if (_resumeMerge || !_hadWindowAtLoad) return false;
        foreach ((uint written, int position) in _chunks)
            if (written == block) return Order[position].IsOrdered && GroupOf(position) == Group.Pending && position < Window;
        return false;
    }

    /// <summary>
    /// Defect 7: ordered ops remain and the state byte is 2, but the entries are those of the ops before the count. The next start is
    /// stuck.
    /// </summary>
    public bool IsTorn()
    {
        if (_refusal != null || !_hadWindowAtLoad) return false;
        int entries = 0;
        while (entries < Window && !Mapping(_cow.HeaderBytes + 1 + (entries * 16), 16).AsSpan().SequenceEqual(new byte[16])) entries++;
        if (entries == 0 || entries > _count) return false;
        for (int i = 0; i < entries; i++)
        {
            byte[] entry = Mapping(_cow.HeaderBytes + 1 + (i * 16), 16);
            AndroidOp op = Order[_count - entries + i];
            if (!op.IsOrdered || BinaryPrimitives.ReadUInt64LittleEndian(entry) != op.NewBlock
                || BinaryPrimitives.ReadUInt64LittleEndian(entry.AsSpan(8)) != (ulong)SlotOffset(i))
                return false;
        }
        return true;
    }

    /// <summary>
    /// The group of an op: W ordered ops each, numbered from the count at load. Ordered ops come first, so the op's position gives its
    /// group.
    /// </summary>
    private Group GroupOf(int position) => _groups[(position - _loadedFrom) / Window];

    private byte[] FromBase(long block)
    {
        byte[] bytes = new byte[Page.Size];
        long offset = block * Page.Size;
        _base.Cache.Read(offset, bytes.AsSpan(0, (int)Math.Min(Page.Size, _base.Cache.Length - offset)));
        return bytes;
    }

    private byte[] FromSource(AndroidOp op)
    {
        byte[] bytes = new byte[Page.Size];
        _source.Cache.Read(op.SourceByte, bytes);
        if (op.Type == CowOpType.Xor)
        {
            byte[] payload = _cow.Unit(op);
            for (int i = 0; i < bytes.Length; i++) bytes[i] ^= payload[i];
        }
        return bytes;
    }

    /// <summary>The length of a window: up to W ordered ops; only the end of the ordered ops shortens it (merge.md §5).</summary>
    private int WindowAt(int position)
    {
        int blocks = 0;
        while (blocks < Window && position + blocks < Order.Count && Order[position + blocks].IsOrdered) blocks++;
        return blocks;
    }

    /// <summary>
    /// The position after the last window that writes a block which one of its own ops reads. A Copy of a block onto itself is harmless
    /// (merge.md §7).
    /// </summary>
    private int EndOfOverlaps()
    {
        int end = 0;
        if (_source != _base) return end;
        for (int start = _count, blocks; (blocks = WindowAt(start)) > 0; start += blocks)
        {
            HashSet<long> written = [];
            for (int i = 0; i < blocks; i++) written.Add(Order[start + i].NewBlock);
            for (int i = 0; i < blocks; i++)
            {
                AndroidOp op = Order[start + i];
                if (op.Type == CowOpType.Copy && op.Source == op.NewBlock) continue;
                if (written.Contains(op.SourceByte / Page.Size) || written.Contains((op.SourceByte + Page.Size - 1) / Page.Size))
                    end = start + blocks;
            }
        }
        return end;
    }

    /// <summary>merge.md §5 step 2: reads the window into private memory.</summary>
    private void ReadAhead(int position, int blocks)
    {
        for (int i = 0; i < blocks; i++)
        {
            AndroidOp op = Order[position + i];
            FromSource(op).CopyTo(_data, i * Page.Size);
            BinaryPrimitives.WriteUInt64LittleEndian(_metadata.AsSpan(i * 16), op.NewBlock);
            BinaryPrimitives.WriteUInt64LittleEndian(_metadata.AsSpan((i * 16) + 8), (ulong)SlotOffset(i));
        }
        // The bytes after the terminator are left over from the previous window.
        _metadata.AsSpan(blocks * 16, 16).Clear();
    }

    /// <summary>merge.md §5 step 4 and §4: stores the metadata first, whose last byte lands in slot 0, then the slots.</summary>
    private void StoreWindow(int position, int blocks)
    {
        // A memory copy can be interrupted anywhere, also in the middle of an entry.
        int cut = Math.Min(_metadata.Length, 21);
        Store(_cow.HeaderBytes + 1, _metadata.AsSpan(0, cut));
        Store(_cow.HeaderBytes + 1 + cut, _metadata.AsSpan(cut));
        Store(SlotOffset(0), _data.AsSpan(0, blocks * Page.Size));
        _map = [];
        for (int i = 0; i < blocks; i++) _map[Order[position + i].NewBlock] = SlotOffset(i);
    }

    /// <summary>merge.md §7, 4 to 6: makes everything durable, stores state 2, then makes that durable.</summary>
    private void Persist()
    {
        Msync(0, SlotOffset(0) + _data.Length);
        Store(_cow.HeaderBytes, [Valid]);
        Msync(0, Page.Size);
    }

    /// <summary>merge.md §8. Returns a reason on failure, which leaves state 2 in place.</summary>
    private string? Reconstruct(int position, out int blocks)
    {
        byte[] metadata = Mapping(_cow.HeaderBytes + 1, _metadataBytes);
        blocks = 0;
        for (int at = 0; at + 16 <= metadata.Length; at += 16, blocks++)
        {
            ulong newBlock = BinaryPrimitives.ReadUInt64LittleEndian(metadata.AsSpan(at)),
                offset = BinaryPrimitives.ReadUInt64LittleEndian(metadata.AsSpan(at + 8));
            if (newBlock == 0 && offset == 0) break;
            // Android does not check this and would read at whatever position the offset gives.
            if (offset < (ulong)SlotOffset(0) || offset > (ulong)SlotOffset(Window - 1))
                return $"entry {blocks} points to {offset}, outside scratch";
            _map[(uint)newBlock] = (long)offset;
        }
        int left = blocks, next = position;
        for (; next < Order.Count && _map.ContainsKey(Order[next].NewBlock); next++) left--;
        if (left != 0) return $"{left} of {blocks} entries do not belong to the ops from {position} on";
        for (int i = 0; i < blocks; i++)
            if (!Order[position + i].IsOrdered) return $"entry {i} stands for a {Order[position + i].Type}";
        _populateFromCow = false;
        return null;
    }

    /// <summary>
    /// merge.md §7, 11: stores the count, then the state if ordered ops existed at load, then makes both durable. Without scratch it writes
    /// the header and calls fsync.
    /// </summary>
    private void Commit(int ops)
    {
        _count += ops;
        byte[] count = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(count, (ulong)_count);
        if (_hasScratch)
        {
            Store(26, count);
            if (_orderedAtLoad) Store(_cow.HeaderBytes, [1]);
            Msync(0, Page.Size);
            return;
        }
        byte[] header = new byte[_cow.HeaderBytes];
        _cowDisk.Cache.Read(0, header);
        count.CopyTo(header, 26);
        WriteThroughCache(_cowDisk, 0, header);
        Flush(_cowDisk);
        TrustsUnflushedCount = false;
    }

    /// <summary>merge.md §6.2: merges the Replace and Zero ops.</summary>
    private void MergeReplaceAndZero(int position)
    {
        int uncounted = 0;
        while (position < Order.Count)
        {
            int blocks = 0, first = position;
            do blocks += Order[position++].Blocks;
            while (position < Order.Count && Order[position].NewBlock == Order[first].NewBlock + blocks
                && blocks + Order[position].Blocks <= BatchBlocks);
            for (; first < position; first++, uncounted++)
            {
                AndroidOp op = Order[first];
                byte[] unit = op.Type == CowOpType.Replace ? _cow.Unit(op) : new byte[Page.Size];
                for (int i = 0; i < op.Blocks; i++) WriteBase(op.NewBlock + i, unit.AsSpan(i * Page.Size, Page.Size));
            }
            Moment("batch written");
            if (uncounted < CommitOps && position < Order.Count) continue;
            Flush(_base);
            Commit(uncounted);
            uncounted = 0;
        }
    }

    // ---- the devices, as Android uses them ----

    private long SlotOffset(int slot) => _cow.HeaderBytes + _metadataBytes + ((long)slot * Page.Size);

    private ulong Header()
    {
        Span<byte> count = stackalloc byte[8];
        _cowDisk.Cache.Read(26, count);
        return BinaryPrimitives.ReadUInt64LittleEndian(count);
    }

    private byte[] Mapping(long offset, int length)
    {
        byte[] bytes = new byte[length];
        if (_hasScratch) _cowDisk.Cache.Read(offset, bytes);
        else _anonymous.AsSpan((int)offset, length).CopyTo(bytes);
        return bytes;
    }

    private void Store(long offset, ReadOnlySpan<byte> bytes)
    {
        if (_hasScratch) WriteThroughCache(_cowDisk, offset, bytes);
        else bytes[..Math.Min(bytes.Length, _anonymous.Length - (int)offset)].CopyTo(_anonymous.AsSpan((int)offset));
    }

    private void Msync(long from, long to)
    {
        if (!_hasScratch) return;
        MakeDurable(_cowDisk, (int)(from / Page.Size), (int)((to - 1) / Page.Size));
        TrustsUnflushedCount = false;
        Step();
    }

    private void WriteBase(long block, ReadOnlySpan<byte> bytes)
    {
        foreach (PendingPage page in _cowDisk.Pending)
            if (page.Number == 0 && page.Write <= 0) TrustsUnflushedCount = true;
        WriteThroughCache(_base, block * Page.Size, bytes);
    }

    private void Flush(SimDisk disk)
    {
        MakeDurable(disk, 0, disk.Cache.Pages - 1);
        if (disk == _cowDisk) _flushedCount = _count;
        Step();
    }

    private static void MakeDurable(SimDisk disk, int first, int last)
    {
        foreach (PendingPage page in disk.Pending)
            if (page.Number >= first && page.Number <= last) disk.Durable.Set(page.Number, page.Contents);
        disk.Pending.RemoveAll(page => page.Number >= first && page.Number <= last);
        disk.Changes++;
    }

    /// <summary>A store or write, page by page: in the page cache at once, on the medium at any time.</summary>
    private void WriteThroughCache(SimDisk disk, long offset, ReadOnlySpan<byte> bytes)
    {
        Span<byte> contents = stackalloc byte[Page.Size];
        while (bytes.Length > 0)
        {
            int page = (int)(offset / Page.Size), from = (int)(offset % Page.Size), count = Math.Min(Page.Size - from, bytes.Length);
            disk.Cache[page].Bytes.CopyTo(contents);
            bytes[..count].CopyTo(contents[from..]);
            Page written = new(contents);
            disk.Cache.Set(page, written);
            disk.Pending.Add(new PendingPage(page, written, ++_write) { InFlight = false });
            disk.Changes++;
            Step();
            bytes = bytes[count..];
            offset += count;
        }
    }
}
