using System;
using Snapuserd.Block;

namespace Snapuserd.Serve;

/// <summary>The options of an <see cref="NbdServer"/> or an <see cref="NbdDevice"/>.</summary>
public sealed class NbdOptions
{
    /// <summary>
    /// The path at which <see cref="NbdServer"/> listens, of at most 107 bytes. The only file that may already exist there is the socket of
    /// a dead server, which is replaced.
    /// </summary>
    public string SocketPath { get; init; } = "";

    /// <summary>The export's name. Clients may also use the empty name.</summary>
    public string ExportName { get; init; } = "";

    /// <summary>The device of <see cref="NbdDevice"/>: "/dev/nbd3", "nbd3" or "3". Empty for a free device.</summary>
    public string Device { get; init; } = "";

    /// <summary>Limit for all buffers together, in bytes.</summary>
    public int MemoryBytes { get; init; } = 16 << 20;

    /// <summary>
    /// The maximum number of clients of <see cref="NbdServer"/> at the same time; fewer if RLIMIT_NOFILE is too low. Further clients wait
    /// until one leaves, and are refused after <see cref="CrowdedSeconds"/>. An idle client costs a descriptor and a few hundred bytes.
    /// </summary>
    public int MaxConnections { get; init; } = 2048;

    /// <summary>
    /// The number of threads of <see cref="NbdServer"/>, for all clients together; fewer if the memory is too small. More threads than the
    /// devices and processors can keep busy only take memory.
    /// </summary>
    public int Workers { get; init; } = 8;

    /// <summary>
    /// The maximum number of one connection's requests that are served at the same time. <see cref="NbdDevice"/> uses a thread for each,
    /// which it starts as requests arrive.
    /// </summary>
    public int ThreadsPerConnection { get; init; } = 4;

    /// <summary>Seconds after which a client that has not completed the handshake is dropped.</summary>
    public int HandshakeSeconds { get; init; } = 30;

    /// <summary>Seconds after which a client that makes no progress in reading a reply is dropped.</summary>
    public int AnswerSeconds { get; init; } = 30;

    /// <summary>Seconds that clients wait for a free slot before they are refused.</summary>
    public int CrowdedSeconds { get; init; } = 30;

    /// <summary>The clock for these timeouts.</summary>
    public ITimeSource Time { get; init; } = new MonotonicClock();

    /// <summary>Milliseconds for which Stop waits for clients to read outstanding replies before it hangs up.</summary>
    public int DrainMilliseconds { get; init; } = 5000;

    /// <summary>
    /// The number of connections between the kernel and <see cref="NbdDevice"/>. The kernel assigns each processor to one of them.
    /// </summary>
    public int DeviceConnections { get; init; } = Math.Clamp(Environment.ProcessorCount, 1, 4);

    /// <summary>
    /// Seconds after which the kernel sends an unanswered request again, over another connection. After a kill, the next server gets the
    /// unanswered requests only after this time. A server that is only slow gets a request twice, which does no harm.
    /// </summary>
    public int RequestSeconds { get; init; } = 10;

    /// <summary>If the server is killed, seconds for which the kernel's requests wait for the next server before they fail.</summary>
    public int DeadConnectionSeconds { get; init; } = 30;

    /// <summary>
    /// Identifies a device: a later server with the same identifier may take over the device of a killed one. If empty, the identifier
    /// consists of the names of COW and base.
    /// </summary>
    public string Identifier { get; init; } = "";

    /// <summary>
    /// Receives a message about every client that is dropped, and one when new clients begin to wait. Called on the thread that notices it.
    /// </summary>
    public Action<string>? Report { get; init; }
}
