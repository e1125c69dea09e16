using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>One worker thread's resources: a reader of the view, and memory for received data and handshake replies.</summary>
internal sealed class NbdWorker : IDisposable
{
    /// <summary>The depth of the queue: a read of 1 MiB that consists of scattered single blocks needs many requests.</summary>
    private const int LeastDepth = 32;

    /// <summary>The maximum number of bytes that are received at a time.</summary>
    private const int ScratchBytes = 16 << 10;

    private readonly WakeUp _wakeUp = new();
    private readonly SyncQueue _queue;

    /// <summary>Takes the reader's memory from <paramref name="arena"/>, of which the caller keeps ownership.</summary>
    public NbdWorker(SnapshotView view, BlockDevice[] devices, Arena arena)
    {
        _queue = new SyncQueue(devices, arena, _wakeUp, LeastDepth);
        Reader = new ViewReader(view, new IoScheduler(_queue, Array.ConvertAll(devices, device => device.Granule)), arena, 1);
    }

    public ViewReader Reader { get; }

    public byte[] Scratch { get; } = new byte[ScratchBytes];

    public byte[] Reply { get; } = new byte[NbdNegotiation.LongestReply];

    /// <inheritdoc/>
    public void Dispose()
    {
        Reader.Dispose();
        _queue.Dispose();
        _wakeUp.Dispose();
    }
}
