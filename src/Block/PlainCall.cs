using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A request by pread, pwrite or fdatasync.</summary>
internal static class PlainCall
{
    /// <summary>One attempt: bytes moved (0 for a flush) or a negative errno, EINTR included.</summary>
    internal static int Once(in BlockRequest request, int fd, Arena arena) => request.Verb switch
    {
        BlockVerb.Read => (int)Libc.PRead(fd, arena.AddressOf(request.Buffer), request.Buffer.Length, request.Offset),
        BlockVerb.Write => (int)Libc.PWrite(fd, arena.AddressOf(request.Buffer), request.Buffer.Length, request.Offset),
        BlockVerb.Flush => FileFlush.OfData(fd),
        BlockVerb.WriteBack => Libc.SyncFileRange(fd, 0, 0, Libc.SYNC_FILE_RANGE_WRITE),
        _ => -Errno.EINVAL,
    };

    /// <summary>
    /// The same until it is not interrupted. A flush is asked once only: lost data may be reported under any errno, EINTR included, and is
    /// reported once.
    /// </summary>
    internal static int Uninterrupted(in BlockRequest request, int fd, Arena arena)
    {
        int result;
        do result = Once(request, fd, arena);
        while (result == -Errno.EINTR && request.Verb != BlockVerb.Flush);
        return result;
    }
}
