using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Merge;

/// <summary>
/// The requests to a file system before a merge. The test answers the system calls for a file whose holes, size and free space it defines.
/// </summary>
public sealed class StorageReserverCallTests : IDisposable
{
    private const int Page = 4096;
    private const long Mebibyte = 1 << 20;

    private readonly TempFolder _folder = new();
    private readonly StopFlag _stop = new();
    private readonly List<string> _reports = [];
    private readonly List<string> _reserved = [];
    private readonly BlockDevice _device;

    // The file that the answers describe.
    private readonly List<(long Start, long End)> _data = [];
    private long _size = 64 * Page;
    private ulong _blocks;
    private StatFsData _system = new() { Type = Libc.EXT4_SUPER_MAGIC, Bsize = Page, Blocks = 1 << 20, Bfree = 1 << 20, Bavail = 1 << 20 };
    private uint _user;
    private Func<int, long> _statx = _ => 0, _statfs = _ => 0;
    private Func<int, long, long, long> _allocate = (_, _, _) => 0;
    private Func<long, bool, long?> _seek = (_, _) => null;
    private Func<ulong?> _limit = () => ulong.MaxValue;
    private int _statxs, _statfses;

    public StorageReserverCallTests()
    {
        File.WriteAllText(_folder["file"], "");
        _device = BlockDevice.Open(_folder["file"], DeviceAccess.Write);
    }

    public void Dispose()
    {
        _device.Dispose();
        _folder.Dispose();
    }

    /// <summary>
    /// Reserves the ranges. <see cref="_reserved"/> then has the successful calls as "offset+length", prefixed with "whole " if the call
    /// may change the size.
    /// </summary>
    private void Reserve(params ByteRange[] ranges)
    {
        _reserved.Clear();
        (_statxs, _statfses) = (0, 0);
        Answering([SYS_statx, SYS_fstatfs, SYS_lseek, SYS_fallocate, SYS_geteuid, SYS_prlimit64], Answer,
            () => new StorageReserver([_device], _stop, _reports.Add).Reserve(new MergeDevice(0, "the file", _size), ranges));
    }

    private static ByteRange Pages(long first, long count) => new(first * Page, count * Page);

    private void Data(params (long Start, long End)[] data)
    {
        _data.Clear();
        _data.AddRange(data);
    }

    private long? Answer(SystemCall call)
    {
        if (call.Number == SYS_geteuid) return _user;
        if (call.Number == SYS_prlimit64)
        {
            if (_limit() is not { } limit) return -Errno.EPERM;
            call.At<ResourceLimit>(3) = new ResourceLimit { Current = limit, Maximum = limit };
            return 0;
        }
        if (call[0] != _device.Fd) return null;
        switch (call.Number)
        {
            case SYS_statx:
                if (_statx(_statxs++) is < 0 and long refused) return refused;
                call.At<StatxData>(4) = new StatxData { Mode = Libc.S_IFREG, Size = (ulong)_size, Blocks = _blocks };
                return 0;
            case SYS_fstatfs:
                if (_statfs(_statfses++) is < 0 and long unknown) return unknown;
                call.At<StatFsData>(1) = _system;
                return 0;
            case SYS_lseek:
                return _seek(call.Long(1), call[2] == Libc.SEEK_HOLE) ?? Seek(call.Long(1), call[2] == Libc.SEEK_HOLE);
            default:
                Assert.InRange(call.Long(3), 1, 256 * Mebibyte);
                long result = _allocate(call[1], call.Long(2), call.Long(3));
                if (result == 0) _reserved.Add($"{(call[1] == Libc.FALLOC_FL_KEEP_SIZE ? "" : "whole ")}{call.Long(2)}+{call.Long(3)}");
                return result;
        }
    }

    private long Seek(long at, bool hole)
    {
        if (at >= _size) return -Errno.ENXIO;
        for (; at < _size; at++)
        {
            (long Start, long End) inside = _data.Find(one => one.Start <= at && at < one.End);
            if (hole)
            {
                if (inside.End == 0) return at;
                at = inside.End - 1;
                continue;
            }
            if (inside.End != 0) return at;
            long next = _data.Where(one => one.Start > at).Select(one => one.Start).DefaultIfEmpty(-1).Min();
            return next < 0 ? -Errno.ENXIO : next;
        }
        return hole ? _size : -Errno.ENXIO;
    }

