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

/// <summary>Bounds of slices, queues and sources, and results at their limits.</summary>
public sealed class QueueEdgeTests
{
    private sealed class ThrowingQueue : IBlockQueue
    {
        public int Depth => 1;

        public bool TryQueue(in BlockRequest request) => true;

        public int Wait(Span<BlockCompletion> completions) => throw new InvalidOperationException("a defect");

        public int Perform(in BlockRequest request) => 0;

        public void Dispose()
        {
        }
    }

    [Theory]
    [InlineData(0, 10, true)]
    [InlineData(10, 0, true)]
    [InlineData(3, 7, true)]
    [InlineData(3, 8, false)]
    [InlineData(11, 0, false)]
    [InlineData(-1, 1, false)]
    [InlineData(0, -1, false)]
    [InlineData(0, 11, false)]
    [InlineData(int.MaxValue, int.MaxValue, false)]
    public void Part_of_a_slice_lies_in_it(int start, int length, bool fits)
    {
        Slice slice = new(100, 10);
        if (fits)
        {
            Assert.Equal(new Slice(100 + start, length), slice.Part(start, length));
            return;
        }
        ArgumentOutOfRangeException refused = Assert.Throws<ArgumentOutOfRangeException>("start", () => slice.Part(start, length));
        Assert.StartsWith($"{length} bytes at {start} of a slice of 10", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Arena_gives_out_only_its_memory_and_addresses_only_within_it()
    {
        using Arena arena = new(16384);
        Assert.Equal((16384, 16384), (arena.Size, arena.Free));
        Assert.Equal(new Slice(0, 1), arena.Take(1));
        Assert.Equal(16383, arena.Free);
        Assert.Equal(new Slice(4096, 0), arena.Take(0));
        Assert.Equal(new Slice(4096, 10), arena.Take(10, 1));
        // The byte at the bias is aligned, not the first byte.
        Assert.Equal(new Slice(4604, 8), arena.Take(8, 512, 4));
        Assert.Null(arena.Take(-1, 1));
        Assert.Null(arena.Take(16384 - 4612 + 1, 1));
        Assert.Null(arena.Take(int.MaxValue));
        Assert.Equal(new Slice(4612, 16384 - 4612), arena.Take(16384 - 4612, 1));
        Assert.Equal(0, arena.Free);
        Assert.Equal(new Slice(16384, 0), arena.Take(0, 1));
        arena.Reset();
        Assert.Equal(new Slice(0, 16384), arena.Take(16384));
        Assert.Equal(arena.Address + 16384, arena.AddressOf(new Slice(16384, 0)));
        Assert.Equal(arena.Address, arena.AddressOf(new Slice(0, 16384)));
        foreach (Slice slice in (Slice[])[new(-1, 1), new(0, -1), new(0, 16385), new(16385, 0), new(1, 16384),
            new(int.MaxValue, int.MaxValue)])
        {
            ArgumentOutOfRangeException refused = Assert.Throws<ArgumentOutOfRangeException>("slice", () => arena.AddressOf(slice));
            Assert.StartsWith($"{slice.Length} bytes at {slice.Offset} of an arena of 16384", refused.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Call_is_repeated_after_interruptions_and_a_limited_number_of_times_after_shortages()
    {
        int tries = 0;
        for (int i = 0; i < 100; i++) Assert.True(Retry.Again(-Errno.EINTR, ref tries));
        Assert.Equal(0, tries);
        for (int i = 0; i < Retry.AttemptsBeforeSync; i++) Assert.True(Retry.Again(-Errno.EAGAIN, ref tries));
        Assert.False(Retry.Again(-Errno.EAGAIN, ref tries));
        Assert.False(Retry.Again(-Errno.EIO, ref tries));
        Assert.False(Retry.Again(0, ref tries));
    }

    [Fact]
    public void Flush_that_a_test_fails_is_not_performed()
    {
        // −1 is an errno as well: EPERM.
        foreach (int answer in (int[])[-Errno.EIO, -Errno.EPERM, 0, 1])
        {
            List<int> asked = [];
            FileFlush.Before = fd =>
            {
                asked.Add(fd);
                return answer;
            };
            try
            {
                Assert.Equal(answer < 0 ? answer : -Errno.EBADF, FileFlush.Of(-1));
                Assert.Equal(answer < 0 ? answer : -Errno.EBADF, FileFlush.OfData(-1));
            }
            finally
            {
                FileFlush.Before = null;
            }
            Assert.Equal([-1, -1], asked);
        }
        Assert.Equal(-Errno.EBADF, FileFlush.Of(-1));
        Assert.Equal(-Errno.EBADF, FileFlush.OfData(-1));
    }

    [Fact]
    public void Wake_up_counts_signals_once_and_needs_its_descriptor()
    {
        using WakeUp wakeUp = new();
        Assert.False(wakeUp.TryTake());
        Assert.False(wakeUp.Wait(0));
        int writes = 0;
        Answering([SYS_write], call =>
        {
            if (call[0] != wakeUp.Fd) return null;
            return writes++ == 0 ? -Errno.EINTR : null;
        }, () =>
        {
            wakeUp.Signal();
            wakeUp.Signal();
        });
        Assert.Equal(2, writes);
        Assert.True(wakeUp.Wait(0));
        Assert.False(wakeUp.Wait(0));
        wakeUp.Signal();
        Assert.True(wakeUp.TryTake());
        wakeUp.Signal();
        Answering([SYS_read], call => call[0] == wakeUp.Fd ? -Errno.EINTR : null, () => Assert.False(wakeUp.Take()));
        Assert.True(wakeUp.Take());
        Assert.False(wakeUp.TryTake());
    }

    [Theory]
    [InlineData(SYS_eventfd2, Errno.EMFILE, "cannot make an eventfd")]
    [InlineData(SYS_eventfd2, Errno.EPERM, "cannot make an eventfd")]
    [InlineData(SYS_write, Errno.EPERM, "cannot use an eventfd")]
    [InlineData(SYS_read, Errno.EPERM, "cannot use an eventfd")]
    [InlineData(SYS_read, Errno.EACCES, "cannot use an eventfd")]
    public void Eventfd_that_is_refused_is_71_and_leaves_no_descriptor(uint refused, int errno, string sentence)
    {
        int fd = -1, interrupted = 0;
        bool closed = false;
        SnapuserdException error = Assert.Throws<SnapuserdException>(() => Answering([SYS_eventfd2, SYS_write, SYS_read, SYS_close], call =>
        {
            if (call.Number == SYS_eventfd2) return refused == SYS_eventfd2 ? -errno : fd = Libc.EventFd(0, Libc.EFD_CLOEXEC);
            if (fd < 0 || call[0] != fd) return null;
            if (call.Number == SYS_close)
            {
                closed = true;
                return null;
            }
            return interrupted++ % 3 != 2 ? -Errno.EINTR : call.Number == refused ? -errno : null;
        }, () => new WakeUp().Dispose()));
        Assert.Equal(ExitCode.OutOfResources, error.Code);
        Assert.StartsWith($"{sentence}: {ErrnoText.Of(errno)}", error.Message, StringComparison.Ordinal);
        Assert.Equal(fd >= 0, closed);
        Assert.Equal(refused == SYS_eventfd2 ? 0 : refused == SYS_write ? 3 : 6, interrupted);
    }

    [Fact]
    public void Transfer_that_is_not_permitted_fails_immediately()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -Errno.EPERM };
        IoScheduler transfers = new(queue, [1]);
        Assert.True(transfers.HasRoom);
        transfers.Write(0, 0, new Slice(0, 512));
        Assert.False(transfers.HasRoom);
        Assert.Equal(-Errno.EPERM, transfers.Drain()!.Value.Errno);
        Assert.True(transfers.HasRoom);
        Assert.Single(queue.Asked);
        transfers.Flush(0);
        Assert.Equal(-Errno.EPERM, transfers.Drain()!.Value.Errno);
    }

    [Fact]
    public void Bytes_moved_before_a_failure_are_reported()
    {
        ScriptedQueue queue = new(1) { Attempt = (n, _) => n < 2 ? 512 : -Errno.EIO };
        IoScheduler transfers = new(queue, [512]);
        transfers.Read(0, 4096, new Slice(0, 4096));
        TransferFailure failure = transfers.Drain()!.Value;
        Assert.Equal((-Errno.EIO, 1024), (failure.Errno, failure.Done));
    }

    [Theory]
    [InlineData(Retry.AttemptsBeforeSync, 0)]
    [InlineData(Retry.AttemptsBeforeSync + 1, -Errno.EINTR)]
    public void Interrupted_synchronous_call_is_repeated_a_limited_number_of_times(int interruptions, int errno)
    {
        int asked = 0;
        ScriptedQueue queue = new(1)
        {
            Attempt = (_, _) => -Errno.ECANCELED,
            Plain = request => asked++ < interruptions ? -Errno.EINTR : request.Buffer.Length,
        };
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, new Slice(0, 512));
        Assert.Equal(errno, transfers.Drain()?.Errno ?? 0);
        Assert.Equal(Retry.AttemptsBeforeSync + 1, asked);
    }

    [Fact]
    public void Queue_that_throws_while_it_is_abandoned_is_broken()
    {
        IoScheduler transfers = new(new ThrowingQueue(), [1]);
        transfers.Read(0, 0, new Slice(0, 512));
        transfers.Abandon();
        Assert.True(transfers.Broken);
        ScriptedQueue queue = new(2) { Attempt = (_, _) => -Errno.EIO };
        IoScheduler whole = new(queue, [1]);
        whole.Read(0, 0, new Slice(0, 512));
        whole.Read(0, 512, new Slice(0, 512));
        whole.Abandon();
        Assert.Equal((false, 0), (whole.Broken, whole.InFlight));
        Assert.Null(whole.Drain());
    }

    [Fact]
    public void Source_reads_ahead_more_with_each_sequential_read_and_little_after_a_jump()
    {
        using Arena arena = new(1 << 20);
        Slice window = arena.Take(65536)!.Value;
        ScriptedQueue queue = new(1) { Attempt = (_, request) => Fill(request) };
        TransferSource source = new(new IoScheduler(queue, [1]), arena, window, 0, "it", 1_000_000);
        Assert.Equal(("it", 1_000_000L), (source.Name, source.Length));
        Assert.Equal([(0L, 32768)], Read(0, 100));
        Assert.Empty(Read(0, 32768));
        Assert.Empty(Read(32767, 1));
        Assert.Equal([(32768L, 65536)], Read(32768, 1));
        Assert.Empty(Read(32768, 65536));
        Assert.Equal([(98304L, 65536)], Read(98304 - 1, 2));
        Assert.Equal([(163840L, 65536)], Read(163840, 1));
        Assert.Equal([(159744L, 16384)], Read(163839, 1));
        Assert.Equal([(499712L, 16384)], Read(500_000, 1));
        Assert.Equal([(999424L, 576)], Read(1_000_000 - 1, 1));
        Assert.Equal([(0L, 16384), (16384, 32768), (49152, 65536)], Read(0, 100_000));
        Assert.Empty(Read(1_000_000, 0));
        foreach ((long offset, int length) in ((long, int)[])[(-1, 1), (1_000_000, 1), (999_999, 2), (long.MaxValue, 1)])
        {
            ArgumentOutOfRangeException refused = Assert.Throws<ArgumentOutOfRangeException>("offset",
                () => source.Read(offset, new byte[length]));
            Assert.StartsWith($"{length} bytes at {offset} of 1000000", refused.Message, StringComparison.Ordinal);
        }
        queue.Attempt = (_, _) => -Errno.EIO;
        for (int i = 0; i < 2; i++)
        {
            SnapuserdException failed = Assert.Throws<SnapuserdException>(() => source.Read(300_000, new byte[1]));
            Assert.Equal((ExitCode.InputOutput, $"it: reading 16384 bytes at 299008 failed: {ErrnoText.Of(Errno.EIO)}"),
                (failed.Code, failed.Message));
        }

        int Fill(BlockRequest request)
        {
            Span<byte> bytes = arena[request.Buffer];
            for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)((request.Offset + i) % 251);
            return bytes.Length;
        }

        (long, int)[] Read(long offset, int length)
        {
            int before = queue.Asked.Count;
            byte[] bytes = new byte[length];
            source.Read(offset, bytes);
            for (int i = 0; i < length; i++) Assert.True(bytes[i] == (byte)((offset + i) % 251), $"byte {i} of {length} at {offset}");
            return [.. queue.Asked.Skip(before).Select(request => (request.Offset, request.Buffer.Length))];
        }
    }

    [Fact]
    public void Stop_is_requested_by_a_call_a_signal_or_another_reason()
    {
        bool signalled = false, reason = false;
        StopFlag requested = new(), other = new(() => signalled);
        Assert.False(requested.Requested || other.Requested);
        requested.Request();
        Assert.True(requested.Requested);
        signalled = true;
        Assert.True(other.Requested);
        signalled = false;
        other.StopAlsoWhen(() => reason);
        Assert.False(other.Requested);
        reason = true;
        Assert.True(other.Requested);
    }

    [Fact]
    public void Rate_is_an_average_over_measurements_at_intervals()
    {
        RateMeter meter = new();
        Assert.True(meter.Measure(1000, 10));
        Assert.Equal(0, meter.BytesPerSecond);
        Assert.False(meter.Measure(5000, 10.0625));
        Assert.Equal(0, meter.BytesPerSecond);
        Assert.False(meter.Measure(1500, 10.5));
        Assert.Equal(1000, meter.BytesPerSecond);
        Assert.False(meter.Measure(3500, 11.5));
        Assert.Equal(1000 + (1000 * (1 - Math.Exp(-0.2))), meter.BytesPerSecond, 6);
    }

    [Theory]
    [InlineData("sync")]
    [InlineData("ring")]
    public void Wait_without_space_for_a_completion_and_an_unknown_device_are_refused(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 2);
        ArgumentException refused = Assert.Throws<ArgumentException>("completions", () => fixture.Queue.Wait([]));
        Assert.StartsWith("no room for a completion", refused.Message, StringComparison.Ordinal);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        if (kind == "ring") return;
        foreach (int device in (int[])[-1, 1])
            Assert.StartsWith($"device {device} of 1", Assert.Throws<ArgumentOutOfRangeException>("request",
                () => fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, device, 0, buffer, 1))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new SyncQueue([1], fixture.Arena, fixture.WakeUp, 0));
        Assert.Equal(-Errno.EINVAL, fixture.Queue.Perform(new BlockRequest((BlockVerb)77, 0, 0, buffer, 1)));
    }

    [Fact]
    public void Synchronous_call_is_repeated_after_an_interruption_but_a_flush_is_not()
    {
        using QueueFixture fixture = new("sync", 4096, 2);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        int asked = 0;
        Answering([SYS_pread64], call => call[0] == fixture.Device.Fd && asked++ < 5 ? -Errno.EINTR : null,
            () => Assert.Equal(4096, fixture.Queue.Perform(new BlockRequest(BlockVerb.Read, 0, 0, buffer, 1))));
        Assert.Equal(6, asked);
        int flushes = 0;
        FileFlush.Before = _ =>
        {
            flushes++;
            return -Errno.EINTR;
        };
        try
        {
            Assert.Equal(-Errno.EINTR, fixture.Queue.Perform(new BlockRequest(BlockVerb.Flush, 0, 0, default, 1)));
        }
        finally
        {
            FileFlush.Before = null;
        }
        Assert.Equal(1, flushes);
    }

    private sealed class Ring(int depth) : FakeRing(depth, 8, 16, 65536, [100])
    {
        public bool Ask(uint tag) => Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 512), tag));
    }

    [Theory]
    [InlineData(-Errno.EIO, -Errno.EIO)]
    [InlineData(-Errno.EPERM, -Errno.EPERM)]
    [InlineData(0, -Errno.EIO)]
    [InlineData(4, -Errno.EIO)]
    public void Read_of_the_wake_up_that_fails_breaks_the_queue(int result, int errno)
    {
        using Ring ring = new(2);
        ring.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            k.Complete(k.InFlight.Single(request => request.UserData == FakeRing.WakeUpData), result);
            return taken;
        };
        Assert.Equal(errno, ring.Queue.Wait(new BlockCompletion[2]));
        Assert.True(ring.Queue.Leaked);
    }

    [Theory]
    [InlineData(Errno.EAGAIN)]
    [InlineData(Errno.EBUSY)]
    public void Call_is_repeated_a_thousand_times_while_the_kernel_is_short_of_memory(int errno)
    {
        using Ring waiting = new(2), closing = new(2);
        int waits = 0;
        waiting.Ask(1);
        waiting.Kernel.OnEnter = (_, _, _) => -errno;
        closing.Ask(1);
        closing.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            k.Complete(FakeRing.Requests(k)[0], 512);
            return taken;
        };
        Assert.Equal(1, closing.Queue.Wait(new BlockCompletion[2]));
        closing.Kernel.OnEnter = (_, _, _) => -errno;
        int before = closing.Kernel.EnterFlags.Count;
        Answering([SYS_poll], call =>
        {
            if (call.Long(1) != 0 || call[2] != 1) return null;
            waits++;
            return 0;
        }, () =>
        {
            Assert.Equal(-errno, waiting.Queue.Wait(new BlockCompletion[2]));
            Assert.Equal((1001, 1000), (waiting.Kernel.EnterFlags.Count, waits));
            closing.Queue.Dispose();
        });
        Assert.True(closing.Queue.Leaked);
        Assert.Equal((1001, 2001), (closing.Kernel.EnterFlags.Count - before, waits));
    }

    [Fact]
    public void Closed_ring_refuses_everything()
    {
        Ring ring = new(2);
        ring.Dispose();
        Assert.Throws<ObjectDisposedException>(() => ring.Ask(1));
        Assert.Throws<ObjectDisposedException>(() => ring.Queue.TryCommand(1, 1, [], 1));
        Assert.Throws<ObjectDisposedException>(() => ring.Queue.Wait(new BlockCompletion[1]));
        ring.Queue.Dispose();
    }

    [Theory]
    [InlineData("BZh1", "a file compressed with bzip2")]
    [InlineData("BZh9", "a file compressed with bzip2")]
    [InlineData("BZh0", "text")]
    [InlineData("BZh:", "text")]
    [InlineData("BZh", "text")]
    [InlineData("ab", "text")]
    [InlineData("a", null)]
    [InlineData("a\n\r\t\f\u001b", "text")]
    [InlineData("a\b", null)]
    [InlineData("a\v", null)]
    [InlineData("a\u007f", null)]
    [InlineData("a\u0085", null)]
    public void Short_text_is_recognized_by_its_characters(string text, string? what)
    {
        string? said = ForeignFormat.Describe(System.Text.Encoding.UTF8.GetBytes(text));
        if (what == null) Assert.Null(said);
        else Assert.StartsWith(what, said, StringComparison.Ordinal);
    }

    [Fact]
    public void Only_the_first_512_bytes_decide_about_text()
    {
        byte[] text = new byte[600];
        Array.Fill(text, (byte)'a');
        text[512] = 0;
        Assert.NotNull(ForeignFormat.Describe(text));
        text[511] = 0;
        Assert.Null(ForeignFormat.Describe(text));
    }

    [Fact]
    public void Sparse_magic_is_read_in_pieces_and_a_device_that_cannot_be_read_is_raw()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], [0x3a, 0xff, 0x26, 0xed, 1]);
        using BlockDevice device = BlockDevice.Open(folder["image"], DeviceAccess.Read);
        List<(long Length, long Offset)> asked = [];
        bool sparse = false;
        Answering([SYS_pread64], call =>
        {
            asked.Add((call.Long(2), call.Long(3)));
            if (asked.Count % 3 != 0) return asked.Count % 3 == 1 ? -Errno.EINTR : -Errno.EAGAIN;
            call.At<byte>(1) = ((byte[])[0x3a, 0xff, 0x26, 0xed])[call.Long(3)];
            return 1;
        }, () => sparse = ForeignFormat.IsSparse(device));
        Assert.True(sparse);
        Assert.Equal(((long, long)[])[(4, 0), (3, 1), (2, 2), (1, 3)], asked.Where((_, i) => i % 3 == 2));
        foreach (int errno in (int[])[Errno.EIO, Errno.EPERM, Errno.EAGAIN])
        {
            int count = 0;
            Answering([SYS_pread64], _ =>
            {
                count++;
                return -errno;
            }, () => sparse = ForeignFormat.IsSparse(device));
            Assert.False(sparse);
            Assert.Equal(errno == Errno.EAGAIN ? Retry.AttemptsBeforeSync + 1 : 1, count);
        }
        ForeignFormat.RefuseSparse(null);
    }
}
