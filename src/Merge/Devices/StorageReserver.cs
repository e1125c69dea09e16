using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// Reserves the holes that a merge will write, by fallocate(2), in the files that are its devices or lie below a loop device. Only bytes
/// that read as zeros are touched, and they still read as zeros; sizes stay. Never called on a block device, where fallocate discards.
/// <para>
/// Some storage can still run out of space during the merge: file systems that write elsewhere than they read (shared extents of reflinked
/// files, btrfs with snapshots or compression, ZFS), thin volumes, and servers that promise space they do not have. Then the merge stops
/// with exit code 74, and the same command continues it when there is space.
/// </para>
/// </summary>
public sealed class StorageReserver(BlockDevice[] devices, StopFlag stop, Action<string> report) : IStorageReserver
{
    /// <summary>Bytes per call: tmpfs undoes the whole call when a signal arrives, so a longer one might never finish.</summary>
    private const long CallBytes = 256L << 20;

    /// <summary>
    /// Consecutive interruptions of one call that count as a failure: signals arrive now and then, and a server may answer EINTR forever.
    /// </summary>
    private const int MostInterruptions = 1000;

    /// <summary>Block size in bytes of the counts in statx(2).</summary>
    private const long StatBlock = 512;

    /// <inheritdoc/>
    public void Reserve(MergeDevice device, IEnumerable<ByteRange> ranges)
    {
        BlockDevice open = devices[device.Number];
        if (!open.IsBlockDevice)
        {
            CheckLimit(device.Name, ranges);
            Reserve(device.Name, open.Fd, 0, ranges);
            return;
        }
        foreach ((LoopBackingFile file, long deviceOffset, long fileOffset, long length) in open.Storage.FilesBelow())
            Reserve($"{file.Path} (below {device.Name})", file.Fd, fileOffset - deviceOffset,
                Clipped(ranges, deviceOffset, deviceOffset + length));
    }

    private static IEnumerable<ByteRange> Clipped(IEnumerable<ByteRange> ranges, long start, long end)
    {
        foreach (ByteRange range in ranges)
        {
            long from = Math.Max(range.Offset, start), to = Math.Min(range.Offset + range.Length, end);
            if (from < to) yield return new ByteRange(from, to - from);
        }
    }

