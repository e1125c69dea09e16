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
    /// Makes reads of both show earlier writes through either: both are flushed, then the cached pages of both are dropped. Later writes
    /// to <paramref name="target"/> may be missing in reads of <paramref name="source"/>; a merge never needs them there (design §5).
    /// Exit code 74 if one cannot be flushed.
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
        // This is only advice and needs no permission; without a page cache there is nothing to drop.
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[source, target])
            _ = Libc.FAdvise(device.Fd, 0, 0, Libc.POSIX_FADV_DONTNEED);
    }
}
