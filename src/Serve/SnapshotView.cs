using System;
using System.Diagnostics;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Serve;

/// <summary>
/// The number of reads that clients requested, and the longest time from the arrival of one until its answer is ready, in microseconds.
/// </summary>
public readonly struct ReadTimes(long reads, long worstMicroseconds)
{
    /// <summary>Number of reads, failed ones included.</summary>
    public long Reads { get; } = reads;

    /// <summary>Duration of the slowest read, in microseconds.</summary>
    public long WorstMicroseconds { get; } = worstMicroseconds;
}

/// <summary>
/// The merged image before, during and after the merge, for any number of threads, each with a <see cref="ViewReader"/> of its own. The
/// engine's <see cref="ReaderGate"/> says where every op must be read at the moment (design §6).
/// </summary>
public sealed class SnapshotView : IDisposable
{
    private readonly MergeEngine _engine;
    private readonly Action<string>? _report;
    private int _failures;
    private long _reads;
    private long _worst;

    /// <summary>
    /// A view of the image that <paramref name="engine"/> merges; the engine was opened (<see cref="MergeEngine.Open()"/>) and outlives the
    /// view. <paramref name="cacheBytes"/> is memory for decoded units. <paramref name="report"/> gets a sentence for every read that
    /// fails, on the thread that reads. Exit code 71 if there is no memory.
    /// </summary>
    public SnapshotView(MergeEngine engine, MergeSetup setup, int cacheBytes, Action<string>? report = null)
    {
        _engine = engine;
        _report = report;
        Length = setup.Base.Length;
        Devices = (setup.Cow, setup.Base, setup.Source);
        Gate = setup.Readers;
        Cache = new UnitCache(cacheBytes, engine.Cow.MaxUnitBytes);
    }

    /// <summary>Bytes of the image: the length of the base.</summary>
    public long Length { get; }

    /// <summary>Reads that ended with an error so far.</summary>
    public int Failures => Volatile.Read(ref _failures);

    /// <summary>Reads requested by clients of all servers of this view, and their longest duration, so far.</summary>
    public ReadTimes Times => new(Volatile.Read(ref _reads), Volatile.Read(ref _worst));

    /// <summary>The COW.</summary>
    public CowFile Cow => _engine.Cow;

    internal (MergeDevice Cow, MergeDevice Base, MergeDevice Source) Devices { get; }

    internal ReaderGate Gate { get; }

    internal UnitCache Cache { get; }

    internal ReadOnlySpan<byte> WindowBlock(int slot) => _engine.WindowBlock(slot);

    internal void Report(string sentence)
    {
        Interlocked.Increment(ref _failures);
        _report?.Invoke(sentence);
    }

    /// <summary>The current time, as the arrival time for <see cref="Answered"/>.</summary>
    internal static long Now => Stopwatch.GetTimestamp();

    /// <summary>Records a client's read whose answer is ready, or which has failed; <paramref name="came"/> is its arrival time.</summary>
    internal void Answered(long came) => RecordLatency(Now - came);

    /// <summary>
    /// Records a read that was sent in parts: <paramref name="ticks"/> excludes the time that the client took to receive them.
    /// </summary>
    internal void RecordLatency(long ticks)
    {
        long microseconds = ticks / (Stopwatch.Frequency / 1_000_000);
        Interlocked.Increment(ref _reads);
        for (long worst = Volatile.Read(ref _worst); microseconds > worst;)
        {
            long seen = Interlocked.CompareExchange(ref _worst, microseconds, worst);
            if (seen == worst) break;
            worst = seen;
        }
    }

    /// <summary>Frees the cache; no reader is left at this point.</summary>
    public void Dispose() => Cache.Dispose();
}