    /// <summary>
    /// Throws with exit code 74 if a write ends beyond RLIMIT_FSIZE. The limit also applies to writes in the middle of a longer file.
    /// </summary>
    private static void CheckLimit(string name, IEnumerable<ByteRange> ranges)
    {
        if (Libc.GetLimit(Libc.RLIMIT_FSIZE, out ResourceLimit limit) < 0 || limit.Current == Libc.RLIM_INFINITY) return;
        foreach (ByteRange range in ranges)
        {
            if ((ulong)(range.Offset + range.Length) <= limit.Current) continue;
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{name}: the merge writes up to byte {range.Offset + range.Length}, and this process may write up to byte "
                + $"{limit.Current}: {ErrnoText.Of(Errno.EFBIG)}; nothing was written");
        }
    }

    private void Reserve(string name, int fd, long shift, IEnumerable<ByteRange> ranges)
    {
        if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData file) < 0) return;
        bool known = Libc.FStatFs(fd, out StatFsData system) == 0 && KnowsHoles(system);
        // If the holes are unknown: a file that has as many allocated bytes as its length has no holes.
        if (!known && (long)file.Blocks * StatBlock >= (long)file.Size) return;
        Holes holes = new(fd, (long)file.Size, known);
        long need = 0;
        foreach (ByteRange part in holes.In(ranges, shift)) need += part.Length;
        if (need == 0) return;
        long unwritten = Math.Max(0, ((long)file.Blocks * StatBlock) - holes.DataBytes());
        // Blocks that are reserved already, for example by an earlier run, also show as holes. So this is the least that can be missing.
        long least = need - unwritten;
        long free = FreeBytes(system);
        if (least > free) throw NoSpace(name, least, free, Errno.ENOSPC);

        int mode = Libc.FALLOC_FL_KEEP_SIZE;
        long done = 0;
        int interrupted = 0;
        foreach (ByteRange part in holes.In(ranges, shift))
        {
            for (long at = part.Offset, end = part.Offset + part.Length; at < end;)
            {
                if (stop.Requested)
                    throw new SnapuserdException(ExitCode.Interrupted, "stopped before the merge began; the same command begins it");
                long length = Math.Min(CallBytes, end - at);
                int result = Libc.FAllocate(fd, mode, at, length);
                if (Retry.Interrupted(result) && ++interrupted < MostInterruptions) continue;
                interrupted = 0;
                // NFS supports one mode only. No part extends past the end of the file, so the size stays the same in both modes.
                if (IsLacking(result) && mode != 0)
                {
                    mode = 0;
                    continue;
                }
                if (IsLacking(result))
                {
                    report($"{name}: room for up to {need - done} bytes cannot be reserved: {ErrnoText.Of(result)}; if its file system "
                        + "gets full, the merge stops with exit code 74; make room there and run the same command again");
                    return;
                }
                if (result is -Errno.ENOSPC or -Errno.EDQUOT)
                    throw NoSpace(name, Math.Max(StatBlock, least - Gained(fd, file)), FreeBytes(fd), result);
                if (result < 0)
                    throw new SnapuserdException(ExitCode.InputOutput,
                        $"{name}: reserving {length} bytes at {at} failed: {ErrnoText.Of(result)}; nothing was written");
                at += length;
                done += length;
            }
        }
    }

    private static SnapuserdException NoSpace(string name, long need, long free, int errno) => new(ExitCode.InputOutput,
        $"{name}: the merge fills holes of this file, which takes at least {need} bytes more on its file system "
        + $"({(free == long.MaxValue ? "unknown" : free)} free): {ErrnoText.Of(errno)}; nothing was written, and the same command merges "
        + "when there is room");

    /// <summary>Bytes allocated to the file since <paramref name="before"/>. A partial reservation stays reserved.</summary>
    private static long Gained(int fd, in StatxData before) =>
        Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData now) == 0 ? ((long)now.Blocks - (long)before.Blocks) * StatBlock : 0;

    private static bool IsLacking(int result) => Errno.IsUnsupported(result)
        || result is -Errno.EPERM or -Errno.EACCES or -Errno.EINVAL or -Errno.ENODEV;

    private static long FreeBytes(int fd) => Libc.FStatFs(fd, out StatFsData system) == 0 ? FreeBytes(system) : long.MaxValue;

    /// <summary>Bytes that this process may use; <see cref="long.MaxValue"/> if the file system does not report them.</summary>
    private static long FreeBytes(in StatFsData system)
    {
        if (system.Blocks == 0 || system.Bsize <= 0) return long.MaxValue;
        ulong blocks = Libc.GetEUid() == 0 ? Math.Max(system.Bfree, system.Bavail) : system.Bavail;
        // A server may answer any numbers.
        return (long)UInt128.Min((UInt128)blocks * (ulong)system.Bsize, long.MaxValue);
    }

    /// <summary>
    /// The kernel itself knows the holes of these file systems. Others may report anything, so there every range counts as a hole.
    /// </summary>
    private static bool KnowsHoles(in StatFsData system) =>
        system.Type is Libc.EXT4_SUPER_MAGIC or Libc.XFS_SUPER_MAGIC or Libc.BTRFS_SUPER_MAGIC or Libc.F2FS_SUPER_MAGIC or Libc.TMPFS_MAGIC;

    /// <summary>The holes of a file of <paramref name="size"/> bytes. If they are unknown, the whole file.</summary>
    private sealed class Holes(int fd, long size, bool known)
    {
        private bool _known = known;

        /// <summary>The parts of <paramref name="ranges"/>, moved by <paramref name="shift"/>, that are holes.</summary>
        internal IEnumerable<ByteRange> In(IEnumerable<ByteRange> ranges, long shift)
        {
            (long Start, long End) hole = (0, 0);
            foreach (ByteRange range in ranges)
            {
                long end = Math.Min(size, range.Offset + shift + range.Length);
                for (long at = range.Offset + shift; at < end;)
                {
                    if (at >= hole.End) hole = Next(at);
                    if (hole.Start >= size) yield break;
                    if (hole.Start >= end) break;
                    long from = Math.Max(at, hole.Start);
                    at = Math.Min(end, hole.End);
                    yield return new ByteRange(from, at - from);
                }
            }
        }

        /// <summary>Bytes outside holes; 0 if unknown.</summary>
        internal long DataBytes()
        {
            if (!_known) return 0;
            long bytes = 0;
            for (long at = 0; at < size;)
            {
                (long start, long end) = Next(at);
                bytes += Math.Min(start, size) - at;
                at = end;
            }
            return bytes;
        }

        /// <summary>The first hole that ends after <paramref name="at"/>.</summary>
        private (long Start, long End) Next(long at)
        {
            if (_known)
            {
                long start = Libc.LSeek(fd, at, Libc.SEEK_HOLE);
                if (start >= size) return (size, size);
                long end = start < at ? -Errno.EINVAL : Libc.LSeek(fd, start, Libc.SEEK_DATA);
                if (end == -Errno.ENXIO) end = size;
                if (start >= at && end > start) return (start, Math.Min(end, size));
                _known = false;
            }
            return (at, size);
        }
    }
}
