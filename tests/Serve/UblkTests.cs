using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.UblkAbi;

namespace Snapuserd.Tests.Serve;

public sealed class UblkTests
{
    /// <summary>Memory in bytes that is enough for one queue with two concurrent reads.</summary>
    private const int SmallMemory = 1 << 20;

    /// <summary>No process has this ID, because the kernel's largest is 4194304.</summary>
    private const int NoProcess = int.MaxValue;

    [Fact]
    public void Device_is_started_after_every_tag_is_fetched_and_deleted_after_every_tag_is_returned()
    {
        using Case test = new(new UblkOptions { Queues = 2, Depth = 8 });
        Assert.Equal(test.Driver.PathOf(0), test.Server.Start());
        Assert.Equal((2, 8), (test.Driver.Info.NrHwQueues, test.Driver.Info.QueueDepth));
        UblkParamBasic parameters = test.Driver.Params.Basic;
        Assert.Equal((UBLK_ATTR_READ_ONLY, 9, 12), (parameters.Attrs, parameters.LogicalBsShift, parameters.PhysicalBsShift));
        Assert.Equal((ulong)test.Fixture.View.Length, parameters.DevSectors * 512);
        Assert.Equal(test.Driver.Info.MaxIoBufBytes, parameters.MaxSectors * 512);
        test.Server.Stop();
        Assert.Equal(["add", "params", "start", "stop", "delete"], test.Driver.Log);
        Assert.False(test.Driver.Exists);
        Assert.Null(test.Server.Failure);
    }

    [Fact]
    public void Ours_is_called_only_for_a_device_that_is_added_or_taken_over()
    {
        int ours = 0;
        using Case made = new(new UblkOptions { Id = 0, Ours = () => ours++ });
        made.Server.Start();
        Assert.Equal(1, ours);
        foreach (ulong otherImage in new ulong[] { 0, 1 })
        {
            using Case test = new(new UblkOptions { Id = 0, Ours = () => ours++ });
            test.Driver.Leave(UBLK_S_DEV_QUIESCED, NoProcess, made.Driver.Info.ServerFlags ^ otherImage,
                (ulong)test.Fixture.View.Length / 512);
            test.Driver.Held = true;
            if (otherImage == 0) test.Server.Start();
            else Assert.Equal(ExitCode.InUse, Assert.Throws<SnapuserdException>(test.Server.Start).Code);
            Assert.Equal(2, ours);
        }
    }

    [Fact]
    public void More_requests_than_concurrent_reads_wait_and_all_get_their_data()
    {
        using Case test = new(new UblkOptions { Depth = 128, MemoryBytes = SmallMemory });
        test.Server.Start();
        byte[] target = Golden.New;
        Random random = new(7);
        int most = (int)test.Driver.Info.MaxIoBufBytes / 512;
        for (int round = 0; round < 4; round++)
        {
            // Each tag is used once per round, so the data that the server wrote for it can be checked afterwards.
            List<(FakeUblk.TaskResult Request, int Sector, int Sectors)> posted = [];
            for (int i = 0; i < test.Driver.Info.NrHwQueues * test.Driver.Info.QueueDepth; i++)
            {
                int sectors = random.Next(1, most + 1), sector = random.Next(0, (target.Length / 512) - sectors);
                posted.Add((test.Driver.Post(UBLK_IO_OP_READ, sector, sectors), sector, sectors));
            }
            foreach ((FakeUblk.TaskResult request, int sector, int sectors) in posted)
            {
                Assert.Equal(sectors * 512, FakeUblk.Answer(request));
                Assert.True(target.AsSpan(sector * 512, sectors * 512).SequenceEqual(test.Driver.Bytes(request, sectors * 512)),
                    $"{sectors} sectors at {sector}");
            }
        }
    }

