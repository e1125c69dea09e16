using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// The resources with which a serving thread reads the view: memory, a queue of synchronous system calls, and a buffer per read. That
/// thread must create, use and dispose of this object.
/// </summary>
public sealed class ReadContext : IDisposable
{
    private readonly WakeUp _wakeUp = new();
    private readonly Arena _arena;
    private readonly SyncQueue _queue;
    private readonly Slice[] _buffers;

    /// <summary>The minimum depth of the queue: a read of 1 MiB that consists of scattered single blocks needs many requests.</summary>
    private const int LeastDepth = 32;

    /// <summary>
    /// Resources for <paramref name="reads"/> reads at a time of up to <paramref name="bufferBytes"/> bytes. <paramref name="devices"/> are
    /// the devices of the view's engine, indexed by device number. Allocates <see cref="Bytes"/> of memory; throws with exit code 71 if
    /// that fails.
    /// </summary>
    public ReadContext(SnapshotView view, BlockDevice[] devices, int reads, int bufferBytes)
    {
        _arena = new Arena(Bytes(view, reads, bufferBytes));
        _queue = new SyncQueue(devices, _arena, _wakeUp, Math.Max(LeastDepth, reads));
        Reader = new ViewReader(view, new IoScheduler(_queue, Array.ConvertAll(devices, device => device.Granule)), _arena, reads);
        _buffers = new Slice[reads];
        for (int i = 0; i < reads; i++) _buffers[i] = _arena.Take(bufferBytes)!.Value;
    }

    /// <summary>Bytes of memory for <paramref name="reads"/> reads at a time of up to <paramref name="bufferBytes"/> bytes.</summary>
    public static int Bytes(SnapshotView view, int reads, int bufferBytes) =>
        checked(reads * (ViewReader.BytesPerRead(view) + Sizes.RoundUp(bufferBytes, Arena.Alignment)));

    /// <summary>The reader that fills the buffers.</summary>
    public ViewReader Reader { get; }

    /// <summary>Stopwatch ticks spent so far on reading for the current request; the server maintains it.</summary>
    internal long Ticks { get; set; }

    /// <summary>The buffer of read <paramref name="read"/>.</summary>
    public Slice Buffer(int read) => _buffers[read];

    /// <summary>The bytes of a buffer, or of a part of it.</summary>
    public Span<byte> this[Slice slice] => _arena[slice];

    /// <inheritdoc/>
    public void Dispose()
    {
        Reader.Dispose();
        _queue.Dispose();
        _arena.Dispose();
        _wakeUp.Dispose();
    }
}
