using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// Batches in merge order, each in a room of its own: while the first is written the next are decompressed, read and filled.
/// Rooms are given out in merge order and come back in merge order, so no op ever waits for memory that a later one holds.
/// </summary>
internal sealed class Pipeline
{
    /// <summary>
    /// Bytes of a room, if memory allows for <see cref="LeastRooms"/> of that size. Longer batches find more neighbours, shorter ones are
    /// still in the processor's cache when they are written; tests/Benchmarks/README.md has the table.
    /// </summary>
    private const int RoomBytes = 1 << 20;

    /// <summary>The same for a merge that journals: a window of 510 ops with its payloads, unless they are hardly compressed, so that it can be written in the order of its blocks.</summary>
    private const int WindowRoomBytes = 3 << 20;

    /// <summary>One is written, one is decompressed, one is read, one is filled.</summary>
    private const int LeastRooms = 4;

    /// <summary>More than this only spreads the work over more memory than a cache has.</summary>
    private const int MostRooms = 8;

    private readonly MergeSetup _setup;
    private readonly CowFile _cow;
    private readonly Batch[] _batches;
    private readonly Batch[] _line;
    private readonly Batch[] _free;
    private readonly int _roomBytes;
    private MemoryShare? _share;
    private int _freeCount;
    private int _first;
    private int _jobs;

    private Pipeline(MergeSetup setup, CowFile cow, Slice memory, int room)
    {
        _setup = setup;
        _cow = cow;
        _batches = new Batch[memory.Length / room];
        int mostOps = Math.Clamp(Math.Min(room / CowOp.BlockSize, cow.Order.Count), 1, Batch.MostOps);
        _line = new Batch[_batches.Length];
        _free = new Batch[_batches.Length];
        _roomBytes = room;
        for (int i = _batches.Length - 1; i >= 0; i--)
            _free[_freeCount++] = _batches[i] = new Batch(setup, cow, memory.Part(i * room, room), mostOps) { Tag = (uint)i, IsTaken = true };
    }

    /// <summary>A pipeline in the memory that is left, or as much of it as is of use; exit code 71 if it is too little.</summary>
    public static Pipeline InRestOf(MergeSetup setup, CowFile cow, bool journals = false)
    {
        int least = Batch.LeastRoom(cow), most = journals ? WindowRoomBytes : RoomBytes;
        (int grain, int room, int rooms) = Divide(setup.Arena, least, most);
        if (rooms == 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"{cow.Name}: {least} bytes of buffers are needed beside its scratch, {setup.Arena.Free} are left; try a larger --memory");
        return new Pipeline(setup, cow, setup.Arena.Take(rooms * room, grain)!.Value, room);
    }

    /// <summary>
    /// The rooms that the rest of <paramref name="arena"/> is divided into: the bytes of which each is a multiple and begins on one, the bytes of each, and how many there are;
    /// 0 if not even one of <paramref name="least"/> bytes fits.
    /// <para>
    /// A room is whole pages of the system, because a room that is given back goes in whole pages. Where memory is so short that pages would leave fewer rooms than blocks do, and
    /// fewer than <see cref="LeastRooms"/>, rooms are whole blocks, and of one that is given back the system gets the pages that lie inside it.
    /// </para>
    /// </summary>
    internal static (int Grain, int Room, int Rooms) Divide(Arena arena, int least, int most)
    {
        int page = Math.Max(arena.System.Page, Arena.Alignment);
        int grain = Fitting(arena, least, page) >= Math.Min(LeastRooms, Fitting(arena, least, Arena.Alignment)) ? page : Arena.Alignment;
        int memory = MemoryIn(arena, grain);
        int room = Math.Max(Sizes.RoundUp(least, grain), Sizes.RoundDown(Math.Min(most, memory / LeastRooms), grain));
        return (grain, room, Math.Min(memory / room, MostRooms));
    }

    /// <summary>The most rooms that fit.</summary>
    private static int Fitting(Arena arena, int least, int grain) => MemoryIn(arena, grain) / Sizes.RoundUp(least, grain);

    /// <summary>Bytes that are left for rooms when the first of them begins on a multiple of <paramref name="grain"/>.</summary>
    private static int MemoryIn(Arena arena, int grain) => Math.Max(0, Sizes.RoundDown(arena.Free - grain, grain));

