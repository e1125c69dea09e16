using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Readers that run beside a merge. The seed decides which of them advance after each step of the merge, and while the merge waits for
/// them. There are two kinds:
/// <list type="bullet">
/// <item>The product's reader: a <see cref="ViewReader"/> with its own queue on the same disks. It reads random ranges and serves its
/// requests slowly; the results are compared with the target.</item>
/// <item>A reader that knows only the gate. Until it leaves, it checks at every step that each block is still at the location published
/// when it entered: on the devices, in the requests in flight to them, or in window memory.</item>
/// </list>
/// </summary>
public sealed class SimReaders : IDisposable
{
    // In a longer image, each step checks only some blocks.
    private const int LookAt = 24;
    private const int BufferBytes = 32 << 10;

    private readonly MergeCase _case;
    private readonly SimDisk[] _disks;
    private readonly MergeEngine _engine;
    private readonly MergeSetup _setup;
    private readonly WakeUp _wakeUp;
    private readonly SimQueue _beside;
    private readonly Chance _chance;
    private readonly SnapshotView _view;
    private readonly ProductReader _reader;
    private bool _running;
    private bool _broken;

    // State of the reader that knows only the gate.
    private int _pass;
    private bool _inside;
    private OpLocations _locations;
    private int _patience;

    /// <summary><paramref name="disks"/> are indexed by device number. <paramref name="engine"/> is already open.</summary>
    public SimReaders(MergeCase merge, SimDisk[] disks, MergeEngine engine, MergeSetup setup, WakeUp wakeUp, SimQueue beside, ulong seed)
    {
        (_case, _disks, _engine, _setup, _wakeUp, _beside) = (merge, disks, engine, setup, wakeUp, beside);
        _chance = new Chance(seed ^ 0x5eade55);
        // A cache of one unit causes the most evictions.
        _view = new SnapshotView(engine, setup, 1, sentence => Failure = sentence);
        _reader = new ProductReader(this);
    }

    /// <summary>Reads compared with the target, over all cases.</summary>
    public static long Reads => Interlocked.Read(ref _reads);

    /// <summary>Blocks checked at the location that the gate publishes, over all cases.</summary>
    public static long Looks => Interlocked.Read(ref _looks);

    /// <summary>Times that a merge waited for readers only, over all cases.</summary>
    public static long Waits => Interlocked.Read(ref _waits);

    /// <summary>All these counters in one line.</summary>
    public static string Counts =>
        $"readers: {Reads} reads compared, {Looks} blocks checked, {Waits} waits of the merge for readers only";

    /// <summary>Reads that failed because of an injected fault, over all cases.</summary>
    public static long Failures => Interlocked.Read(ref _failures);

    private static long _failures;
    private static long _reads;
    private static long _looks;
    private static long _waits;

    /// <summary>The last message about a failed read.</summary>
    public string Failure { get; private set; } = "";

    /// <summary>The reader that knows only the gate never leaves until the merge ends.</summary>
    public bool Stuck { get; init; }

    /// <summary>Called after a step of the merge: each reader may advance or stay.</summary>
    public void Run()
    {
        // A reader's own request also counts as a step and would recurse.
        if (_running || _broken) return;
        _running = true;
        try
        {
            CheckPublished();
            if (_inside) Look();
            if (!_inside && (Stuck || _chance.Percent(30))) Enter();
            else if (_inside && _chance.Percent(_patience)) Leave();
            if (_chance.Percent(_reader.Throttle)) _reader.GetOn(mayBegin: true);
            _running = false;
        }
        catch
        {
            // The engine's cleanup during the exception must not call back into the readers.
            _broken = true;
            throw;
        }
    }

    /// <summary>The merge waits with nothing in flight: the readers inside the gate advance until one of them wakes the merge.</summary>
    public void WakeUp()
    {
        if (_broken) throw new ContractViolationException("the merge waits after a reader has failed");
        Interlocked.Increment(ref _waits);
        _running = true;
        while (!_wakeUp.TryTake())
        {
            bool reads = _reader.IsReading;
            if (Stuck && !reads && _inside) throw new StuckException();
            if (!reads && !_inside)
                throw new ContractViolationException("waiting with nothing in flight and no reader inside would last for ever");
            if (_inside && !Stuck && (!reads || _chance.Percent(50))) Leave();
            else _reader.GetOn(mayBegin: false);
        }
        _running = false;
    }

    /// <summary>The merge has ended: every reader leaves, all reads are compared, and the whole image is read once more.</summary>
    public void ReadToEnd()
    {
        if (_broken) return;
        _running = true;
        if (_inside) Leave();
        while (_reader.IsReading) _reader.GetOn(mayBegin: false);
        _reader.ReadAll();
        _running = false;
    }

