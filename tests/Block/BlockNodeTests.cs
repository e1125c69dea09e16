using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The description of devices in /sys, and opening a device by its number.</summary>
public sealed class BlockNodeTests : IDisposable
{
    private readonly FakeDevices _devices = new();

    public BlockNodeTests()
    {
        string disk = _devices.Add("sda", 8, 16, 2048);
        _devices.Add("sda1", 8, 17, 100, "sda", 64);
        _devices.Add("sda2", 8, 18, 200, "sda", 164);
        Directory.CreateDirectory($"{disk}/queue");
        _devices.Add("dm-0", 252, 3, 90, slaves: ["sda1"], files: [("dm/suspended", "0\n"), ("dm/name", "root\n")]);
        _devices.Add("md7", 9, 7, 80, slaves: ["sda1", "sda2"], files: ("md/level", "raid1\n"));
        _devices.Add("bcache0", 251, 0, 70, slaves: ["md7"]);
    }

    public void Dispose()
    {
        Assert.Empty(_devices.StillOpen);
        _devices.Dispose();
    }

    [Fact]
    public void Devices_are_listed_by_number_and_other_entries_are_skipped()
    {
        foreach (string name in (string[])["8", ":5", "8:", "8:x", "x:8", "-1:2", "8:1:2"]) _devices.AddNoise(name);
        _devices.Run(() => Assert.Equal([(8u, 16u), (8, 17), (8, 18), (9, 7), (251, 0), (252, 3)], BlockNode.All()));
    }

    [Fact]
    public void Without_sys_the_first_loop_devices_are_listed()
    {
        IEnumerable<(uint, uint)> loops = Enumerable.Range(0, 256).Select(minor => (7u, (uint)minor));
        Assert.Equal(loops, BlockNode.All(new KernelTree("no-such-file-system", "/", 1)));
        // Without the right to mount, the same devices are listed.
        OwnThread.Answering([OwnThread.SYS_fsopen], _ => -Errno.EPERM,
            () => Assert.Equal(loops, BlockNode.All(new KernelTree("sysfs", "/", 1))));
    }

    [Fact]
    public void Device_is_described_from_sys()
    {
        _devices.Add("huge", 60, 1, long.MaxValue / 512);
        _devices.Add("larger", 60, 2, (long.MaxValue / 512) + 1);
        _devices.Add("unnamed", 60, 3, 1, files: ("uevent", "MAJOR=60\n"));
        _devices.Add("level", 60, 4, 1, files: ("md/level", "\n"));
        _devices.Run(() =>
        {
            Assert.Equal("sda1", BlockNode.Name(8, 17));
            Assert.Null(BlockNode.Name(17, 8));
            Assert.Null(BlockNode.Name(60, 3));
            Assert.Equal(2048 * 512, BlockNode.Length(8, 16));
            Assert.Equal(long.MaxValue / 512 * 512, BlockNode.Length(60, 1));
            Assert.Equal(0, BlockNode.Length(60, 2));
            Assert.Equal(0, BlockNode.Length(16, 8));
            Assert.Equal((8u, 16u, 164L * 512), BlockNode.Partition(8, 18));
            Assert.Null(BlockNode.Partition(8, 16));
            Assert.Null(BlockNode.Partition(18, 8));
            Assert.Equal([(8u, 17u), (8, 18)], BlockNode.Partitions(8, 16).Order().ToArray());
            Assert.Empty(BlockNode.Partitions(8, 17));
            Assert.Empty(BlockNode.Partitions(16, 8));
            Assert.True(BlockNode.IsMapped(252, 3));
            Assert.False(BlockNode.IsMapped(3, 252));
            Assert.False(BlockNode.IsMapped(9, 7));
            Assert.Equal([(8u, 17u), (8, 18)], BlockNode.Slaves(9, 7).Order().ToArray());
            Assert.Empty(BlockNode.Slaves(7, 9));
            Assert.Empty(BlockNode.Slaves(8, 16));
            Assert.Equal("md raid1", BlockNode.Kind(9, 7));
            Assert.Equal("level", BlockNode.Kind(60, 4));
            Assert.Equal("bcache0", BlockNode.Kind(251, 0));
            Assert.Equal("60:3", BlockNode.Kind(60, 3));
            Assert.Equal("7:9", BlockNode.Kind(7, 9));
        });
    }

