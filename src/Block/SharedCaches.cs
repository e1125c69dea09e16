using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// The page caches of two devices that share storage. Each block device has its own, so data written through one may be missing in reads
/// of the other: while it is dirty in the first, and while the second caches older pages.
/// </summary>
public static class SharedCaches
{
    /// <summary>
    /// Makes earlier writes through either device visible in reads of both: flushes both, then drops the cached pages of both. Later writes
    /// to <paramref name="target"/> may be missing in reads of <paramref name="source"/>; a merge never needs them there (design §5). Exit
    /// code 74 if one cannot be flushed.
    /// </summary>
    public static void MakeCoherent(BlockDevice source, BlockDevice target)
    {
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[source, target])
        {
            int flushed = Libc.FSync(device.Fd);
            // A device that cannot be written has nothing to flush.
            if (flushed is < 0 and not (-Errno.EINVAL or -Errno.EROFS))
                throw new SnapuserdException(ExitCode.InputOutput, $"{device.Path}: flushing failed: {ErrnoText.Of(flushed)}");
        }
        // The call needs no permission. It may fail for a file without a page cache, which has no pages to drop.
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[source, target])
            _ = Libc.FAdvise(device.Fd, 0, 0, Libc.POSIX_FADV_DONTNEED);
    }
}
