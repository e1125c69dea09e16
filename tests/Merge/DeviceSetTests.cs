using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Merge;

/// <summary>Which devices can be used together, what the engine gets of them, and that they are locked until they are closed.</summary>
public sealed class DeviceSetTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();
    private readonly StopFlag _stop = new();

    public DeviceSetTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], new byte[64 << 10]);
        File.WriteAllBytes(_folder["source"], new byte[96 << 10]);
    }

    public void Dispose()
    {
        FileFlush.Before = null;
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void The_engine_gets_the_devices_by_number()
    {
        using (DeviceSet alone = Open("cow", null, null, writes: false))
        {
            Assert.Single(alone.Devices);
            Assert.Equal((0, new FileInfo(_folder["cow"]).Length), (alone.Setup.Base.Number, alone.Setup.Base.Length));
            Assert.Null(alone.Setup.Marker);
            Assert.Null(alone.Setup.Storage);
            Assert.Equal("sync", alone.Io);
        }
        using (DeviceSet two = Open("cow", "base", null))
        {
            Assert.Equal([_folder["cow"], _folder["base"]], Array.ConvertAll(two.Devices, device => device.Path));
            Assert.Equal(new MergeDevice(1, _folder["base"], 64 << 10), two.Setup.Base);
            Assert.Equal(two.Setup.Base, two.Setup.Source);
            Assert.Equal((0, _folder["cow"]), (two.Setup.Cow.Number, two.Setup.Cow.Name));
            Assert.NotNull(two.Setup.Marker);
            Assert.NotNull(two.Setup.Storage);
            Assert.True(two.Setup.SharedBlocks);
            Assert.Null(two.Setup.Overlap);
        }
        using DeviceSet three = Open("cow", "base", "source", separate: true);
        Assert.Equal([_folder["cow"], _folder["base"], _folder["source"]], Array.ConvertAll(three.Devices, device => device.Path));
        Assert.Equal(new MergeDevice(2, _folder["source"], 96 << 10), three.Setup.Source);
        Assert.False(three.Setup.SharedBlocks);
        Assert.Null(three.Setup.Overlap);
        foreach (string name in (string[])["cow", "base", "source"])
        {
            LoopDevice.Call("ln", _folder[name], _folder["other"]);
            using (BlockDevice same = BlockDevice.Open(_folder["other"], DeviceAccess.Read)) Assert.True(three.Contains(same));
            File.Delete(_folder["other"]);
        }
        File.WriteAllBytes(_folder["other"], new byte[4096]);
        using BlockDevice other = BlockDevice.Open(_folder["other"], DeviceAccess.Read);
        Assert.False(three.Contains(other));
    }

    [Fact]
    public void A_source_that_is_the_base_is_one_device()
    {
        LoopDevice.Call("ln", _folder["base"], _folder["link"]);
        using (DeviceSet two = Open("cow", "base", "link")) Assert.Equal((2, 1), (two.Devices.Length, two.Setup.Source.Number));
        string itself = $"--source-separate is given, but {_folder["link"]} is the base itself";
        Refused(ExitCode.Usage, itself, () => Open("cow", "base", "link", separate: true));
    }

    [Fact]
    public void A_cow_is_neither_its_base_nor_its_source()
    {
        LoopDevice.Call("ln", _folder["cow"], _folder["link"]);
        string same = $"{_folder["cow"]} and {_folder["link"]} are the same or share storage; the COW cannot be ";
        foreach (bool writes in (bool[])[false, true])
        {
            Refused(ExitCode.Usage, same + "its own base", () => Open("cow", "link", null, writes));
            Refused(ExitCode.Usage, same + "the source as well", () => Open("cow", "base", "link", writes));
            Refused(ExitCode.Usage, same + "the source as well", () => Open("cow", null, "link", writes));
        }
    }

    [RootFact]
    public void The_bytes_that_a_source_shares_with_the_base_are_known()
    {
        File.WriteAllBytes(_folder["disk"], new byte[128 << 10]);
        using LoopDevice target = new(_folder["disk"], "--sizelimit", $"{64 << 10}");
        using LoopDevice source = new(_folder["disk"], "--offset", $"{48 << 10}");
        foreach (bool writes in (bool[])[false, true])
        {
            using DeviceSet three = Open("cow", target.Path, source.Path, writes);
            Assert.Equal(3, three.Devices.Length);
            Assert.Equal([new SharedRange(0, 48 << 10, 16 << 10)], three.Setup.Overlap!.Value.ToArray());
        }
        string shared = $"--source-separate is given, but {source.Path} and {target.Path} share storage";
        Refused(ExitCode.Usage, shared, () => Open("cow", target.Path, source.Path, separate: true));
        // This set only reads.
        using DeviceSet reading = Open("cow", target.Path, source.Path, writes: false, separate: true);
        Assert.False(reading.Setup.SharedBlocks);
        Assert.Equal(1, reading.Setup.Overlap?.Length);
    }

    [Fact]
    public void An_android_sparse_image_is_refused()
    {
        byte[] sparse = [0x3a, 0xff, 0x26, 0xed, 1, 0, 0, 0, 28, 0, 12, 0, .. new byte[4084]];
        File.WriteAllBytes(_folder["sparse"], sparse);
        Refused(ExitCode.CowCorrupt, _folder["sparse"], () => Open("cow", "sparse", null));
        Refused(ExitCode.CowCorrupt, _folder["sparse"], () => Open("cow", "base", "sparse"));
    }

    [Fact]
    public void Written_devices_are_locked_until_they_are_closed_and_a_failure_leaves_no_lock()
    {
        Refused(ExitCode.InputMissing, _folder["none"], () => Open("cow", "none", null));
        Refused(ExitCode.InputMissing, _folder["none"], () => Open("cow", "base", "none"));
        using (Open("cow", "base", null))
        {
            foreach (string name in (string[])["cow", "base"]) Assert.NotEqual(0, Locked(name, "--shared"));
        }
        using (Open("cow", "base", "source", writes: false))
        {
            foreach (string name in (string[])["cow", "base", "source"])
            {
                Assert.Equal(0, Locked(name, "--shared"));
                Assert.NotEqual(0, Locked(name, "--exclusive"));
            }
        }
        foreach (string name in (string[])["cow", "base", "source"]) Assert.Equal(0, Locked(name, "--exclusive"));
    }

    [Fact]
    public void The_marker_lies_beside_the_name_of_the_cow_if_that_name_leads_to_it()
    {
        DeviceOptions options = Options("cow", "base", null, true, false);
        using (DeviceSet same = new(options with { CowName = _folder["cow"], BaseName = "the base" }, _stop, _wakeUp))
        {
            Assert.NotNull(same.Setup.Marker);
            Assert.Equal("the base", same.Setup.Base.Name);
        }
        foreach (string name in (string[])["source", "none"])
        {
            using DeviceSet other = new(options with { CowName = _folder[name] }, _stop, _wakeUp);
            Assert.Null(other.Setup.Marker);
            Assert.Equal(_folder[name], other.Setup.Cow.Name);
        }
    }

    [Fact]
    public void Errors_that_the_kernel_has_noted_are_taken_from_base_and_cow()
    {
        List<string> flushed = [];
        FileFlush.Before = fd =>
        {
            flushed.Add(Path.GetFileName(DescriptorPath.Of(fd)));
            return 0;
        };
        using (DeviceSet two = Open("cow", "base", null)) two.TakeErrors();
        using (DeviceSet one = Open("cow", null, null)) one.TakeErrors();
        Assert.Equal(["base", "cow", "cow"], flushed);
    }

    [Theory]
    [InlineData(Errno.ENOSYS, ExitCode.Unavailable)]
    [InlineData(Errno.EPERM, ExitCode.Unavailable)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources)]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources)]
    public void Without_io_uring_synchronous_calls_are_used_unless_it_was_required(int errno, ExitCode code)
    {
        List<string> reports = [];
        DeviceOptions options = Options("cow", "base", null, true, false) with { Report = reports.Add };
        Refusing(SYS_io_uring_setup, errno, () =>
        {
            string sentence = "";
            Refused(code, "", () =>
            {
                try
                {
                    return new DeviceSet(options with { Io = IoChoice.Uring }, _stop, _wakeUp);
                }
                catch (SnapuserdException e)
                {
                    sentence = e.Message;
                    throw;
                }
            });
            Assert.Empty(reports);
            using (DeviceSet plain = new(options with { Io = IoChoice.Auto }, _stop, _wakeUp)) Assert.Equal("sync", plain.Io);
            Assert.Equal([$"going on without io_uring: {sentence}"], reports);
            // With --io sync, io_uring is not tried.
            using DeviceSet sync = new(options, _stop, _wakeUp);
            Assert.Single(reports);
        });
    }

    [Theory]
    [InlineData("base", "source", true)]
    [InlineData("source", "other", false)]
    public void A_link_that_is_moved_while_devices_are_opened_is_76(string first, string then, bool refused)
    {
        File.WriteAllBytes(_folder["other"], new byte[96 << 10]);
        File.CreateSymbolicLink(_folder["link"], _folder[first]);
        int looked = 0;
        void Move() => Answering([SYS_openat], call =>
        {
            // The set first inspects the devices, then opens them by name.
            if (call.Text(1) == _folder["cow"] && ++looked == 2)
            {
                File.Delete(_folder["link"]);
                File.CreateSymbolicLink(_folder["link"], _folder[then]);
            }
            return null;
        }, () => Open("cow", "base", "link").Dispose());
        // Another file that also shares no bytes is acceptable.
        if (!refused) Move();
        else
            Assert.Equal((ExitCode.InUse, "COW, base or source was exchanged for another file or device while it was opened; "
                + "nothing was written"), Said(Move));
        Assert.True(looked >= 2);
        foreach (string name in (string[])["cow", "base", "source"]) Assert.Equal(0, Locked(name, "--exclusive"));
    }

    [Fact]
    public void Devices_that_may_share_bytes_through_a_layer_can_be_read_but_not_written()
    {
        using FakeDevices devices = new();
        AddLayer(devices);
        devices.Run(() =>
        {
            const string Unknown = "cannot tell which bytes {0} and {1} share: md raid1 stands between them and a device below both; ";
            string toSay = string.Format(CultureInfo.InvariantCulture, Unknown, "/dev/msd", "/dev/mmd")
                + "--source-separate says that they share none";
            Assert.Equal((ExitCode.Usage, toSay), Said(() => Open("cow", "/dev/mmd", "/dev/msd").Dispose()));
            string place = string.Format(CultureInfo.InvariantCulture, Unknown, "/dev/mmd", "/dev/msd") + "use another place for the COW";
            Assert.Equal((ExitCode.Usage, place), Said(() => Open("/dev/mmd", "/dev/msd", null).Dispose()));
            Assert.Equal((ExitCode.Usage, place), Said(() => Open("/dev/mmd", "base", "/dev/msd").Dispose()));

            // Devices that are only read are not flushed.
            List<int> flushed = [];
            Func<SystemCall, long?> before = devices.Before;
            devices.Before = call =>
            {
                if (call.Number == SYS_fsync) flushed.Add(call[0]);
                return before(call);
            };
            foreach (bool separate in (bool[])[false, true])
            {
                using DeviceSet reading = Open("cow", "/dev/mmd", "/dev/msd", writes: false, separate);
                Assert.Equal((3, 2), (reading.Devices.Length, reading.Setup.Source.Number));
                Assert.Equal(0, reading.Setup.Overlap?.Length);
            }
            using (DeviceSet cow = Open("/dev/mmd", "/dev/msd", null, writes: false)) Assert.Equal(2, cow.Devices.Length);
            Assert.Empty(flushed);
            devices.Before = before;
        });
        Assert.Empty(devices.StillOpen);
    }

    /// <summary>The user says that the devices share no bytes. Any remaining refusal has another reason.</summary>
    [Fact]
    public void Devices_that_may_share_bytes_count_as_separate_if_the_user_says_so()
    {
        using FakeDevices devices = new();
        AddLayer(devices);
        devices.Answers["/dev/mmd"] = 0;
        int opened = 0;
        Func<SystemCall, long?> before = devices.Before;
        devices.Before = call =>
        {
            bool writes = call.Number == SYS_openat && call.Text(1) == "/dev/mmd" && (call[2] & Libc.O_ACCMODE) == Libc.O_RDWR;
            if (writes) opened++;
            return writes ? -Errno.EROFS : before(call);
        };
        devices.Run(() => Assert.Equal(ExitCode.Permission,
            Said(() => Open("cow", "/dev/mmd", "/dev/msd", separate: true).Dispose()).Code));
        Assert.Equal(1, opened);
    }

    /// <summary>/dev/msd is a disk, and /dev/mmd an array over it.</summary>
    private static void AddLayer(FakeDevices devices)
    {
        devices.Add("msd", 243, 16, 100);
        devices.Add("mmd", 243, 1, 100, slaves: ["msd"], files: ("md/level", "raid1\n"));
        devices.Answers["/dev/msd"] = devices.Answers["/dev/mmd"] = 0;
        devices.Before = call =>
        {
            if (call.Number != SYS_ioctl || (uint)call[1] is not (Libc.BLKGETSIZE64 or Libc.BLKSSZGET or Libc.BLKROGET)) return null;
            if ((uint)call[1] == Libc.BLKGETSIZE64) call.At<ulong>(2) = 100 * 512;
            else call.At<int>(2) = (uint)call[1] == Libc.BLKSSZGET ? 512 : 0;
            return 0;
        };
    }

    [RootFact]
    public void A_source_that_comes_to_share_other_bytes_while_devices_are_opened_is_76()
    {
        File.WriteAllBytes(_folder["disk"], new byte[192 << 10]);
        using LoopDevice target = new(_folder["disk"], "--sizelimit", $"{64 << 10}");
        using LoopDevice first = new(_folder["disk"], "--offset", $"{48 << 10}", "--sizelimit", $"{64 << 10}");
        using LoopDevice other = new(_folder["disk"], "--offset", $"{32 << 10}", "--sizelimit", $"{64 << 10}");
        using LoopDevice apart = new(_folder["disk"], "--offset", $"{64 << 10}", "--sizelimit", $"{64 << 10}");
        foreach ((string from, string to) in ((string, string)[])[(first.Path, other.Path), (first.Path, apart.Path),
            (apart.Path, first.Path)])
        {
            File.Delete(_folder["link"]);
            File.CreateSymbolicLink(_folder["link"], from);
            int looked = 0;
            (ExitCode, string) said = Said(() => Answering([SYS_openat], call =>
            {
                if (call.Text(1) == _folder["cow"] && ++looked == 2)
                {
                    File.Delete(_folder["link"]);
                    File.CreateSymbolicLink(_folder["link"], to);
                }
                return null;
            }, () => Open("cow", target.Path, "link", writes: false).Dispose()));
            Assert.Equal((ExitCode.InUse,
                "COW, base or source was exchanged for another file or device while it was opened; nothing was written"), said);
            Assert.True(looked >= 2);
        }
    }

    [RootFact]
    public void Earlier_writes_to_the_base_are_seen_through_the_source()
    {
        File.WriteAllBytes(_folder["disk"], new byte[128 << 10]);
        using LoopDevice target = new(_folder["disk"], "--sizelimit", $"{64 << 10}");
        using LoopDevice source = new(_folder["disk"], "--offset", $"{48 << 10}");
        // A cache exists until its device is closed.
        using FileStream written = new(target.Path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, 0);
        using FileStream read = new(source.Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 0);
        byte[] block = new byte[4096];
        read.ReadExactly(block);
        Array.Fill(block, (byte)7);
        written.Position = 48 << 10;
        written.Write(block);
        using DeviceSet three = Open("cow", target.Path, source.Path, writes: false);
        read.Position = 0;
        byte[] seen = new byte[4096];
        read.ReadExactly(seen);
        Assert.Equal(block, seen);
    }

    [Fact]
    public void Files_without_locks_are_refused_unless_that_is_allowed_and_then_reported()
    {
        List<string> reports = [];
        DeviceOptions options = Options("cow", "base", null, true, false) with { Report = reports.Add };
        Refusing(SYS_flock, Errno.ENOLCK, () =>
        {
            Assert.Equal(ExitCode.Unavailable, Said(() => new DeviceSet(options, _stop, _wakeUp).Dispose()).Code);
            Assert.Empty(reports);
            using DeviceSet two = new(options with { WithoutLock = true }, _stop, _wakeUp);
            Assert.Equal([two.Devices[0].NotLocked!, two.Devices[1].NotLocked!], reports);
            Assert.StartsWith($"{_folder["base"]} is not locked: ", reports[1], StringComparison.Ordinal);
        });
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    public void Number_of_threads_does_not_limit_the_jobs_under_way(int threads)
    {
        using DeviceSet one = new(Options("cow", null, null, false, false) with { Threads = threads }, _stop, _wakeUp);
        Assert.Equal(64, one.Setup.Workers.Capacity);
    }

    /// <summary>A duplicate of a descriptor simulates another user of the open file: a request that the kernel has not completed.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Locks_and_memory_stay_if_the_kernel_may_still_write(bool broken)
    {
        using FileStream copy = new("/dev/null", FileMode.Open);
        int fd = (int)copy.SafeFileHandle.DangerousGetHandle();
        DeviceSet two = new(Options("cow", "base", null, true, false) with { Io = IoChoice.Auto }, _stop, _wakeUp);
        bool ring = two.Io == "uring";
        if (broken && ring)
        {
            MergeSetup setup = two.Setup;
            Slice memory = setup.Arena.Take(4096)!.Value;
            Refusing(SYS_io_uring_enter, Errno.EIO, () =>
            {
                setup.Io.Read(0, 0, memory);
                Assert.Throws<SnapuserdException>(() => setup.Io.Drain());
            });
            Assert.True(setup.Io.Broken);
        }
        Assert.True(Libc.Dup3(two.Devices[1].Fd, fd, Libc.O_CLOEXEC) >= 0);
        two.Dispose();
        Assert.All(two.Devices, device => Assert.Equal(-1, device.Fd));
        Assert.Equal(broken && ring, Locked("base", "--exclusive") != 0);
        Assert.Equal(broken && ring, two.Setup.Arena.Address != 0);
    }

    private static (ExitCode Code, string Message) Said(Action action)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(action);
        return (e.Code, e.Message);
    }

    private int Locked(string name, string how) => Binary.RunProgram("flock", [how, "--nonblock", _folder[name], "true"]).ExitCode;

    private DeviceSet Open(string cow, string? target, string? source, bool writes = true, bool separate = false) =>
        new(Options(cow, target, source, writes, separate), _stop, _wakeUp);

    private DeviceOptions Options(string cow, string? target, string? source, bool writes, bool separate) => new()
    {
        Cow = _folder[cow],
        Base = target == null ? null : _folder[target],
        Source = source == null ? null : _folder[source],
        SourceSeparate = separate,
        Writes = writes,
        Io = IoChoice.Sync,
        ArenaBytes = 1 << 20,
        Threads = 1,
    };

    private static void Refused(ExitCode code, string words, Func<DeviceSet> open)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => open().Dispose());
        Assert.Equal(code, refusal.Code);
        Assert.Contains(words, refusal.Message, StringComparison.Ordinal);
    }
}
