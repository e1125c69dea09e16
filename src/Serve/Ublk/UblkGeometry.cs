using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// The number of queues and of tags per queue, the longest request in bytes, and the reads in flight per queue. The first three belong to
/// the device and are fixed. The last is this server's choice, because a read needs a buffer only while it is in flight (UBLK_F_USER_COPY).
/// </summary>
internal readonly record struct UblkGeometry(int Queues, int Depth, int MaxIoBytes, int Reads)
{
    /// <summary>
    /// A file system's readahead and dd's requests arrive whole in 512 KiB; below 64 KiB a large unit is decoded once for each half, cache
    /// or not.
    /// </summary>
    private const int LongestIo = 512 << 10, ShortestIo = 64 << 10;

    /// <summary>Reads that keep a disk busy; a shorter longest request is better than fewer reads.</summary>
    private const int EnoughReads = 8;

    /// <summary>
    /// The best geometry for <paramref name="options"/>' memory if a read takes <paramref name="bytesPerRead"/> beside its buffer; at least
    /// one queue with one read.
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

    /// <summary>The geometry of an existing device.</summary>
    public static UblkGeometry Of(in UblksrvCtrlDevInfo info, UblkOptions options, int bytesPerRead) =>
        new(info.NrHwQueues, info.QueueDepth, (int)info.MaxIoBufBytes, (int)Math.Clamp(
            options.MemoryBytes / Math.Max(1, (int)info.NrHwQueues) / (bytesPerRead + (long)info.MaxIoBufBytes), 1, info.QueueDepth));

    /// <summary>True if a device of a dead server can be taken over with this geometry: a queue's memory is one arena.</summary>
    public bool IsSane(int bytesPerRead) =>
        Queues is > 0 and <= UblkAbi.UBLK_MAX_NR_QUEUES && Depth is > 0 and <= UblkAbi.UBLK_MAX_QUEUE_DEPTH
        && MaxIoBytes is >= Sizes.Block and <= 32 << 20 && Reads * ((long)bytesPerRead + MaxIoBytes) <= 1 << 30;
}
