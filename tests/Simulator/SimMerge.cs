using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>One run of the real engine over simulated devices: queue, workers, clock and arena are simulated.</summary>
public static class SimMerge
{
    /// <summary>
    /// Runs a merge to its end. Throws what the engine throws. Also throws if a crash would have undone more work than permitted
    /// (<see cref="Undone"/>).
    /// </summary>
    public static MergeResult Run(MergeCase merge, SimDisk[] disks, Arena arena, ulong seed, Action step,
        Func<int, BlockRequest, Fault?>? faults = null, StopFlag? stop = null, PageStore? pages = null)
    {
        Clean(arena);
        StepTime time = new();
        Undone undone = new(merge, disks[0], time);
        SimQueue? queue = null;
        using SimRival? rival = merge.SharesMemory ? new SimRival(arena, seed) : null;
        void Step()
        {
            time.Milliseconds += merge.StepMilliseconds;
            undone.Check();
            queue?.Readers?.Run();
            rival?.Step();
            step();
        }
        SimStorage storage = merge.Storage?.Invoke() ?? new SimStorage();
        MergeEngine? merged = null;
        SimMarker mark = new(disks[0], () => merged!.Cow.Order.Count);
        Fault? Look(int number, BlockRequest request)
        {
            storage.Check(request);
            mark.Check(request);
            return faults?.Invoke(number, request);
        }
        using SimQueue own = queue = new(Devices(merge, disks), arena, merge.QueueDepth, seed, Step, Look, pages)
        {
            SlowFlushes = merge.SlowFlushes,
            Overlap = merge.Overlap ?? [],
        };
        using SimWorkers workers = new(new DecodeWorker(), seed);
        using WakeUp wakeUp = new();
        SimThrottle? throttle = merge.Paced ? new SimThrottle(seed) : null;
        queue.Throttle = throttle;
        MergeSetup setup = Setup(merge, disks, arena, seed, queue, workers) with
        {
            Stop = stop ?? new StopFlag(),
            Storage = storage,
            Marker = mark,
            Observer = undone,
            Readers = new ReaderGate(wakeUp),
            Throttle = throttle?.Throttle ?? new MergeThrottle(),
        };
        using MergeEngine engine = MergeEngine.Open(merge.StepMilliseconds > 0 ? setup with { Time = time } : setup);
        MergeLifecycle life = new(engine, mark);
        merged = engine;
        undone.LeaveOut(engine.Cow);
        try
        {
            MergeResult result = merge.Readers
                ? RunBesideReaders(merge, Devices(merge, disks), life, setup, wakeUp, queue, seed, rival?.Share)
                : life.Run(rival?.Share);
            rival?.Check(merge.GivesPagesBack);
            if ((storage.Wrong ?? mark.Wrong ?? (mark.IsOver ? null : "the marker of a finished merge is not removed")) is { } wrong)
                throw new LostDataException(wrong);
            return undone.Lost is { } lost ? throw lost : result;
        }
        catch (SnapuserdException) when (undone.Lost is { } lost)
        {
            throw lost;
        }
    }

    private static MergeResult RunBesideReaders(MergeCase merge, SimDisk[] devices, MergeLifecycle life, MergeSetup setup, WakeUp wakeUp,
        SimQueue queue, ulong seed, MemoryQuota? share)
    {
        MergeEngine engine = life.Engine;
        engine.Open();
        using SimReaders readers = new(merge, devices, engine, setup, wakeUp, queue, seed) { Stuck = merge.StuckReader };
        readers.ReadAll();
        // An Xor in place without scratch destroys what it reads and needs the user's consent; such an image is either merged or served,
        // never both.
        if (merge.MayBeLost
            || (merge.Options.AllowUnsafe && new ScratchLayout(engine.Cow.Header.HeaderBytes, engine.Cow.Header.ScratchBytes).Window == 0))
            return life.Run(share);
        queue.Readers = readers;
        try
        {
            MergeResult result = life.Run(share);
            readers.ReadToEnd();
            return result;
        }
        catch (SnapuserdException)
        {
            // Stopped or failed: the merged image must still read as the target.
            readers.ReadToEnd();
            throw;
        }
    }

    /// <summary>
    /// Reads the merged image as `extract` would. Returns the number of the first page that differs from the target, or −1.
    /// </summary>
    public static int FirstWrongPage(MergeCase merge, SimDisk[] disks, Arena arena, ulong seed)
    {
        Clean(arena);
        using SimQueue queue = new(Devices(merge, disks), arena, merge.QueueDepth, seed,
            () => throw new ContractViolationException("a reader issued a write"))
        { Overlap = merge.Overlap ?? [] };
        using SimWorkers workers = new(new DecodeWorker(), seed);
        using MergedImage image = MergedImage.Open(Setup(merge, disks, arena, seed, queue, workers));
        for (long offset = 0; offset < image.Length;)
        {
            ReadOnlySpan<byte> chunk = image.Read(offset);
            for (int at = 0; at < chunk.Length; at += Page.Size)
            {
                int page = (int)((offset + at) / Page.Size), length = Math.Min(Page.Size, chunk.Length - at);
                if (!chunk.Slice(at, length).SequenceEqual(merge.Target[page].Bytes[..length])) return page;
            }
            offset += chunk.Length;
        }
        return -1;
    }

