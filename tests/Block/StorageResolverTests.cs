using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>Resolving devices to the storage below them, their other names, and the tables of the device mapper.</summary>
public sealed class StorageResolverTests : IDisposable
{
    private readonly FakeDevices _devices = new();

    /// <summary>The device mapper's table of each device.</summary>
    private readonly Dictionary<(uint Major, uint Minor), (string Type, ulong Start, ulong Length, string Parameters)[]> _tables = [];

    private readonly List<(uint Bytes, uint Start, uint Flags, ulong Device, uint Version)> _asked = [];

    /// <summary>The device mapper reports "buffer full" for a message of fewer bytes.</summary>
    private int _needed;

    public StorageResolverTests()
    {
        _devices.Table = Table;
        _devices.Add("sda", 8, 16, 2048);
        _devices.Add("sda1", 8, 17, 100, "sda", 64);
        _devices.Add("sda2", 8, 18, 200, "sda", 164);
        _devices.Add("sdb", 8, 32, 4096);
    }

    public void Dispose()
    {
        Assert.Empty(_devices.StillOpen);
        _devices.Dispose();
    }

    private int Table(byte[] message)
    {
        DmIoctl head = MemoryMarshal.Read<DmIoctl>(message);
        uint version;
        unsafe
        {
            version = head.Version[0];
        }
        _asked.Add((head.DataSize, head.DataStart, head.Flags, head.Dev, version));
        if (!_tables.TryGetValue(Libc.DecodeDevice(head.Dev), out (string Type, ulong Start, ulong Length, string Parameters)[]? lines))
            return -Errno.ENXIO;
        if (message.Length < _needed)
        {
            head.Flags |= DM_BUFFER_FULL_FLAG;
            MemoryMarshal.Write(message, head);
            return 0;
        }
        byte[] answer = StorageIdentityTests.Message(lines);
        answer.CopyTo(message, 0);
        return 0;
    }

    private void AddMapped(string name, uint minor, long sectors, string[] slaves,
        params (string Type, ulong Start, ulong Length, string Parameters)[] lines)
    {
        _devices.Add(name, 252, minor, sectors, slaves: slaves, files: ("dm/name", "x\n"));
        _tables[(252, minor)] = lines;
    }

    private List<StoragePiece> Pieces(uint major, uint minor) => Of(major, minor).Pieces;

    private StorageIdentity Of(uint major, uint minor)
    {
        StorageIdentity? storage = null;
        _devices.Run(() => storage = StorageResolver.Of(major, minor));
        return storage!;
    }

    private static StoragePiece On(uint major, uint minor, long offset, long length) =>
        new(StorageBottom.OfDevice(major, minor), offset, length);

    [Theory]
    [InlineData(0, 1)]
    [InlineData(16 << 10, 1)]
    [InlineData((16 << 10) + 1, 2)]
    [InlineData(1 << 20, 4)]
    [InlineData(4 << 20, 5)]
    [InlineData((4 << 20) + 1, 5)]
    public void Table_is_requested_with_a_larger_buffer_until_it_fits(int needed, int questions)
    {
        AddMapped("dm-3", 3, 100, [], ("linear", 0, 100, "8:16 7"));
        _needed = needed;
        List<DeviceTableLine>? lines = null;
        _devices.Run(() => lines = DeviceTable.Read(252, 3));
        Assert.Equal(needed > 4 << 20 ? null : [new DeviceTableLine("linear", 0, 51200, 8, 16, 3584)], lines);
        Assert.Equal(Enumerable.Range(0, questions)
            .Select(i => ((uint)(16384 << (2 * i)), 312u, DM_STATUS_TABLE_FLAG, Libc.EncodeDevice(252, 3), (uint)DM_VERSION_MAJOR)),
            _asked);
    }

