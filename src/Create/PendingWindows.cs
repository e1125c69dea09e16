using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>Iterates over the windows of a task, and reads the part of each that has pending blocks from the new image.</summary>
internal ref struct PendingWindows(Comparison comparison, WorkerBuffers buffers, long task)
{
    private readonly long _end = Math.Min((task + 1) * Comparison.TaskBlocks, comparison.TargetBlocks);
    private long _next = task * Comparison.TaskBlocks;

    /// <summary>The first block of the window.</summary>
    public long Start { get; private set; }

    /// <summary>The changes of the window's blocks.</summary>
    public Span<PackedChange> Changes { get; private set; }

    /// <summary>
    /// The window's bytes: the blocks from the first to the last pending one, each at its place. The other bytes are undefined.
    /// </summary>
    public Span<byte> Bytes { get; private set; }

    /// <summary>Reads the next window; false after the last one.</summary>
    public bool Next()
    {
        if (_next >= _end) return false;
        Start = _next;
        _next += WorkerBuffers.WindowBlocks;
        Changes = comparison.Changes.Slice(Start, (int)Math.Min(WorkerBuffers.WindowBlocks, _end - Start));
        Bytes = buffers.Target;
        ReadPending();
        return true;
    }

    private readonly void ReadPending()
    {
        int first = 0, end = Changes.Length;
        while (first < end && !Changes[first].IsPending) first++;
        while (end > first && !Changes[end - 1].IsPending) end--;
        if (end == first) return;
        comparison.Target.Read((Start + first) * CowOp.BlockSize, Bytes[(first * CowOp.BlockSize)..(end * CowOp.BlockSize)]);
    }
}
