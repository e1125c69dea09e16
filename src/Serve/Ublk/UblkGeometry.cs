using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// The number of queues, the number of tags per queue, the longest request in bytes, and the maximum number of reads in flight per queue.
/// The first three belong to the device and are fixed. This server chooses the last, because a read needs a buffer only while it is in
/// flight (UBLK_F_USER_COPY).
/// </summary>
internal readonly record struct UblkGeometry(int Queues, int Depth, int MaxIoBytes, int Reads)
{
    /// <summary>
    /// Limits for the longest request. 512 KiB is enough for a file system's readahead and for dd's requests. With less than 64 KiB, a
    /// large unit would be split between requests and decoded for each.
    /// </summary>
    private const int LongestIo = 512 << 10, ShortestIo = 64 << 10;

    /// <summary>
    /// The number of reads in flight that keep a disk busy. If the memory is too small for them, it is better to reduce the longest request
    /// than to allow fewer reads.
    /// </summary>
    private const int EnoughReads = 8;

    /// <summary>
    /// The best geometry that fits into the memory of <paramref name="options"/>, if a read needs <paramref name="bytesPerRead"/> bytes in
    /// addition to its buffer. It has at least one queue with one read.
    /// </summary>
    public static UblkGeometry For(UblkOptions options, int bytesPerRead)
    {
        int depth = Math.Clamp(options.Depth, 1, UblkAbi.UBLK_MAX_QUEUE_DEPTH);
        for (int queues = Math.Max(1, options.Queues); ; queues /= 2)
        {
            for (int io = LongestIo; io >= ShortestIo; io /= 2)
            {
                int reads = options.MemoryBytes / queues / (bytesPerRead + io);
                if (reads >= EnoughReads || (queues == 1 && io == ShortestIo))
                    return new UblkGeometry(queues, depth, io, Math.Clamp(reads, 1, depth));
            }
        }
    }

    /// <summary>The geometry of an existing device, with as many reads as fit into the memory of <paramref name="options"/>.</summary>
    public static UblkGeometry Of(in UblksrvCtrlDevInfo info, UblkOptions options, int bytesPerRead) =>
        new(info.NrHwQueues, info.QueueDepth, (int)info.MaxIoBufBytes, (int)Math.Clamp(
            options.MemoryBytes / Math.Max(1, (int)info.NrHwQueues) / (bytesPerRead + (long)info.MaxIoBufBytes), 1, info.QueueDepth));

    /// <summary>
    /// True if a dead server's device with this geometry can be taken over: the numbers are valid, and a queue's memory fits into one
    /// arena.
    /// </summary>
    public bool IsSane(int bytesPerRead) =>
        Queues is > 0 and <= UblkAbi.UBLK_MAX_NR_QUEUES && Depth is > 0 and <= UblkAbi.UBLK_MAX_QUEUE_DEPTH
        && MaxIoBytes is >= Sizes.Block and <= 32 << 20 && Reads * ((long)bytesPerRead + MaxIoBytes) <= 1 << 30;
}