    [Fact]
    public void Table_is_requested_by_the_node_of_the_kernel_or_else_by_the_node_in_dev()
    {
        AddMapped("dm-3", 3, 100, [], ("zero", 0, 100, ""));
        foreach ((int own, int other, bool found) in ((int, int, bool)[])[(0, -Errno.ENOENT, true), (-Errno.ENOENT, 0, true),
            (-Errno.EACCES, -Errno.ENOENT, false)])
        {
            _devices.Opened.Clear();
            (_devices.Answers["own mapper/control"], _devices.Answers["/dev/mapper/control"]) = (own, other);
            bool read = false;
            _devices.Run(() => read = DeviceTable.Read(252, 3) != null);
            Assert.Equal(found, read);
            Assert.All(_devices.Opened, open => Assert.Equal(Libc.O_RDWR, open.Flags));
            Assert.Equal(own == 0 ? 1 : 2, _devices.Opened.Count);
        }
        List<DeviceTableLine>? none = [];
        _devices.Answers["own mapper/control"] = 0;
        _devices.Run(() => none = DeviceTable.Read(252, 4));
        Assert.Null(none);
        _devices.Answers["own mapper/control"] = -Errno.ENOENT;
        _devices.Answers["/dev/mapper/control"] = -Errno.EMFILE;
        Assert.Contains("/dev/mapper/control",
            Assert.Throws<SnapuserdException>(() => _devices.Run(() => DeviceTable.Read(252, 3))).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("8:16 7", true)]
    [InlineData("8:16 18014398509481983", true)]
    [InlineData("8:16 18014398509481984", false)]
    [InlineData("8:16", false)]
    [InlineData(" 8:16 7", false)]
    [InlineData("816 7", false)]
    [InlineData(":16 7", false)]
    [InlineData("8: 7", false)]
    [InlineData("x:16 7", false)]
    [InlineData("8:x 7", false)]
    [InlineData("8:16 x", false)]
    [InlineData("8:16 -7", false)]
    [InlineData("4294967296:1 7", false)]
    public void Malformed_line_of_a_table_is_refused(string parameters, bool isLine) =>
        Assert.Equal(isLine, DeviceTable.Parse(StorageIdentityTests.Message(("linear", 0, 8, parameters))) != null);

    [Fact]
    public void Table_ends_with_its_message()
    {
        byte[] message = StorageIdentityTests.Message(("error", long.MaxValue / 512, long.MaxValue / 512, ""), ("zero", 0, 1, ""));
        DeviceTableLine first = new("error", long.MaxValue / 512 * 512, long.MaxValue / 512 * 512, 0, 0, 0);
        Assert.Equal([first, new DeviceTableLine("zero", 0, 512, 0, 0, 0)], DeviceTable.Parse(message));
        Assert.True(first is { IsNothing: true, IsLinear: false });
        // A message may end inside the parameters, but not inside a line's header.
        Assert.NotNull(DeviceTable.Parse(message.AsSpan(0, 312 + 48 + 40)));
        Assert.Null(DeviceTable.Parse(message.AsSpan(0, 312 + 48 + 39)));
        Assert.Null(DeviceTable.Parse(StorageIdentityTests.Message(("zero", (long.MaxValue / 512) + 1, 1, ""))));
        Assert.Null(DeviceTable.Parse(StorageIdentityTests.Message(("zero", 0, (long.MaxValue / 512) + 1, ""))));
        // An empty type, and a type without a terminating zero.
        Assert.Equal(["", "0123456789abcdef"],
            DeviceTable.Parse(StorageIdentityTests.Message(("", 0, 1, "x"), ("0123456789abcdef", 1, 1, "")))!.Select(line => line.Type));
        ref DmIoctl head = ref MemoryMarshal.AsRef<DmIoctl>(message.AsSpan());
        (head.TargetCount, head.DataStart) = (0, (uint)message.Length);
        Assert.Empty(DeviceTable.Parse(message)!);
        head.DataStart++;
        Assert.Null(DeviceTable.Parse(message));
    }

    [Fact]
    public void Device_is_followed_through_partitions_and_linear_tables()
    {
        AddMapped("dm-0", 0, 300, ["sda1", "sdb"], ("linear", 0, 50, "8:17 10"), ("linear", 50, 150, "8:32 1000"),
            ("linear", 200, 100, "8:32 2000"));
        AddMapped("dm-1", 1, 100, ["dm-0"], ("linear", 0, 100, "252:0 40"));
        _devices.Add("nothing", 60, 1, 0);
        Assert.Equal([On(8, 16, 0, 2048 * 512)], Pieces(8, 16));
        Assert.Equal([On(8, 16, 164 * 512, 200 * 512)], Pieces(8, 18));
        Assert.Equal([On(8, 16, 74 * 512, 50 * 512), On(8, 32, 1000 * 512, 150 * 512), On(8, 32, 2000 * 512, 100 * 512)], Pieces(252, 0));
        Assert.Equal([On(8, 16, 114 * 512, 10 * 512), On(8, 32, 1000 * 512, 90 * 512)], Pieces(252, 1));
        Assert.Empty(Pieces(60, 1));
        Assert.Empty(Pieces(61, 1));
    }

    [Fact]
    public void Targets_that_cannot_be_followed_are_layers_unless_they_are_over_no_device()
    {
        AddMapped("dm-5", 5, 300, ["sda1"], ("crypt", 0, 100, "aes 0 8:17 0"), ("zero", 100, 100, ""), ("linear", 200, 100, "8:32 5"));
        AddMapped("dm-6", 6, 100, ["sda2"], ("error", 0, 100, ""));
        AddMapped("dm-7", 7, 100, ["sdb"]);
        _tables.Remove((252, 7));
        _devices.Add("md1", 9, 1, 500, slaves: ["sda2"], files: ("md/level", "raid1\n"));
        Assert.Equal([On(252, 5, 0, 200 * 512), On(8, 32, 5 * 512, 100 * 512)], Pieces(252, 5));
        Assert.Equal([On(8, 16, 64 * 512, 100 * 512)], Of(252, 5).BelowDevices());
        Assert.Empty(Of(252, 6).BelowDevices());
        Assert.Equal([On(252, 7, 0, 51200)], Pieces(252, 7));
        Assert.Equal([On(8, 32, 0, 4096 * 512)], Of(252, 7).BelowDevices());
        Assert.Equal([On(8, 16, 164 * 512, 200 * 512)], Of(9, 1).BelowDevices());
        StorageIdentity disk = Of(8, 16);
        Assert.Equal(StorageRelation.Unknown, Of(252, 5).RelationTo(disk, out string layer));
        Assert.Equal("dm-crypt (dm-5)", layer);
        Assert.Equal(StorageRelation.Unknown, Of(9, 1).RelationTo(disk, out layer));
        Assert.Equal("md raid1", layer);
        Assert.Equal(StorageRelation.Disjoint, Of(252, 6).RelationTo(disk, out _));
    }

    [Fact]
    public void Stack_is_followed_for_sixteen_levels()
    {
        for (uint level = 0; level < 20; level++)
            AddMapped($"dm-{100 + level}", 100 + level, 8, [], ("linear", 0, 8, level == 0 ? "8:32 1" : $"252:{99 + level} 0"));
        Assert.Equal([On(8, 32, 512, 4096)], Pieces(252, 115));
        Assert.Equal([On(252, 100, 0, 4096)], Pieces(252, 116));
        Assert.Equal([On(252, 103, 0, 4096)], Pieces(252, 119));
    }

    [Fact]
    public void Loop_device_leads_to_its_file_or_device_and_that_device_is_not_claimed()
    {
        _devices.Add("loop3", 7, 3, 80);
        _devices.Add("loop4", 7, 4, 80);
        _devices.Add("loop5", 7, 5, 80);
        _devices.Add("loop5p1", 259, 1, 10, "loop5", 20);
        _devices.Loops["loop3"] = new LoopInfo64 { Device = Libc.EncodeDevice(8, 17), Inode = 77, Offset = 4096 };
        _devices.Loops["loop5"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 18), Offset = 1024 };
        StorageBottom file = StorageBottom.OfFile(8, 17, 77);
        Assert.Equal([new StoragePiece(file, 4096, 80 * 512)], Pieces(7, 3));
        Assert.Equal(StorageRelation.Unknown, Of(7, 3).RelationTo(Of(8, 16), out string layer));
        Assert.Equal("the file system that it lies on", layer);
        Assert.Equal(StorageRelation.Disjoint, Of(7, 3).RelationTo(Of(8, 18), out _));
        Assert.Equal([On(7, 4, 0, 80 * 512)], Pieces(7, 4));
        Assert.Equal([On(8, 16, (164 * 512) + 1024, 80 * 512)], Pieces(7, 5));
        Assert.Equal([On(8, 16, (164 * 512) + 1024 + (20 * 512), 10 * 512)], Pieces(259, 1));
        _devices.Loops["loop3"] = new LoopInfo64 { Device = Libc.EncodeDevice(8, 17), Inode = 77, Offset = ulong.MaxValue };
        Assert.Equal([new StoragePiece(file, long.MaxValue, 80 * 512)], Pieces(7, 3));

        List<(uint, uint)> unclaimed = [];
        _devices.Run(() =>
        {
            int fd = BlockNode.Open(7, 5, Libc.O_RDONLY);
            _ = StorageResolver.Of(fd, new StatxData { Mode = Libc.S_IFBLK, RdevMajor = 7, RdevMinor = 5 }, 80 * 512, out unclaimed);
            _ = Libc.Close(fd);
        });
        Assert.Equal([(8u, 18u)], unclaimed);
    }

