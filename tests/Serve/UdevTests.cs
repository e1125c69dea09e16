using System.IO;
using System.Linq;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests mapped devices with udev: cookies, semaphores, and a udev that does not complete a cookie.</summary>
public sealed class UdevTests
{
    private static readonly MapperTarget s_served = new("/dev/ublkb0", 259, 7, 2048, true);
    private static readonly MapperTarget s_base = new("/dev/vda3", 254, 3, 2048, false);

    /// <summary>The flag DM_UDEV_PRIMARY_SOURCE_FLAG without a cookie.</summary>
    private const uint FlagsOnly = 0x0040_0000;

    private const int Key = 0x0d4d_0000;

    private static FakeUdev Running => new() { IsThere = true };

    /// <summary>Creates, swaps and removes a device.</summary>
    private static void Live(FakeMapper kernel)
    {
        using MappedDevice device = MappedDevice.Open("root", kernel);
        device.StandOn(s_served);
        device.StandOn(s_base);
        device.Remove();
    }

    /// <summary>Takes a cookie, sends the event as the kernel does, and waits.</summary>
    private static bool Wait(FakeUdev udev)
    {
        using UdevCookie cookie = UdevCookie.Take(udev, 253, 0);
        udev.Event(cookie.EventNumber);
        return cookie.Await();
    }

    [Fact]
    public void Every_resume_and_the_removal_wait_for_udev_and_no_semaphore_remains()
    {
        FakeMapper kernel = new();
        kernel.Udev.IsThere = true;
        long before = kernel.Udev.Milliseconds;
        Live(kernel);
        Assert.Equal(3, kernel.Udev.Events.Count);
        Assert.All(kernel.Udev.Events, number => Assert.NotEqual(FlagsOnly, number));
        Assert.Equal(3, kernel.Udev.Events.Distinct().Count());
        Assert.Equal(3 * kernel.Udev.AnswersAfter, kernel.Udev.Milliseconds - before);
        Assert.Empty(kernel.Udev.Sets);
    }

    [Fact]
    public void Without_udev_events_have_only_the_flag_and_there_is_no_wait()
    {
        FakeMapper kernel = new();
        Live(kernel);
        Assert.Equal([FlagsOnly, FlagsOnly, FlagsOnly], kernel.Udev.Events);
        Assert.Equal(1000, kernel.Udev.Milliseconds);
    }

    [Fact]
    public void Rules_are_placed_only_before_a_device_is_created()
    {
        FakeMapper kernel = new();
        bool placedFirst = false;
        kernel.Refuse = command =>
        {
            if (command == DM_DEV_CREATE) placedFirst = kernel.Udev.RulesPlaced > 0;
            return 0;
        };
        using MappedDevice device = MappedDevice.Open("root", kernel);
        Assert.Equal(0, kernel.Udev.RulesPlaced);
        device.StandOn(s_served);
        Assert.True(placedFirst);
    }

    [Fact]
    public void Semaphore_has_the_key_and_value_of_libdevmapper()
    {
        FakeUdev udev = Running;
        udev.Draws.Enqueue(0xabcd_1234);
        using UdevCookie cookie = UdevCookie.Take(udev, 253, 0);
        Assert.Equal(FlagsOnly | 0x1234u, cookie.EventNumber);
        FakeUdev.Set set = Assert.Single(udev.Sets.Values);
        Assert.Equal((Key | 0x1234, 1), (set.Key, set.Values[0]));
    }

    [Fact]
    public void Cookie_is_not_zero_and_not_that_of_another_program()
    {
        FakeUdev udev = Running;
        int another = udev.CreateSemaphores(Key | 7, 1);
        foreach (uint number in (uint[])[0x10000, 7, 8]) udev.Draws.Enqueue(number);
        using (UdevCookie cookie = UdevCookie.Take(udev, 253, 0)) Assert.Equal(FlagsOnly | 8u, cookie.EventNumber);
        Assert.Equal([another], udev.Sets.Keys);
    }

    [Theory]
    [InlineData(Errno.ENOSYS)]
    [InlineData(Errno.ENOSPC)]
    public void Without_semaphores_events_have_only_the_flag(int errno)
    {
        FakeUdev udev = Running;
        udev.CreationFails = errno;
        Assert.False(Wait(udev));
        Assert.Equal([FlagsOnly], udev.Events);
        (udev.CreationFails, udev.SettingFails) = (0, errno);
        Assert.False(Wait(udev));
        Assert.Equal([FlagsOnly, FlagsOnly], udev.Events);
        Assert.Empty(udev.Sets);
    }

    [Fact]
    public void There_is_no_wait_if_the_kernel_sent_no_event()
    {
        FakeMapper kernel = new() { WithoutEvents = true };
        kernel.Udev.IsThere = true;
        Live(kernel);
        Assert.Equal(1000, kernel.Udev.Milliseconds);
        Assert.Empty(kernel.Udev.Sets);
    }

    [Fact]
    public void Swap_that_is_interrupted_or_refused_leaves_no_semaphore()
    {
        FakeMapper kernel = new() { Interruptions = 5 };
        kernel.Udev.IsThere = true;
        Live(kernel);
        Assert.Equal(3, kernel.Udev.Events.Count);
        Assert.Empty(kernel.Udev.Sets);
        kernel.Refuse = command => command == DM_DEV_SUSPEND ? -Errno.EPERM : 0;
        _ = Assert.Throws<Block.SnapuserdException>(() => Live(kernel));
        Assert.Empty(kernel.Udev.Sets);
    }

