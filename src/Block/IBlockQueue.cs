using System;

namespace Snapuserd.Block;

/// <summary>What a request does.</summary>
public enum BlockVerb : byte
{
    /// <summary>Device to arena.</summary>
    Read,
    /// <summary>Arena to device.</summary>
    Write,
    /// <summary>Make every write whose completion was reaped before durable (fdatasync).</summary>
    Flush,
    /// <summary>
    /// A hint: begin to write back what was written, without waiting for it. Promises nothing and needs nothing: a device may ignore it or refuse it.
    /// </summary>
    WriteBack,
}

/// <summary>
/// One request to a block queue. <paramref name="Device"/> is the number the queue was made with, <paramref name="Offset"/> is in bytes,
/// <paramref name="Buffer"/> lies in the queue's arena; only reads and writes have these two. <paramref name="Tag"/> comes back with the completion.
/// </summary>
public readonly record struct BlockRequest(BlockVerb Verb, int Device, long Offset, Slice Buffer, uint Tag);

/// <summary>The end of a request: <paramref name="Result"/> is the number of bytes moved (0 where none are), or a negative errno.</summary>
public readonly record struct BlockCompletion(uint Tag, int Result);

/// <summary>
/// The one seam between the program and its devices: single attempts at reads, writes and flushes, which complete in any order, and may
/// come back short, empty or failed. <see cref="Transfers"/> makes whole transfers of them. Implemented by the io_uring ring, by plain
/// system calls, and in the tests by a simulated device.
/// <para>
/// A flush covers only the writes whose completions were returned by <see cref="Wait"/> before the flush was queued.
/// A buffer belongs to the queue from <see cref="TryQueue"/> until its completion was returned.
/// Everything but <see cref="WakeUp.Signal"/> happens on one thread: the one that made the queue.
/// </para>
/// </summary>
public interface IBlockQueue : IDisposable
{
    /// <summary>How many requests may be in flight at once.</summary>
    int Depth { get; }

    /// <summary>Queues a request; false when <see cref="Depth"/> requests are in flight. It may start at once or at the next <see cref="Wait"/>.</summary>
    bool TryQueue(in BlockRequest request);

    /// <summary>
    /// Starts what is queued and blocks until a request completed or the wake-up was signalled. Returns the number of completions
    /// written to <paramref name="completions"/>, 0 for a mere wake-up, or a negative errno when the queue itself broke.
    /// </summary>
    int Wait(Span<BlockCompletion> completions);

    /// <summary>Does one request by the plain system call, now, and returns its result: the last resort after EAGAIN.</summary>
    int Perform(in BlockRequest request);
}