    [Fact]
    public void Partition_with_an_incomplete_entry_in_sys_does_not_count_as_one()
    {
        string path = _devices.Add("sdb", 8, 32, 100);
        string first = _devices.Add("sdb1", 8, 33, 10, "sdb", 1), second = _devices.Add("sdb2", 8, 34, 10, "sdb", 2),
            third = _devices.Add("sdb3", 8, 35, 10, "sdb", 3);
        File.Delete($"{first}/partition");
        File.Delete($"{second}/start");
        File.WriteAllText($"{path}/dev", "8\n");
        File.Delete($"{third}/dev");
        _devices.Run(() =>
        {
            foreach (uint minor in (uint[])[33, 34, 35]) Assert.Null(BlockNode.Partition(8, minor));
            Assert.Equal([(8u, 34u)], BlockNode.Partitions(8, 32));
        });
    }

    [Theory]
    [InlineData(0, -Errno.ENOENT, 0, 1)]
    [InlineData(-Errno.ENOENT, 0, 0, 2)]
    [InlineData(-Errno.EACCES, 0, 0, 2)]
    [InlineData(-Errno.EPERM, 0, 0, 2)]
    [InlineData(-Errno.EPERM, -Errno.EPERM, -Errno.EPERM, 2)]
    [InlineData(-Errno.EBUSY, 0, -Errno.EBUSY, 1)]
    [InlineData(-Errno.ENOENT, -Errno.EBUSY, -Errno.EBUSY, 2)]
    [InlineData(-Errno.EACCES, -Errno.ENOENT, -Errno.EACCES, 2)]
    [InlineData(-Errno.EACCES, -Errno.ENXIO, -Errno.ENXIO, 2)]
    [InlineData(-Errno.ENOENT, -Errno.EACCES, -Errno.EACCES, 2)]
    [InlineData(-Errno.ENOENT, -Errno.ENOENT, -Errno.ENOENT, 2)]
    public void Device_is_opened_by_the_node_of_the_kernel_or_else_by_the_node_in_dev(int own, int other, int expected, int opens)
    {
        (_devices.Answers["own sda1"], _devices.Answers["/dev/sda1"]) = (own, other);
        _devices.Run(() =>
        {
            int fd = BlockNode.Open(8, 17, Libc.O_RDONLY | Libc.O_NONBLOCK);
            Assert.Equal(expected, Math.Min(fd, 0));
            if (fd >= 0) Assert.Equal(0, Libc.Close(fd));
        });
        (string, int)[] both = [("own sda1", Libc.O_NONBLOCK), ("/dev/sda1", Libc.O_NONBLOCK)];
        Assert.Equal(both[..opens], _devices.Opened);
    }

    public static TheoryData<StatxData> Others =>
    [
        new StatxData { Mode = Libc.S_IFBLK, RdevMajor = 8, RdevMinor = 18 },
        new StatxData { Mode = Libc.S_IFBLK, RdevMajor = 17, RdevMinor = 8 },
        new StatxData { Mode = Libc.S_IFREG, RdevMajor = 8, RdevMinor = 17 },
        new StatxData { Mode = Libc.S_IFCHR, RdevMajor = 8, RdevMinor = 17 },
    ];

    [Theory]
    [MemberData(nameof(Others))]
    public void Node_that_is_another_device_is_closed(StatxData other)
    {
        _devices.Status["sda1"] = other;
        _devices.Answers["/dev/sda1"] = 0;
        _devices.Run(() => Assert.Equal(-Errno.ENOENT, BlockNode.Open(8, 17, Libc.O_RDONLY)));
        Assert.Equal(2, _devices.Opened.Count);
    }

    [Fact]
    public void Device_without_a_name_is_opened_only_as_a_loop_device()
    {
        _devices.Add("loop9", 7, 9, 8, files: ("uevent", "\n"));
        _devices.Run(() =>
        {
            Assert.Equal(-Errno.ENOENT, BlockNode.Open(9, 1, Libc.O_RDONLY));
            Assert.Equal(-Errno.ENOENT, BlockNode.Open(1, 7, Libc.O_RDONLY));
            int fd = BlockNode.Open(7, 9, Libc.O_RDONLY);
            Assert.True(fd >= 0);
            Assert.Equal(0, Libc.Close(fd));
        });
        Assert.Equal([("own loop9", 0)], _devices.Opened);
    }

