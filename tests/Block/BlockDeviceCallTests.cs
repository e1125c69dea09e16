using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>Devices, locks and rings on simulated kernels and file systems that behave differently from this machine's.</summary>
public sealed class BlockDeviceCallTests : IDisposable
{
    private const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    private readonly TempFolder _folder = new();

    public BlockDeviceCallTests()
    {
        _ = KernelTree.Dev.Folder;
        File.WriteAllBytes(_folder["f"], new byte[65536]);
    }

    public void Dispose()
    {
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"), fd => new FileInfo(fd).LinkTarget == _folder["f"]);
        _folder.Dispose();
    }

    [Theory]
    [InlineData(Errno.ENOENT, ExitCode.InputMissing, "no such file")]
    [InlineData(Errno.ENOTDIR, ExitCode.InputMissing, "ENOTDIR")]
    [InlineData(Errno.ELOOP, ExitCode.InputMissing, "ELOOP")]
    [InlineData(Errno.ENAMETOOLONG, ExitCode.InputMissing, "ENAMETOOLONG")]
    [InlineData(Errno.ENXIO, ExitCode.InputMissing, "ENXIO")]
    [InlineData(Errno.ENODEV, ExitCode.InputMissing, "ENODEV")]
    [InlineData(Errno.ENOMEDIUM, ExitCode.InputMissing, "ENOMEDIUM")]
    [InlineData(Errno.ETXTBSY, ExitCode.InUse, "ETXTBSY")]
    [InlineData(Errno.EROFS, ExitCode.Permission, "EROFS")]
    [InlineData(Errno.EACCES, ExitCode.Permission, "EACCES")]
    [InlineData(Errno.EPERM, ExitCode.Permission, "EPERM")]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources, "EMFILE")]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources, "ENFILE")]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources, "ENOMEM")]
    [InlineData(Errno.EINVAL, ExitCode.Usage, "it is not a valid path (EINVAL)")]
    [InlineData(Errno.EIO, ExitCode.InputOutput, "EIO")]
    public void Refused_open_has_its_exit_code_and_reason(int errno, ExitCode code, string why)
    {
        foreach (DeviceAccess access in (DeviceAccess[])[DeviceAccess.Read, DeviceAccess.Write])
        {
            int asked = 0;
            SnapuserdException refused = Assert.Throws<SnapuserdException>(() => Answering([SYS_openat],
                call => call.Text(1) == _folder["f"] ? asked++ < 2 ? -Errno.EINTR : -errno : null,
                () => BlockDevice.Open(_folder["f"], access).Dispose()));
            Assert.Equal((code, 3), (refused.Code, asked));
            Assert.StartsWith($"cannot open {_folder["f"]}{(access == DeviceAccess.Write ? " for writing" : "")}: ", refused.Message,
                StringComparison.Ordinal);
            Assert.Contains(why, refused.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(99, true)]
    [InlineData(100, false)]
    public void Open_of_a_device_in_use_is_repeated_a_hundred_times(int busy, bool opened)
    {
        int asked = 0, waits = 0;
        void Open() => Answering([SYS_openat, SYS_poll], call =>
        {
            if (call.Number == SYS_openat) return call.Text(1) != _folder["f"] || asked++ >= busy ? null : -Errno.EBUSY;
            waits++;
            Assert.Equal(20, call[2]);
            return 0;
        }, () => BlockDevice.Open(_folder["f"], DeviceAccess.Read).Dispose());
        if (opened) Open();
        else
            Assert.Contains("it is in use: mounted, mapped, or held by another program (EBUSY)",
                Assert.Throws<SnapuserdException>(Open).Message);
        Assert.Equal((100, 99), (asked, waits));
    }

    [Theory]
    [InlineData(4, true)]
    [InlineData(5, false)]
    public void Path_that_changes_its_target_at_each_attempt_is_refused_after_five_attempts(int moves, bool opened)
    {
        int asked = 0;
        void Open() => Answering([SYS_statx], call =>
        {
            // Each attempt queries the status twice: before it opens the file and after it locks it. The second result shows another file.
            if (call.Text(1) != _folder["f"] || ++asked % 2 != 0 || asked / 2 > moves) return null;
            call.At<StatxData>(4) = new StatxData { Mode = Libc.S_IFREG, Ino = 1 };
            return 0;
        }, () => BlockDevice.Open(_folder["f"], DeviceAccess.Shared).Dispose());
        if (opened)
        {
            Open();
        }
        else
        {
            SnapuserdException refused = Assert.Throws<SnapuserdException>(Open);
            Assert.Equal(ExitCode.InUse, refused.Code);
            Assert.Contains("leads to another file or device each time", refused.Message, StringComparison.Ordinal);
        }
        Assert.Equal(10, asked);
    }

    [Fact]
    public void File_that_grew_before_it_was_locked_is_measured_again()
    {
        bool grown = false;
        Answering([SYS_flock], _ =>
        {
            if (!grown) File.AppendAllText(_folder["f"], "more");
            grown = true;
            return null;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Shared);
            Assert.Equal(65540, device.Length);
            Assert.Equal(65540, Assert.Single(device.Storage.Pieces).Length);
        });
    }

    [Theory]
    [InlineData(Errno.ENOLCK)]
    [InlineData(Errno.ENOSYS)]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EACCES)]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENOTTY)]
    [InlineData(Errno.EBADF)]
    public void File_system_without_locks_is_used_alone_only_on_request(int errno)
    {
        List<int> kinds = [];
        long? Refuse(SystemCall call)
        {
            if (call.Number == SYS_statfs)
            {
                call.At<StatFsData>(1) = new StatFsData { Type = Libc.NFS_SUPER_MAGIC };
                return 0;
            }
            kinds.Add(call[1]);
            return -errno;
        }
        SnapuserdException refused = Assert.Throws<SnapuserdException>(
            () => Answering([SYS_flock, SYS_statfs], Refuse, () => BlockDevice.Open(_folder["f"], Alone).Dispose()));
        Assert.Equal(ExitCode.Unavailable, refused.Code);
        Assert.StartsWith($"cannot lock {_folder["f"]}: nfs has no locks (flock: {ErrnoText.Of(errno)}); use --no-lock", refused.Message,
            StringComparison.Ordinal);
        int exclusive = Libc.LOCK_EX | Libc.LOCK_NB, shared = Libc.LOCK_SH | Libc.LOCK_NB;
        Assert.Equal(errno == Errno.EBADF ? [exclusive, shared] : [exclusive], kinds);
        foreach (DeviceAccess access in (DeviceAccess[])[DeviceAccess.Shared, Alone | DeviceAccess.WithoutLock])
        {
            string? warning = null;
            Answering([SYS_flock, SYS_statfs], Refuse, () =>
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], access);
                warning = device.NotLocked;
            });
            Assert.StartsWith($"{_folder["f"]} is not locked: nfs has no locks (flock: {ErrnoText.Of(errno)}); nothing keeps", warning,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Lock_that_is_interrupted_or_fails_for_another_reason()
    {
        int asked = 0;
        Answering([SYS_flock], call => asked++ < 3 ? -Errno.EINTR : null, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], Alone);
            Assert.Null(device.NotLocked);
            int other = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDONLY | Libc.O_CLOEXEC);
            Assert.Equal(-Errno.EAGAIN, Libc.Flock(other, Libc.LOCK_SH | Libc.LOCK_NB));
            _ = Libc.Close(other);
        });
        Assert.Equal(ExitCode.InputOutput,
            Assert.Throws<SnapuserdException>(() => Answering([SYS_flock], _ => -Errno.EIO,
                () => BlockDevice.Open(_folder["f"], Alone).Dispose())).Code);
        // A network file system grants an exclusive lock only on a file that is open for writing.
        List<int> kinds = [];
        Answering([SYS_flock], call =>
        {
            kinds.Add(call[1]);
            return call[1] == (Libc.LOCK_EX | Libc.LOCK_NB) ? -Errno.EBADF : null;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Exclusive);
            Assert.Null(device.NotLocked);
        });
        Assert.Equal([Libc.LOCK_EX | Libc.LOCK_NB, Libc.LOCK_SH | Libc.LOCK_NB, Libc.LOCK_UN], kinds);
    }

    [Theory]
    [InlineData(true, 512, 512, true)]
    [InlineData(true, 4096, 4096, true)]
    [InlineData(true, 512, 4, true)]
    [InlineData(true, 0, 0, false)]
    [InlineData(true, 4097, 512, false)]
    [InlineData(true, 512, 4097, false)]
    [InlineData(true, 8192, 512, false)]
    [InlineData(true, 512, 8192, false)]
    [InlineData(false, 7, 9, true)]
    public void File_is_read_directly_with_the_alignment_that_its_file_system_reports(bool told, int granule, int memory, bool direct) =>
        Answering([SYS_statx], call =>
        {
            if (((uint)call[3] & Libc.STATX_DIOALIGN) == 0) return null;
            Assert.Equal(0, Libc.Statx(call[0], Libc.STATX_BASIC_STATS, out StatxData status));
            status.Mask = told ? status.Mask | Libc.STATX_DIOALIGN : status.Mask & ~Libc.STATX_DIOALIGN;
            (status.DioOffsetAlign, status.DioMemAlign) = ((uint)granule, (uint)memory);
            call.At<StatxData>(4) = status;
            return 0;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Direct);
            (int, int) expected = !direct ? (1, 1) : told ? (granule, memory) : (4096, 4096);
            Assert.Equal((direct, expected), (device.IsDirect, (device.Granule, device.MemoryAlignment)));
            Assert.Equal(direct ? Libc.O_DIRECT : 0, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0) & (Libc.O_DIRECT | Libc.O_NONBLOCK));
        });

    [Fact]
    public void File_of_one_granule_is_read_directly_and_an_interrupted_probe_is_repeated()
    {
        File.WriteAllBytes(_folder["f"], new byte[4096]);
        int asked = 0;
        Answering([SYS_pread64], _ => asked++ < 3 ? -Errno.EINTR : null, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Direct);
            Assert.True(device.IsDirect);
        });
        Assert.Equal(4, asked);
        // A short read, or a file system without direct reads: the device falls back to the page cache.
        foreach (long answer in (long[])[0, 511, -Errno.EINVAL, -Errno.EOPNOTSUPP])
            Answering([SYS_pread64], _ => answer, () =>
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Direct);
                Assert.False(device.IsDirect);
                Assert.Equal(0, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0) & Libc.O_DIRECT);
            });
    }

    [RootFact]
    public void Device_whose_locks_are_kept_is_free_for_other_programs_and_in_use_for_snapuserd()
    {
        BlockDevice device = BlockDevice.Open(_folder["f"], Alone);
        int copy = Libc.Fcntl(device.Fd, 0, 0);
        Assert.Contains(device.Fd, device.Holds);
        device.KeepLocks();
        Assert.Equal(-1, device.Fd);
        Assert.DoesNotContain(-1, device.Holds);
        Assert.NotEmpty(device.Holds);
        int other = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDONLY | Libc.O_CLOEXEC);
        Assert.Equal(0, Libc.Flock(other, Libc.LOCK_EX | Libc.LOCK_NB));
        _ = Libc.Close(other);
        _ = Libc.Close(copy);
        SnapuserdException refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(_folder["f"], Alone).Dispose());
        Assert.Contains("locked by another snapuserd", refused.Message, StringComparison.Ordinal);
        device.KeepLocks();
        device.Dispose();
        BlockDevice.Open(_folder["f"], Alone).Dispose();
    }

    [RootFact]
    public void Hold_is_given_up_even_if_the_path_leads_elsewhere_now()
    {
        using LoopDevice loop = new(_folder["f"]);
        Write("other", 512);
        File.CreateSymbolicLink(_folder["link"], loop.Path);
        foreach (string now in (string[])["other", "missing"])
        {
            using BlockDevice device = BlockDevice.Open(_folder["link"], Alone);
            int before = Directory.GetFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == loop.Path);
            File.Delete(_folder["link"]);
            File.CreateSymbolicLink(_folder["link"], _folder[now]);
            int asked = 0;
            Answering([SYS_dup3, SYS_openat], call => asked++ switch { 0 => -Errno.EINTR, 3 => -Errno.EINTR, 4 => -Errno.EBUSY, _ => null },
                device.GiveUpHold);
            Assert.Equal(before, Directory.GetFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == loop.Path));
            int next = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDWR | Libc.O_EXCL | Libc.O_CLOEXEC);
            Assert.True(next >= 0, Errno.Name(next));
            _ = Libc.Close(next);
            File.Delete(_folder["link"]);
            File.CreateSymbolicLink(_folder["link"], loop.Path);
        }
        using (BlockDevice device = BlockDevice.Open(loop.Path, Alone))
        {
            Assert.Equal(ExitCode.Permission,
                Assert.Throws<SnapuserdException>(() => Answering([SYS_openat], _ => -Errno.EACCES, device.GiveUpHold)).Code);
            Assert.Equal(ExitCode.OutOfResources,
                Assert.Throws<SnapuserdException>(() => Answering([SYS_dup3], _ => -Errno.EMFILE, device.GiveUpHold)).Code);
            Assert.Equal(-Errno.EBUSY, Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDWR | Libc.O_EXCL | Libc.O_CLOEXEC));
        }
        using BlockDevice file = BlockDevice.Open(_folder["other"], Alone);
        file.GiveUpHold();
        Assert.Equal(Libc.O_RDWR, Libc.Fcntl(file.Fd, Libc.F_GETFL, 0) & Libc.O_ACCMODE);
    }

    private void Write(string name, int length) => File.WriteAllBytes(_folder[name], new byte[length]);

    [RootTheory]
    [InlineData(Errno.EPERM, null)]
    [InlineData(Errno.EACCES, null)]
    [InlineData(Errno.ENOSYS, null)]
    [InlineData(Errno.ENOENT, null)]
    [InlineData(Errno.EROFS, null)]
    [InlineData(Errno.EINVAL, null)]
    [InlineData(Errno.EOPNOTSUPP, null)]
    [InlineData(Errno.ENODEV, null)]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOSPC, ExitCode.OutOfResources)]
    [InlineData(Errno.EIO, ExitCode.Permission)]
    [InlineData(Errno.ELOOP, ExitCode.Permission)]
    public void Missing_lock_file_is_tolerated_only_if_other_processes_cannot_have_one_either(int errno, ExitCode? code)
    {
        void Open() => Answering([SYS_openat], call => call.Text(1).StartsWith("file-", StringComparison.Ordinal) ? -errno : null,
            () => BlockDevice.Open(_folder["f"], Alone).Dispose());
        if (code == null) Open();
        else Assert.Equal(code, Assert.Throws<SnapuserdException>(Open).Code);
    }

    [RootTheory]
    [InlineData(0u, 0x41c0, true)]
    [InlineData(0u, 0x41c8, false)]
    [InlineData(0u, 0x41c1, false)]
    [InlineData(7u, 0x41c0, false)]
    public void Folder_of_locks_is_used_only_if_it_belongs_to_root_alone(uint user, int mode, bool used)
    {
        int folder = -1;
        void Open() => Answering([SYS_openat, SYS_statx], call =>
        {
            if (call.Number == SYS_openat)
                return call.Text(1) == ".snapuserd" ? folder = Libc.OpenAt(call[0], ".snapuserd", call[2]) : null;
            if (call[0] != folder || call.Text(1).Length > 0) return null;
            folder = -1;
            call.At<StatxData>(4) = new StatxData { Mode = (ushort)mode, Uid = user };
            return 0;
        }, () => BlockDevice.Open(_folder["f"], Alone).Dispose());
        if (used)
        {
            Open();
            return;
        }
        SnapuserdException refused = Assert.Throws<SnapuserdException>(Open);
        Assert.Equal(ExitCode.Permission, refused.Code);
        Assert.Contains("it belongs to another user, or others may use it", refused.Message, StringComparison.Ordinal);
    }

    [RootFact]
    public void Lock_file_that_its_last_holder_removes_meanwhile_is_recreated()
    {
        List<int> made = [];
        int named = 0;
        Answering([SYS_openat], call =>
        {
            if (!call.Text(1).StartsWith("file-", StringComparison.Ordinal)) return null;
            int fd = Libc.OpenAt(call[0], call.Text(1), call[2], 0x180);
            made.Add(fd);
            if (made.Count < 3) _ = Libc.UnlinkAt(call[0], call.Text(1));
            return fd;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], Alone);
            StorageBottom bottom = Assert.Single(device.Storage.Pieces).Bottom;
            named = Directory.GetFiles($"/proc/self/fd/{KernelTree.Dev.Folder}/.snapuserd",
                $"file-{bottom.Major}:{bottom.Minor}-{bottom.Inode}").Length;
        });
        Assert.Equal((3, 1), (made.Count, named));
    }

    [Fact]
    public void Caches_are_coherent_only_if_both_could_be_flushed()
    {
        Write("other", 4096);
        using BlockDevice source = BlockDevice.Open(_folder["f"], DeviceAccess.Read),
            target = BlockDevice.Open(_folder["other"], DeviceAccess.Write);
        foreach ((BlockDevice failing, int errno, bool fails) in ((BlockDevice, int, bool)[])[(source, Errno.EINVAL, false),
            (target, Errno.EROFS, false),
            (source, Errno.EIO, true), (source, Errno.EPERM, true), (target, Errno.ENOSPC, true), (target, Errno.EBADF, true)])
        {
            List<(uint, int)> calls = [];
            void Make() => Answering([SYS_fsync, SYS_fadvise64], call =>
            {
                calls.Add((call.Number, call[0]));
                if (call.Number == SYS_fadvise64) Assert.Equal((0L, 0L, Libc.POSIX_FADV_DONTNEED), (call.Long(1), call.Long(2), call[3]));
                return call.Number == SYS_fsync && call[0] == failing.Fd ? -errno : 0;
            }, () => SharedCaches.MakeCoherent(source, target));
            if (fails)
            {
                SnapuserdException refused = Assert.Throws<SnapuserdException>(Make);
                Assert.Equal((ExitCode.InputOutput, $"{failing.Path}: flushing failed: {ErrnoText.Of(errno)}"),
                    (refused.Code, refused.Message));
                continue;
            }
            Make();
            Assert.Equal([(SYS_fsync, source.Fd), (SYS_fsync, target.Fd), (SYS_fadvise64, source.Fd), (SYS_fadvise64, target.Fd)], calls);
        }
    }

    [Fact]
    public void Ring_that_is_too_old_or_does_nothing_is_closed_and_refused()
    {
        foreach ((int probe, bool old, string sentence) in ((int, bool, string)[])[(0, true, "older than 5.6"),
            (-Errno.EPERM, false, "forbidden"),
            (-Errno.ENOMEM, false, "no thread for"), (-Errno.EIO, false, "does nothing ended with EIO")])
        {
            using Arena arena = new(65536);
            using WakeUp wakeUp = new();
            int ring = -1;
            List<int> closed = [];
            UringUnavailable? refusal = null;
            RingQueue? queue = null;
            Answering([SYS_io_uring_setup, SYS_io_uring_enter, SYS_close], call =>
            {
                switch (call.Number)
                {
                    case SYS_close:
                        closed.Add(call[0]);
                        return null;
                    case SYS_io_uring_enter: return probe;
                    default:
                        ring = (int)Call(425, call[0], (nint)call.Long(1));
                        if (ring >= 0 && old) call.At<IoUringParams>(1).Features &= ~IoUringAbi.IORING_FEAT_NODROP;
                        return ring < 0 ? -Errno.EINVAL : ring;
                }
            }, () => refusal = RingQueue.TryCreate([-1], arena, wakeUp, 4, out queue));
            Assert.Null(queue);
            Assert.Contains(sentence, refusal!.Value.Sentence, StringComparison.Ordinal);
            Assert.Contains(ring, closed);
        }
    }

    [Fact]
    public void Ring_over_a_direct_device_pins_the_arena_and_one_over_a_cached_file_does_not()
    {
        foreach (bool direct in (bool[])[true, false])
        {
            using Arena arena = new(65536);
            using WakeUp wakeUp = new();
            using BlockDevice device = BlockDevice.Open(_folder["f"], direct ? DeviceAccess.Direct : DeviceAccess.Read),
                cached = BlockDevice.Open(_folder["f"], DeviceAccess.Read);
            int interrupted = 0;
            Answering([SYS_io_uring_enter], _ => interrupted++ < 3 ? -Errno.EINTR : null, () =>
            {
                Assert.Null(RingQueue.TryCreate([cached, device], arena, wakeUp, 4, out RingQueue? queue));
                using (queue)
                {
                    Assert.Equal((direct, direct), (queue!.FixedBuffer, arena.IsRegistered));
                    IoScheduler transfers = new(queue, [1, device.Granule]);
                    arena[new Slice(0, 4096)].Fill(9);
                    transfers.Read(1, 4096, new Slice(0, 4096));
                    Assert.Null(transfers.Drain());
                    Assert.False(arena[new Slice(0, 4096)].ContainsAnyExcept((byte)0));
                }
            });
            Assert.True(interrupted > 3);
        }
    }

    [Theory]
    [InlineData(-1, false)]
    [InlineData(0, false)]
    [InlineData(1, true)]
    [InlineData(4096, true)]
    [InlineData(4097, false)]
    public void Depth_of_a_ring_is_bounded(int depth, bool allowed)
    {
        using Arena arena = new(65536);
        using WakeUp wakeUp = new();
        if (!allowed)
        {
            Assert.Throws<ArgumentOutOfRangeException>(() => RingQueue.TryCreate([-1], arena, wakeUp, depth, out _));
            return;
        }
        Assert.Null(RingQueue.TryCreate([-1], arena, wakeUp, depth, out RingQueue? queue, pin: false));
        Assert.Equal(depth, queue!.Depth);
        for (uint tag = 0; tag < depth; tag++) Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 8), tag)));
        Assert.False(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 8), 9)));
        queue.Dispose();
    }
}
