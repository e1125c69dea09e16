using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// Batches in merge order, each in its own buffer. While the first is written, the next ones are decompressed, read and filled. Buffers are
/// allocated and released in merge order, so an op never waits for memory that a later op holds.
/// </summary>
internal sealed class Pipeline
{
    /// <summary>
    /// Bytes of a buffer, if memory allows for <see cref="LeastBuffers"/> of that size. Longer batches find more neighbours to join;
    /// shorter ones are still in the processor's cache when they are written. tests/Benchmarks/README.md has the table.
    /// </summary>
    private const int RoomBytes = 1 << 20;

    /// <summary>
    /// Bytes of a buffer for a merge that journals. It holds a window of 510 ops with its payloads, unless they are hardly compressed, so
    /// that the window can be written in the order of its blocks.
    /// </summary>
    private const int WindowRoomBytes = 3 << 20;

    /// <summary>Enough for one buffer that is filled, one that is read, one that is decompressed and one that is written.</summary>
    private const int LeastBuffers = 4;

    /// <summary>More buffers only spread the work over more memory than a cache holds.</summary>
    private const int MostBuffers = 8;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly Batch[] _batches;
    private readonly Batch[] _line;
    private readonly Batch[] _free;
    private readonly int _bufferBytes;
    private MemoryQuota? _share;
    private int _freeCount;
    private int _first;
    private int _jobs;

    private Pipeline(MergeSetup setup, CowFile cow, Slice memory, int buffer)
    {
        _setup = setup;
        _cow = cow;
        _batches = new Batch[memory.Length / buffer];
        int mostOps = Math.Clamp(Math.Min(buffer / CowOp.BlockSize, cow.Order.Count), 1, Batch.MostOps);
        _line = new Batch[_batches.Length];
        _free = new Batch[_batches.Length];
        _bufferBytes = buffer;
        for (int i = _batches.Length - 1; i >= 0; i--)
            _free[_freeCount++] =
                _batches[i] = new Batch(setup, cow, memory.Part(i * buffer, buffer), mostOps) { Tag = (uint)i, IsTaken = true };
    }

    /// <summary>
    /// Makes a pipeline in the free memory of the arena, or as much of it as is useful. Exit code 71 if there is too little.
    /// </summary>
    public static Pipeline InRestOf(MergeSetup setup, CowFile cow, bool journals = false)
    {
        int least = Batch.LeastBuffer(cow), most = journals ? WindowRoomBytes : RoomBytes;
        (int grain, int buffer, int buffers) = Divide(setup.Arena, least, most);
        if (buffers == 0)
            throw new SnapuserdException(ExitCode.OutOfResources,
                $"{cow.Name}: {least} bytes of buffers are needed beside its scratch, {setup.Arena.Free} are left; try a larger --memory");
        return new Pipeline(setup, cow, setup.Arena.Take(buffers * buffer, grain)!.Value, buffer);
    }

    /// <summary>
    /// Divides the free memory of <paramref name="arena"/> into buffers: the grain (the unit of size and alignment) and the size of each,
    /// in bytes, and their number. The number is 0 if not even one of <paramref name="least"/> bytes fits.
    /// <para>
    /// A buffer consists of whole system pages, because memory is returned to the system in whole pages. Where memory is short, pages can
    /// yield fewer buffers than blocks do, and fewer than <see cref="LeastBuffers"/>. Then buffers consist of whole blocks, and a buffer
    /// that is given back returns only the pages that lie inside it.
    /// </para>
    /// </summary>
    internal static (int Grain, int Buffer, int Buffers) Divide(Arena arena, int least, int most)
    {
        int page = Math.Max(arena.System.Page, Arena.Alignment);
        int grain = Fitting(arena, least, page) >= Math.Min(LeastBuffers, Fitting(arena, least, Arena.Alignment)) ? page : Arena.Alignment;
        int memory = MemoryIn(arena, grain);
        int buffer = Math.Max(Sizes.RoundUp(least, grain), Sizes.RoundDown(Math.Min(most, memory / LeastBuffers), grain));
        return (grain, buffer, Math.Min(memory / buffer, MostBuffers));
    }

    /// <summary>Most buffers of at least <paramref name="least"/> bytes that fit.</summary>
    private static int Fitting(Arena arena, int least, int grain) => MemoryIn(arena, grain) / Sizes.RoundUp(least, grain);

    /// <summary>Bytes available for buffers if the first of them begins on a multiple of <paramref name="grain"/>.</summary>
    private static int MemoryIn(Arena arena, int grain) => Math.Max(0, Sizes.RoundDown(arena.Free - grain, grain));

    /// <summary>
    /// From here on uses no more memory than <paramref name="share"/> gives. Call it before the first batch is opened. Exit code 71 if the
    /// quota is too small for a single buffer.
    /// </summary>
    public void Join(MemoryQuota share)
    {
        // The quota also covers the COW's metadata image and the memory through which the COW was read. One buffer is enough for a merge to
        // continue, however much memory the other merges take.
        int other = _setup.Arena.Size - _setup.Arena.Free - (_batches.Length * _bufferBytes);
        if (!share.TryTake(other + _bufferBytes))
            throw new SnapuserdException(ExitCode.OutOfResources,
                $"{_cow.Name}: {other + _bufferBytes} bytes of buffers are needed, and several merges share them; try a larger --memory");
        foreach (Batch batch in _batches) batch.IsTaken = batch == _batches[0];
        _share = share;
    }

    /// <summary>Batches in the pipeline.</summary>
    public int Count { get; private set; }

    /// <summary>The batch at a place in the pipeline; 0 is the one whose ops come first.</summary>
    public Batch this[int place] => _line[(_first + place) % _line.Length];

