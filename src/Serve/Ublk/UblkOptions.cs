using System;

namespace Snapuserd.Serve;

/// <summary>The options of a ublk device.</summary>
public sealed record UblkOptions
{
    /// <summary>
    /// Number of the device, the N of /dev/ublkbN. −1 for the first free number; after a kill no server can find such a device again.
    /// </summary>
    public int Id { get; init; } = -1;
    /// <summary>
    /// Limit for the buffers of all queues together, in bytes. A dead server's device is taken over even if it needs more.
    /// </summary>
    public int MemoryBytes { get; init; } = 16 << 20;
    /// <summary>
    /// The default number of queues. With a single queue, a kill cannot happen when one queue has fetched its tags and another has not.
    /// </summary>
    public const int UsualQueues = 1;
    /// <summary>
    /// The number of queues, each with a thread. The kernel assigns each processor to a queue, so more queues than processors are of no
    /// use.
    /// </summary>
    public int Queues { get; init; } = UsualQueues;
    /// <summary>
    /// The maximum number of requests per queue that the kernel hands over at a time. If there are more than reads can be in flight, they
    /// wait in order of arrival.
    /// </summary>
    public int Depth { get; init; } = 64;
    /// <summary>Called when it is certain that the device belongs to this image: after it was added, or before it is taken over.</summary>
    public Action? Ours { get; init; }

    /// <summary>Receives a message when a dead server's device was taken over or removed.</summary>
    public Action<string>? Report { get; init; }
}
