using System;
using System.Diagnostics;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Serve;

/// <summary>
/// The number of reads that clients requested, and the longest time from a read's arrival until its data is ready, in microseconds.
/// </summary>
public readonly struct ReadTimes(long reads, long worstMicroseconds)
{
    /// <summary>Number of reads, failed ones included.</summary>
    public long Reads { get; } = reads;

    /// <summary>Duration of the slowest read, in microseconds.</summary>
    public long WorstMicroseconds { get; } = worstMicroseconds;
}

/// <summary>
/// The merged image before, during and after the merge. Any number of threads may read it, each with a <see cref="ViewReader"/> of its own.
/// The engine's <see cref="ReaderGate"/> tells a reader from where it must read each op at the moment (design §6).
/// </summary>
public sealed class SnapshotView : IDisposable
{
    private readonly MergeEngine _engine;
    private readonly Action<string>? _report;
    private int _failures;
    private long _reads;
    private long _worst;

    /// <summary>
    /// A view of the image that <paramref name="engine"/> merges. The engine must be open (<see cref="MergeEngine.Open()"/>) and outlive
    /// the view. <paramref name="cacheBytes"/> is the size of the cache for decoded units. <paramref name="report"/> receives a message for
    /// every read that fails, on the thread that reads. Throws with exit code 71 if memory is short.
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

    /// <summary>The number of reads that have failed so far.</summary>
    public int Failures => Volatile.Read(ref _failures);

    /// <summary>The number of reads by clients of all servers of this view so far, and the longest duration of one.</summary>
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

    /// <summary>Records a client's read that has completed or failed; <paramref name="came"/> is its arrival time.</summary>
    internal void Answered(long came) => RecordLatency(Now - came);

    /// <summary>
    /// Records a read that took <paramref name="ticks"/> without the time for sending. For a read whose data is sent in parts.
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

    /// <summary>Frees the cache. All readers must have been disposed of before.</summary>
    public void Dispose() => Cache.Dispose();
}
