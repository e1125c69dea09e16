using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The ublk driver as a server sees it. The tests have one that is no kernel.</summary>
internal interface IUblkDriver : IDisposable
{
    /// <summary>
    /// Does a control command about device <paramref name="id"/> (−1: none) with <paramref name="buffer"/> for what goes in or comes out. Returns its result,
    /// a negative errno, or -ETIMEDOUT when it takes longer than <paramref name="milliseconds"/> (negative: no limit); it goes on then, and no other can follow.
    /// </summary>
    int Control(uint command, int id, ulong data, Span<byte> buffer, int milliseconds = -1);

    /// <summary>Opens /dev/ublkcN. Returns a descriptor or a negative errno.</summary>
    int OpenCharacterDevice(int id);

    /// <summary>Path of the block device.</summary>
    string PathOf(int id);

    /// <summary>Makes a queue's ring on the thread that uses it; as <see cref="RingQueue.TryCreate(ReadOnlySpan{BlockDevice}, Arena, WakeUp, int, out RingQueue?, int)"/>.</summary>
    RingQueue MakeRing(BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth, int commands);
}
