using System;

namespace Snapuserd.Serve;

/// <summary>The options of a ublk device.</summary>
public sealed record UblkOptions
{
    /// <summary>
    /// Number of the device: N of /dev/ublkbN. −1: the first free number; such a device cannot be found again after its server was killed.
    /// </summary>
    public int Id { get; init; } = -1;
    /// <summary>Bytes of buffers of all queues together; a dead server's device is taken over even if it needs more.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;
    /// <summary>The default number of queues. With a single queue, a kill cannot leave one queue fetched and another not.</summary>
    public const int UsualQueues = 1;
    /// <summary>Queues, each with a thread; at most one per processor. The kernel assigns each processor to a queue.</summary>
    public int Queues { get; init; } = UsualQueues;
    /// <summary>
    /// Requests per queue that the kernel may hand over at once. Those above the number of reads in flight wait in order.
    /// </summary>
    public int Depth { get; init; } = 64;
    /// <summary>Called when the requested device belongs to this image: it was added, or is about to be taken over.</summary>
    public Action? Ours { get; init; }

    /// <summary>Receives one sentence when a dead server's device was taken over or removed.</summary>
    public Action<string>? Report { get; init; }
}
