using System;

namespace Snapuserd.Serve;

/// <summary>The options of a <see cref="DmUserServer"/>.</summary>
public sealed class DmUserOptions
{
    /// <summary>Name of the control device below /dev/dm-user: the last field of the device-mapper table's line.</summary>
    public required string Name { get; init; }

    /// <summary>
    /// The maximum number of threads, each with a channel of its own. <see cref="MemoryBytes"/> limits the number that is started; at least
    /// one. Four as in Android's daemon: phones have as many fast cores, and a channel answers one request at a time.
    /// </summary>
    public int Threads { get; init; } = 4;

    /// <summary>Limit for all buffers together, in bytes.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>
    /// Receives one sentence for every answer that could not be completed and every channel that was reopened, on the thread that served
    /// it.
    /// </summary>
    public Action<string>? Report { get; init; }

    /// <summary>Opens a channel: returns a descriptor, or a negative errno. Null opens the control device; tests return sockets.</summary>
    public Func<int>? Open { get; init; }

    /// <summary>
    /// Interruptions, one every 10 ms, after which a stop abandons an answer that is not accepted, or an incomplete request: one second.
    /// The driver accepts answers at once, so only a socket can wait that long.
    /// </summary>
    internal int Patience { get; init; } = 100;
}