    [Theory]
    // udev does nothing.
    [InlineData(-1, 0, long.MaxValue, 6000)]
    // udev reports all the time that it is busy.
    [InlineData(-1, 1_000_000, long.MaxValue, 31_000)]
    // udev is busy for ten seconds and does not support cookies.
    [InlineData(-1, 10_000, long.MaxValue, 11_150)]
    // udev ends during the wait.
    [InlineData(2000, 10_000, 2025L, 2050)]
    public void Wait_for_udev_has_a_limit(int answersAfter, int busyFor, long endsAt, long until)
    {
        FakeUdev udev = Running;
        (udev.AnswersAfter, udev.BusyFor, udev.EndsAt) = (answersAfter, busyFor, endsAt);
        Assert.False(Wait(udev));
        Assert.Equal(until, udev.Milliseconds);
        Assert.Empty(udev.Sets);
    }

    /// <summary>udev processes the event in less than one polling interval, so no poll finds it busy.</summary>
    [Fact]
    public void Wait_for_a_udev_without_cookies_ends_after_its_database_entry_changes()
    {
        FakeUdev udev = Running;
        (udev.AnswersAfter, udev.WritesEntries) = (-1, true);
        Assert.False(Wait(udev));
        Assert.Equal(1200, udev.Milliseconds);
    }

    [Fact]
    public void Wait_for_a_busy_udev_is_long_enough()
    {
        FakeUdev udev = Running;
        (udev.AnswersAfter, udev.BusyFor) = (20_000, 20_000);
        Assert.True(Wait(udev));
    }

    [Fact]
    public void Node_is_created_even_if_udev_does_not_complete_the_cookie()
    {
        FakeMapper kernel = new();
        (kernel.Udev.IsThere, kernel.Udev.AnswersAfter) = (true, -1);
        using MappedDevice device = MappedDevice.Open("root", kernel);
        device.StandOn(s_served);
        Assert.Equal((FakeMapper.Major, 0u), kernel.Nodes["root"]);
    }

    [Fact]
    public void Signals_do_not_end_the_wait_but_udevcomplete_all_does()
    {
        FakeUdev udev = Running;
        udev.Interruptions = 10;
        Assert.True(Wait(udev));
        udev.AllRemovedAt = udev.Milliseconds + 50;
        Assert.False(Wait(udev));
        Assert.Empty(udev.Sets);
    }

    [Fact]
    public void Only_semaphores_of_killed_processes_are_removed()
    {
        FakeUdev udev = Running;
        // Four sets: one of libdevmapper; one of an unrelated program, with the same owner mark but another key; one of a live server; and
        // one of a killed server.
        int library = udev.CreateSemaphores(Key | 1, 1);
        int foreign = udev.CreateSemaphores(0x1234_0001, 2);
        udev.SetSemaphore(foreign, 1, 0x5355);
        using UdevCookie living = UdevCookie.Take(udev, 253, 0);
        _ = UdevCookie.Take(udev, 253, 0);
        int alive = udev.Sets.Keys.Skip(2).First();
        udev.Sets.Values.Last().IsOrphan = udev.Sets[foreign].IsOrphan = udev.Sets[library].IsOrphan = true;
        Assert.Equal(4, udev.Sets.Count);
        Assert.True(Wait(udev));
        Assert.Equal([library, foreign, alive], udev.Sets.Keys);
    }

    [Fact]
    public void Rules_in_the_program_equal_those_for_ramdisks()
    {
        string folder = Path.Combine(Binary.Root, "src/packaging/udev");
        Assert.Equal(Directory.GetFiles(folder).Select(Path.GetFileName).Order(), UdevRules.Files.Select(file => file.Name));
        foreach ((string name, string text) in UdevRules.Files) Assert.Equal(File.ReadAllText(Path.Combine(folder, name)), text);
    }

    /// <summary>Tests the kernel's own semaphores.</summary>
    [Fact]
    public void System_semaphores_are_created_counted_down_and_removed()
    {
        SystemUdev udev = new();
        int key = 0x5355_0000 | (Libc.GetPid() & 0xffff), id = udev.CreateSemaphores(key, 2);
        Assert.True(id >= 0, $"semget: {id}");
        try
        {
            Assert.Equal(-Errno.EEXIST, udev.CreateSemaphores(key, 2));
            Assert.Equal((0, 0), (udev.SetSemaphore(id, 1, 0x5355), udev.SetSemaphore(id, 0, 1)));
            Assert.Equal((1, 0x5355, -Errno.EINVAL), (udev.ValueOf(id, 0), udev.ValueOf(id, 1), udev.ValueOf(id, 2)));
            Assert.Equal(-Errno.EAGAIN, udev.AwaitZero(id, 1));
            Assert.False(udev.IsOrphan(id, 1));
            Assert.Equal(id, Enumerable.Range(0, udev.HighestIndex() + 1)
                .Select(index => udev.SetAtIndex(index, out int found) is var known && found == key ? known : -1).Max());
            Assert.Equal(0, Libc.SemTimedOp(id, new SemBuf { Op = -1 }, 1000));
            Assert.Equal(0, udev.AwaitZero(id, 1000));
        }
        finally
        {
            Assert.Equal(0, udev.RemoveSemaphores(id));
        }
        Assert.Equal(-Errno.EINVAL, udev.AwaitZero(id, 1));
    }
}