    /// <summary>
    /// Takes a buffer for a batch that begins at <paramref name="from"/>. Null if all buffers are in use, or all that this merge's quota
    /// permits.
    /// </summary>
    public Batch? TryOpen(int from, MergeStep step = default, int expected = 0)
    {
        if (_freeCount == 0) return null;
        // Use the most recently used buffer: the processor's cache may still hold it. Buffers never taken are at the bottom.
        Batch batch = _free[_freeCount - 1];
        if (!batch.IsTaken && !(batch.IsTaken = _share!.TryTake(_bufferBytes))) return null;
        _freeCount--;
        _line[(_first + Count++) % _line.Length] = batch;
        batch.Clear(from, step, expected);
        return batch;
    }

    /// <summary>Retires the first batch and frees its buffer.</summary>
    public void Release()
    {
        Batch batch = this[0];
        _first = (_first + 1) % _line.Length;
        Count--;
        if (_share is { HasTooMuch: true } share && HasAnother(batch))
        {
            batch.Forget();
            share.Give(_bufferBytes);
            batch.IsTaken = false;
            // To the bottom of the stack: taken buffers are reused before another one is taken.
            _free.AsSpan(0, _freeCount).CopyTo(_free.AsSpan(1));
            _free[0] = batch;
            _freeCount++;
            return;
        }
        _free[_freeCount++] = batch;
    }

    /// <summary>True if the merge holds another buffer: it never gives back its last one.</summary>
    private bool HasAnother(Batch batch)
    {
        foreach (Batch other in _batches)
            if (other.IsTaken && other != batch) return true;
        return false;
    }

    /// <summary>
    /// Collects finished jobs and I/O, and starts as much work as the queues accept, first batch first. True if anything changed.
    /// </summary>
    public bool Advance()
    {
        bool changed = false;
        while (_jobs > 0 && _setup.Workers.TryReap(out uint tag, out int result)) changed |= JobEnded(tag, result);
        for (int i = 0; i < Count; i++)
        {
            Batch batch = this[i];
            int before = batch.Jobs;
            changed |= batch.Advance();
            _jobs += batch.Jobs - before;
        }
        return changed;
    }

    /// <summary>
    /// Blocks until a device or a worker finishes something. With <paramref name="forOthers"/> also until the queue is woken: by the last
    /// reader that was inside when the caller checked, or by another thread that changes the rate.
    /// </summary>
    public void Wait(bool forOthers = false)
    {
        // A worker that ends a job wakes the queue as well. If a reader left or the rate changed after the caller checked, the queue has
        // been woken already, and this returns at once.
        if (_setup.Io.InFlight > 0 || forOthers) _setup.Io.Wait();
        else if (_jobs > 0) _setup.Workers.WaitForEnd();
        else throw new InvalidOperationException("the engine waits for nothing");
    }

    /// <summary>Waits until no buffer and no batch is in use any more. Ignores failures.</summary>
    public void Abandon()
    {
        // The requests of a broken queue cannot be waited for.
        if (!_setup.Io.Broken) _setup.Io.Abandon();
        while (_jobs > 0)
        {
            _setup.Workers.WaitForEnd();
            while (_jobs > 0 && _setup.Workers.TryReap(out uint tag, out int result)) JobEnded(tag, result);
        }
    }

    /// <summary>
    /// Produces the contents of one filled batch and waits for them. Exit code 74 if a device fails, 65 if a payload does not decode.
    /// </summary>
    public void Produce(Batch batch)
    {
        batch.Close();
        while (batch.Phase != BatchPhase.Ready)
            if (!Advance()) Wait();
        batch.ThrowIfFailed();
    }

    /// <summary>
    /// Decodes every payload of the COW from op <paramref name="from"/> on, and reports to <paramref name="observer"/>. Exit code 65 at the
    /// first payload that does not decode, 75 if asked to stop.
    /// </summary>
    public void VerifyPayloads(IMergeObserver? observer = null, int from = 0)
    {
        try
        {
            Verify(observer, Math.Min(from, _cow.OpCount));
        }
        catch
        {
            Abandon();
            throw;
        }
    }

    private void Verify(IMergeObserver? observer, int from)
    {
        long bytes = 0, total = 0;
        for (int op = 0; op < _cow.OpCount; op++)
        {
            total += _cow[op].UnitBytes;
            if (op < from) bytes += _cow[op].UnitBytes;
        }
        observer?.Checking(new MergeProgress(from, _cow.OpCount, bytes, total));
        int done = from;
        for (int index = from; index < _cow.OpCount || Count > 0;)
        {
            if (_setup.Stop.Requested)
                throw new SnapuserdException(ExitCode.Interrupted,
                    $"stopped while checking payloads, at op {index} of {_cow.OpCount}; nothing was written");
            bool changed = false;
            while (index < _cow.OpCount && TryOpen(index) is { } batch)
            {
                while (index < _cow.OpCount && (!_cow[index].HasData || batch.TryAddPayload(index))) index++;
                batch.Close();
                changed = true;
            }
            changed |= Advance();
            while (Count > 0 && this[0].Phase == BatchPhase.Ready)
            {
                this[0].ThrowIfFailed();
                Release();
                // Report only decoded ops, not those in flight: the next process continues the check after the reported ops.
                for (int end = Count > 0 ? this[0].From : index; done < end; done++) bytes += _cow[done].UnitBytes;
                observer?.Checking(new MergeProgress(done, _cow.OpCount, bytes, total));
                changed = true;
            }
            if (!changed) Wait();
        }
    }

    private bool JobEnded(uint tag, int result)
    {
        _jobs--;
        _batches[(int)tag].JobEnded(result);
        return true;
    }
}
