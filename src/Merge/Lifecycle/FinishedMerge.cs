using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>A merge that an earlier run has finished.</summary>
public static class FinishedMerge
{
    /// <summary>
    /// Returns the result if the COW at <paramref name="cowPath"/> says that everything is merged into <paramref name="basePath"/> and no
    /// other process writes to it; null otherwise. Flushes both files first, because the count may come from a page cache and a reported
    /// result must be durable. Then removes the marker.
    /// </summary>
    public static MergeResult? Confirm(string cowPath, string basePath)
    {
        try
        {
            using var input = new CowInput(cowPath, DeviceAccess.Shared);
            using CowFile cow = CowFile.Read(input.Source);
            MergeMarker marker = new(cowPath);
            marker.Check(cow);
            if (cow.Header.Major < 2 || cow.Header.NumMergeOps != (ulong)cow.Order.Count) return null;
            using BlockDevice target = BlockDevice.Open(basePath, DeviceAccess.Read);
            if (ForeignFormat.IsSparse(target)) return null;
            if (Flush(target, input.Device) != null) return null;
            marker.End();
            return new MergeResult { OpsTotal = cow.Order.Count, ResumedFrom = cow.Order.Count };
        }
        catch (SnapuserdException)
        {
            // The caller reports its own, earlier error.
            return null;
        }
    }

    /// <summary>
    /// Makes the result of a finished merge durable: flushes the base, then the COW. Stops at the first failure. Returns the device that
    /// cannot be flushed and the errno, or null. With <paramref name="withoutFlush"/>, a file system that is read-only or does not
    /// implement flush is not a failure.
    /// </summary>
    public static (BlockDevice Device, int Errno)? Flush(BlockDevice target, BlockDevice cow, bool withoutFlush = false)
    {
        foreach (BlockDevice device in (ReadOnlySpan<BlockDevice>)[target, cow])
        {
            int flushed = FileFlush.Of(device.Fd);
            if (flushed < 0 && !(withoutFlush && FileFlush.IsLacking(flushed))) return (device, flushed);
        }
        return null;
    }
}