    /// <summary>Reads the whole image in pieces of all sizes.</summary>
    public void ReadAll()
    {
        if (_broken) return;
        _running = true;
        _reader.ReadAll();
        _running = false;
    }

    public void Dispose()
    {
        if (_inside) _setup.Readers.Leave(_pass);
        _reader.Dispose();
        _view.Dispose();
    }

    private void Enter()
    {
        _pass = _setup.Readers.Enter();
        _locations = _setup.Readers.Locations;
        _inside = true;
        _patience = Stuck ? 0 : _chance.Below(3) switch { 0 => 50, 1 => 10, _ => 0 };
    }

    private void Leave()
    {
        Look();
        _inside = false;
        _setup.Readers.Leave(_pass);
    }

    /// <summary>Checks that a power cut would keep the count and the window that the gate publishes as durable.</summary>
    private void CheckPublished()
    {
        OpLocations locations = _setup.Readers.Locations;
        int count = SimMerge.DurableCount(_disks[0]);
        if (locations.Counted > count && locations.Counted > Left)
            throw new LostDataException(
                $"readers are sent to Base for the ops before {locations.Counted}, but the durable count is {count}");
        // A window that has just been counted is no longer claimed.
        if (locations.Window == 0 || locations.Counted == Left || count > locations.Counted) return;
        ScratchLayout layout = new(_engine.Cow.Header.HeaderBytes, _engine.Cow.Header.ScratchBytes);
        if (_disks[0].Durable[0].Bytes[layout.StateOffset] != ScratchLayout.Valid)
            throw new LostDataException($"readers are sent to the window at {locations.Counted}, which is not durable");
    }

    // The previous run's data may be only in the cache. Reading it is correct; it becomes durable before the first write.
    private int Left => (int)_engine.Cow.Header.NumMergeOps;

    private void Look()
    {
        int pages = _case.Target.Pages, looks = Math.Min(pages, LookAt);
        int first = looks == pages ? 0 : _chance.Below(pages);
        for (int i = 0; i < looks; i++) Look((first + i) % pages);
        Interlocked.Add(ref _looks, looks);
    }

    private void Look(int block)
    {
        MergeOrder order = _engine.Cow.Order;
        int position = order.PositionWriting(block);
        CowOp op = position < 0 ? default : _engine.Cow[order.OpIndex(position)];
        if (position < _locations.Counted)
        {
            // Base holds the block; this includes blocks that no op writes.
            LookFor(_setup.Base.Number, (long)block * Page.Size, _case.Target[block].Bytes, block, "Base");
            return;
        }
        if (position < _locations.Counted + _locations.Window)
        {
            if (!_engine.WindowBlock(position - _locations.Counted).SequenceEqual(_case.Target[block].Bytes))
                throw Gone(block, "window memory");
            return;
        }
        if (!op.IsOrdered) return;
        Span<byte> source = stackalloc byte[Page.Size];
        (_case.Source ?? _case.Base).Read(op.SourceByte, source);
        LookFor(_setup.Source.Number, op.SourceByte, source, block, "its source");
    }

    private void LookFor(int device, long offset, ReadOnlySpan<byte> due, int block, string where)
    {
        if (device == 2)
        {
            // Checks the parts that the source shares with Base on Base.
            foreach (SharedRange range in _case.Overlap ?? [])
            {
                long start = Math.Max(offset, range.SourceOffset), end = Math.Min(offset + due.Length, range.SourceOffset + range.Length);
                if (start < end)
                    LookFor(1, start + range.BaseOffset - range.SourceOffset, due[(int)(start - offset)..(int)(end - offset)],
                        block, where);
            }
            if (_case.Overlap is not null) return;
        }
        SimDisk disk = _disks[device];
        due = due[..(int)Math.Min(due.Length, disk.Cache.Length - offset)];
        Span<byte> there = stackalloc byte[Page.Size];
        there = there[..due.Length];
        disk.Cache.Read(offset, there);
        if (!there.SequenceEqual(due)) throw Gone(block, where);
        foreach (PendingPage page in disk.Pending)
        {
            if (!page.InFlight) continue;
            long start = (long)page.Number * Page.Size, from = Math.Max(start, offset),
                to = Math.Min(start + Page.Size, offset + due.Length);
            if (from < to && !page.Contents.Bytes[(int)(from - start)..(int)(to - start)]
                .SequenceEqual(due[(int)(from - offset)..(int)(to - offset)]))
                throw Gone(block, $"{where}, by a write that is in flight,");
        }
    }