    [Fact]
    public void Every_request_gets_one_result_and_only_reads_succeed_with_data()
    {
        using Case test = new(new UblkOptions { Queues = 1, Depth = 4 });
        test.Server.Start();
        long end = test.Fixture.View.Length / 512;
        int most = (int)test.Driver.Info.MaxIoBufBytes / 512;
        Assert.Equal(-Errno.EPERM, Answer(UBLK_IO_OP_WRITE, 0, 8));
        Assert.Equal(0, Answer(UBLK_IO_OP_FLUSH, 0, 0));
        foreach (byte other in new byte[] { 3, 4, 5, 10, 18, 255 }) Assert.Equal(-Errno.EOPNOTSUPP, Answer(other, 0, 8));
        Assert.Equal(-Errno.EIO, Answer(UBLK_IO_OP_READ, end, 1));
        Assert.Equal(-Errno.EIO, Answer(UBLK_IO_OP_READ, end - 1, 2));
        Assert.Equal(-Errno.EIO, Answer(UBLK_IO_OP_READ, -1, 1));
        Assert.Equal(-Errno.EIO, Answer(UBLK_IO_OP_READ, 0, 0));
        Assert.Equal(-Errno.EIO, Answer(UBLK_IO_OP_READ, 0, most + 1));
        Assert.Equal(512, Answer(UBLK_IO_OP_READ, end - 1, 1));
        Assert.Null(test.Server.Failure);
        // Only reads of the view are counted, not requests that the server itself refuses.
        Assert.Equal(4, test.Fixture.View.Times.Reads);
        Assert.InRange(test.Fixture.View.Times.WorstMicroseconds, 1, 60_000_000);

        int Answer(byte op, long sector, int sectors) => FakeUblk.Answer(test.Driver.Post(op, sector, sectors));
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_CMD_IOCTL_ENCODE)]
    public void Older_driver_is_refused_before_a_device_is_added(ulong features)
    {
        using Case test = new(new UblkOptions());
        test.Driver.Features = features;
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(test.Server.Start);
        Assert.Equal(ExitCode.Unavailable, refusal.Code);
        Assert.Contains("6.5", refusal.Message, StringComparison.Ordinal);
        Assert.Empty(test.Driver.Log);
    }

    [Fact]
    public void Device_of_a_live_server_is_not_touched()
    {
        using Case test = new(new UblkOptions { Id = 3 });
        test.Driver.Leave(UBLK_S_DEV_LIVE, Libc.GetPid(), 0, 8);
        Assert.Equal(ExitCode.InUse, Assert.Throws<SnapuserdException>(test.Server.Start).Code);
        Assert.Empty(test.Driver.Log);
    }

    [Fact]
    public void Device_of_a_killed_server_is_taken_over_with_its_own_queues()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0, Queues = 1, Depth = 64 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512,
            queues: 2, depth: 16);
        test.Server.Start();
        Assert.True(test.Server.Recovered);
        Assert.Equal(["recover", "recovered"], test.Driver.Log);
        FakeUblk.TaskResult request = test.Driver.Post(UBLK_IO_OP_READ, 16, 8);
        Assert.Equal(4096, FakeUblk.Answer(request));
        Assert.True(Golden.New.AsSpan(8192, 4096).SequenceEqual(test.Driver.Bytes(request, 4096)));
        test.Server.Stop();
        Assert.Equal(["recover", "recovered", "stop", "delete"], test.Driver.Log);
    }

    [Theory]
    // The previous server was killed while it served.
    [InlineData("11", false, "recover|recovered")]
    // It was killed after START_USER_RECOVERY, which the driver then refuses.
    [InlineData("00", false, "recovered")]
    // It was killed between the fetches of two queues. START_USER_RECOVERY would make the driver dereference a null pointer.
    [InlineData("10", false, "complete 1|recover|recovered")]
    [InlineData("01", false, "complete 0|recover|recovered")]
    [InlineData("1101", false, "complete 2|recover|recovered")]
    [InlineData("0010", false, "complete 0 1 3|recover|recovered")]
    // It was an earlier version, which mapped before it fetched. Only START_USER_RECOVERY makes the driver drop that mapping.
    [InlineData("00", true, "recover|recovered")]
    [InlineData("11", true, "recover|recovered")]
    [InlineData("00000000", true, "recover|recovered")]
    public void Device_is_taken_over_after_a_kill_at_any_point(string recorded, bool mappedByDead, string log)
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512, recorded.Length,
            recorded: [.. recorded.Select(one => one == '1')]);
        test.Driver.MappedByDead = mappedByDead;
        test.Server.Start();
        Assert.True(test.Server.Recovered);
        Assert.Equal(log.Split('|'), test.Driver.Log);
        foreach (int _ in recorded)
        {
            FakeUblk.TaskResult request = test.Driver.Post(UBLK_IO_OP_READ, 16, 8);
            Assert.Equal(4096, FakeUblk.Answer(request));
            Assert.True(Golden.New.AsSpan(8192, 4096).SequenceEqual(test.Driver.Bytes(request, 4096)));
        }
        Assert.Null(test.Server.Failure);
    }

    [Fact]
    public void Driver_that_forgets_dead_servers_is_taken_over_without_another_recovery()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.ForgetsServers = true;
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512, queues: 2);
        test.Server.Start();
        Assert.Equal(["recovered"], test.Driver.Log);
    }

    [Fact]
    public void Queue_in_an_unknown_state_is_not_touched_and_the_error_names_a_remedy()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512, queues: 2);
        test.Driver.QueueAnswer = -Errno.EBUSY;
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(test.Server.Start);
        Assert.Equal(ExitCode.InputOutput, refusal.Code);
        Assert.Contains("ublk del -n 0", refusal.Message, StringComparison.Ordinal);
        Assert.Empty(test.Driver.Log);
        Assert.True(test.Driver.Exists);
    }

    [Fact]
    public void Live_device_without_a_server_is_removed_and_added_again()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_LIVE, NoProcess, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512);
        test.Server.Start();
        Assert.Equal(["stop", "delete", "add", "params", "start"], test.Driver.Log);
    }

    [Theory]
    [InlineData(UBLK_S_DEV_LIVE, 0UL)]
    [InlineData(UBLK_S_DEV_QUIESCED, 1UL)]
    public void Device_that_is_mounted_is_never_removed(ushort state, ulong otherImage)
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(state, NoProcess, first.Driver.Info.ServerFlags ^ otherImage, (ulong)test.Fixture.View.Length / 512);
        test.Driver.Held = true;
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(test.Server.Start);
        Assert.Equal(ExitCode.InUse, refusal.Code);
        Assert.Contains("unmount", refusal.Message, StringComparison.Ordinal);
        Assert.Empty(test.Driver.Log);
        Assert.True(test.Driver.Exists);
    }

    [RootFact]
    public void Tags_of_a_new_device_are_fetched_without_CAP_SYS_ADMIN_to_prevent_a_partition_scan()
    {
        using Case test = new(new UblkOptions { Queues = 2, Depth = 4 });
        test.Server.Start();
        Assert.False(test.Driver.FetchedWithSysAdmin);
    }

    [Fact]
    public void Device_whose_take_over_fails_continues_to_wait()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags, (ulong)test.Fixture.View.Length / 512);
        test.Driver.RefuseStart = -Errno.ENOMEM;
        Assert.Equal(ExitCode.OutOfResources, Assert.Throws<SnapuserdException>(test.Server.Start).Code);
        Assert.Equal(["recover", "recovered"], test.Driver.Log);
        Assert.True(test.Driver.Exists);
    }

    [Fact]
    public void Device_of_a_killed_server_of_another_image_is_removed()
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, first.Driver.Info.ServerFlags ^ 1, (ulong)test.Fixture.View.Length / 512);
        test.Server.Start();
        Assert.False(test.Server.Recovered);
        Assert.Equal(["stop", "delete", "add", "params", "start"], test.Driver.Log);
    }

    [Fact]
    public void Device_of_another_program_is_not_touched_even_if_its_server_was_killed()
    {
        using Case test = new(new UblkOptions { Id = 0 });
        test.Driver.Leave(UBLK_S_DEV_QUIESCED, 1, 5, (ulong)test.Fixture.View.Length / 512);
        Assert.Equal(ExitCode.InUse, Assert.Throws<SnapuserdException>(test.Server.Start).Code);
        Assert.Empty(test.Driver.Log);
    }

    [Theory]
    [InlineData(UBLK_S_DEV_QUIESCED, NoProcess, true)]
    // The driver has not noticed yet that the server is dead.
    [InlineData(UBLK_S_DEV_LIVE, NoProcess, true)]
    [InlineData(UBLK_S_DEV_LIVE, 1, false)]
    [InlineData(UBLK_S_DEV_DEAD, NoProcess, false)]
    public void Device_waits_for_the_next_server_after_its_server_has_died(ushort state, int process, bool waits)
    {
        using Case first = new(new UblkOptions { Id = 0 });
        first.Server.Start();
        ulong flags = first.Driver.Info.ServerFlags;
        first.Server.Stop();
        first.Driver.Leave(state, process, flags, (ulong)first.Fixture.View.Length / 512);
        Assert.Equal(waits, UblkServer.IsWaiting(0, () => first.Driver));
        first.Driver.Leave(state, process, 5, (ulong)first.Fixture.View.Length / 512);
        Assert.False(UblkServer.IsWaiting(0, () => first.Driver));
    }

    [Fact]
    public void Refused_command_is_reported_and_the_device_can_still_be_removed()
    {
        using Case test = new(new UblkOptions { Queues = 1, Depth = 4 });
        test.Server.Start();
        test.Driver.RefuseNextCommit = -Errno.EINVAL;
        _ = test.Driver.Post(UBLK_IO_OP_READ, 0, 8);
        Assert.True(test.WaitForFailure());
        Assert.Contains("refused", test.Server.Failure, StringComparison.Ordinal);
    }

    [Fact]
    public void Stop_of_the_device_by_another_program_is_a_failure()
    {
        using Case test = new(new UblkOptions { Queues = 1, Depth = 4 });
        test.Server.Start();
        test.Driver.Stop();
        Assert.True(test.WaitForFailure());
        Assert.Contains("stopped by another", test.Server.Failure, StringComparison.Ordinal);
        test.Server.Stop();
        Assert.False(test.Driver.Exists);
    }

    [Fact]
    public void Merge_stops_when_the_device_has_failed()
    {
        using Case test = new(new UblkOptions { Queues = 1, Depth = 4 });
        test.Server.Start();
        test.Fixture.Stop.StopAlsoWhen(() => test.Server.Failure != null);
        test.Driver.RefuseNextCommit = -Errno.EINVAL;
        _ = test.Driver.Post(UBLK_IO_OP_READ, 0, 8);
        Assert.True(test.WaitForFailure());
        Assert.Equal(ExitCode.Interrupted, Assert.Throws<SnapuserdException>(() => test.Fixture.Engine.Run()).Code);
        Assert.False(test.Fixture.Engine.Result.AlreadyMerged);
    }

    [Theory]
    [InlineData(16 << 20, 4)]
    [InlineData(12 << 20, 1)]
    [InlineData(3 << 20, 4)]
    [InlineData(1 << 20, 2)]
    public void Buffers_fit_into_the_memory_limit(int memory, int queues)
    {
        foreach (int perRead in new[] { 136 << 10, 392 << 10 })
        {
            UblkGeometry geometry = UblkGeometry.For(new UblkOptions { MemoryBytes = memory, Queues = queues }, perRead);
            Assert.InRange(geometry.Queues, 1, queues);
            Assert.True(geometry.Queues * geometry.Reads * (perRead + geometry.MaxIoBytes) <= memory, geometry.ToString());
            Assert.True(geometry.Queues == 1 || geometry.Reads >= 8, geometry.ToString());
        }
    }

    private sealed class Case : IDisposable
    {
        private readonly WakeUp _wakeUp = new();

        internal Case(UblkOptions options)
        {
            Fixture = new ViewFixture(Golden.Cow("v3-zstd-256k-xor"), Golden.Old);
            Server = new UblkServer(Fixture.View, Fixture.Devices, options, _wakeUp, () => Driver);
        }

        internal ViewFixture Fixture { get; }

        internal FakeUblk Driver { get; } = new();

        internal UblkServer Server { get; }

        internal bool WaitForFailure()
        {
            while (!_wakeUp.Take()) { }
            return Server.Failure != null;
        }

        public void Dispose()
        {
            Server.Dispose();
            Assert.Empty(Driver.Faults);
            Fixture.Dispose();
            Driver.Free();
            _wakeUp.Dispose();
        }
    }
}
