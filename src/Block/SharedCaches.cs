using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// The page caches of two devices that share storage. Each block device has one of its own, so what was written through the one may be
/// missing in reads of the other: as long as it is dirty in the one, and as long as the other has older pages.
/// </summary>
public static class SharedCaches
{
    /// <summary>
    /// Makes reads of both show what was written through either before: both are flushed, then what both have cached is dropped. What is
    /// written to <paramref name="target"/> afterwards may be missing in reads of <paramref name="source"/>; a merge never needs it there
    /// (design §5). Exit code 74 if one cannot be flushed.
    /// </summary>
    public static void MakeCoherent(BlockDevice source, BlockDevice target)
    {
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[source, target])
        {
            int flushed = Libc.FSync(device.Fd);
            // What cannot be written has nothing to flush.
            if (flushed is < 0 and not (-Errno.EINVAL or -Errno.EROFS))
                throw new SnapuserdException(ExitCode.InputOutput, $"{device.Path}: flushing failed: {Reason.Of(flushed)}");
        }
        // Only advice, and no permission is needed for it; without a page cache there is nothing to drop.
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[source, target])
            _ = Libc.FAdvise(device.Fd, 0, 0, Libc.POSIX_FADV_DONTNEED);
    }
}
