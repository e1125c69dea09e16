using System;
using System.Diagnostics;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>What can be chosen for a run of the engine; the defaults are the program's.</summary>
internal sealed record EngineChoices
{
    internal int Memory { get; init; } = 32 << 20;
    internal int Depth { get; init; } = 32;
    /// <summary>Part of the memory that this merge may use, of what several share.</summary>
    internal MemoryShare? Share { get; init; }
    /// <summary>Threads that decode.</summary>
    internal int Threads { get; init; } = Environment.ProcessorCount;
    /// <summary>The base past the page cache. The COW stays buffered: payloads begin anywhere.</summary>
    internal bool Direct { get; init; }
    internal long CheckpointBytes { get; init; } = new MergeOptions().CheckpointBytes;
    internal long CheckpointMilliseconds { get; init; } = new MergeOptions().CheckpointMilliseconds;
    internal long WriteBackBytes { get; init; } = new MergeOptions().WriteBackBytes;
    /// <summary>Bytes of a request at the most.</summary>
    internal int RequestBytes { get; init; } = new MergeOptions().RequestBytes;

    /// <summary>Bytes that one thread decodes at a time.</summary>
    internal int JobBytes { get; init; } = new MergeOptions().JobBytes;

    /// <summary>By how much every flush takes longer than it does.</summary>
    internal int FlushMilliseconds { get; init; }

    /// <summary>COW and base, opened as they are for a merge.</summary>
    internal Devices Open(string cowPath, string basePath) =>
        Direct
            // Sources of xored blocks lie anywhere, so they are read through the page cache.
            ? new([(cowPath, Devices.Alone), (basePath, Devices.Alone | DeviceAccess.Direct), (basePath, DeviceAccess.Read)], Memory, Depth)
            : new([(cowPath, Devices.Alone), (basePath, Devices.Alone)], Memory, Depth);
}

/// <summary>
/// A merge by the engine in this process, over the production queue, with a queue around it that counts and traces. The program makes its
/// setup in src/Daemon/DeviceSet.cs; this is the same again, and the one place here that has to follow it.
/// </summary>
internal sealed record EngineRun(
    double Seconds, MergeResult Result, long Requests, long Waits, long BytesRead, long BytesWritten, long Flushes,
    long OpenAllocated, long RunAllocated, int Collections, long Ops, long TargetBytes)
{
    internal static EngineRun Of(string basePath, string cowPath, EngineChoices choices, Trace? trace = null)
    {
        long start = Stopwatch.GetTimestamp();
        using Devices devices = choices.Open(cowPath, basePath);
        IBlockQueue queue = choices.FlushMilliseconds > 0 ? new SlowFlushQueue(devices.Queue, devices.WakeUp, choices.FlushMilliseconds) : devices.Queue;
        TracingQueue tracing = new(queue, trace);
        using WorkQueue<DecodeJob> workers = new(choices.Threads, 64, () => new DecodeWorker(), devices.WakeUp);
        MergeDevice baseDevice = new(1, basePath, devices[1].Length);
        MergeSetup setup = new()
        {
            Io = new Transfers(tracing, devices.Granules),
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