    private string Says(params ByteRange[] ranges)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => Reserve(ranges));
        return $"{(int)e.Code} {e.Message}";
    }

    private static string NoRoom(long least, object free, int errno) =>
        $"74 the file: the merge fills holes of this file, which takes at least {least} bytes more on its file system ({free} free): "
        + $"{ErrnoText.Of(errno)}; nothing was written, and the same command merges when there is room";

    [Theory]
    [InlineData(Libc.EXT4_SUPER_MAGIC)]
    [InlineData(Libc.XFS_SUPER_MAGIC)]
    [InlineData(Libc.BTRFS_SUPER_MAGIC)]
    [InlineData(Libc.F2FS_SUPER_MAGIC)]
    [InlineData(Libc.TMPFS_MAGIC)]
    public void Holes_are_reserved_to_the_byte_where_the_kernel_knows_them(long type)
    {
        _system.Type = type;
        Data((0, 10), (11, 20), (30, Page - 1), (Page, 3 * Page), (5 * Page, _size - 1));
        _blocks = 1;
        Reserve(new ByteRange(10, 1));
        Assert.Equal(["10+1"], _reserved);
        Reserve(new ByteRange(0, Page));
        Assert.Equal(["10+1", "20+10", $"{Page - 1}+1"], _reserved);
        Reserve(new ByteRange(0, 11), new ByteRange(15, 6), new ByteRange(25, 3), new ByteRange(29, 2));
        Assert.Equal(["10+1", "20+1", "25+3", "29+1"], _reserved);
        Reserve(new ByteRange(0, _size));
        Assert.Equal(["10+1", "20+10", $"{Page - 1}+1", $"{3 * Page}+{2 * Page}", $"{_size - 1}+1"], _reserved);
        // Up to and past the end of a hole; up to and past the end of the file.
        Reserve(new ByteRange((5 * Page) - 1, 1), new ByteRange((5 * Page) - 1, 2), new ByteRange(5 * Page, 1), new ByteRange(_size - 2, 1),
            new ByteRange(_size - 1, 100), new ByteRange(_size, 5));
        Assert.Equal([$"{(5 * Page) - 1}+1", $"{(5 * Page) - 1}+1", $"{_size - 1}+1"], _reserved);
        Data((0, _size));
        Reserve(new ByteRange(0, _size));
        Assert.Empty(_reserved);
        // Holes that the kernel reports count, independent of the number of blocks.
        Data();
        _blocks = (ulong)_size;
        Reserve(new ByteRange(5, 6));
        Assert.Equal(["5+6"], _reserved);
        Assert.Empty(_reports);
    }

    [Fact]
    public void A_long_hole_is_reserved_in_parts_and_a_stop_takes_effect_between_them()
    {
        _size = 1000 * Mebibyte;
        Reserve(new ByteRange(Mebibyte, 600 * Mebibyte));
        Assert.Equal([$"{Mebibyte}+{256 * Mebibyte}", $"{257 * Mebibyte}+{256 * Mebibyte}", $"{513 * Mebibyte}+{88 * Mebibyte}"],
            _reserved);
        Reserve(new ByteRange(0, (256 * Mebibyte) + 1));
        Assert.Equal([$"0+{256 * Mebibyte}", $"{256 * Mebibyte}+1"], _reserved);
        _allocate = (_, _, _) =>
        {
            _stop.Request();
            return 0;
        };
        Assert.Equal("75 stopped before the merge began; the same command begins it", Says(new ByteRange(0, 600 * Mebibyte)));
        Assert.Equal([$"0+{256 * Mebibyte}"], _reserved);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(Libc.FUSE_SUPER_MAGIC)]
    [InlineData(Libc.NFS_SUPER_MAGIC)]
    public void Where_holes_are_not_known_all_is_reserved_unless_the_file_has_as_many_blocks_as_bytes(long type)
    {
        if (type == 0) _statfs = _ => -Errno.ENOSYS;
        _system.Type = type;
        Data((0, _size));
        _seek = (_, _) => throw new InvalidOperationException("its holes are not known");
        _size = (20 * 512) + 1;
        _blocks = 20;
        // Everything may be data except one byte.
        Reserve(new ByteRange(0, 10), new ByteRange(_size - 1, 1), new ByteRange(_size, 1));
        Assert.Equal(["0+10", $"{_size - 1}+1"], _reserved);
        _size--;
        Reserve(new ByteRange(0, 10));
        Assert.Empty(_reserved);
        _blocks = 19;
        Reserve(new ByteRange(0, 10));
        Assert.Equal(["0+10"], _reserved);
        Assert.Empty(_reports);
    }

    [Theory]
    [InlineData(-Errno.EIO, 0)]
    [InlineData(-Errno.EINVAL, 0)]
    [InlineData(-Errno.EOPNOTSUPP, 0)]
    [InlineData(4 * Page, 4 * Page)]
    [InlineData(4 * Page, Page)]
    [InlineData(4 * Page, -Errno.EIO)]
    [InlineData(0, 0)]
    [InlineData(Page - 1, 0)]
    public void Holes_count_as_unknown_if_the_file_system_reports_nonsense(long hole, long end)
    {
        // The first hole, and its end; the second range is after both.
        Data((0, _size));
        _seek = (_, wanted) => wanted ? hole : end;
        Reserve(Pages(1, 1), Pages(40, 1));
        Assert.Equal([$"{Page}+{Page}", $"{40 * Page}+{Page}"], _reserved);
        // After one wrong answer, further answers are not trusted.
        int asked = 0;
        _seek = (_, _) => asked++ == 0 ? hole : asked == 2 && hole >= Page ? end : null;
        Reserve(Pages(1, 1), Pages(40, 1));
        Assert.Equal([$"{Page}+{Page}", $"{40 * Page}+{Page}"], _reserved);
    }

    [Fact]
    public void Free_space_is_needed_only_for_blocks_that_are_not_reserved_yet()
    {
        // Two pages of data, one byte of which is the last of the file, and three pages already reserved.
        Data((0, 2 * Page), (_size - 1, _size));
        _blocks = 5 * Page / 512;
        _system.Bsize = 1;
        long reserved = (3 * Page) - 1, least = (10 * Page) - reserved;
        _system.Bfree = _system.Bavail = (ulong)least;
        Reserve(Pages(4, 10));
        Assert.Equal([$"{4 * Page}+{10 * Page}"], _reserved);
        _system.Bfree = _system.Bavail = (ulong)least - 1;
        Assert.Equal(NoRoom(least, least - 1, Errno.ENOSPC), Says(Pages(4, 10)));
        Assert.Empty(_reserved);
        // A compressed file has fewer blocks than data.
        _blocks = 1;
        Assert.Equal(NoRoom(10 * Page, least - 1, Errno.ENOSPC), Says(Pages(4, 10)));
        // Nothing is missing, so no free space is needed.
        _system.Bfree = _system.Bavail = 0;
        Reserve(Pages(0, 2));
        Assert.Empty(_reserved);
        _blocks = 100 * Page / 512;
        Reserve(Pages(4, 10));
        Assert.Equal([$"{4 * Page}+{10 * Page}"], _reserved);
    }

    [Fact]
    public void Space_for_root_counts_only_for_root_and_a_file_system_without_counts_has_enough()
    {
        _system.Bsize = 512;
        (_system.Bfree, _system.Bavail) = (8, 7);
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        (_system.Bfree, _system.Bavail) = (7, 8);
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        _user = 1000;
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        (_system.Bfree, _system.Bavail) = (8, 7);
        Assert.Equal(NoRoom(4096, 7 * 512, Errno.ENOSPC), Says(Pages(0, 1)));
        _system.Blocks = 0;
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        foreach (long size in (long[])[0, -1])
        {
            (_system.Blocks, _system.Bsize) = (1, size);
            Reserve(Pages(0, 1));
            Assert.Equal(["0+4096"], _reserved);
        }
        _system.Bsize = 1;
        Assert.Equal(NoRoom(4096, 7, Errno.ENOSPC), Says(Pages(0, 1)));
        // More free space than a number can hold.
        (_system.Bsize, _system.Bavail) = (long.MaxValue, ulong.MaxValue);
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
    }

    [Theory]
    [InlineData(Errno.ENOSPC)]
    [InlineData(Errno.EDQUOT)]
    public void A_file_system_that_gets_full_half_way_reports_the_bytes_that_are_still_missing(int errno)
    {
        _size = 1000 * Mebibyte;
        (_system.Bsize, _system.Blocks, _system.Bfree, _system.Bavail) = (1, 1, 600 << 20, 600 << 20);
        int calls = 0;
        _allocate = (_, _, _) =>
        {
            if (calls++ == 0)
            {
                _blocks = 256 * Mebibyte / 512;
                return 0;
            }
            (_system.Bfree, _system.Bavail) = (77, 77);
            return -errno;
        };
        Assert.Equal(NoRoom(344 * Mebibyte, 77, errno), Says(new ByteRange(0, 600 * Mebibyte)));
        // If the number of blocks cannot be read any more, everything counts as missing.
        (calls, _blocks, _system.Bfree, _system.Bavail) = (0, 0, 600 << 20, 600 << 20);
        _statx = asked => asked == 0 ? 0 : -Errno.EIO;
        _statfs = asked => asked == 0 ? 0 : -Errno.EIO;
        Assert.Equal(NoRoom(600 * Mebibyte, "unknown", errno), Says(new ByteRange(0, 600 * Mebibyte)));
        // The error reports at least one missing block in any case.
        (calls, _blocks, _system.Bfree, _system.Bavail, _statx, _statfs) = (0, 0, 600 << 20, 600 << 20, _ => 0, _ => 0);
        _allocate = (_, _, _) =>
        {
            (_blocks, _system.Bfree, _system.Bavail) = (600 * Mebibyte / 512, 77, 77);
            return -errno;
        };
        Assert.Equal(NoRoom(512, 77, errno), Says(new ByteRange(0, 600 * Mebibyte)));
    }

    [Fact]
    public void An_interrupted_call_is_made_up_to_a_thousand_times_for_every_part()
    {
        int asked = 0, interruptions = 999;
        _allocate = (_, _, _) => asked++ % (interruptions + 1) < interruptions ? -Errno.EINTR : 0;
        Reserve(Pages(0, 1), Pages(4, 1));
        Assert.Equal(["0+4096", "16384+4096"], _reserved);
        Assert.Equal(2000, asked);
        (asked, interruptions) = (0, 1000);
        Assert.Equal($"74 the file: reserving 4096 bytes at 0 failed: {ErrnoText.Of(Errno.EINTR)}; nothing was written", Says(Pages(0, 1)));
        Assert.Equal(1000, asked);
    }

    [Theory]
    [InlineData(Errno.EIO)]
    [InlineData(Errno.EFBIG)]
    [InlineData(Errno.EBADF)]
    public void Other_errors_of_a_reservation_are_reported_with_their_offset(int errno)
    {
        _allocate = (_, at, _) => at == 16384 ? -errno : 0;
        Assert.Equal($"74 the file: reserving 8192 bytes at 16384 failed: {ErrnoText.Of(errno)}; nothing was written",
            Says(Pages(0, 1), Pages(4, 2)));
        Assert.Equal(["0+4096"], _reserved);
        Assert.Empty(_reports);
    }

    [Theory]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.ENOSYS)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EACCES)]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENODEV)]
    public void The_mode_that_a_file_system_has_is_used_and_one_without_any_mode_is_reported(int errno)
    {
        int refused = 0;
        _allocate = (mode, _, _) =>
        {
            if (mode == 0) return 0;
            refused++;
            return -errno;
        };
        Reserve(Pages(0, 1), Pages(4, 2));
        Assert.Equal(["whole 0+4096", "whole 16384+8192"], _reserved);
        Assert.Equal(1, refused);
        Assert.Empty(_reports);
        _allocate = (_, at, _) => at == 0 ? 0 : -errno;
        Reserve(Pages(0, 1), Pages(4, 2), Pages(10, 1));
        Assert.Equal(["0+4096"], _reserved);
        string report = Assert.Single(_reports);
        Assert.Equal($"the file: room for up to 12288 bytes cannot be reserved: {ErrnoText.Of(errno)}; if its file system gets full, the "
            + "merge stops with exit code 74; make room there and run the same command again", report);
    }

    [Fact]
    public void A_file_that_cannot_be_inspected_is_left_alone()
    {
        _statx = _ => -Errno.EIO;
        Reserve(Pages(0, 1));
        Assert.Empty(_reserved);
        Assert.Empty(_reports);
    }

    [Fact]
    public void A_limit_that_is_unknown_or_none_limits_nothing()
    {
        _limit = () => null;
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        _limit = () => ulong.MaxValue;
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        _limit = () => 4096;
        Reserve(Pages(0, 1));
        Assert.Equal(["0+4096"], _reserved);
        _limit = () => 4095;
        Assert.Equal("74 the file: the merge writes up to byte 4096, and this process may write up to byte 4095: "
            + $"{ErrnoText.Of(Errno.EFBIG)}; nothing was written", Says(Pages(0, 1)));
        Assert.Empty(_reserved);
    }
}
