using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>The memory of one worker: one window of 1 MiB for each of the two images. A pass may use only a part of it.</summary>
internal sealed class WorkerBuffers : IDisposable
{
    /// <summary>
    /// Blocks per window, which make 1 MiB. Reads of this size have little overhead per call and reach a disk's sequential speed. A
    /// window still fits into the second-level cache of the core that compares it.
    /// </summary>
    public const int WindowBlocks = 256;

    /// <summary>Bytes per window.</summary>
    public const int WindowBytes = WindowBlocks * CowOp.BlockSize;

    /// <summary>
    /// Additional bytes per window. <see cref="PlacePass"/> reads a full window together with the bytes that precede it in the image, which
    /// are the history of the rolling hash.
    /// </summary>
    public const int Margin = CowOp.BlockSize;

    /// <summary>Bytes of both windows, with their margins.</summary>
    public const int Bytes = 2 * (WindowBytes + Margin);

    private readonly NativeArray<byte> _memory;

    public WorkerBuffers(NativeTally tally) => _memory = new NativeArray<byte>(tally, Bytes, "read buffers");

    /// <summary>The window of the new image.</summary>
    public Span<byte> Target => _memory.Slice(0, WindowBytes + Margin);

    /// <summary>The window of the old image.</summary>
    public Span<byte> Source => _memory.Slice(WindowBytes + Margin, WindowBytes + Margin);

    public void Dispose() => _memory.Dispose();
}
