using System;

namespace Snapuserd.Serve;

/// <summary>The options of a <see cref="DmUserServer"/>.</summary>
public sealed class DmUserOptions
{
    /// <summary>Name of the control device below /dev/dm-user: the last field of the device-mapper table's line.</summary>
    public required string Name { get; init; }

    /// <summary>
    /// The maximum number of threads, each with a channel of its own. Fewer are started, but at least one, if <see cref="MemoryBytes"/> is
    /// too small. The default is that of Android's daemon: phones have four fast cores, and a channel answers one request at a time.
    /// </summary>
    public int Threads { get; init; } = 4;

    /// <summary>Limit for all buffers together, in bytes.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>Receives one message for every channel that failed and is replaced by another, on the thread that served it.</summary>
    public Action<string>? Report { get; init; }

    /// <summary>Opens a channel; returns a descriptor or a negative errno. Null for the control device; tests return sockets.</summary>
    public Func<int>? Open { get; init; }

    /// <summary>
    /// The number of interruptions, one every 10 ms, after which Stop abandons an incomplete request or a reply that is not accepted: one
    /// second. The driver accepts replies at once, so only a socket can block that long.
    /// </summary>
    internal int Patience { get; init; } = 100;
}
