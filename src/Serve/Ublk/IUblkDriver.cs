using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The calls of the ublk driver that a server uses. Tests replace the driver with one that needs no kernel.</summary>
internal interface IUblkDriver : IDisposable
{
    /// <summary>
    /// Executes a control command for device <paramref name="id"/> (−1: none), with <paramref name="buffer"/> as input and output. Returns
    /// the command's result or a negative errno: -ETIMEDOUT if it takes longer than <paramref name="milliseconds"/> (negative: no limit).
    /// After -ETIMEDOUT the command is still running, and no other command can be executed.
    /// </summary>
    int Control(uint command, int id, ulong data, Span<byte> buffer, int milliseconds = -1);

    /// <summary>Opens /dev/ublkcN. Returns a descriptor or a negative errno.</summary>
    int OpenCharacterDevice(int id);

    /// <summary>
    /// Tests whether the driver has recorded a server for a queue. Sends a command that the driver does not know to /dev/ublkcN, and
    /// returns the command's error as a negative errno. In Linux 6.12 that is EINVAL if another thread is recorded as the queue's server,
    /// and EOPNOTSUPP if none is recorded.
    /// </summary>
    int AskQueue(int fd, int queue);

    /// <summary>
    /// Fetches all tags of <paramref name="queues"/> in one system call on a new thread, closes that thread's ring, and waits until the
    /// thread has ended. Returns 0 or a negative errno. After 0 the driver has recorded a dead server for each of these queues, unless it
    /// refused a fetch; <see cref="AskQueue"/> shows whether it did.
    /// </summary>
    int FetchAndLeave(int fd, int[] queues, int depth);

    /// <summary>Maps the descriptors of a queue's requests. Returns 0 or a negative errno.</summary>
    int MapDescriptors(int fd, int queue, int depth, out MappedMemory? descriptors);

    /// <summary>True if the block device is mounted or held exclusively.</summary>
    bool IsHeld(int id);

    /// <summary>Sleeps between two checks of a state that no event announces.</summary>
    void Pause(int milliseconds);

    /// <summary>True if the block device's node exists. Does not read from the device.</summary>
    bool HasNode(int id);

    /// <summary>Path of the block device.</summary>
    string PathOf(int id);

    /// <summary>
    /// Creates a queue's ring; must be called on the thread that uses it. Parameters as for
    /// <see cref="RingQueue.TryCreate(ReadOnlySpan{BlockDevice}, Arena, WakeUp, int, out RingQueue?, int)"/>.
    /// </summary>
    RingQueue MakeRing(BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth, int commands);
}