    /// <summary>From here on no more memory is used than <paramref name="share"/> gives; nothing has been opened yet. Exit code 71 if that is too little for a single room.</summary>
    public void Join(MemoryShare share)
    {
        // Beside the rooms: the head of the COW, and what it was read through. With one room a merge can go on whatever the others take.
        int other = _setup.Arena.Size - _setup.Arena.Free - (_batches.Length * _roomBytes);
        if (!share.TryTake(other + _roomBytes))
            throw new SnapuserdException(ExitCode.OutOfResources, $"{_cow.Name}: {other + _roomBytes} bytes of buffers are needed, and several merges share them; try a larger --memory");
        foreach (Batch batch in _batches) batch.IsTaken = batch == _batches[0];
        _share = share;
    }

    /// <summary>Batches on their way.</summary>
    public int Count { get; private set; }

    /// <summary>The batch at a place in the line; 0 is the one whose ops come first.</summary>
    public Batch this[int place] => _line[(_first + place) % _line.Length];

    /// <summary>Takes a room for a batch that begins at <paramref name="from"/>; null when all are in use, or all that this merge may use.</summary>
    public Batch? TryOpen(int from, MergeStep step = default, int expected = 0)
    {
        if (_freeCount == 0) return null;
        // The one that was used last: the processor's cache may still have it. Those that were never taken lie at the bottom.
        Batch batch = _free[_freeCount - 1];
        if (!batch.IsTaken && !(batch.IsTaken = _share!.TryTake(_roomBytes))) return null;
        _freeCount--;
        _line[(_first + Count++) % _line.Length] = batch;
        batch.Clear(from, step, expected);
        return batch;
    }

    /// <summary>The first batch is done with, and its room free.</summary>
    public void Release()
    {
        Batch batch = this[0];
        _first = (_first + 1) % _line.Length;
        Count--;
        if (_share is { HasTooMuch: true } share && HasAnother(batch))
        {
            batch.Forget();
            share.Give(_roomBytes);
            batch.IsTaken = false;
            // To the bottom: what is taken is used before more is asked for.
            _free.AsSpan(0, _freeCount).CopyTo(_free.AsSpan(1));
            _free[0] = batch;
            _freeCount++;
            return;
        }
        _free[_freeCount++] = batch;
    }

    /// <summary>The last room is never given back.</summary>
    private bool HasAnother(Batch batch)
    {
        foreach (Batch other in _batches)
            if (other.IsTaken && other != batch) return true;
        return false;
    }

    /// <summary>Takes what workers and devices have finished and hands them what they can take, first batch first. True if anything changed.</summary>
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
    /// Blocks until a device or a worker has finished something, or with <paramref name="forOthers"/> the queue is woken: by the last of the readers that were inside when
    /// the caller looked, or by whoever lets the merge go on.
    /// </summary>
    public void Wait(bool forOthers = false)
    {
        // A worker that ends a job wakes the queue as well; who has left or spoken since the caller looked has woken it already.
        if (_setup.Io.InFlight > 0 || forOthers) _setup.Io.Wait();
        else if (_jobs > 0) _setup.Workers.WaitForEnd();
        else throw new InvalidOperationException("the engine waits for nothing");
    }

    /// <summary>Waits until no buffer and no batch is in use any more, whatever comes of it.</summary>
    public void Abandon()
    {
        // If the queue itself broke there is no waiting for its requests.
        if (!_setup.Io.Broken) _setup.Io.Abandon();
        while (_jobs > 0)
        {
            _setup.Workers.WaitForEnd();
            while (_jobs > 0 && _setup.Workers.TryReap(out uint tag, out int result)) JobEnded(tag, result);
        }
    }

    /// <summary>Makes the contents of one batch that was filled, and waits for them. Exit code 74 if a device fails, 65 if a payload does not decode.</summary>
    public void Produce(Batch batch)
    {
        batch.Close();
        while (batch.Phase != BatchPhase.Ready)
            if (!Advance()) Wait();
        batch.ThrowIfFailed();
    }

    /// <summary>
    /// Decodes every payload of the COW from op <paramref name="from"/> on, and tells <paramref name="observer"/>. Exit code 65 at the first that does not decode, 75 when asked to stop.
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
            if (_setup.Stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped while checking payloads, at op {index} of {_cow.OpCount}; nothing was written");
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
                // What is decoded, and not what is on its way: the next process goes on here.
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