    /// <summary>The engine's setup, built from simulated parts; workers may be real ones.</summary>
    public static MergeSetup Setup(MergeCase merge, SimDisk[] disks, Arena arena, ulong seed, IBlockQueue queue,
        IWorkQueue<DecodeJob> workers) => new()
        {
            Io = new IoScheduler(queue, [merge.Granule, merge.Granule, merge.Granule]),
            Arena = arena,
            Workers = workers,
            Time = new SimTime(seed),
            Cow = new MergeDevice(0, "cow", disks[0].Cache.Length),
            Base = new MergeDevice(1, "base", disks[1].Cache.Length),
            Source = disks.Length > 2 ? new MergeDevice(2, "source", disks[2].Cache.Length)
                : merge.AnotherPath ? new MergeDevice(2, "base by another path", disks[1].Cache.Length)
                : new MergeDevice(1, "base", disks[1].Cache.Length),
            SharedBlocks = disks.Length < 3 || merge.Overlap is not null,
            // A null array would convert to an empty list of ranges.
            Overlap = merge.Overlap is { } ranges ? new ReadOnlyMemory<SharedRange>(ranges) : default(ReadOnlyMemory<SharedRange>?),
            Options = merge.Options with
            {
                UncountedBytes = merge.UncountedIntervals * Math.Min(merge.Options.CheckpointBytes, 1L << 40),
                // Odd seeds send a write-back hint after each batch, even ones never.
                WriteBackBytes = (long)(seed & 1),
            },
        };

    /// <summary>
    /// Clears the arena for the next run, which must not find data that an earlier run has read. Only a small arena is filled, because
    /// filling a large one would take longer than the run.
    /// </summary>
    public static void Clean(Arena arena)
    {
        arena.Reset();
        arena[new Slice(0, Math.Min(arena.Size, 1 << 20))].Fill(0xa5);
    }

    private static SimDisk[] Devices(MergeCase merge, SimDisk[] disks) => merge.AnotherPath ? [disks[0], disks[1], disks[1]] : disks;

    /// <summary>num_merge_ops as a power cut would leave it.</summary>
    public static int DurableCount(SimDisk cow) =>
        (int)BinaryPrimitives.ReadUInt64LittleEndian(cow.Durable[0].Bytes[CowHeader.MergeCountOffset..]);

    /// <summary>The COW has scratch, and its count and its state byte say that no merge has begun.</summary>
    public static bool SaysUntouched(Image cow)
    {
        ReadOnlySpan<byte> head = cow[0].Bytes;
        int headerBytes = BinaryPrimitives.ReadUInt16LittleEndian(head[12..]);
        return BinaryPrimitives.ReadUInt64LittleEndian(head[CowHeader.MergeCountOffset..]) == 0
            && head[headerBytes] == ScratchLayout.NeverUsed
            && new ScratchLayout(headerBytes, BinaryPrimitives.ReadUInt32LittleEndian(head[34..])).Window > 0;
    }
}

/// <summary>
/// Checks how much work a crash would repeat: the written bytes of Base after the durable count. The bound is the intervals that the case
/// allows, plus what was in memory when the last interval filled, plus the same amount for windows, which are in memory too.
/// Where steps take time, no uncounted write is older than two intervals of time: that of the checkpoint in progress at the time of the
/// write, and its own.
/// </summary>
internal sealed class Undone(MergeCase merge, SimDisk cow, StepTime time) : IMergeObserver
{
    private readonly Queue<(MergeProgress Progress, long Time)> _uncounted = new();
    private long _counted;
    private long _written;
    private long _nothing;

    /// <summary>
    /// The first violation. Thrown at the end of the run: an exception in the middle of the engine's call would leave requests that are
    /// never reaped.
    /// </summary>
    public LostDataException? Lost { get; private set; }

    /// <summary>
    /// Excludes ops that write nothing. They take no memory and are not repeated, so any number of them may stand among the others.
    /// </summary>
    public void LeaveOut(CowFile file)
    {
        for (int position = 0; position < file.Order.Count; position++)
        {
            CowOp op = file[file.Order.OpIndex(position)];
            if (file.Order.PositionWriting(op.NewBlock) != position || (op.Type == CowOpType.Copy && op.Source == op.NewBlock))
                _nothing += op.UnitBytes;
        }
    }