    [Fact]
    public void Other_names_of_a_storage_are_held_exclusively_except_those_that_the_kernel_protects()
    {
        _devices.Add("loop3", 7, 3, 2048);
        _devices.Add("loop4", 7, 4, 2048);
        _devices.Add("loop6", 7, 6, 20);
        _devices.Loops["loop3"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 16) };
        _devices.Loops["loop4"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 32) };
        _devices.Loops["loop6"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 16), Offset = 300 * 512 };
        AddMapped("dm-0", 0, 50, ["sda1"], ("linear", 0, 50, "8:17 10"));
        // The disk: the kernel protects its partitions, so only the mapped device and both loop devices are held.
        Assert.Equal(["own loop3", "own loop6", "own dm-0"], Held((8, 16), [], 3));
        // The first partition: holding it claims the disk, which need not be held.
        Assert.Equal(["own loop3", "own dm-0"], Held((8, 17), [], 2));
        Assert.Equal(["own loop3", "own loop6"], Held((8, 18), [], 2));
        // The mapped device: it claims its partition and its disk.
        Assert.Equal(["own loop3"], Held((252, 0), [], 1));
        // The loop device: the devices below it can be mounted, so they are held. Their disk can be held only if no partition is held.
        Assert.Equal(["own loop6", "own sda1", "own sda2", "own dm-0"], Held((7, 3), [(8, 16)], 4));
        Assert.Equal(["own loop4"], Held((8, 32), [], 1));
        Assert.Equal(["own sdb"], Held((7, 4), [(8, 32)], 1));

        string[] Held((uint Major, uint Minor) self, List<(uint, uint)> unclaimed, int count)
        {
            StorageIdentity storage = Of(self.Major, self.Minor);
            _devices.Opened.Clear();
            string? busy = "";
            int fds = 0;
            _devices.Run(() =>
            {
                List<int> held = OtherNames.Hold(storage, self, unclaimed, out busy);
                fds = held.Count(fd => DescriptorPath.Of(fd).EndsWith("/empty", StringComparison.Ordinal));
                foreach (int fd in held) _ = Libc.Close(fd);
            });
            Assert.Null(busy);
            Assert.Equal(count, fds);
            return _devices.OpenedAlone;
        }
    }

    [Fact]
    public void Other_name_that_is_in_use_is_named_and_nothing_is_held()
    {
        _devices.Add("loop3", 7, 3, 2048);
        _devices.Add("loop4", 7, 4, 2048);
        _devices.Add("loop5", 7, 5, 2048);
        foreach (string name in (string[])["loop3", "loop4", "loop5"])
            _devices.Loops[name] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 16) };
        StorageIdentity storage = Of(8, 16);
        string? busy = null;
        List<int> held = [];
        // Devices that fail to open for another reason are skipped. udev may open a device without O_EXCL.
        Dictionary<string, int> refusals = new() { ["loop4"] = -Errno.EACCES, ["loop5"] = -Errno.EBUSY };
        _devices.RefusedAlone = name => refusals.GetValueOrDefault(name);
        int before = Locks();
        _devices.Run(() => held = OtherNames.Hold(storage, (8, 16), [], out busy));
        Assert.Equal("/dev/loop5", busy);
        Assert.Empty(held);
        Assert.Equal(before, Locks());
        refusals.Remove("loop5");
        _devices.Run(() =>
        {
            held = OtherNames.Hold(storage, (8, 16), [], out busy);
            foreach (int fd in held) _ = Libc.Close(fd);
        });
        Assert.Null(busy);
        Assert.Equal(before, Locks());
    }

    /// <summary>Number of descriptors of notes for the devices of this test.</summary>
    private static int Locks() => Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(fd =>
        new FileInfo(fd).LinkTarget is { } target
        && (target.EndsWith("/name-7:3", StringComparison.Ordinal) || target.EndsWith("/name-7:5", StringComparison.Ordinal)));

    [Theory]
    [InlineData("sdb", false)]
    [InlineData("loop7", true)]
    [InlineData("loop7p1", true)]
    [InlineData("loop8", true)]
    [InlineData("loop9", false)]
    public void File_below_a_loop_device_is_locked_as_a_reader_locks_it(string name, bool isLocked)
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[8192]);
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, folder["image"], 0, Libc.STATX_BASIC_STATS, out StatxData status));
        LoopInfo64 info = new() { Device = Libc.EncodeDevice(status.DevMajor, status.DevMinor), Inode = status.Ino };
        _devices.Add("loop7", 7, 7, 16, files: ("loop/backing_file", folder["image"] + "\n"));
        _devices.Add("loop7p1", 259, 7, 8, "loop7", 8);
        _devices.Add("loop8", 7, 8, 16);
        _devices.Add("loop9", 7, 9, 16, files: ("loop/backing_file", folder["image"] + "\n"));
        _devices.Loops["loop7"] = info;
        _devices.Loops["loop8"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(259, 7) };
        // The backing file's name now leads to another file.
        _devices.Loops["loop9"] = info with { Inode = status.Ino + 1 };
        (uint, uint) self = name switch { "sdb" => (8, 32), "loop7" => (7, 7), "loop7p1" => (259, 7), "loop8" => (7, 8), _ => (7, 9) };
        int other = Libc.OpenAt(Libc.AT_FDCWD, folder["image"], Libc.O_RDONLY | Libc.O_CLOEXEC), result = 1, fd = -1;
        string path = "";
        _devices.Run(() => result = OtherNames.LockFileBelow(self, out path, out fd));
        Assert.Equal((0, isLocked), (result, fd >= 0));
        if (!isLocked) return;
        Assert.Equal(folder["image"], path);
        Assert.Equal(0, Libc.Flock(other, Libc.LOCK_SH | Libc.LOCK_NB));
        Assert.Equal(-Errno.EAGAIN, Libc.Flock(other, Libc.LOCK_EX | Libc.LOCK_NB));
        _devices.Run(() => Libc.Close(fd));
        Assert.Equal(0, Libc.Flock(other, Libc.LOCK_EX | Libc.LOCK_NB));
        _devices.Run(() => result = OtherNames.LockFileBelow(self, out path, out fd));
        Assert.Equal((-Errno.EAGAIN, -1), (result, fd));
        _ = Libc.Close(other);
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
            entry => new FileInfo(entry).LinkTarget == folder["image"]);
    }

    [Fact]
    public void File_below_a_loop_device_is_found_by_either_name_if_it_is_the_same_file()
    {
        using TempFolder folder = new();
        string shortName = folder["image"];
        File.WriteAllBytes(shortName, new byte[512]);
        Directory.CreateDirectory(folder["folder"]);
        File.WriteAllBytes(folder["other"], new byte[512]);
        LoopInfo64 info = Info(shortName);
        Check(info, "", null, false);
        Check(info, shortName, null, true);
        Check(info, shortName + "\n", null, true);
        Check(info, "", shortName, true);
        Check(info, folder["other"], shortName, true);
        Check(info, folder["missing"], shortName, true);
        Check(info, folder["other"], folder["missing"], false);
        Check(Info(folder["folder"]), folder["folder"], null, false);
        Check(info with { Inode = info.Inode + 1 }, shortName, null, false);
        Check(info with { Device = info.Device + 1 }, shortName, null, false);
        Check(info with { RDevice = Libc.EncodeDevice(8, 16) }, shortName, null, false);
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
            entry => new FileInfo(entry).LinkTarget?.StartsWith(folder.Path, StringComparison.Ordinal) == true);

        static LoopInfo64 Info(string path)
        {
            Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status));
            return new LoopInfo64 { Device = Libc.EncodeDevice(status.DevMajor, status.DevMinor), Inode = status.Ino };
        }

        static unsafe void Check(LoopInfo64 info, string inSys, string? inDriver, bool found)
        {
            using FakeDevices devices = new();
            devices.Add("loop7", 7, 7, 1, files: inSys.Length > 0 ? [("loop/backing_file", inSys)] : []);
            if (inDriver != null) Encoding.ASCII.GetBytes(inDriver).CopyTo(new Span<byte>(info.FileName, 64));
            devices.Loops["loop7"] = info;
            StorageIdentity? storage = null;
            List<(string, long, long, long)> files = [];
            bool opened = false;
            devices.Run(() =>
            {
                using (LoopBackingFile? file = LoopBackingFile.Open(7))
                    opened = file != null && (Libc.Fcntl(file.Fd, Libc.F_GETFL, 0) & Libc.O_ACCMODE) == Libc.O_RDWR;
                storage = StorageResolver.Of(7, 7);
                foreach ((LoopBackingFile file, long device, long at, long length) in storage.FilesBelow())
                    files.Add((file.Path, device, at, length));
            });
            Assert.Equal(found, opened);
            Assert.Equal(found ? [(inDriver ?? inSys.TrimEnd(), 0, 0, 512)] : [], files);
            Assert.Empty(devices.StillOpen);
        }
    }

    [Fact]
    public void Layers_are_followed_for_sixteen_levels()
    {
        for (uint level = 0; level < 20; level++)
            _devices.Add($"md{100 + level}", 9, 100 + level, 8, slaves: level == 0 ? ["sdb"] : [$"md{99 + level}"]);
        Assert.Equal(Enumerable.Range(103, 16).Reverse().Select(minor => On(9, (uint)minor, 0, 4096)), Of(9, 119).BelowDevices());
        Assert.Equal(StorageRelation.Disjoint, Of(9, 119).RelationTo(Of(9, 102), out _));
        Assert.Equal(StorageRelation.Unknown, Of(9, 119).RelationTo(Of(9, 103), out _));
    }

    [Fact]
    public void Loop_device_without_status_is_a_separate_device()
    {
        _devices.Add("loop4", 7, 4, 80);
        foreach (int errno in (int[])[Errno.EPERM, Errno.EACCES])
        {
            _devices.LoopErrors["loop4"] = -errno;
            Assert.Equal([On(7, 4, 0, 80 * 512)], Pieces(7, 4));
        }
        _devices.Loops["loop4"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 32) };
        Assert.Equal([On(8, 32, 0, 80 * 512)], Pieces(7, 4));
        _devices.Answers["own loop4"] = _devices.Answers["/dev/loop4"] = -Errno.EPERM;
        Assert.Equal([On(7, 4, 0, 80 * 512)], Pieces(7, 4));
    }

    /// <summary>The storage of a device that is opened first, and the devices below it that can be mounted.</summary>
    private (StorageIdentity Storage, List<(uint Major, uint Minor)> Unclaimed) OfOpen(uint major, uint minor, long length)
    {
        StorageIdentity? storage = null;
        List<(uint, uint)> unclaimed = [];
        _devices.Run(() =>
        {
            int fd = BlockNode.Open(major, minor, Libc.O_RDONLY);
            _devices.Opened.Clear();
            storage = StorageResolver.Of(fd, new StatxData { Mode = Libc.S_IFBLK, RdevMajor = major, RdevMinor = minor }, length,
                out unclaimed);
            _ = Libc.Close(fd);
        });
        return (storage!, unclaimed);
    }

    [Fact]
    public void Loop_device_is_queried_by_its_open_descriptor_even_if_that_is_0()
    {
        _devices.Add("loop4", 7, 4, 80);
        _devices.Loops["loop4"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(8, 32), Offset = 512 };
        foreach (string? zero in (string?[])[null, "own loop4"])
        {
            _devices.Zero = zero;
            Assert.Equal([On(8, 32, 512, 80 * 512)], OfOpen(7, 4, 80 * 512).Storage.Pieces);
            Assert.Empty(_devices.Opened);
            Assert.Equal([On(8, 32, 512, 80 * 512)], Pieces(7, 4));
            Assert.Equal(["own loop4"], _devices.Opened.Select(open => open.Name));
            Assert.Empty(_devices.StillOpen);
        }
    }

    [Fact]
    public void Storage_has_the_measured_length_and_an_empty_file_has_one_byte()
    {
        Assert.Empty(OfOpen(8, 32, 0).Storage.Pieces);
        Assert.Equal([On(8, 32, 0, 1)], OfOpen(8, 32, 1).Storage.Pieces);
        StorageBottom file = StorageBottom.OfFile(8, 32, 77);
        StatxData status = new() { Mode = Libc.S_IFREG, DevMajor = 8, DevMinor = 32, Ino = 77, RdevMajor = 8, RdevMinor = 16 };
        foreach ((long length, long expected) in ((long, long)[])[(0, 1), (1, 1), (2, 2), (8192, 8192)])
            _devices.Run(() => Assert.Equal([new StoragePiece(file, 0, expected)], StorageResolver.Of(-1, status, length).Pieces));
        // On a file system without a device there is no storage below.
        _devices.Run(() => Assert.Equal(StorageRelation.Unknown,
            StorageResolver.Of(-1, status, 5).RelationTo(StorageResolver.Of(8, 32), out _)));
    }

    [Fact]
    public void Range_that_ends_or_begins_inside_a_line_has_exactly_its_bytes()
    {
        AddMapped("dm-5", 5, 200, ["sdb"], ("linear", 0, 100, "8:32 1000"), ("linear", 100, 100, "8:32 3000"));
        AddMapped("dm-6", 6, 200, ["sda1"], ("crypt", 0, 100, "x"), ("linear", 100, 100, "8:32 5"));
        _devices.Add("loop3", 7, 3, 2);
        _devices.Add("loop4", 7, 4, 2);
        _devices.Loops["loop3"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(252, 5), Offset = (100 * 512) - 1 };
        Assert.Equal([On(8, 32, (1100 * 512) - 1, 1), On(8, 32, 3000 * 512, 1023)], Pieces(7, 3));
        _devices.Loops["loop3"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(252, 5), Offset = (98 * 512) + 1 };
        Assert.Equal([On(8, 32, (1098 * 512) + 1, 1023), On(8, 32, 3000 * 512, 1)], Pieces(7, 3));
        _devices.Loops["loop4"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(252, 6), Offset = 100 * 512 };
        Assert.Equal([On(8, 32, 5 * 512, 1024)], Pieces(7, 4));
        _devices.Loops["loop4"] = new LoopInfo64 { RDevice = Libc.EncodeDevice(252, 6), Offset = (100 * 512) - 1 };
        Assert.Equal([On(252, 6, (100 * 512) - 1, 1), On(8, 32, 5 * 512, 1023)], Pieces(7, 4));
    }

    [Fact]
    public void Devices_below_a_layer_are_claimed_and_one_below_two_loop_devices_is_reported_once()
    {
        foreach ((string name, uint minor, ulong below) in ((string, uint, ulong)[])[("loop1", 1, Libc.EncodeDevice(9, 1)),
            ("loop3", 3, Libc.EncodeDevice(8, 17)),
            ("loop4", 4, Libc.EncodeDevice(8, 18)), ("loop5", 5, Libc.EncodeDevice(8, 32)), ("loop6", 6, Libc.EncodeDevice(8, 32))])
        {
            _devices.Add(name, 7, minor, 20);
            _devices.Loops[name] = new LoopInfo64 { RDevice = below };
        }
        _devices.Add("md1", 9, 1, 50, slaves: ["loop3", "loop4"]);
        AddMapped("dm-1", 1, 40, ["loop5", "loop6"], ("linear", 0, 20, "7:5 0"), ("linear", 20, 20, "7:6 0"));
        Assert.Equal([(9u, 1u)], OfOpen(7, 1, 20 * 512).Unclaimed);
        Assert.Equal([(8u, 32u)], OfOpen(252, 1, 40 * 512).Unclaimed);
        Assert.Empty(OfOpen(9, 1, 50 * 512).Unclaimed);
    }

    [Fact]
    public void Files_below_loop_devices_are_reported_with_their_part_of_the_device()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[8192]);
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, folder["image"], 0, Libc.STATX_BASIC_STATS, out StatxData status));
        foreach (uint minor in (uint[])[7, 8])
        {
            _devices.Add($"loop{minor}", 7, minor, 16, files: ("loop/backing_file", folder["image"] + "\n"));
            _devices.Loops[$"loop{minor}"] =
                new LoopInfo64 { Device = Libc.EncodeDevice(status.DevMajor, status.DevMinor), Inode = status.Ino };
        }
        AddMapped("dm-1", 1, 68, ["sdb"], ("linear", 0, 50, "8:32 7"), ("linear", 50, 4, "7:7 8"), ("linear", 54, 10, "8:32 70"),
            ("linear", 64, 4, "7:8 0"));
        List<(string, long, long, long)> files = [];
        _devices.Run(() =>
        {
            foreach ((LoopBackingFile file, long device, long at, long length) in StorageResolver.Of(252, 1).FilesBelow())
                files.Add((file.Path, device, at, length));
        });
        Assert.Equal([(folder["image"], 50 * 512, 8 * 512, 4 * 512), (folder["image"], 64 * 512, 0, 4 * 512)], files);
    }

    [Fact]
    public void File_of_an_overlay_below_a_loop_device_is_the_one_in_the_upper_layer()
    {
        using TempFolder folder = new();
        string image = folder["merged/image"], upper = folder["upper/image"];
        foreach (string path in (string[])[image, upper])
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllBytes(path, new byte[8192]);
        }
        File.WriteAllText(folder["mounts"], $"36 35 0:77 / {folder.Path}/merged rw - overlay overlay upperdir={folder.Path}/upper\n");
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, upper, 0, Libc.STATX_BASIC_STATS, out StatxData there));
        _devices.Add("loop7", 7, 7, 16, files: ("loop/backing_file", image + "\n"));
        _devices.Loops["loop7"] = new LoopInfo64 { Device = Libc.EncodeDevice(0, 77), Inode = 5 };
        foreach (int answered in (int[])[2, 1, 0])
        {
            int fd = -1, asked = 0;
            _devices.Before = call =>
            {
                switch (call.Number)
                {
                    case SYS_openat when call.Text(1) == image: return fd = Libc.OpenAt(Libc.AT_FDCWD, image, call[2]);
                    case SYS_openat when call.Text(1) == "/proc/self/mountinfo":
                        return Libc.OpenAt(Libc.AT_FDCWD, folder["mounts"], call[2]);
                    case SYS_statfs when call.Text(0) == image:
                        call.At<StatFsData>(1) = new StatFsData { Type = Libc.OVERLAYFS_SUPER_MAGIC };
                        return 0;
                    case SYS_close when fd >= 0 && call[0] == fd:
                        fd = -1;
                        return null;
                    case SYS_statx when fd >= 0 && call[0] == fd:
                        if (asked++ >= answered) return -Errno.EIO;
                        call.At<StatxData>(4) = there with { DevMajor = 0, DevMinor = 77, Ino = 5 };
                        return 0;
                    default: return null;
                }
            };
            StorageBottom file =
                answered == 2 ? StorageBottom.OfFile(there.DevMajor, there.DevMinor, there.Ino) : StorageBottom.OfFile(0, 77, 5);
            Assert.Equal([new StoragePiece(file, 0, 8192)], Pieces(7, 7));
            Assert.Equal(-1, fd);
        }
    }

    /// <summary>
    /// Random device numbers, because other processes, such as a parallel test run, see notes and holds of the same numbers. A number has
    /// 12 bits of major and 20 of minor.
    /// </summary>
    private static readonly (uint Major, uint Minor) s_twin = ((uint)RandomNumberGenerator.GetInt32(512, 4096),
        (uint)RandomNumberGenerator.GetInt32((1 << 20) - 1));

    /// <summary>Adds two mapped devices over the first disk.</summary>
    private StorageIdentity AddTwins()
    {
        foreach (uint number in (uint[])[0, 1])
        {
            _devices.Add($"twin{number}", s_twin.Major, s_twin.Minor + number, 100, files: ("dm/name", "x\n"));
            _tables[(s_twin.Major, s_twin.Minor + number)] = [("linear", 0, 100, "8:16 0")];
        }
        return Of(8, 16);
    }

    [RootFact]
    public void Other_name_that_this_process_or_its_parent_holds_is_not_in_use()
    {
        StorageIdentity storage = AddTwins();
        _devices.RefusedAlone = name => name == "twin1" ? -Errno.EBUSY : 0;
        Assert.Equal("/dev/twin1", Busy());
        int note = StorageLocks.NoteName(s_twin.Major, s_twin.Minor + 1);
        Assert.True(note >= 0);
        Assert.Null(Busy());
        _ = Libc.Close(note);
        Assert.Equal("/dev/twin1", Busy());
        _devices.Run(() =>
        {
            int fd = BlockNode.Open(s_twin.Major, s_twin.Minor + 1, Libc.O_RDONLY);
            InheritedHolds.Add(fd);
            try
            {
                _ = OtherNames.Hold(storage, (8, 16), [], out string? busy).All(held => Libc.Close(held) == 0);
                Assert.Null(busy);
            }
            finally
            {
                InheritedHolds.Remove(fd);
                _ = Libc.Close(fd);
            }
        });
        Assert.Equal("/dev/twin1", Busy());
        foreach (uint number in (uint[])[0, 1])
            File.Delete($"/proc/self/fd/{KernelTree.Dev.Folder}/.snapuserd/name-{s_twin.Major}:{s_twin.Minor + number}");

        string? Busy()
        {
            string? busy = "";
            _devices.Run(() => _ = OtherNames.Hold(storage, (8, 16), [], out busy).All(held => Libc.Close(held) == 0));
            Assert.Empty(_devices.StillOpen);
            return busy;
        }
    }

    [RootFact]
    public void Holds_are_descriptors_even_without_notes_and_even_descriptor_0()
    {
        StorageIdentity storage = AddTwins();
        _devices.RefusedAlone = name => name == "twin1" ? -Errno.EPERM : 0;
        // Without a folder for notes, the code holds only the device itself.
        _devices.Before = call => call.Number == SYS_openat && call.Text(1) == ".snapuserd" ? -Errno.EPERM : null;
        foreach (string? zero in (string?[])[null, "own twin0"])
        {
            _devices.Zero = zero;
            Assert.Equal(zero == null, Assert.Single(Hold()) > 0);
            Assert.Empty(_devices.StillOpen);
        }
        _devices.Zero = null;
        bool noted = false;
        _devices.Before = call =>
        {
            if (call.Number == SYS_openat && call.Text(1) == $"name-{s_twin.Major}:{s_twin.Minor}")
            {
                noted = true;
                return 0;
            }
            return noted && call.Number == SYS_close && call[0] == 0 ? 0 : null;
        };
        List<int> held = Hold();
        Assert.Equal(2, held.Count);
        Assert.Equal(0, held[1]);
        // The note is a lock of the file that the test opened as descriptor 0.
        _ = Libc.LockRange(0, new FileLock { Type = Libc.F_UNLCK });

        List<int> Hold()
        {
            List<int> held = [];
            _devices.Run(() =>
            {
                held = OtherNames.Hold(storage, (8, 16), [], out string? busy);
                Assert.Null(busy);
                foreach (int fd in held) _ = Libc.Close(fd);
            });
            return held;
        }
    }

    [Fact]
    public void Devices_below_a_mapped_device_are_claimed_at_any_depth()
    {
        AddMapped("dm-0", 0, 50, ["sda1"], ("linear", 0, 50, "8:17 10"));
        AddMapped("dm-1", 1, 50, ["dm-0"], ("linear", 0, 50, "252:0 0"));
        AddMapped("dm-2", 2, 50, ["dm-1"], ("linear", 0, 50, "252:1 0"));
        StorageIdentity storage = Of(252, 2);
        _devices.Opened.Clear();
        _devices.Run(() => Assert.Empty(OtherNames.Hold(storage, (252, 2), [], out _)));
        Assert.Empty(_devices.OpenedAlone);
    }

    [Fact]
    public void File_below_a_loop_device_that_cannot_be_locked_is_closed_and_skipped()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[8192]);
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, folder["image"], 0, Libc.STATX_BASIC_STATS, out StatxData status));
        LoopInfo64 info = new() { Device = Libc.EncodeDevice(status.DevMajor, status.DevMinor), Inode = status.Ino };
        _devices.Add("loop7", 7, 7, 16, files: ("loop/backing_file", folder["image"] + "\n"));
        foreach (int errno in (int[])[Errno.EPERM, Errno.EACCES])
        {
            _devices.LoopErrors["loop7"] = -errno;
            Assert.Equal((0, -1), Lock());
        }
        _devices.Loops["loop7"] = info;
        foreach (int errno in (int[])[Errno.ENOLCK, Errno.EPERM, Errno.EAGAIN])
        {
            int asked = 0;
            _devices.Before = call =>
            {
                if (call.Number != SYS_flock) return null;
                asked++;
                return -errno;
            };
            Assert.Equal((errno == Errno.EAGAIN ? -errno : 0, -1), Lock());
            Assert.Equal(1, asked);
        }
        // A second status call fails, so the code cannot tell whether the lock was inherited.
        int opened = -1, statuses = 0;
        _devices.Before = call =>
        {
            if (call.Number == SYS_openat && call.Text(1) == folder["image"])
                return opened = Libc.OpenAt(Libc.AT_FDCWD, folder["image"], call[2]);
            return call.Number == SYS_statx && opened >= 0 && call[0] == opened && statuses++ == 1 ? -Errno.EIO : null;
        };
        Assert.Equal((0, -1), Lock());
        Assert.Equal(2, statuses);
        // The parent has locked it.
        int hold = Libc.OpenAt(Libc.AT_FDCWD, folder["image"], Libc.O_RDONLY | Libc.O_CLOEXEC);
        InheritedHolds.Add(hold);
        try
        {
            _devices.Before = call => call.Number == SYS_flock ? throw new InvalidOperationException("locked again") : null;
            Assert.Equal((0, -1), Lock());
        }
        finally
        {
            InheritedHolds.Remove(hold);
            _ = Libc.Close(hold);
        }
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
            entry => new FileInfo(entry).LinkTarget == folder["image"]);
        // The loop device is opened as descriptor 0.
        _devices.Before = _ => null;
        _devices.Zero = "own loop7";
        (int result, int fd) = Lock();
        Assert.True(result == 0 && fd > 0);
        _ = Libc.Close(fd);

        (int, int) Lock()
        {
            int result = 1, fd = -2;
            _devices.Run(() => result = OtherNames.LockFileBelow((7, 7), out _, out fd));
            Assert.Empty(_devices.StillOpen);
            return (result, fd);
        }
    }

    [Fact]
    public void Partitions_of_partitions_are_followed_for_four_levels_to_the_file_to_lock()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[8192]);
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, folder["image"], 0, Libc.STATX_BASIC_STATS, out StatxData status));
        _devices.Add("loop7", 7, 7, 16, files: ("loop/backing_file", folder["image"] + "\n"));
        _devices.Loops["loop7"] = new LoopInfo64 { Device = Libc.EncodeDevice(status.DevMajor, status.DevMinor), Inode = status.Ino };
        string parent = "loop7";
        for (uint level = 1; level <= 5; level++)
        {
            _devices.Add($"p{level}", 259, level, 8, parent);
            parent += $"/p{level}";
            int fd = -1;
            _devices.Run(() => Assert.Equal(0, OtherNames.LockFileBelow((259, level), out _, out fd)));
            Assert.Equal(level <= 4, fd >= 0);
            if (fd >= 0) _ = Libc.Close(fd);
        }
    }
}
