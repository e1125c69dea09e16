using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;

namespace Snapuserd.AndroidDaemon;

/// <summary>The result of an update's verification (merge §17).</summary>
public enum UpdateVerdict
{
    /// <summary>Not started, not finished, or stopped.</summary>
    Unknown,
    /// <summary>Every byte was read.</summary>
    Success,
    /// <summary>A read failed, or the required way of reading is not available.</summary>
    Failed,
}

/// <summary>
/// Reads a device once from start to end, so that dm-verity below it can report errors before the new system is accepted (merge §17). The
/// data itself is discarded. As in Android:
/// - Reads bypass the page cache and use only io_uring, with registered buffers.
/// - A batch of reads starts when the whole previous batch is done.
/// - One thread reads a device of up to 2 GiB; three threads read a larger one.
/// </summary>
public sealed class UpdateVerifier : IDisposable
{
    private const long TwoGiB = 2L << 30;

    /// <summary>
    /// A batch has 4 requests of 1 MiB for a device of 2 GiB or more, with which a phone's flash is fastest. It has 2 requests of 256 KiB
    /// for a smaller device, which does not justify the memory.
    /// </summary>
    private const int LargeBytes = 1 << 20, LargeDepth = 4, SmallBytes = 256 << 10, SmallDepth = 2;

    /// <summary>Threads for a device of more than 2 GiB.</summary>
    private const int ManyThreads = 3;

    /// <summary>A dm-verity device consists of whole blocks.</summary>
    private const int BlockBytes = Sizes.Block;

    /// <summary>Makes the queue of one thread for the device. Returns null, and the reason, if it is not available.</summary>
    internal delegate IBlockQueue? QueueMaker(BlockDevice device, Arena arena, WakeUp wakeUp, int depth, out string why);

    private readonly object _gate = new();
    private readonly string _path;
    private readonly Action<string> _report;
    private readonly QueueMaker _makeQueue;
    private BlockDevice? _device;
    private Thread[] _threads = [];
    private UpdateVerdict _verdict;
    private int _running;
    private bool _stop;
    private long _bytes;

    /// <summary>
    /// A verifier for the device at <paramref name="path"/>. <paramref name="report"/> receives the reason of a failure, from any thread.
    /// </summary>
    public UpdateVerifier(string path, Action<string> report)
        : this(path, report, MakeRing)
    {
    }

    internal UpdateVerifier(string path, Action<string> report, QueueMaker makeQueue) =>
        (_path, _report, _makeQueue) = (path, report, makeQueue);

    /// <summary>The current result. Any thread.</summary>
    public UpdateVerdict Verdict
    {
        get
        {
            lock (_gate) return _verdict;
        }
    }

    /// <summary>Bytes read so far.</summary>
    public long BytesRead => Interlocked.Read(ref _bytes);

    /// <summary>False for the snapshots of Android's first stage, whose names end in "-init": they are not verified.</summary>
    public static bool IsVerified(string snapshotName) => !snapshotName.EndsWith("-init", StringComparison.Ordinal);

    /// <summary>
    /// The partition of a snapshot: its name up to the first '-', without the slot suffix "_a" or "_b". Only one suffix is removed: Android
    /// strips every a, b and _ at the end, and so mistakes "data_b" for the partition "dat" (lessons §3.3 no. 21).
    /// </summary>
    public static string PartitionOf(string snapshotName)
    {
        int dash = snapshotName.IndexOf('-', StringComparison.Ordinal);
        string name = dash < 0 ? snapshotName : snapshotName[..dash];
        bool slot = name.Length > 2 && (name.EndsWith("_a", StringComparison.Ordinal) || name.EndsWith("_b", StringComparison.Ordinal));
        return slot ? name[..^2] : name;
    }

    /// <summary>
    /// The path of that partition's mapped device, or null. Android names the device "system-verity", or "vroot" for the root; without
    /// verity it has the partition's own name. Throws with the exit codes of <see cref="MapperNames.Find"/>.
    /// </summary>
    public static string? FindDevice(string snapshotName) => MapperNames.Find(CandidatesFor(snapshotName));

    internal static string[] CandidatesFor(string snapshotName)
    {
        string partition = PartitionOf(snapshotName);
        return partition == "system" ? ["vroot", "system-verity", "system"] : [partition + "-verity", partition];
    }

