using System;

namespace Snapuserd.Serve;

/// <summary>How a ublk device is made.</summary>
public sealed record UblkOptions
{
    /// <summary>Number of the device: N of /dev/ublkbN. −1: the first that is free; such a device cannot be found again after its server was killed.</summary>
    public int Id { get; init; } = -1;
    /// <summary>Bytes of buffers of all queues together; no device of a dead server is refused for having needed more.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;
    /// <summary>Queues of a device unless more are asked for. With one, no kill leaves a queue that has fetched beside one that has not.</summary>
    public const int UsualQueues = 1;
    /// <summary>Queues, each with a thread; at most one per processor. The kernel gives every processor its queue.</summary>
    public int Queues { get; init; } = UsualQueues;
    /// <summary>Requests per queue that the kernel hands over at once. More than are read at a time wait in their order.</summary>
    public int Depth { get; init; } = 64;
    /// <summary>Called when the device that was asked for is this image's: it was made, or is about to be taken over.</summary>
    public Action? Ours { get; init; }

    /// <summary>Gets a sentence when a device of a dead server was recovered or removed.</summary>
    public Action<string>? Report { get; init; }
}
