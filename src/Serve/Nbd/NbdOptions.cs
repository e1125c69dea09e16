using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>What an <see cref="NbdServer"/> or an <see cref="NbdDevice"/> is told.</summary>
public sealed class NbdOptions
{
    /// <summary>Where <see cref="NbdServer"/> listens: a path of at most 107 bytes that does not exist, or is the socket of a server that has died.</summary>
    public string SocketPath { get; init; } = "";

    /// <summary>The export's name, beside the empty one, which always works.</summary>
    public string ExportName { get; init; } = "";

    /// <summary>What <see cref="NbdDevice"/> attaches to: "/dev/nbd3", "nbd3" or "3"; empty: one that is free.</summary>
    public string Device { get; init; } = "";

    /// <summary>Bytes that all buffers together may take.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>
    /// Clients of <see cref="NbdServer"/> at a time, as far as RLIMIT_NOFILE allows. Further ones wait until one leaves; if none leaves for
    /// <see cref="CrowdedSeconds"/>, they are refused. An idle client costs a descriptor and a few hundred bytes.
    /// </summary>
    public int MaxConnections { get; init; } = 2048;

    /// <summary>
    /// Threads of <see cref="NbdServer"/>, for all clients together, as far as the memory reaches. More than the devices and processors can
    /// use at once only take memory.
    /// </summary>
    public int Workers { get; init; } = 8;

    /// <summary>
    /// Requests of one connection that are served at a time; for <see cref="NbdDevice"/> threads, started as requests arrive.
    /// </summary>
    public int ThreadsPerConnection { get; init; } = 4;

    /// <summary>Seconds that a client has for the whole handshake.</summary>
    public int HandshakeSeconds { get; init; } = 30;

    /// <summary>Seconds without progress in reading an answer after which a client is dropped.</summary>
    public int AnswerSeconds { get; init; } = 30;

    /// <summary>Seconds that clients wait for a free slot before they are refused.</summary>
    public int CrowdedSeconds { get; init; } = 30;

    /// <summary>The clock for these seconds.</summary>
    public ITimeSource Time { get; init; } = new MonotonicClock();

    /// <summary>Milliseconds that Stop gives clients to take the answers to what they asked for, before it hangs up.</summary>
    public int DrainMilliseconds { get; init; } = 5000;

    /// <summary>Connections between the kernel and <see cref="NbdDevice"/>: the kernel uses one per processor.</summary>
    public int DeviceConnections { get; init; } = Math.Clamp(Environment.ProcessorCount, 1, 4);

    /// <summary>
    /// Seconds after which the kernel takes a request that was not answered to another connection. That is how long requests that a killed server had not answered
    /// wait for the next one; a server that is only slow is asked again and takes no harm.
    /// </summary>
    public int RequestSeconds { get; init; } = 10;

    /// <summary>Seconds that the kernel's requests wait for the next server when this one was killed, before they fail.</summary>
    public int DeadConnectionSeconds { get; init; } = 30;

    /// <summary>Who may take over the device of a server that was killed: one with the same words. Names COW and base unless given.</summary>
    public string Identifier { get; init; } = "";

    /// <summary>Gets a sentence about every client that was dropped for a reason. On the thread that dropped it.</summary>
    public Action<string>? Report { get; init; }
}
