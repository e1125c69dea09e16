using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>What became of the verification of an update (merge §17).</summary>
public enum UpdateVerdict
{
    /// <summary>Not begun, not at its end, or stopped.</summary>
    Unknown,
    /// <summary>Every byte could be read.</summary>
    Success,
    /// <summary>Something could not be read, or not in the way it is to be read.</summary>
    Failed,
}

/// <summary>
/// Reads a device from its beginning to its end once, so that dm-verity below it can object before the new system is called good (merge §17). What is read is looked at by nobody. As Android does it:
/// past the page cache, by io_uring and nothing else, with registered buffers, in batches that are waited for as a whole; up to 2 GiB by one thread, beyond that by three.
/// </summary>
public sealed class UpdateVerifier : IDisposable
{
    private const long TwoGiB = 2L << 30;

    /// <summary>From 2 GiB on 4 requests of 1 MiB, below 2 of 256 KiB: what a phone's flash gives its best at, and a smaller partition is not worth the memory.</summary>
    private const int LargeBytes = 1 << 20, LargeDepth = 4, SmallBytes = 256 << 10, SmallDepth = 2;

    /// <summary>Threads for a device of more than 2 GiB.</summary>
    private const int ManyThreads = 3;

    /// <summary>A dm-verity device consists of whole blocks.</summary>
    private const int BlockBytes = Sizes.Block;

    /// <summary>As for any thread of ours: address space is all that it costs.</summary>
    private const int StackSize = 512 * 1024;

    /// <summary>Makes the queue of one thread over the device; null if there is none to be had, with a sentence why.</summary>
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

    /// <summary>For the device at <paramref name="path"/>. <paramref name="report"/> takes a sentence why it has failed, from any thread.</summary>
    public UpdateVerifier(string path, Action<string> report)
        : this(path, report, MakeRing)
    {
    }

    internal UpdateVerifier(string path, Action<string> report, QueueMaker makeQueue) => (_path, _report, _makeQueue) = (path, report, makeQueue);

    /// <summary>How it stands. Any thread.</summary>
    public UpdateVerdict Verdict
    {
        get
        {
            lock (_gate) return _verdict;
        }
    }

    /// <summary>Bytes that were read so far.</summary>
    public long BytesRead => Interlocked.Read(ref _bytes);

    /// <summary>Whether a snapshot of this name is verified at all: Android's first stage calls its own "…-init".</summary>
    public static bool IsVerified(string snapshotName) => !snapshotName.EndsWith("-init", StringComparison.Ordinal);

    /// <summary>
    /// The partition that a snapshot is named after: up to the first '-', without the slot's suffix "_a" or "_b". One suffix and no more: Android strips every a, b and _ at the end, and
    /// takes "data_b" for the partition "dat" (lessons §3.3 no. 21).
    /// </summary>
    public static string PartitionOf(string snapshotName)
    {
        int dash = snapshotName.IndexOf('-', StringComparison.Ordinal);
        string name = dash < 0 ? snapshotName : snapshotName[..dash];
        bool slot = name.Length > 2 && (name.EndsWith("_a", StringComparison.Ordinal) || name.EndsWith("_b", StringComparison.Ordinal));
        return slot ? name[..^2] : name;
    }

    /// <summary>
    /// The device of that partition that is mounted, or null: Android's names are "system-verity", or "vroot" for the root, and the partition's own where there is no verity. Exit codes as
    /// <see cref="MapperNames.Find"/> has them.
    /// </summary>
    public static string? FindDevice(string snapshotName) => MapperNames.Find(CandidatesFor(snapshotName));

    internal static string[] CandidatesFor(string snapshotName)
    {
        string partition = PartitionOf(snapshotName);
        return partition == "system" ? ["vroot", "system-verity", "system"] : [partition + "-verity", partition];
    }

    /// <summary>Begins. Never throws: a device that cannot be opened is one that cannot be read.</summary>
    public void Start()
    {
        try
        {
            _device = BlockDevice.Open(_path, DeviceAccess.Read | DeviceAccess.Direct);
            if (_device.Length % BlockBytes != 0) throw new SnapuserdException(ExitCode.InputOutput, $"it has {_device.Length} bytes, which are no whole blocks of {BlockBytes}");
            int count = ThreadsFor(_device.Length);
            _threads = new Thread[count];
            _running = count;
            for (int i = 0; i < count; i++)
            {
                int number = i;
                _threads[i] = new Thread(() => Run(number, count), StackSize) { IsBackground = true, Name = $"verify {i}" };
            }
            foreach (Thread thread in _threads) thread.Start();
        }
        catch (Exception e)
        {
            Fail(e);
        }
    }

    /// <summary>Waits for the end at most <paramref name="milliseconds"/>; Android waits 10 s. Returns how it stands then.</summary>
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

    /// <summary>Ends it behind the batch that is being read. What is not known then stays unknown.</summary>
    public void RequestStop() => Volatile.Write(ref _stop, true);

    /// <summary>Stops, and waits for the end of the threads.</summary>
    public void Dispose()
    {
        RequestStop();
        foreach (Thread? thread in _threads)
            if (thread != null && (thread.ThreadState & ThreadState.Unstarted) == 0) thread.Join();
        _device?.Dispose();
        _device = null;
    }

    /// <summary>Threads that read a device of that length, in bytes.</summary>
    internal static int ThreadsFor(long length) => length > TwoGiB ? ManyThreads : 1;

    /// <summary>Bytes of a request to it, and how many are under way at a time.</summary>
    internal static (int Bytes, int Depth) RequestsFor(long length) => length >= TwoGiB ? (LargeBytes, LargeDepth) : (SmallBytes, SmallDepth);

    private static IBlockQueue? MakeRing(BlockDevice device, Arena arena, WakeUp wakeUp, int depth, out string why)
    {
        RingRefusal? refusal = RingQueue.TryCreate([device], arena, wakeUp, depth, out RingQueue? ring);
        why = refusal is { } known ? known.Sentence : "";
        return ring;
    }

    /// <summary>Thread <paramref name="number"/> of <paramref name="count"/> begins at as many requests and goes on in steps of all threads' requests.</summary>
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
            // Whoever else could do it reads the device by plain calls then; Android leaves it to update_verifier as well.
            if (queue == null) throw new SnapuserdException(ExitCode.Unavailable, why);
            Read(new Transfers(queue, [device.Granule]), device.Length, buffers, (long)number * bytes, (long)count * bytes);
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

    private void Read(Transfers io, long length, Slice[] buffers, long offset, long step)
    {
        TransferGroup group = new();
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
                throw new SnapuserdException(ExitCode.InputOutput, $"reading {failure.Request.Buffer.Length} bytes at {failure.Request.Offset} failed: {Reason.Of(failure.Errno)}");
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
        // One bad block is enough; the others need not read on.
        Volatile.Write(ref _stop, true);
        if (first) _report($"{_path} is not verified: {(why is SnapuserdException ? why.Message : $"{why.GetType().Name}: {why.Message}")}");
    }
}