    [Theory]
    [InlineData("own sda1", Errno.EMFILE)]
    [InlineData("own sda1", Errno.ENFILE)]
    [InlineData("own sda1", Errno.ENOMEM)]
    [InlineData("/dev/sda1", Errno.EMFILE)]
    public void Lack_of_descriptors_or_memory_is_an_error_and_not_an_answer(string open, int errno)
    {
        _devices.Answers["own sda1"] = -Errno.ENOENT;
        _devices.Answers[open] = -errno;
        SnapuserdException refused = Assert.Throws<SnapuserdException>(() => _devices.Run(() => BlockNode.Open(8, 17, Libc.O_RDONLY)));
        Assert.Equal(ExitCode.OutOfResources, refused.Code);
        Assert.Contains($"(sda1): {ErrnoText.Of(errno)}", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Devices_that_may_block_are_skipped_with_all_devices_above_them()
    {
        File.WriteAllText(Path.Combine(_devices.Add("sdc1", 8, 49, 10), "uevent"), "DEVNAME=sdc1\nPARTUUID=1-2\nPARTNAME=a b\n");
        uint minor = 0;
        foreach (string name in (string[])["ram0", "zram1", "ublkb2", "nbd3", "fd4", "sr5", "ramdisk", "xram0", "sr", "fd", "fda1"])
            _devices.Add(name, 1, minor++, 5);
        _devices.Add("empty0", 2, 0, 0);
        _devices.Add("none", 2, 1, 5, files: ("uevent", "MAJOR=2\n"));
        _devices.Add("dm-1", 252, 1, 5, files: ("dm/suspended", "1\n"));
        _devices.Add("dm-2", 252, 2, 5, slaves: ["sda1", "zram1"]);
        _devices.Add("dm-4", 252, 4, 5, slaves: ["dm-1"]);
        _devices.Add("dm-5", 252, 5, 5, slaves: ["dm-4"]);
        for (uint level = 0; level < 18; level++)
            _devices.Add($"deep{level}", 100, level, 1, slaves: level == 0 ? [] : [$"deep{level - 1}"]);
        _devices.Run(() =>
        {
            List<KernelDevice>? all = KernelDevices.All();
            Assert.Equal(
                ["1:6 ramdisk", "1:7 xram0", "1:8 sr", "1:9 fd", "1:10 fda1", "8:16 sda", "8:17 sda1", "8:18 sda2", "8:49 sdc1", "9:7 md7",
                    .. Enumerable.Range(0, 16).Select(level => $"100:{level} deep{level}"), "251:0 bcache0", "252:3 dm-0"],
                all!.Select(device => $"{device.Major}:{device.Minor} {device.Name}"));
            KernelDevice partition = all!.Single(device => device.Name == "sdc1");
            Assert.Equal((5120L, "1-2", "a b"), (partition.Length, partition.PartitionUuid, partition.PartitionLabel));
            KernelDevice suspended = KernelDevices.Of(252, 1)!;
            Assert.Equal((252u, 1u, "dm-1", 2560L, null, null),
                (suspended.Major, suspended.Minor, suspended.Name, suspended.Length, suspended.PartitionUuid, suspended.PartitionLabel));
            Assert.Equal(0, KernelDevices.Of(2, 0)!.Length);
            Assert.Null(KernelDevices.Of(2, 1));
            Assert.Null(KernelDevices.Of(17, 8));
        });
    }

    [RootFact]
    public void Device_is_read_from_its_medium()
    {
        using TempFolder folder = new();
        byte[] content = new byte[1 << 20];
        new Random(7).NextBytes(content);
        File.WriteAllBytes(folder["image"], content);
        using LoopDevice loop = new(folder["image"]);
        using FileStream cached = new(loop.Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 0);
        uint minor = uint.Parse(loop.Path["/dev/loop".Length..]);
        byte[] bytes = new byte[600];
        foreach (int at in (int[])[0, 4096, 8100, 12000, 16384 - 600])
        {
            // The device's page cache has the old content before the file changes below.
            cached.Position = at;
            cached.ReadExactly(bytes);
            new Random(at).NextBytes(content.AsSpan(at, 600));
            using (FileStream file = new(folder["image"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            {
                file.Position = at;
                file.Write(content, at, 600);
            }
            int before = Directory.GetFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == loop.Path);
            Assert.Equal(600, KernelDevices.Read(7, minor, at, bytes));
            Assert.Equal(content.AsSpan(at, 600).ToArray(), bytes);
            Assert.Equal(before, Directory.GetFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == loop.Path));
        }
        Assert.Equal(100, KernelDevices.Read(7, minor, (1 << 20) - 100, bytes));
        Assert.Equal(-Errno.ENOENT, KernelDevices.Read(minor + 3, 7777, 0, bytes));
    }

    [Fact]
    public void Interrupted_read_of_a_device_is_repeated()
    {
        int asked = 0, fd = -1;
        List<(long, long)> dropped = [];
        OwnThread.Answering(
            [OwnThread.SYS_openat, OwnThread.SYS_statx, OwnThread.SYS_fadvise64, OwnThread.SYS_pread64, OwnThread.SYS_close], call =>
            {
                switch (call.Number)
                {
                    case OwnThread.SYS_openat: return call.Text(1) == "loop3" ? fd = Libc.EventFd(0, Libc.EFD_CLOEXEC) : null;
                    case OwnThread.SYS_statx:
                        if (call[0] != fd) return null;
                        call.At<StatxData>(4) = new StatxData { Mode = Libc.S_IFBLK, RdevMajor = 7, RdevMinor = 3 };
                        return 0;
                    case OwnThread.SYS_fadvise64:
                        dropped.Add((call.Long(1), call.Long(2)));
                        return 0;
                    case OwnThread.SYS_close:
                        if (call[0] == fd) fd = -1;
                        return null;
                    default: return asked++ % 2 == 0 ? -Errno.EINTR : -Errno.EAGAIN;
                }
            }, () => Assert.Equal(-Errno.EAGAIN, KernelDevices.Read(7, 3, 5000, new byte[4000])));
        Assert.Equal(2 * (Retry.AttemptsBeforeSync + 1), asked);
        Assert.Equal([(4096L, 8192L)], dropped);
        Assert.Equal(-1, fd);
    }

    [Fact]
    public void Descriptor_0_is_valid()
    {
        foreach (string zero in (string[])["own sda1", "/dev/sda1"])
        {
            _devices.Zero = zero;
            (_devices.Answers["own sda1"], _devices.Answers["/dev/sda1"]) = (zero == "own sda1" ? 0 : -Errno.ENOENT, 0);
            _devices.Run(() =>
            {
                Assert.Equal(0, BlockNode.Open(8, 17, Libc.O_RDONLY));
                Assert.Equal(0, Libc.Close(0));
            });
        }
        List<uint> asked = [];
        uint[] calls = [OwnThread.SYS_openat, OwnThread.SYS_statx, OwnThread.SYS_fadvise64, OwnThread.SYS_pread64, OwnThread.SYS_close];
        OwnThread.Answering(calls, call =>
        {
            if (call.Number == OwnThread.SYS_openat) return call.Text(1) == "loop3" ? 0 : null;
            if (call[0] != 0) return null;
            asked.Add(call.Number);
            if (call.Number == OwnThread.SYS_statx)
                call.At<StatxData>(4) = new StatxData { Mode = Libc.S_IFBLK, RdevMajor = 7, RdevMinor = 3 };
            return call.Number == OwnThread.SYS_pread64 ? 512 : 0;
        }, () => Assert.Equal(512, KernelDevices.Read(7, 3, 0, new byte[512])));
        Assert.Equal(calls[1..], asked);
    }

    [Fact]
    public void Device_that_may_not_be_opened_is_not_read()
    {
        _devices.Answers["own sda1"] = _devices.Answers["/dev/sda1"] = -Errno.EPERM;
        _devices.Run(() => Assert.Equal(-Errno.EPERM, KernelDevices.Read(8, 17, 0, new byte[512])));
    }
}
