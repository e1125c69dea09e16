using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>
/// Block devices for which the test answers the system calls, edge cases of descriptors, and the descriptors and locks that remain.
/// </summary>
public sealed class BlockDeviceEdgeTests : IDisposable
{
    private const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    private readonly TempFolder _folder = new();

    public BlockDeviceEdgeTests()
    {
        _ = KernelTree.Dev.Folder;
        File.WriteAllBytes(_folder["f"], new byte[65536]);
    }

    public void Dispose() => _folder.Dispose();

    /// <summary>A file that system calls report as a block device. No real device has its number.</summary>
    private sealed class Disk(string path)
    {
        // All processes share the lock files, so a test run in parallel must use other device numbers.
        private static int s_minor = System.Security.Cryptography.RandomNumberGenerator.GetInt32(70_000, 1 << 30);

        private readonly uint _minor = (uint)System.Threading.Interlocked.Increment(ref s_minor);

        public ulong Size { get; set; } = 65536;
        public int Sector { get; set; } = 512;
        public int ReadOnly { get; set; }

        /// <summary>Flags of every open of the path, or of a descriptor of it.</summary>
        public List<int> Opened { get; } = [];

        public List<int> Open { get; } = [];
        public List<int> Closed { get; } = [];

        /// <summary>Called first for every system call; null lets the disk answer.</summary>
        public Func<SystemCall, long?> First { get; set; } = _ => null;

        public StatxData Status =>
            new() { Mode = Libc.S_IFBLK | 0x180, RdevMajor = 3000, RdevMinor = _minor, Ino = 7, Mask = Libc.STATX_BASIC_STATS };

        public void Run(Action action)
        {
            Answering([SYS_openat, SYS_statx, SYS_newfstatat, SYS_ioctl, SYS_close, SYS_fcntl, SYS_flock, SYS_poll, SYS_dup3],
                call => First(call) ?? Answer(call), action);
            foreach (int fd in Open) Assert.Equal(0, Libc.Close(fd));
        }

        private long? Answer(SystemCall call)
        {
            switch (call.Number)
            {
                case SYS_openat:
                    if (call.Text(1) != path && !call.Text(1).StartsWith("/proc/self/fd/", StringComparison.Ordinal)) return null;
                    Opened.Add(call[2]);
                    int fd = Libc.OpenAt(Libc.AT_FDCWD, path, call[2] & ~Libc.O_EXCL);
                    Open.Add(fd);
                    return fd;
                case SYS_close:
                    if (Open.Remove(call[0])) Closed.Add(call[0]);
                    return null;
                case SYS_statx:
                    if (call.Text(1) != path && !(call.Text(1).Length == 0 && Open.Contains(call[0]))) return null;
                    call.At<StatxData>(4) = Status;
                    return 0;
                case SYS_ioctl when Open.Contains(call[0]):
                    switch ((uint)call[1])
                    {
                        case Libc.BLKGETSIZE64: call.At<ulong>(2) = Size; return 0;
                        case Libc.BLKSSZGET: call.At<int>(2) = Sector; return 0;
                        case Libc.BLKROGET: call.At<int>(2) = ReadOnly; return 0;
                    }
                    return -Errno.ENOTTY;
                default:
                    return null;
            }
        }
    }

    private static SnapuserdException Refused(Disk disk, Action action)
    {
        SnapuserdException? refused = null;
        disk.Run(() => refused = Assert.Throws<SnapuserdException>(action));
        return refused!;
    }

    private static bool IsOpen(int fd) => Libc.Fcntl(fd, Libc.F_GETFD, 0) >= 0;

    private static bool IsPath(int fd, string path) => new FileInfo($"/proc/self/fd/{fd}").LinkTarget == path;

    [Fact]
    public void Device_that_opens_for_writing_but_reports_itself_as_read_only_is_77()
    {
        Disk disk = new(_folder["f"]) { ReadOnly = 1 };
        SnapuserdException refused = Refused(disk, () => BlockDevice.Open(_folder["f"], DeviceAccess.Write).Dispose());
        Assert.Equal((ExitCode.Permission, $"cannot open {_folder["f"]} for writing: read-only file system (EROFS)"),
            (refused.Code, refused.Message));
        Assert.Empty(disk.Open);
        disk.Run(() => BlockDevice.Open(_folder["f"], DeviceAccess.Read).Dispose());
    }

