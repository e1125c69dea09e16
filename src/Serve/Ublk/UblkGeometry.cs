using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// How many queues with how many tags, how long a request may be in bytes, and how many of a queue's requests are read at a time. The first three are
/// the device's for as long as it exists; the last is ours, because the bytes of a read only need a buffer while it is being read (UBLK_F_USER_COPY).
/// </summary>
internal readonly record struct UblkGeometry(int Queues, int Depth, int MaxIoBytes, int Reads)
{
    /// <summary>A file system's readahead and dd's requests come whole in 512 KiB; below 64 KiB a large unit is decoded twice for its two halves, cache or not.</summary>
    private const int LongestIo = 512 << 10, ShortestIo = 64 << 10;

    /// <summary>Reads that keep a disk busy; a shorter longest request is better than fewer of them.</summary>
    private const int EnoughReads = 8;

    /// <summary>The best that fits into <paramref name="options"/>' memory when a read takes <paramref name="bytesPerRead"/> beside its buffer; at the least one queue with one read.</summary>
    public static UblkGeometry For(UblkOptions options, int bytesPerRead)
    {
        int depth = Math.Clamp(options.Depth, 1, UblkAbi.UBLK_MAX_QUEUE_DEPTH);
        for (int queues = Math.Max(1, options.Queues); ; queues /= 2)
        {
            for (int io = LongestIo; io >= ShortestIo; io /= 2)
            {
                int reads = options.MemoryBytes / queues / (bytesPerRead + io);
                if (reads >= EnoughReads || (queues == 1 && io == ShortestIo)) return new UblkGeometry(queues, depth, io, Math.Clamp(reads, 1, depth));
            }
        }
    }

    /// <summary>That of a device that exists.</summary>
    public static UblkGeometry Of(in UblksrvCtrlDevInfo info, UblkOptions options, int bytesPerRead) =>
        new(info.NrHwQueues, info.QueueDepth, (int)info.MaxIoBufBytes, (int)Math.Clamp(options.MemoryBytes / Math.Max(1, (int)info.NrHwQueues) / (bytesPerRead + (long)info.MaxIoBufBytes), 1, info.QueueDepth));

    /// <summary>What a device whose server died must be like to be taken over: a queue's memory is one arena.</summary>
    public bool IsSane(int bytesPerRead) =>
        Queues is > 0 and <= UblkAbi.UBLK_MAX_NR_QUEUES && Depth is > 0 and <= UblkAbi.UBLK_MAX_QUEUE_DEPTH && MaxIoBytes is >= Sizes.Block and <= 32 << 20 && Reads * ((long)bytesPerRead + MaxIoBytes) <= 1 << 30;
}
