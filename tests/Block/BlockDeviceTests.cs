using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Files and devices that can be opened, their sizes, and the exit code of every refusal.</summary>
public sealed class BlockDeviceTests
{
    private static void Refused(ExitCode code, string path, DeviceAccess access, string part = "")
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(path, access).Dispose());
        Assert.Equal(code, refusal.Code);
        Assert.Contains(path, refusal.Message, StringComparison.Ordinal);
        Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
    }

    private static string File_(TempFolder folder, string name, int length)
    {
        File.WriteAllBytes(folder[name], new byte[length]);
        return folder[name];
    }

    [Fact]
    public void Regular_file_has_its_size_and_no_alignment()
    {
        using TempFolder folder = new();
        using BlockDevice device = BlockDevice.Open(File_(folder, "f", 12345), DeviceAccess.Read);
        Assert.Equal(12345, device.Length);
        Assert.False(device.IsBlockDevice);
        Assert.False(device.IsDirect);
        Assert.Equal((1, 1, 512), (device.Granule, device.MemoryAlignment, device.LogicalSector));
    }

    [Theory]
    [InlineData("missing")]
    [InlineData("f/below")]
    public void Missing_file_is_66(string name)
    {
        using TempFolder folder = new();
        File_(folder, "f", 1);
        Refused(ExitCode.InputMissing, folder[name], DeviceAccess.Read);
        Refused(ExitCode.InputMissing, folder[name], DeviceAccess.Write);
        Assert.False(File.Exists(folder["missing"]));
    }

    [Fact]
    public void Name_that_is_too_long_is_66() => Refused(ExitCode.InputMissing, "/" + new string('x', 5000), DeviceAccess.Read);

    [Fact]
    public void Path_of_another_type_than_file_or_block_device_is_64()
    {
        using TempFolder folder = new();
        LoopDevice.Call("mkfifo", folder["pipe"]);
        Refused(ExitCode.Usage, folder.Path, DeviceAccess.Read, "a directory");
        Refused(ExitCode.Usage, "/dev/null", DeviceAccess.Write, "a character device");
        Refused(ExitCode.Usage, folder["pipe"], DeviceAccess.Read, "a pipe");
    }

    [Fact]
    public void File_without_permission_is_77()
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 4096);
        File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.GroupRead | UnixFileMode.OtherRead);
        File.SetUnixFileMode(folder.Path, (UnixFileMode)0x1ed);
        OwnThread.Unprivileged(() =>
        {
            BlockDevice.Open(path, DeviceAccess.Read).Dispose();
            Refused(ExitCode.Permission, path, DeviceAccess.Write, "EACCES");
        });
    }

    [Fact]
    public void Second_merge_on_the_same_file_is_76_until_the_first_ends()
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 4096);
        using (BlockDevice.Open(path, DeviceAccess.Write | DeviceAccess.Exclusive))
        {
            Refused(ExitCode.InUse, path, DeviceAccess.Write | DeviceAccess.Exclusive, "a merge or a server that still runs");
            BlockDevice.Open(path, DeviceAccess.Read).Dispose();
        }
        BlockDevice.Open(path, DeviceAccess.Write | DeviceAccess.Exclusive).Dispose();
    }

    [Fact]
    public void Same_file_is_recognised_through_links_and_another_is_not()
    {
        using TempFolder folder = new();
        using BlockDevice device = BlockDevice.Open(File_(folder, "f", 4096), DeviceAccess.Read);
        File.CreateSymbolicLink(folder["soft"], folder["f"]);
        LoopDevice.Call("ln", folder["f"], folder["hard"]);
        using BlockDevice soft = BlockDevice.Open(folder["soft"], DeviceAccess.Read);
        using BlockDevice hard = BlockDevice.Open(folder["hard"], DeviceAccess.Read);
        using BlockDevice other = BlockDevice.Open(File_(folder, "g", 4096), DeviceAccess.Read);
        Assert.True(device.SameFileAs(soft));
        Assert.True(hard.SameFileAs(device));
        Assert.False(device.SameFileAs(other));
    }

    [Fact]
    public void File_on_which_direct_reads_fail_is_used_through_the_page_cache()
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 65536);
        OwnThread.Refusing(OwnThread.SYS_pread64, Errno.EINVAL, () =>
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read | DeviceAccess.Direct);
            Assert.False(device.IsDirect);
            Assert.Equal(1, device.Granule);
            Assert.Equal(0, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0) & Libc.O_DIRECT);
        });
    }

    [Fact]
    public void Device_whose_first_bytes_cannot_be_read_is_74()
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 65536);
        OwnThread.Refusing(OwnThread.SYS_pread64, Errno.EIO, () => Refused(ExitCode.InputOutput, path, DeviceAccess.Direct, "EIO"));
    }

    [Fact]
    public void File_shorter_than_a_granule_is_used_through_the_page_cache()
    {
        using TempFolder folder = new();
        using BlockDevice device = BlockDevice.Open(File_(folder, "f", 100), DeviceAccess.Write | DeviceAccess.Direct);
        Assert.False(device.IsDirect);
    }

    [RootFact]
    public void Block_device_has_the_size_and_sector_of_its_disk()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20), "--sector-size", "4096");
        using BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive | DeviceAccess.Direct);
        Assert.True(device.IsBlockDevice);
        Assert.Equal(1 << 20, device.Length);
        Assert.Equal(4096, device.LogicalSector);
        Assert.True(device.IsDirect);
        Assert.Equal(4096, device.Granule);
        Assert.NotEqual(0, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0) & Libc.O_DIRECT);
    }

    [RootTheory]
    [InlineData(512)]
    [InlineData(4096)]
    [InlineData(16384)]
    public void Device_is_read_directly_if_blocks_are_whole_sectors(int sector)
    {
        using TempFolder folder = new();
        string path = File_(folder, "image", 1 << 20);
        using LoopDevice loop = new(path, "--sector-size", sector.ToString());
        using (BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Read | DeviceAccess.Direct))
        {
            Assert.Equal(sector, device.LogicalSector);
            // Buffers and requests are aligned to 4096 bytes, which is not enough for the largest sector.
            Assert.Equal(sector <= 4096, device.IsDirect);
            Assert.InRange(device.Granule, 1, sector);
            using Arena arena = new(65536);
            using WakeUp wakeUp = new();
            using SyncQueue queue = new([device], arena, wakeUp, 1);
            IoScheduler transfers = new(queue, [device.Granule]);
            Slice buffer = arena.Take(4096)!.Value;
            transfers.Read(0, 12288, buffer);
            Assert.Null(transfers.Drain());
            Assert.True(arena[buffer].SequenceEqual(File.ReadAllBytes(path).AsSpan(12288, 4096)));
        }
        if (sector <= 4096) BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive).Dispose();
        else
        {
            LargeSectorException refused =
                Assert.Throws<LargeSectorException>(() => BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive));
            Assert.Equal(ExitCode.Usage, refused.Code);
            Assert.Contains("sectors have 16384 bytes", refused.Message);
        }
    }

    [RootFact]
    public void Write_protected_block_device_is_77_for_writing_and_can_be_read()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20), "--read-only");
        Refused(ExitCode.Permission, loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive, "read-only");
        BlockDevice.Open(loop.Path, DeviceAccess.Read | DeviceAccess.Exclusive).Dispose();
    }

    [RootFact]
    public void File_on_a_read_only_file_system_is_77_for_writing()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20));
        LoopDevice.Call("mkfs.ext4", "-q", loop.Path);
        Directory.CreateDirectory(folder["mnt"]);
        LoopDevice.Call("mount", loop.Path, folder["mnt"]);
        try
        {
            File_(folder, "mnt/f", 4096);
            LoopDevice.Call("mount", "-o", "remount,ro", folder["mnt"]);
            Refused(ExitCode.Permission, folder["mnt/f"], DeviceAccess.Write, "read-only");
        }
        finally
        {
            LoopDevice.Call("umount", folder["mnt"]);
        }
    }

    [RootFact]
    public void Mounted_block_device_is_76_until_it_is_unmounted()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20));
        LoopDevice.Call("mkfs.ext4", "-q", loop.Path);
        Directory.CreateDirectory(folder["mnt"]);
        // In a private mount namespace: a namespace that another process copies from ours would keep this mount.
        using Process mounted = Process.Start(new ProcessStartInfo("unshare",
            ["--mount", "--propagation", "private", "sh", "-c", "mount \"$0\" \"$1\" && echo mounted && read line; umount \"$1\"",
                loop.Path, folder["mnt"]])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!;
        try
        {
            Assert.Equal("mounted", mounted.StandardOutput.ReadLine());
            Refused(ExitCode.InUse, loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive, "mounted");
            BlockDevice.Open(loop.Path, DeviceAccess.Read).Dispose();
        }
        finally
        {
            mounted.StandardInput.Close();
            mounted.WaitForExit();
        }
        BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive).Dispose();
    }

    [RootFact]
    public void Block_device_held_by_another_merge_is_76_even_right_after_a_ring_over_it_was_closed()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20));
        for (int i = 0; i < 20; i++)
        {
            using BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive | DeviceAccess.Direct);
            Refused(ExitCode.InUse, loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive, "held");
            using Arena arena = new(65536);
            using WakeUp wakeUp = new();
            using IBlockQueue queue = QueueFixture.Make("ring", [device], arena, wakeUp, 4);
            IoScheduler transfers = new(queue, [device.Granule]);
            transfers.Read(0, 0, new Slice(0, 4096));
            Assert.Null(transfers.Drain());
        }
    }

    [RootFact]
    public void Loop_devices_are_the_same_storage_if_and_only_if_their_ranges_of_one_file_overlap()
    {
        using TempFolder folder = new();
        string file = File_(folder, "image", 1 << 20), other = File_(folder, "other", 1 << 20);
        using LoopDevice whole = new(file), first = new(file, "--sizelimit", "262144"), second = new(file, "--offset", "262144"),
            unrelated = new(other);
        using LoopDevice nested = new(second.Path, "--sizelimit", "4096");
        using BlockDevice w = BlockDevice.Open(whole.Path, DeviceAccess.Read), f = BlockDevice.Open(first.Path, DeviceAccess.Read);
        using BlockDevice s = BlockDevice.Open(second.Path, DeviceAccess.Read), n = BlockDevice.Open(nested.Path, DeviceAccess.Read);
        using BlockDevice u = BlockDevice.Open(unrelated.Path, DeviceAccess.Read), image = BlockDevice.Open(file, DeviceAccess.Read);
        Assert.True(w.SameFileAs(f) && w.SameFileAs(s) && w.SameFileAs(n) && image.SameFileAs(n) && s.SameFileAs(n));
        Assert.False(f.SameFileAs(s));
        Assert.False(f.SameFileAs(n));
        Assert.False(u.SameFileAs(w) || u.SameFileAs(image));
    }

    [RootFact]
    public void File_below_a_mounted_loop_device_is_76_and_below_an_idle_one_is_held()
    {
        using TempFolder folder = new();
        string file = File_(folder, "image", 1 << 20);
        using LoopDevice loop = new(file);
        LoopDevice.Call("mkfs.ext4", "-q", loop.Path);
        System.IO.Directory.CreateDirectory(folder["mnt"]);
        LoopDevice.Call("mount", loop.Path, folder["mnt"]);
        try
        {
            Refused(ExitCode.InUse, file, DeviceAccess.Write | DeviceAccess.Exclusive, loop.Path);
        }
        finally
        {
            LoopDevice.Call("umount", folder["mnt"]);
        }
        using (BlockDevice.Open(file, DeviceAccess.Write | DeviceAccess.Exclusive))
            Refused(ExitCode.InUse, loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive, loop.Path);
        using BlockDevice free = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive);
    }

    [RootFact]
    public void Closed_device_leaves_no_descriptor_of_anything_held_with_it()
    {
        using TempFolder folder = new();
        string file = File_(folder, "image", 1 << 20);
        using LoopDevice loop = new(file), part = new(file, "--sizelimit", "262144");
        string[] names = [file, loop.Path, part.Path];
        int Descriptors() => System.IO.Directory.EnumerateFileSystemEntries("/proc/self/fd")
            .Count(fd => names.Contains(new System.IO.FileInfo(fd).LinkTarget));
        foreach (DeviceAccess access in new[] { DeviceAccess.Read, DeviceAccess.Write, DeviceAccess.Write | DeviceAccess.Exclusive,
            DeviceAccess.Write | DeviceAccess.Exclusive | DeviceAccess.Direct })
        {
            foreach (string path in names)
            {
                using (BlockDevice.Open(path, access)) Assert.NotEqual(0, Descriptors());
                Assert.Equal((path, access, 0), (path, access, Descriptors()));
            }
        }
        // An open that fails half-way closes all its descriptors.
        using (BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive))
        {
            int before = Descriptors();
            Refused(ExitCode.InUse, part.Path, DeviceAccess.Write | DeviceAccess.Exclusive, "");
            Assert.Equal(before, Descriptors());
        }
        Assert.Equal(0, Descriptors());
        using (BlockDevice kept = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive)) kept.CloseInUse();
        Assert.Equal(0, Descriptors());
        using (BlockDevice shared = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive))
        {
            int before = Descriptors();
            shared.GiveUpHold();
            Assert.Equal(before, Descriptors());
        }
        Assert.Equal(0, Descriptors());
    }

    [RootFact]
    public void Block_device_is_recognised_through_another_node_and_a_node_without_a_device_is_66()
    {
        using TempFolder folder = new();
        using LoopDevice loop = new(File_(folder, "image", 1 << 20));
        string[] number = LoopDevice.Call("stat", "-c", "%Hr %Lr", loop.Path).Trim().Split(' ');
        LoopDevice.Call("mknod", folder["node"], "b", number[0], number[1]);
        using BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Read);
        using BlockDevice node = BlockDevice.Open(folder["node"], DeviceAccess.Read);
        using BlockDevice image = BlockDevice.Open(folder["image"], DeviceAccess.Read);
        Assert.True(device.SameFileAs(node));
        Assert.True(device.SameFileAs(image), "the bytes of a loop device are those of its file");
        // Majors 240 to 254 are for local use, so no driver has this one.
        LoopDevice.Call("mknod", folder["nothing"], "b", "240", "7");
        Refused(ExitCode.InputMissing, folder["nothing"], DeviceAccess.Read, "ENXIO");
    }

    [Theory]
    [InlineData(DeviceAccess.Write | DeviceAccess.Exclusive)]
    [InlineData(DeviceAccess.Read | DeviceAccess.Shared)]
    public void Lock_ends_with_the_device_even_if_a_child_still_has_its_descriptor(DeviceAccess access)
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 4096);
        const int F_DUPFD = 0;
        int copy;
        using (BlockDevice device = BlockDevice.Open(path, access))
        {
            // An inherited descriptor shares the lock, as a duplicate does.
            copy = Libc.Fcntl(device.Fd, F_DUPFD, 0);
            Assert.True(copy >= 0);
        }
        using (new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None)) Assert.Equal(0, Libc.Close(copy));
    }

    [Fact]
    public void Lock_of_a_device_closed_during_use_stays_while_a_thread_uses_the_device()
    {
        using TempFolder folder = new();
        string path = File_(folder, "f", 4096);
        BlockDevice device = BlockDevice.Open(path, DeviceAccess.Write | DeviceAccess.Exclusive);
        // A request in flight keeps the file open, as a duplicate does.
        int copy = Libc.Fcntl(device.Fd, 0, 0);
        device.CloseInUse();
        Refused(ExitCode.InUse, path, DeviceAccess.Write | DeviceAccess.Exclusive, "locked");
        Assert.Equal(0, Libc.Close(copy));
        BlockDevice.Open(path, DeviceAccess.Write | DeviceAccess.Exclusive).Dispose();
    }

    [RootFact]
    public void Hold_is_given_up_while_reads_through_the_same_descriptor_continue()
    {
        using TempFolder folder = new();
        File_(folder, "f", 1 << 20);
        using LoopDevice loop = new(folder["f"]);
        using BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive | DeviceAccess.Direct);
        Assert.Equal(-Errno.EBUSY, Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_EXCL));
        (int number, int flags) = (device.Fd, Libc.Fcntl(device.Fd, Libc.F_GETFL, 0));
        device.GiveUpHold();
        Assert.Equal(number, device.Fd);
        // The descriptor lost only the right to write: it is still direct and close-on-exec.
        Assert.Equal(flags & ~Libc.O_RDWR, Libc.Fcntl(number, Libc.F_GETFL, 0));
        Assert.Equal(1, Libc.Fcntl(number, Libc.F_GETFD, 0));
        Assert.Equal(0, MappedMemory.Map(4096, out MappedMemory? page));
        using (page) Assert.Equal(4096, Libc.PRead(number, page!.Address, 4096, 0));
        // Another program, such as the device mapper, may now open the device. Another merge may not.
        int next = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDWR | Libc.O_EXCL);
        Assert.True(next >= 0, Errno.Name(next));
        Assert.Equal(0, Libc.Close(next));
        Refused(ExitCode.InUse, loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive, "locked");
    }
}
