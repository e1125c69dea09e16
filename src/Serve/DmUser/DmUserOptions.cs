using System;

namespace Snapuserd.Serve;

/// <summary>How a <see cref="DmUserServer"/> serves.</summary>
public sealed class DmUserOptions
{
    /// <summary>Name of the control device below /dev/dm-user, the last word of the device-mapper table's line.</summary>
    public required string Name { get; init; }

    /// <summary>
    /// Threads, each with a channel of its own, at the most: as many as <see cref="MemoryBytes"/> is enough for are made, one at the least. Four as in
    /// Android's daemon: phones have as many fast cores, and a channel answers one request at a time.
    /// </summary>
    public int Threads { get; init; } = 4;

    /// <summary>All buffers together stay within it.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>Gets a sentence for every answer that could not be given to its end and every channel that was opened again, on the thread that served it.</summary>
    public Action<string>? Report { get; init; }

    /// <summary>Opens a channel: a descriptor, or a negative errno. Null opens the control device; tests give sockets.</summary>
    public Func<int>? Open { get; init; }

    /// <summary>
    /// Interruptions, one every 10 ms, until a stop leaves an answer that is not taken, or a request that does not come to its end: a second. The driver
    /// takes answers at once, so only a socket can wait that long.
    /// </summary>
    internal int Patience { get; init; } = 100;
}
