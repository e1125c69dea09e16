using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>The memory of one worker: two windows of 1 MiB, of which each pass uses what it needs.</summary>
internal sealed class WorkerBuffers : IDisposable
{
    /// <summary>
    /// Blocks per window: 1 MiB, where reads from the page cache cost nearly nothing per call and a disk streams, and which still lies in
    /// the second-level cache of one core when it is compared.
    /// </summary>
    public const int WindowBlocks = 256;

    /// <summary>Bytes per window.</summary>
    public const int WindowBytes = WindowBlocks * CowOp.BlockSize;

    /// <summary>Room behind a window for what precedes it (the history of the rolling hash) or follows it (the second block of an unaligned source).</summary>
    public const int Margin = CowOp.BlockSize;

    /// <summary>Bytes of all.</summary>
    public const int Bytes = 2 * (WindowBytes + Margin);

    private readonly NativeArray<byte> _memory;

    public WorkerBuffers(NativeTally tally) => _memory = new NativeArray<byte>(tally, Bytes, "read buffers");

    /// <summary>For the new image.</summary>
    public Span<byte> Target => _memory.Slice(0, WindowBytes + Margin);

    /// <summary>For the old image.</summary>
    public Span<byte> Source => _memory.Slice(WindowBytes + Margin, WindowBytes + Margin);

    public void Dispose() => _memory.Dispose();
}