    [Theory]
    [InlineData(512, false)]
    [InlineData(4096, false)]
    [InlineData(4097, true)]
    [InlineData(8192, true)]
    public void Devices_for_writing_have_sectors_of_at_most_a_block(int sector, bool tooLarge)
    {
        Disk disk = new(_folder["f"]) { Sector = sector };
        disk.Run(() =>
        {
            using (BlockDevice reader = BlockDevice.Open(_folder["f"], DeviceAccess.Read))
            {
                Assert.Equal((65536, sector, true), (reader.Length, reader.LogicalSector, reader.IsBlockDevice));
                if (tooLarge) Assert.Throws<LargeSectorException>(reader.RefuseLargeSectors);
                else reader.RefuseLargeSectors();
            }
            if (tooLarge) Assert.Throws<LargeSectorException>(() => BlockDevice.Open(_folder["f"], DeviceAccess.Write).Dispose());
            else BlockDevice.Open(_folder["f"], DeviceAccess.Write).Dispose();
        });
        Assert.Empty(disk.Open);
    }

    [Theory]
    [InlineData(Libc.BLKGETSIZE64)]
    [InlineData(Libc.BLKSSZGET)]
    [InlineData(Libc.BLKROGET)]
    public void Device_that_does_not_report_its_size_sector_or_protection_is_refused(uint request)
    {
        Disk disk = new(_folder["f"]);
        disk.First = call => call.Number == SYS_ioctl && (uint)call[1] == request && disk.Open.Contains(call[0]) ? -Errno.ENOMEDIUM : null;
        Assert.Equal(ExitCode.InputMissing, Refused(disk, () => BlockDevice.Open(_folder["f"], DeviceAccess.Read).Dispose()).Code);
        Assert.Empty(disk.Open);
    }

