using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The ublk driver as a server uses it. Tests replace it with one that needs no kernel.</summary>
internal interface IUblkDriver : IDisposable
{
    /// <summary>
    /// Executes a control command for device <paramref name="id"/> (−1: none), with <paramref name="buffer"/> as input and output. Returns
    /// its result, a negative errno, or -ETIMEDOUT when it takes longer than <paramref name="milliseconds"/> (negative: no limit). After
    /// -ETIMEDOUT the command is still running, and no other can follow.
    /// </summary>
    int Control(uint command, int id, ulong data, Span<byte> buffer, int milliseconds = -1);

    /// <summary>Opens /dev/ublkcN. Returns a descriptor or a negative errno.</summary>
    int OpenCharacterDevice(int id);

    /// <summary>
    /// Sends a queue a command that no driver knows, over /dev/ublkcN. Returns its result, a negative errno. In Linux 6.12 the driver
    /// answers EINVAL when it has recorded a server for the queue other than the calling thread, and EOPNOTSUPP when it has recorded none.
    /// </summary>
    int AskQueue(int fd, int queue);

    /// <summary>
    /// Fetches all tags of <paramref name="queues"/> on a thread of its own, in one system call, closes the ring and waits for the thread's
    /// end. Afterwards the driver has recorded a dead server for each queue. Returns 0 or a negative errno.
    /// </summary>
    int FetchAndLeave(int fd, int[] queues, int depth);

    /// <summary>Maps the descriptors of a queue's requests. Returns 0 or a negative errno.</summary>
    int MapDescriptors(int fd, int queue, int depth, out MappedMemory? descriptors);

    /// <summary>The block device is in use: it is mounted or held exclusively.</summary>
    bool IsHeld(int id);

    /// <summary>Sleeps between two checks of a state that no event announces.</summary>
    void Pause(int milliseconds);

    /// <summary>The node of the block device exists; nothing is read.</summary>
    bool HasNode(int id);

    /// <summary>Path of the block device.</summary>
    string PathOf(int id);

    /// <summary>
    /// Makes a queue's ring on the thread that uses it; as
    /// <see cref="RingQueue.TryCreate(ReadOnlySpan{BlockDevice}, Arena, WakeUp, int, out RingQueue?, int)"/>.
    /// </summary>
    RingQueue MakeRing(BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth, int commands);
}
