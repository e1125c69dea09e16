using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>The options of an <see cref="NbdServer"/> or an <see cref="NbdDevice"/>.</summary>
public sealed class NbdOptions
{
    /// <summary>
    /// Where <see cref="NbdServer"/> listens: a path of at most 107 bytes that does not exist, or is the socket of a dead server.
    /// </summary>
    public string SocketPath { get; init; } = "";

    /// <summary>The export's name; the empty name always works as well.</summary>
    public string ExportName { get; init; } = "";

    /// <summary>The device of <see cref="NbdDevice"/>: "/dev/nbd3", "nbd3" or "3"; empty: a free one.</summary>
    public string Device { get; init; } = "";

    /// <summary>Limit for all buffers together, in bytes.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>
    /// Clients of <see cref="NbdServer"/> at the same time, as far as RLIMIT_NOFILE allows. More clients wait until one leaves, and are
    /// refused after <see cref="CrowdedSeconds"/>. An idle client costs a descriptor and a few hundred bytes.
    /// </summary>
    public int MaxConnections { get; init; } = 2048;

    /// <summary>
    /// Threads of <see cref="NbdServer"/>, for all clients together, as far as the memory allows. More than the devices and processors can
    /// use at once only take memory.
    /// </summary>
    public int Workers { get; init; } = 8;

    /// <summary>
    /// Requests of one connection that are served at the same time; for <see cref="NbdDevice"/> threads, started as requests arrive.
    /// </summary>
    public int ThreadsPerConnection { get; init; } = 4;

    /// <summary>Seconds that a client has for the whole handshake.</summary>
    public int HandshakeSeconds { get; init; } = 30;

    /// <summary>Seconds without progress in reading an answer after which a client is dropped.</summary>
    public int AnswerSeconds { get; init; } = 30;

    /// <summary>Seconds that clients wait for a free slot before they are refused.</summary>
    public int CrowdedSeconds { get; init; } = 30;

    /// <summary>The clock for these timeouts.</summary>
    public ITimeSource Time { get; init; } = new MonotonicClock();

    /// <summary>Milliseconds that Stop gives clients to receive outstanding answers before it hangs up.</summary>
    public int DrainMilliseconds { get; init; } = 5000;

    /// <summary>Connections between the kernel and <see cref="NbdDevice"/>: the kernel uses one per processor.</summary>
    public int DeviceConnections { get; init; } = Math.Clamp(Environment.ProcessorCount, 1, 4);

    /// <summary>
    /// Seconds after which the kernel moves an unanswered request to another connection. So long do unanswered requests of a killed server
    /// wait for the next one. A server that is only slow gets the request again, without harm.
    /// </summary>
    public int RequestSeconds { get; init; } = 10;

    /// <summary>Seconds that the kernel's requests wait for the next server when this one was killed, before they fail.</summary>
    public int DeadConnectionSeconds { get; init; } = 30;

    /// <summary>
    /// A later server with the same identifier may take over the device of a killed one. Names COW and base unless given.
    /// </summary>
    public string Identifier { get; init; } = "";

    /// <summary>Receives one sentence about every client that was dropped for a reason, on the thread that dropped it.</summary>
    public Action<string>? Report { get; init; }
}