    public void Progress(in MergeProgress progress)
    {
        if (_uncounted.Count == 0) _counted = progress.BytesDone;
        _uncounted.Enqueue((progress, time.Milliseconds));
        _written = progress.BytesDone;
    }

    public void Check()
    {
        int count = SimMerge.DurableCount(cow);
        while (_uncounted.TryPeek(out (MergeProgress Progress, long Time) first) && first.Progress.OpsDone <= count)
        {
            _counted = first.Progress.BytesDone;
            // Keeps the last entry, so that the next one is not mistaken for the first.
            if (_uncounted.Count == 1) break;
            _uncounted.Dequeue();
        }
        string? wrong = null;
        if (_written - _counted > (merge.UncountedIntervals * merge.Options.CheckpointBytes) + (2L * merge.ArenaBytes) + _nothing)
            wrong = $"with {merge.Options.CheckpointBytes} between checkpoints and {merge.ArenaBytes} of memory";
        else if (merge.StepMilliseconds > 0 && _uncounted.TryPeek(out (MergeProgress Progress, long Time) oldest)
            && oldest.Progress.OpsDone > count
            && time.Milliseconds - oldest.Time > 2 * merge.Options.CheckpointMilliseconds)
            wrong = $"the oldest of them written {time.Milliseconds - oldest.Time} ms ago, with {merge.Options.CheckpointMilliseconds} "
                + "between checkpoints";
        if (wrong != null) Lost ??= new LostDataException($"a crash would undo {_written - _counted} bytes, {wrong}");
    }
}

/// <summary>
/// A second merge as the first one sees it: it takes and releases a share of the memory at moments that the seed decides. While it has that
/// share, the first merge may hold three quarters of its arena, and must give back the rest.
/// </summary>
internal sealed class SimRival : IDisposable
{
    private readonly Chance _chance;
    private readonly MemoryBudget _budget;
    private readonly Arena _arena;
    private readonly long _before;
    private long _taken;
    private long _given;
    private MemoryQuota? _other;

    public SimRival(Arena arena, ulong seed)
    {
        (_arena, _chance) = (arena, new Chance(seed ^ 0x5a5a));
        _budget = new MemoryBudget(arena.Size + (arena.Size / 2), 2, arena.Size / 2);
        Share = _budget.Join();
        _before = Pages?.Discarded ?? 0;
    }

    /// <summary>The quota of the merge under test.</summary>
    public MemoryQuota Share { get; }

    private SimulatedPages? Pages => _arena.System as SimulatedPages;

    /// <summary>Joins, leaves, or does nothing.</summary>
    public void Step()
    {
        if (Share.Taken < _taken) _given += _taken - Share.Taken;
        _taken = Share.Taken;
        if (_chance.Below(8) != 0) return;
        if (_other is null) _other = _budget.Join();
        else
        {
            _other.Dispose();
            _other = null;
        }
    }

    /// <summary>
    /// Throws if memory that was not given back went to the system or, with <paramref name="all"/>, if not all of it did.
    /// </summary>
    public void Check(bool all)
    {
        if (Pages is not { } pages) return;
        pages.Check();
        long discarded = pages.Discarded - _before;
        if (all && (_given == 0 || discarded < _given))
            throw new LostDataException($"{_given} bytes of buffers were given back, but the system got {discarded}");
    }

    public void Dispose()
    {
        _other?.Dispose();
        Share.Dispose();
    }
}

/// <summary>A clock that stands still until it is advanced.</summary>
internal sealed class StepTime : ITimeSource
{
    public long Milliseconds { get; set; }
}

/// <summary>Workers whose jobs end in an order that the seed decides.</summary>
public sealed class SimWorkers(IWorker<DecodeJob> worker, ulong seed) : IWorkQueue<DecodeJob>, IDisposable
{
    private readonly Chance _chance = new(seed);
    private readonly List<(uint Tag, DecodeJob Job)> _jobs = [];

    public int Capacity => 4;

    public bool TryPost(in DecodeJob job, uint tag)
    {
        if (_jobs.Count == Capacity) return false;
        _jobs.Add((tag, job));
        return true;
    }

    public bool TryReap(out uint tag, out int result)
    {
        (tag, result) = (0, 0);
        if (_jobs.Count == 0) return false;
        int choice = _chance.Below(_jobs.Count);
        (tag, DecodeJob job) = _jobs[choice];
        _jobs.RemoveAt(choice);
        result = worker.Do(job);
        return true;
    }

    public void WaitForEnd()
    {
        if (_jobs.Count == 0) throw new ContractViolationException("waits for a job although none is running");
    }

    public void Dispose() => worker.Dispose();
}

/// <summary>A clock that jumps by up to 100 ms at every read.</summary>
public sealed class SimTime(ulong seed) : ITimeSource
{
    private readonly Chance _chance = new(seed);
    private long _now;

    public long Milliseconds => _now += _chance.Below(100);
}