    /// <summary>Starts the threads. Never throws: a device that cannot be opened counts as unreadable.</summary>
    public void Start()
    {
        try
        {
            _device = BlockDevice.Open(_path, DeviceAccess.Read | DeviceAccess.Direct);
            if (_device.Length % BlockBytes != 0)
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"its length, {_device.Length} bytes, is not a multiple of {BlockBytes}");
            int count = ThreadsFor(_device.Length);
            _threads = new Thread[count];
            _running = count;
            for (int i = 0; i < count; i++)
            {
                int number = i;
                _threads[i] = WorkerThread.Start($"verify {i}", StackSize.Usual, () => Run(number, count));
            }
        }
        catch (Exception e)
        {
            Fail(e);
        }
    }

    /// <summary>
    /// Waits at most <paramref name="milliseconds"/> for the result; Android waits 10 s. Returns the result, Unknown if there is none yet.
    /// </summary>
    public UpdateVerdict Wait(int milliseconds)
    {
        MonotonicClock clock = new();
        long end = clock.Milliseconds + milliseconds;
        lock (_gate)
        {
            while (_verdict == UpdateVerdict.Unknown && _running > 0)
            {
                long left = end - clock.Milliseconds;
                if (left <= 0) break;
                Monitor.Wait(_gate, (int)left);
            }
            return _verdict;
        }
    }

    /// <summary>Stops the threads after their current batches. A result that is not known by then stays unknown.</summary>
    public void RequestStop() => Volatile.Write(ref _stop, true);

    /// <summary>Stops, and waits for the threads.</summary>
    public void Dispose()
    {
        RequestStop();
        foreach (Thread? thread in _threads) thread?.Join();
        _device?.Dispose();
        _device = null;
    }

    /// <summary>Threads for a device of that length in bytes.</summary>
    internal static int ThreadsFor(long length) => length > TwoGiB ? ManyThreads : 1;

    /// <summary>Bytes of a request for a device of that length, and the requests in flight per thread.</summary>
    internal static (int Bytes, int Depth) RequestsFor(long length) =>
        length >= TwoGiB ? (LargeBytes, LargeDepth) : (SmallBytes, SmallDepth);

    private static IBlockQueue? MakeRing(BlockDevice device, Arena arena, WakeUp wakeUp, int depth, out string why)
    {
        UringUnavailable? refusal = RingQueue.TryCreate([device], arena, wakeUp, depth, out RingQueue? ring);
        why = refusal is { } known ? known.Sentence : "";
        return ring;
    }

    /// <summary>
    /// Thread <paramref name="number"/> of <paramref name="count"/> reads every <paramref name="count"/>th request, starting with its own
    /// number.
    /// </summary>
    private void Run(int number, int count)
    {
        try
        {
            BlockDevice device = _device!;
            (int bytes, int depth) = RequestsFor(device.Length);
            using Arena arena = new(bytes * depth);
            Slice[] buffers = new Slice[depth];
            for (int i = 0; i < depth; i++) buffers[i] = arena.Take(bytes)!.Value;
            using WakeUp wakeUp = new();
            using IBlockQueue? queue = _makeQueue(device, arena, wakeUp, depth, out string why);
            // Fail without io_uring, as Android's daemon does: Android's update_verifier then reads the device by synchronous calls.
            if (queue == null) throw new SnapuserdException(ExitCode.Unavailable, why);
            Read(new IoScheduler(queue, [device.Granule]), device.Length, buffers, (long)number * bytes, (long)count * bytes);
            lock (_gate)
            {
                if (--_running == 0 && _verdict == UpdateVerdict.Unknown && !Volatile.Read(ref _stop)) _verdict = UpdateVerdict.Success;
                Monitor.PulseAll(_gate);
            }
        }
        catch (Exception e)
        {
            Fail(e);
        }
    }

    private void Read(IoScheduler io, long length, Slice[] buffers, long offset, long step)
    {
        IoGroup group = new();
        while (offset < length && !Volatile.Read(ref _stop))
        {
            long batch = 0;
            for (int i = 0; i < buffers.Length && offset < length; i++, offset += step)
            {
                int bytes = (int)Math.Min(buffers[i].Length, length - offset);
                io.Read(0, offset, buffers[i].Part(0, bytes), group);
                batch += bytes;
            }
            while (!group.IsDone) io.Wait();
            if (group.TakeFailure() is { } failure)
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"reading {failure.Request.Buffer.Length} bytes at {failure.Request.Offset} failed: {ErrnoText.Of(failure.Errno)}");
            Interlocked.Add(ref _bytes, batch);
        }
    }

    private void Fail(Exception why)
    {
        bool first;
        lock (_gate)
        {
            first = _verdict != UpdateVerdict.Failed;
            _verdict = UpdateVerdict.Failed;
            _running = Math.Max(0, _running - 1);
            Monitor.PulseAll(_gate);
        }
        // One failed read decides the result, so the other threads can stop.
        Volatile.Write(ref _stop, true);
        if (first)
            _report($"{_path} is not verified: {(why is SnapuserdException ? why.Message : $"{why.GetType().Name}: {why.Message}")}");
    }
}