    [Fact]
    public void Device_is_opened_with_O_EXCL_only_for_exclusive_use_and_its_holds_are_valid_descriptors()
    {
        foreach ((DeviceAccess access, bool alone) in ((DeviceAccess, bool)[])[(DeviceAccess.Read, false), (DeviceAccess.Write, false),
            (DeviceAccess.Shared, false),
            (Alone, true), (DeviceAccess.Exclusive, true)])
        {
            Disk disk = new(_folder["f"]);
            disk.Run(() =>
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], access);
                Assert.DoesNotContain(-1, device.Holds);
                Assert.Contains(device.Fd, device.Holds);
            });
            int flags = (access & DeviceAccess.Write) != 0 ? Libc.O_RDWR : Libc.O_RDONLY;
            Assert.Equal([flags | Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK | (alone ? Libc.O_EXCL : 0)], disk.Opened);
            Assert.Empty(disk.Open);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Node_is_locked_exclusively_only_if_the_lock_files_do_not_reach_every_process(bool reached)
    {
        if (reached && !(Libc.GetEUid() == 0 && KernelTree.Dev.IsGenuine)) return;
        foreach (DeviceAccess access in (DeviceAccess[])[Alone, DeviceAccess.Shared])
        {
            List<int> kinds = [];
            Disk disk = new(_folder["f"]);
            disk.First = call =>
            {
                if (call.Number == SYS_openat && call.Text(1) == ".snapuserd") return reached ? null : -Errno.EROFS;
                if (call.Number == SYS_flock && disk.Open.Contains(call[0])) kinds.Add(call[1]);
                return null;
            };
            disk.Run(() => BlockDevice.Open(_folder["f"], access).Dispose());
            int kind = access == Alone && !reached ? Libc.LOCK_EX : Libc.LOCK_SH;
            Assert.Equal([kind | Libc.LOCK_NB, Libc.LOCK_UN], kinds);
        }
    }

    [Theory]
    [InlineData(SYS_flock, 99, true)]
    [InlineData(SYS_flock, 100, false)]
    [InlineData(SYS_fcntl, 99, true)]
    [InlineData(SYS_fcntl, 100, false)]
    public void Lock_held_by_another_program_is_retried_a_hundred_times(uint number, int refusals, bool opened)
    {
        const int F_OFD_SETLK = 37;
        int asked = 0, waits = 0;
        Disk disk = new(_folder["f"]);
        disk.First = call =>
        {
            if (call.Number == SYS_poll)
            {
                Assert.Equal((0L, 20), (call.Long(1), call[2]));
                waits++;
                return 0;
            }
            if (call.Number != number || !disk.Open.Contains(call[0])
                || (number == SYS_fcntl ? call[1] != F_OFD_SETLK : call[1] == Libc.LOCK_UN))
                return null;
            return asked++ < refusals ? -Errno.EAGAIN : null;
        };
        void Open() => BlockDevice.Open(_folder["f"], DeviceAccess.Shared).Dispose();
        if (opened)
        {
            disk.Run(Open);
        }
        else
        {
            SnapuserdException refused = Refused(disk, Open);
            Assert.Equal((ExitCode.InUse, $"{_folder["f"]} is locked by another program: a merge or a server that still runs, or a reader"),
                (refused.Code, refused.Message));
        }
        // Closing unlocks the node once more.
        Assert.Equal((number == SYS_fcntl && opened ? 101 : 100, 99), (asked, waits));
        Assert.Empty(disk.Open);
    }

    [RootFact]
    public void Node_of_a_device_is_locked_according_to_its_use_and_unlocked_with_the_device()
    {
        using LoopDevice loop = new(_folder["f"]);
        int other = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDWR | Libc.O_CLOEXEC);
        (bool, bool) Locked() => (Libc.IsRangeLocked(other, new FileLock { Type = Libc.F_WRLCK }) == 1,
            Libc.IsRangeLocked(other, new FileLock { Type = Libc.F_RDLCK }) == 1);
        foreach ((DeviceAccess access, (bool, bool) locked) in ((DeviceAccess, (bool, bool))[])[(DeviceAccess.Read, (false, false)),
            (DeviceAccess.Shared, (true, false)),
            (DeviceAccess.Shared | DeviceAccess.Write, (true, true)), (DeviceAccess.Exclusive, (true, false)), (Alone, (true, true)),
            (Alone | DeviceAccess.HoldOnly, (false, false)), (DeviceAccess.Shared | DeviceAccess.HoldOnly, (false, false))])
        {
            int copy;
            using (BlockDevice device = BlockDevice.Open(loop.Path, access))
            {
                Assert.Equal((access, locked), (access, Locked()));
                // A duplicate shares the open file, like the descriptor of a forked child.
                copy = Libc.Fcntl(device.Fd, 0, 0);
            }
            Assert.Equal((access, (false, false)), (access, Locked()));
            _ = Libc.Close(copy);
        }
        BlockDevice inUse = BlockDevice.Open(loop.Path, Alone);
        int request = Libc.Fcntl(inUse.Fd, 0, 0);
        inUse.CloseInUse();
        Assert.Equal((true, true), Locked());
        _ = Libc.Close(request);
        Assert.Equal((false, false), Locked());
        _ = Libc.Close(other);
    }

    [Fact]
    public void File_is_locked_as_a_whole()
    {
        int other = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDWR | Libc.O_CLOEXEC);
        foreach (DeviceAccess access in (DeviceAccess[])[DeviceAccess.Shared, Alone, Alone | DeviceAccess.HoldOnly])
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], access);
            Assert.Equal(0, Libc.IsRangeLocked(other, new FileLock { Type = Libc.F_WRLCK }));
            Assert.Equal(access == DeviceAccess.Shared ? 0 : -Errno.EAGAIN, Libc.Flock(other, Libc.LOCK_SH | Libc.LOCK_NB));
            _ = Libc.Flock(other, Libc.LOCK_UN);
        }
        _ = Libc.Close(other);
    }

    [RootFact]
    public void File_below_a_loop_device_is_locked_unless_the_device_beside_it_has_locked_it()
    {
        using LoopDevice loop = new(_folder["f"]);
        using (BlockDevice target = BlockDevice.Open(_folder["f"], Alone))
        using (BlockDevice source = BlockDevice.Open(loop.Path, DeviceAccess.Shared, target)) Assert.True(source.SameFileAs(target));
        int other = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDWR | Libc.O_CLOEXEC);
        using (BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Shared))
        {
            Assert.Equal(2, device.Holds.Count(fd => IsPath(fd, loop.Path) || IsPath(fd, _folder["f"])));
            Assert.Equal(-Errno.EAGAIN, Libc.Flock(other, Libc.LOCK_EX | Libc.LOCK_NB));
        }
        Assert.Equal(0, Libc.Flock(other, Libc.LOCK_EX | Libc.LOCK_NB));
        SnapuserdException? refused = null;
        Answering([SYS_poll], call => call.Long(1) == 0 ? 0 : null,
            () => refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(loop.Path, DeviceAccess.Shared).Dispose()));
        Assert.Equal(ExitCode.InUse, refused!.Code);
        Assert.Equal($"{loop.Path} is a loop device over {_folder["f"]}, which is locked by another program: a merge or a server "
            + "that still runs", refused.Message);
        _ = Libc.Close(other);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Device_that_changes_during_the_wait_is_reopened_and_a_file_is_only_measured_again(bool isDevice)
    {
        int opened = 0;
        if (isDevice)
        {
            Disk disk = new(_folder["f"]);
            disk.First = call =>
            {
                if (call.Number == SYS_flock && call[1] != Libc.LOCK_UN) disk.Size = 131072;
                return null;
            };
            disk.Run(() =>
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Shared);
                Assert.Equal(131072, device.Length);
            });
            Assert.Equal(2, disk.Opened.Count);
            Assert.Empty(disk.Open);
            return;
        }
        Answering([SYS_flock, SYS_openat], call =>
        {
            if (call.Number == SYS_flock && call[1] != Libc.LOCK_UN) File.AppendAllText(_folder["f"], "more");
            if (call.Number == SYS_openat && call.Text(1) == _folder["f"]) opened++;
            return null;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Shared);
            Assert.Equal(65540, device.Length);
        });
        Assert.Equal(1, opened);
    }

    [Fact]
    public void File_whose_status_cannot_be_read_after_open_or_lock_is_refused_and_closed()
    {
        for (int failing = 1; failing <= 2; failing++)
        {
            int asked = 0, opened = -1;
            SnapuserdException? refused = null;
            Answering([SYS_statx, SYS_openat], call =>
            {
                if (call.Number == SYS_openat)
                    return call.Text(1) == _folder["f"] ? opened = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], call[2]) : null;
                return call[0] == opened && call.Text(1).Length == 0 && ++asked == failing ? -Errno.EIO : null;
            }, () => refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(_folder["f"], DeviceAccess.Shared).Dispose()));
            Assert.Equal((ExitCode.InputOutput, $"cannot open {_folder["f"]}: {ErrnoText.Of(Errno.EIO)}"),
                (refused!.Code, refused.Message));
            Assert.False(opened >= 0 && IsPath(opened, _folder["f"]));
        }
    }

    [Fact]
    public void Path_of_another_type_than_file_or_device_is_not_opened()
    {
        LoopDevice.Call("mkfifo", _folder["pipe"]);
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(_folder["socket"]));
        foreach ((string path, string what) in ((string, string)[])[(_folder.Path, "a directory"), ("/dev/null", "a character device"),
            (_folder["pipe"], "a pipe"),
            (_folder["socket"], "a socket")])
        {
            SnapuserdException? refused = null;
            Answering([SYS_openat], call => call.Text(1) == path ? throw new InvalidOperationException($"{path} is opened") : null,
                () => refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(path, DeviceAccess.Read).Dispose()));
            Assert.Equal((ExitCode.Usage, $"{path} is {what}, not a block device or a regular file"), (refused!.Code, refused.Message));
        }
    }

    [Fact]
    public void Path_that_becomes_a_directory_before_the_open_is_refused_and_closed()
    {
        int opened = -1;
        bool closed = false;
        SnapuserdException? refused = null;
        Answering([SYS_openat, SYS_close], call =>
        {
            if (call.Number == SYS_openat)
                return call.Text(1) == _folder["f"] ? opened =
                    Libc.OpenAt(Libc.AT_FDCWD, _folder.Path, Libc.O_RDONLY | Libc.O_CLOEXEC) : null;
            closed |= call[0] == opened;
            return null;
        }, () => refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(_folder["f"], DeviceAccess.Read).Dispose()));
        Assert.Equal((ExitCode.Usage, $"{_folder["f"]} is a directory, not a block device or a regular file"),
            (refused!.Code, refused.Message));
        Assert.True(closed);
    }

    [Fact]
    public void Device_with_descriptor_0_is_a_hold_and_is_closed()
    {
        foreach (bool keep in (bool[])[false, true])
        {
            int closed = 0;
            Answering([SYS_openat, SYS_statx, SYS_fcntl, SYS_close], call =>
            {
                switch (call.Number)
                {
                    case SYS_openat: return call.Text(1) == _folder["f"] ? 0 : null;
                    case SYS_statx:
                        if (call[0] != 0 || call.Text(1).Length > 0) return null;
                        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, _folder["f"], 0, Libc.STATX_BASIC_STATS, out call.At<StatxData>(4)));
                        return 0;
                    case SYS_fcntl: return call[0] == 0 ? 0 : null;
                    default:
                        if (call[0] != 0) return null;
                        closed++;
                        return 0;
                }
            }, () =>
            {
                BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Read);
                Assert.Equal((0, 65536), (device.Fd, device.Length));
                Assert.Equal([0], device.Holds);
                if (keep) device.KeepLocks();
                else device.Dispose();
                Assert.Equal(-1, device.Fd);
                Assert.Empty(device.Holds);
                device.Dispose();
            });
            Assert.Equal(1, closed);
        }
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EACCES)]
    public void Hold_is_kept_if_its_flags_a_second_open_or_the_status_cannot_be_had(int errno)
    {
        for (int step = 0; step < 3; step++)
        {
            Disk disk = new(_folder["f"]);
            bool given = false;
            int zeroClosed = 0, fd = -1;
            disk.First = call =>
            {
                if (!given) return null;
                switch (call.Number)
                {
                    case SYS_fcntl: return step == 0 && call[0] == fd && call[1] == Libc.F_GETFL ? -errno : null;
                    case SYS_openat:
                        if (!disk.Open.Contains(fd) || call.Text(1) != _folder["f"]) return null;
                        return step == 1 ? -errno : step == 2 ? 0 : null;
                    // If statx is not permitted, the code calls fstatat.
                    case SYS_statx or SYS_newfstatat: return step == 2 && call[0] == 0 && call.Text(1).Length == 0 ? -errno : null;
                    case SYS_close:
                        if (call[0] != 0) return null;
                        zeroClosed++;
                        return 0;
                    case SYS_dup3: return call[0] == 0 ? -Errno.EIO : null;
                    default: return null;
                }
            };
            disk.Run(() =>
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Write);
                fd = device.Fd;
                given = true;
                SnapuserdException? refused = Record.Exception(device.GiveUpHold) as SnapuserdException;
                given = false;
                Assert.Equal((step, ExitCode.Permission, $"cannot open {_folder["f"]}: {ErrnoText.Of(errno)}"),
                    (step, refused?.Code, refused?.Message));
                Assert.Equal(fd, device.Fd);
                Assert.Equal(Libc.O_RDWR, Libc.Fcntl(fd, Libc.F_GETFL, 0) & Libc.O_ACCMODE);
                Assert.Equal([fd], disk.Open);
            });
            Assert.Equal(step == 2 ? 1 : 0, zeroClosed);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Hold_is_given_up_by_its_descriptor_if_the_path_leads_to_another_device(int difference)
    {
        Disk disk = new(_folder["f"]);
        int fd = -1;
        List<int> wrong = [];
        disk.First = call =>
        {
            if (call.Number != SYS_statx || fd < 0 || call[0] == fd || !disk.Open.Contains(call[0]) || wrong.Count > 0) return null;
            wrong.Add(call[0]);
            StatxData status = disk.Status;
            call.At<StatxData>(4) = difference switch
            {
                0 => status with { RdevMajor = status.RdevMajor + 1 },
                1 => status with { RdevMinor = status.RdevMinor + 1 },
                _ => status with { Mode = Libc.S_IFREG },
            };
            return 0;
        };
        disk.Run(() =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Write);
            fd = device.Fd;
            device.GiveUpHold();
            Assert.Equal(Libc.O_RDONLY, Libc.Fcntl(fd, Libc.F_GETFL, 0) & Libc.O_ACCMODE);
            // The code must have closed the descriptor of the other device and the descriptor that it moved to the first number.
            Assert.Equal([fd], disk.Open);
        });
        Assert.Equal((3, 3), (disk.Opened.Count, disk.Closed.Count));
    }

    [RootFact]
    public void Closed_device_closes_and_unlocks_nothing_a_second_time()
    {
        using LoopDevice loop = new(_folder["f"]), window = new(_folder["f"], "--sizelimit", "4096");
        foreach (bool keep in (bool[])[false, true])
        {
            BlockDevice device = BlockDevice.Open(loop.Path, Alone);
            HashSet<int> holds = [.. device.Holds, -1];
            Assert.True(holds.Count > 3);
            if (keep)
            {
                device.KeepLocks();
                Assert.Equal(-1, device.Fd);
                // KeepLocks has closed the other descriptors, so other files may have their numbers now.
                holds = [-1];
            }
            else
            {
                device.Dispose();
                Assert.Equal(-1, device.Fd);
                Assert.Empty(device.Holds);
            }
            List<(uint, int)> calls = [];
            Answering([SYS_close, SYS_flock, SYS_fcntl], call =>
            {
                if (holds.Contains(call[0])) calls.Add((call.Number, call[0]));
                return null;
            }, () =>
            {
                if (keep) device.KeepLocks();
                device.Dispose();
            });
            Assert.Empty(calls);
        }
    }

    [Theory]
    [InlineData(Libc.F_GETFL, -Errno.EPERM, false)]
    [InlineData(Libc.F_GETFL, -Errno.EBADF, false)]
    [InlineData(Libc.F_GETFL, 0, true)]
    [InlineData(Libc.F_SETFL, -Errno.EPERM, false)]
    [InlineData(Libc.F_SETFL, -Errno.EINVAL, false)]
    public void File_whose_flags_cannot_be_read_or_changed_is_used_through_the_page_cache(int command, int answer, bool direct)
    {
        int changes = 0;
        Answering([SYS_fcntl], call =>
        {
            if (!IsPath(call[0], _folder["f"])) return null;
            if (call[1] == Libc.F_SETFL && (call[2] & Libc.O_DIRECT) != 0) changes++;
            return call[1] == command && (command == Libc.F_GETFL || (call[2] & Libc.O_DIRECT) != 0) ? answer : null;
        }, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Direct);
            Assert.Equal((direct, direct ? 4096 : 1), (device.IsDirect, Math.Max(device.Granule, direct ? 4096 : 1)));
        });
        Assert.Equal(command == Libc.F_GETFL && answer < 0 ? 0 : 1, changes);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(100)]
    [InlineData(511)]
    public void File_shorter_than_a_granule_is_not_probed_by_a_read(int length)
    {
        File.WriteAllBytes(_folder["f"], new byte[length]);
        Answering([SYS_pread64], _ => -Errno.EIO, () =>
        {
            using BlockDevice device = BlockDevice.Open(_folder["f"], DeviceAccess.Direct);
            Assert.False(device.IsDirect);
            Assert.Equal(0, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0) & Libc.O_DIRECT);
        });
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EIO)]
    public void Granule_that_cannot_be_read_or_has_no_buffer_is_74(int errno)
    {
        string path = _folder["f"];
        int granule = 0;
        Answering([SYS_statx], call =>
        {
            if (((uint)call[3] & Libc.STATX_DIOALIGN) == 0) return null;
            granule = Libc.Statx(call[0], Libc.STATX_BASIC_STATS | Libc.STATX_DIOALIGN, out StatxData status) == 0
                && (status.Mask & Libc.STATX_DIOALIGN) != 0
                ? (int)status.DioOffsetAlign : 4096;
            return null;
        }, () => BlockDevice.Open(path, DeviceAccess.Direct).Dispose());
        // The file system has no direct I/O: nothing to test.
        if (granule == 0) return;
        void Fails()
        {
            SnapuserdException refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(path, DeviceAccess.Direct).Dispose());
            Assert.Equal((ExitCode.InputOutput, $"{path}: reading the first {granule} bytes failed: {ErrnoText.Of(errno)}"),
                (refused.Code, refused.Message));
        }
        Refusing(SYS_pread64, errno, Fails);
        RefusingToMap(granule, errno, Fails);
    }

    [Fact]
    public void File_that_is_held_for_this_process_by_descriptor_0_is_not_locked_again()
    {
        StatxData status = default;
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, _folder["f"], 0, Libc.STATX_BASIC_STATS, out status));
        int locked = 0;
        Answering([SYS_statx, SYS_fcntl, SYS_flock], call =>
        {
            switch (call.Number)
            {
                case SYS_statx:
                    if (call[0] != 0 || call.Text(1).Length > 0) return null;
                    call.At<StatxData>(4) = status;
                    return 0;
                case SYS_fcntl: return call[0] == 0 ? 0 : null;
                default:
                    locked++;
                    return null;
            }
        }, () =>
        {
            InheritedHolds.Add(0);
            try
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], Alone);
                Assert.Null(device.NotLocked);
            }
            finally
            {
                InheritedHolds.Remove(0);
            }
        });
        Assert.Equal(0, locked);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    public void Device_held_for_this_process_is_opened_beside_a_hold_of_any_descriptor_number(int number)
    {
        Disk disk = new(_folder["f"]);
        int real = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDWR | Libc.O_CLOEXEC), hold = number == 0 ? 0 : real, closed = 0;
        disk.First = call =>
        {
            if (call[0] != hold || call.Number is SYS_openat or SYS_poll) return null;
            switch (call.Number)
            {
                case SYS_statx:
                    if (call.Text(1).Length > 0) return null;
                    call.At<StatxData>(4) = disk.Status;
                    return 0;
                case SYS_close:
                    closed++;
                    return 0;
                default: return 0;
            }
        };
        disk.Run(() =>
        {
            InheritedHolds.Add(hold);
            try
            {
                using BlockDevice device = BlockDevice.Open(_folder["f"], Alone);
                Assert.Equal(0, disk.Opened[0] & Libc.O_EXCL);
                Assert.Equal(0, closed);
                device.GiveUpHold();
                Assert.Equal(1, closed);
                Assert.Equal(-1, InheritedHolds.Find(disk.Status));
                device.GiveUpHold();
                Assert.Equal(1, closed);
            }
            finally
            {
                InheritedHolds.Remove(hold);
            }
        });
        _ = Libc.Close(real);
    }

    [Fact]
    public void Device_that_a_killed_process_may_still_write_to_is_refused_after_a_wait()
    {
        Disk disk = new(_folder["f"]);
        int hold = Libc.OpenAt(Libc.AT_FDCWD, _folder["f"], Libc.O_RDWR | Libc.O_CLOEXEC);
        disk.First = call =>
        {
            if (call.Number == SYS_poll) return 0;
            if (call.Number != SYS_statx || call[0] != hold || call.Text(1).Length > 0) return null;
            call.At<StatxData>(4) = disk.Status;
            return 0;
        };
        Assert.Equal(0, Libc.LockRange(hold, new FileLock { Type = Libc.F_WRLCK }));
        disk.Run(() =>
        {
            InheritedHolds.Add(hold);
            try
            {
                SnapuserdException refused = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(_folder["f"], Alone).Dispose());
                Assert.Equal((ExitCode.InUse, $"{_folder["f"]}: the kernel is still processing the last requests of a process "
                    + "that was killed; try again later"), (refused.Code, refused.Message));
                Assert.Equal(0, Libc.LockRange(hold, new FileLock { Type = Libc.F_UNLCK }));
                BlockDevice.Open(_folder["f"], Alone).Dispose();
            }
            finally
            {
                InheritedHolds.Remove(hold);
            }
        });
        Assert.True(IsOpen(hold));
        _ = Libc.Close(hold);
    }
}
