using System;
using System.Diagnostics;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>The options of a run of the engine; the defaults are the program's.</summary>
internal sealed record EngineChoices
{
    internal int Memory { get; init; } = 32 << 20;
    internal int Depth { get; init; } = 32;
    /// <summary>The quota of this merge in memory that several merges share.</summary>
    internal MemoryQuota? Share { get; init; }
    /// <summary>Number of decoding threads.</summary>
    internal int Threads { get; init; } = Environment.ProcessorCount;
    /// <summary>Uses direct I/O for the base. The COW stays buffered, because payloads begin at any offset.</summary>
    internal bool Direct { get; init; }
    internal long CheckpointBytes { get; init; } = new MergeOptions().CheckpointBytes;
    internal long CheckpointMilliseconds { get; init; } = new MergeOptions().CheckpointMilliseconds;
    internal long WriteBackBytes { get; init; } = new MergeOptions().WriteBackBytes;
    /// <summary>The largest request in bytes.</summary>
    internal int RequestBytes { get; init; } = new MergeOptions().RequestBytes;

    /// <summary>Bytes that one thread decodes at a time.</summary>
    internal int JobBytes { get; init; } = new MergeOptions().JobBytes;

    /// <summary>Milliseconds added to every flush.</summary>
    internal int FlushMilliseconds { get; init; }

    /// <summary>Opens COW and base as for a merge.</summary>
    internal Devices Open(string cowPath, string basePath) =>
        Direct
            // Sources of Xor ops begin at any offset, so they are read through the page cache.
            ? new([(cowPath, Devices.Alone), (basePath, Devices.Alone | DeviceAccess.Direct), (basePath, DeviceAccess.Read)], Memory, Depth)
            : new([(cowPath, Devices.Alone), (basePath, Devices.Alone)], Memory, Depth);
}

/// <summary>
/// A merge by the engine in this process, over the production queue, with a queue around it that counts and traces. The program creates its
/// setup in src/Merge/Devices. This code repeats that setup and must be changed together with it; no other code of the
/// benchmarks does.
/// </summary>
internal sealed record EngineRun(
    double Seconds, MergeResult Result, long Requests, long Waits, long BytesRead, long BytesWritten, long Flushes,
    long OpenAllocated, long RunAllocated, int Collections, long Ops, long TargetBytes)
{
    internal static EngineRun Of(string basePath, string cowPath, EngineChoices choices, Trace? trace = null)
    {
        long start = Stopwatch.GetTimestamp();
        using Devices devices = choices.Open(cowPath, basePath);
        IBlockQueue queue =
            choices.FlushMilliseconds > 0 ? new SlowFlushQueue(devices.Queue, devices.WakeUp, choices.FlushMilliseconds) : devices.Queue;
        TracingQueue tracing = new(queue, trace);
        using WorkQueue<DecodeJob> workers = new(choices.Threads, 64, () => new DecodeWorker(), devices.WakeUp);
        MergeDevice baseDevice = new(1, basePath, devices[1].Length);
        MergeSetup setup = new()
        {
            Io = new IoScheduler(tracing, devices.Granules),
            Arena = devices.Arena,
            Workers = workers,
            Time = new MonotonicClock(),
            Cow = new MergeDevice(0, cowPath, devices[0].Length),
            Base = baseDevice,
            Source = choices.Direct ? baseDevice with { Number = 2 } : baseDevice,
            Options = new MergeOptions
            {
                VerifyFirst = false,
                CheckpointBytes = choices.CheckpointBytes,
                CheckpointMilliseconds = choices.CheckpointMilliseconds,
                WriteBackBytes = choices.WriteBackBytes,
                RequestBytes = choices.RequestBytes,
                JobBytes = choices.JobBytes,
            },
        };
        long before = GC.GetAllocatedBytesForCurrentThread();
        int collections = GC.CollectionCount(0);
        using MergeEngine engine = MergeEngine.Open(setup);
        long opened = GC.GetAllocatedBytesForCurrentThread();
        MergeResult result = engine.Run(choices.Share);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        long allocated = GC.GetAllocatedBytesForCurrentThread();
        if (queue is SlowFlushQueue slow) slow.Stop();
        return new EngineRun(
            seconds, result, tracing.Requests, tracing.Waits, tracing.BytesRead, tracing.BytesWritten, tracing.Flushes,
            opened - before, allocated - opened, GC.CollectionCount(0) - collections, result.OpsTotal, result.BaseBytesWritten);
    }
}
