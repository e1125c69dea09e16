using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>The memory of one worker: two windows of 1 MiB, of which each pass uses as much as it needs.</summary>
internal sealed class WorkerBuffers : IDisposable
{
    /// <summary>
    /// Blocks per window: 1 MiB. At this size reads from the page cache cost almost nothing per call, a disk streams, and the window still
    /// fits the second-level cache of one core when it is compared.
    /// </summary>
    public const int WindowBlocks = 256;

    /// <summary>Bytes per window.</summary>
    public const int WindowBytes = WindowBlocks * CowOp.BlockSize;

    /// <summary>
    /// Bytes after a window for the preceding bytes (the history of the rolling hash) or the following ones (the second block of an
    /// unaligned source).
    /// </summary>
    public const int Margin = CowOp.BlockSize;

    /// <summary>Total bytes.</summary>
    public const int Bytes = 2 * (WindowBytes + Margin);

    private readonly NativeArray<byte> _memory;

    public WorkerBuffers(NativeTally tally) => _memory = new NativeArray<byte>(tally, Bytes, "read buffers");

    /// <summary>The window of the new image.</summary>
    public Span<byte> Target => _memory.Slice(0, WindowBytes + Margin);

    /// <summary>The window of the old image.</summary>
    public Span<byte> Source => _memory.Slice(WindowBytes + Margin, WindowBytes + Margin);

    public void Dispose() => _memory.Dispose();
}
