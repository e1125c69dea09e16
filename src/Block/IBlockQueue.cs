using System;

namespace Snapuserd.Block;

/// <summary>The kind of a request.</summary>
public enum BlockVerb : byte
{
    /// <summary>Device to arena.</summary>
    Read,
    /// <summary>Arena to device.</summary>
    Write,
    /// <summary>fdatasync: makes durable every write whose completion was reaped before the flush was queued.</summary>
    Flush,
    /// <summary>A hint: starts write-back without waiting for it. It guarantees nothing, and a device may ignore or reject it.</summary>
    WriteBack,
}

/// <summary>
/// One request to a block queue. <paramref name="Device"/> is the device's index in the queue. <paramref name="Offset"/>, in bytes, and
/// <paramref name="Buffer"/>, which lies in the queue's arena, are used only by reads and writes. <paramref name="Tag"/> is returned with
/// the completion.
/// </summary>
public readonly record struct BlockRequest(BlockVerb Verb, int Device, long Offset, Slice Buffer, uint Tag);

/// <summary>
/// The completion of a request: <paramref name="Result"/> is the number of bytes moved (0 if the request moves none), or a negative
/// errno.
/// </summary>
public readonly record struct BlockCompletion(uint Tag, int Result);

/// <summary>
/// The only interface between the program and its devices: single attempts at reads, writes and flushes, which complete in any order, and
/// may come back short, empty or failed. <see cref="IoScheduler"/> turns them into complete transfers. Implemented by the io_uring ring, by
/// synchronous system calls, and in the tests by a simulated device.
/// <para>
/// A flush covers only the writes whose completions were returned by <see cref="Wait"/> before the flush was queued.
/// A buffer belongs to the queue from <see cref="TryQueue"/> until its completion was returned.
/// Every call except <see cref="WakeUp.Signal"/> must happen on the thread that made the queue.
/// </para>
/// </summary>
public interface IBlockQueue : IDisposable
{
    /// <summary>How many requests may be in flight at once.</summary>
    int Depth { get; }

    /// <summary>
    /// Queues a request; false when <see cref="Depth"/> requests are in flight. It may start at once or at the next <see cref="Wait"/>.
    /// </summary>
    bool TryQueue(in BlockRequest request);

    /// <summary>
    /// Submits queued requests and blocks until a request completes or the wake-up is signalled. Returns the number of completions
    /// written to <paramref name="completions"/>, 0 for a wake-up only, or a negative errno if the queue itself broke.
    /// </summary>
    int Wait(Span<BlockCompletion> completions);

    /// <summary>Executes one request now by a synchronous system call and returns its result: the last resort after EAGAIN.</summary>
    int Perform(in BlockRequest request);
}
