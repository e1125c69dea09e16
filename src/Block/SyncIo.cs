using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Executes a request with pread, pwrite, fdatasync or sync_file_range.</summary>
internal static class SyncIo
{
    /// <summary>One attempt: bytes moved (0 for a flush) or a negative errno, including EINTR.</summary>
    internal static int Once(in BlockRequest request, int fd, Arena arena) => request.Verb switch
    {
        BlockVerb.Read => (int)Libc.PRead(fd, arena.AddressOf(request.Buffer), request.Buffer.Length, request.Offset),
        BlockVerb.Write => (int)Libc.PWrite(fd, arena.AddressOf(request.Buffer), request.Buffer.Length, request.Offset),
        BlockVerb.Flush => FileFlush.OfData(fd),
        BlockVerb.WriteBack => Libc.SyncFileRange(fd, 0, 0, Libc.SYNC_FILE_RANGE_WRITE),
        _ => -Errno.EINVAL,
    };

    /// <summary>
    /// Repeats an interrupted call. A flush is issued only once, because the kernel reports lost data only once and may do so under any
    /// errno, including EINTR.
    /// </summary>
    internal static int Uninterrupted(in BlockRequest request, int fd, Arena arena)
    {
        int result;
        do result = Once(request, fd, arena);
        while (Retry.Interrupted(result) && request.Verb != BlockVerb.Flush);
        return result;
    }
}