    private LostDataException Gone(int block, string where) =>
        new($"a reader entered when {_locations} held and is still inside: block {block} has changed in {where} with "
            + $"{_setup.Readers.Locations} published");

    /// <summary>The product's reader, with two reads at a time.</summary>
    private sealed class ProductReader : IDisposable
    {
        private readonly SimReaders _all;
        private readonly Arena _arena;
        private readonly SimQueue _queue;
        private readonly ViewReader _reader;
        private readonly Slice[] _buffers = new Slice[2];
        private readonly (long Offset, Slice Buffer)[] _asked = new (long, Slice)[2];
        private int _busy;

        public ProductReader(SimReaders all)
        {
            _all = all;
            _arena = new Arena((2 * (ViewReader.BytesPerRead(all._view) + BufferBytes)) + Page.Size);
            _queue = new SimQueue(all._disks, _arena, 2, all._chance.Next(),
                () => throw new ContractViolationException("a reader issued a write"),
                all._case.ReaderFaults)
            { Beside = [all._beside] };
            all._beside.Beside = [_queue];
            _reader = new ViewReader(all._view, new IoScheduler(_queue, [1, 1, 1]), _arena, 2);
            for (int i = 0; i < 2; i++) _buffers[i] = _arena.Take(BufferBytes)!.Value;
            Throttle = 50;
        }

        /// <summary>The percentage of steps in which this reader advances.</summary>
        public int Throttle { get; private set; }

        public bool IsReading => _reader.Count > 0;

        public void GetOn(bool mayBegin)
        {
            while (_reader.TryReap(out ViewCompletion completion)) Compare(completion);
            if (mayBegin && _reader.HasRoom && (_reader.Count == 0 || _all._chance.Percent(30)))
            {
                Chance chance = _all._chance;
                int most = (int)Math.Min(BufferBytes, _all._view.Length);
                int length = 1 + chance.Below(chance.Percent(50) ? most : Math.Min(most, Page.Size));
                long offset = chance.Below((int)_all._view.Length - length + 1);
                if (chance.Percent(40)) offset &= -Page.Size;
                Throttle = chance.Below(3) switch { 0 => 60, 1 => 20, _ => 3 };
                Begin(offset, length);
                return;
            }
            if (!IsReading) return;
            _reader.Wait();
            while (_reader.TryReap(out ViewCompletion completion)) Compare(completion);
        }

        public void ReadAll()
        {
            long at = 0, length = _all._view.Length;
            while (at < length || IsReading)
            {
                while (at < length && _reader.HasRoom)
                {
                    int bytes = (int)Math.Min(length - at, 1 + _all._chance.Below(BufferBytes));
                    Begin(at, bytes);
                    at += bytes;
                }
                GetOn(mayBegin: false);
            }
        }

        public void Dispose()
        {
            _reader.Dispose();
            _queue.Dispose();
            _arena.Dispose();
            _all._beside.Beside = [];
        }

        private void Begin(long offset, int length)
        {
            int slot = (_busy & 1) == 0 ? 0 : 1;
            _busy |= 1 << slot;
            _asked[slot] = (offset, _buffers[slot].Part(0, length));
            _reader.Begin(offset, _asked[slot].Buffer, (uint)slot);
        }

        private void Compare(in ViewCompletion completion)
        {
            (long offset, Slice buffer) = _asked[(int)completion.Tag];
            _busy &= ~(1 << (int)completion.Tag);
            Interlocked.Increment(ref _reads);
            if (completion.Result == -Errno.EIO && _all._case.ReaderFaults is not null)
            {
                Interlocked.Increment(ref _failures);
                return;
            }
            if (completion.Result != buffer.Length)
                throw new LostDataException($"a read of {buffer.Length} bytes at {offset} ends with {completion.Result}: {_all.Failure}");
            ReadOnlySpan<byte> read = _arena[buffer];
            for (int done = 0; done < read.Length;)
            {
                int page = (int)((offset + done) / Page.Size), from = (int)((offset + done) % Page.Size),
                    count = Math.Min(read.Length - done, Page.Size - from);
                if (!read.Slice(done, count).SequenceEqual(_all._case.Target[page].Bytes.Slice(from, count)))
                    throw new LostDataException($"a read of {buffer.Length} bytes at {offset} returns a wrong block {page} with "
                        + $"{_all._setup.Readers.Locations} published");
                done += count;
            }
        }
    }
}

/// <summary>The merge waits for a reader that never leaves.</summary>
public sealed class StuckException() : Exception("the merge waits for a reader that never leaves");
