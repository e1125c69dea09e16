using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.CompilerServices;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>
/// The calls of io_uring_enter by the ring queue: how many requests each call submits, whether it waits, and which requests remain at the
/// end. A turn is one such call.
/// </summary>
public sealed class RingTurnTests
{
    private sealed class Fixture(uint entries = 8) : FakeRing(4, entries, 16, 65536, [100, 101])
    {
        private readonly Queue<Func<FakeRingKernel, uint, int>> _turns = new();

        /// <summary>For each call: the number of requests offered, and the number of completions waited for.</summary>
        public List<(uint Submit, uint Complete)> Calls { get; } = [];

        public bool Ask(uint tag, BlockVerb verb = BlockVerb.Read) =>
            Queue.TryQueue(new BlockRequest(verb, 1, 4096, new Slice(0, 4096), tag));

        /// <summary>Makes the simulated kernel run these turns, one per call. After the last turn it fails with EBADF.</summary>
        public void Turns(params Func<FakeRingKernel, uint, int>[] turns)
        {
            Calls.Clear();
            _turns.Clear();
            foreach (Func<FakeRingKernel, uint, int> turn in turns) _turns.Enqueue(turn);
            Kernel.OnEnter = (k, submit, complete) =>
            {
                Calls.Add((submit, complete));
                return _turns.TryDequeue(out Func<FakeRingKernel, uint, int>? next) ? next(k, submit) : -Errno.EBADF;
            };
        }

        public (int Count, uint[] Tags) Wait(int room = 8)
        {
            BlockCompletion[] completions = new BlockCompletion[room];
            int count = Queue.Wait(completions);
            return (count, [.. completions.Take(Math.Max(count, 0)).Select(completion => completion.Tag)]);
        }

        public void Expect(int room, params uint[] tags)
        {
            (int count, uint[] reaped) = Wait(room);
            Assert.Equal(tags.Length, count);
            Assert.Equal(tags, reaped);
            Assert.False(Queue.Leaked);
        }
    }

    /// <summary>
    /// A turn that takes up to <paramref name="count"/> requests and completes those with user data <paramref name="ended"/>.
    /// </summary>
    private static Func<FakeRingKernel, uint, int> Takes(uint count, params ulong[] ended) => (k, submit) =>
    {
        int taken = k.Take(Math.Min(count, submit));
        foreach (ulong data in ended)
            k.Complete(k.InFlight.Single(request => request.UserData == data), data == FakeRing.WakeUpData ? sizeof(ulong) : 1);
        return taken;
    };

    /// <summary>A turn that completes these requests and then fails.</summary>
    private static Func<FakeRingKernel, uint, int> Fails(int errno, params ulong[] ended) => (k, _) =>
    {
        foreach (ulong data in ended)
            k.Complete(k.InFlight.Single(request => request.UserData == data), data == FakeRing.WakeUpData ? sizeof(ulong) : 1);
        return -errno;
    };

    [Fact]
    public void Turn_waits_only_while_nothing_was_reaped()
    {
        using Fixture fixture = new();
        for (uint tag = 1; tag <= 3; tag++) fixture.Ask(tag);
        // One request is taken and completes. The queue offers the others without waiting, and reports later completions after it.
        fixture.Turns(Takes(1, 1), Takes(1), Takes(2, 2));
        fixture.Expect(8, 1, 2);
        Assert.Equal([(4, 1), (3, 0), (2, 0)], fixture.Calls);
        fixture.Turns(Takes(0), Takes(0, 3));
        fixture.Expect(8, 3);
        Assert.Equal([(0, 1), (0, 1)], fixture.Calls);
    }

    [Fact]
    public void Turn_after_a_wake_up_does_not_wait()
    {
        using Fixture fixture = new();
        fixture.Turns(Takes(8), Takes(0, FakeRing.WakeUpData));
        fixture.Expect(8);
        fixture.Ask(1);
        fixture.Ask(2);
        fixture.Turns(Takes(3), Fails(Errno.EINTR, FakeRing.WakeUpData), Takes(8));
        fixture.Expect(8);
        Assert.Equal([(3, 1), (0, 1)], fixture.Calls);
        fixture.Turns(Takes(8, 1));
        fixture.Expect(8, 1);
        fixture.Ask(3);
        fixture.Ask(4);
        // The queue submits the wake-up's read again, together with the remaining requests.
        fixture.Turns(Takes(1, FakeRing.WakeUpData), Takes(8));
        fixture.Expect(8);
        Assert.Equal([(2, 1), (2, 0)], fixture.Calls);
    }

    [Fact]
    public void Available_completion_is_returned_without_waiting()
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Ask(2);
        fixture.Turns(Takes(8, 1, 2), Takes(8));
        fixture.Expect(1, 1);
        fixture.Expect(1, 2);
        Assert.Equal([(3, 1), (0, 0)], fixture.Calls);
    }

    [Fact]
    public void Completion_is_returned_immediately_when_the_kernel_accepts_no_more_requests()
    {
        foreach (int errno in (int[])[Errno.EAGAIN, Errno.EBUSY])
        {
            using Fixture fixture = new();
            fixture.Ask(1);
            fixture.Ask(2);
            fixture.Turns(Takes(3), Takes(0, 1));
            fixture.Expect(1, 1);
            fixture.Ask(3);
            fixture.Turns(Fails(errno, 2), Takes(8, 3));
            fixture.Expect(8, 2);
            Assert.Equal([(1, 1)], fixture.Calls);
            fixture.Expect(8, 3);
            fixture.Ask(4);
            fixture.Ask(5);
            // The kernel accepts no request, which is not a failure. Then only the wake-up completes.
            fixture.Turns(Takes(1, 4), Takes(0), Takes(1), Fails(errno, FakeRing.WakeUpData), Takes(8, 5));
            fixture.Expect(8, 4);
            Assert.Equal([(2, 1), (1, 0)], fixture.Calls);
            fixture.Turns(Takes(1), Fails(Errno.EINTR), Takes(0, 5));
            fixture.Expect(8, 5);
            fixture.Ask(6);
            fixture.Turns(Fails(errno, FakeRing.WakeUpData), Takes(8, 6));
            fixture.Expect(8);
            Assert.Equal([(1, 1)], fixture.Calls);
        }
    }

    [Fact]
    public void Turn_after_EBUSY_submits_nothing_and_does_not_wait()
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Fails(Errno.EBUSY), Takes(0), Takes(8, 1));
        fixture.Expect(8, 1);
        Assert.Equal([(2, 1), (0, 0), (2, 1)], fixture.Calls);
        fixture.Ask(2);
        fixture.Turns(Fails(Errno.EAGAIN), Takes(8, 2));
        fixture.Expect(8, 2);
        Assert.Equal([(1, 1), (1, 1)], fixture.Calls);
    }

    [Theory]
    [InlineData(Errno.EBUSY, 2001)]
    [InlineData(Errno.EAGAIN, 1001)]
    [InlineData(0, 1001)]
    public void Requests_are_submitted_a_thousand_times_to_a_kernel_that_accepts_none(int errno, int calls)
    {
        using Fixture fixture = new();
        // The kernel has not taken the second request and the wake-up's read before it.
        fixture.Ask(1);
        fixture.Turns(Takes(8, 1));
        fixture.Expect(8, 1);
        fixture.Ask(2);
        int made = 0, waits = 0;
        fixture.Kernel.OnEnter = (_, submit, _) =>
        {
            made++;
            return submit > 0 ? -errno : 0;
        };
        int result = 0;
        Answering([SYS_poll], call =>
        {
            if (call.Long(1) != 0 || call[2] != 1) return null;
            waits++;
            return 0;
        }, () => result = fixture.Wait().Count);
        Assert.Equal((errno == 0 ? -Errno.EAGAIN : -errno, calls, 1000), (result, made, waits));
        Assert.True(fixture.Queue.Leaked);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-Errno.EINTR)]
    public void Wait_that_ends_without_a_completion_is_repeated_without_limit(int answer)
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Takes(8, FakeRing.WakeUpData));
        fixture.Expect(8);
        int calls = 0;
        fixture.Kernel.OnEnter = (k, submit, complete) =>
        {
            int taken = k.Take(submit);
            Assert.Equal(1u, complete);
            if (++calls <= 1500) return calls == 1 ? taken : answer;
            k.Complete(FakeRing.Requests(k)[0], 4096);
            return taken;
        };
        // No resource is short, so the queue must not sleep between calls.
        Answering([SYS_poll], call => call.Long(1) == 0 ? throw new InvalidOperationException("sleeps") : null, () => fixture.Expect(8, 1));
        Assert.Equal(1501, calls);
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EBADF)]
    public void Failed_queue_repeats_its_error_without_entering_the_kernel_and_closes_nothing(int errno)
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Fails(errno), Takes(8, 1));
        Assert.Equal(-errno, fixture.Wait().Count);
        Assert.Equal(-errno, fixture.Wait().Count);
        fixture.Queue.Dispose();
        Assert.Single(fixture.Calls);
        Assert.True(fixture.Queue.Leaked);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(1u)]
    [InlineData(uint.MaxValue)]
    public void Command_of_any_tag_is_passed_to_the_listener_and_does_not_count_as_a_request(uint tag)
    {
        using Fixture fixture = new();
        List<(uint, int)> ended = [];
        fixture.Queue.ListenToCommands((which, result) => ended.Add((which, result)));
        Assert.True(fixture.Queue.TryCommand(7, 1, [], tag));
        ulong data = (3UL << 32) | tag;
        fixture.Turns(Takes(8, data), Takes(8, 1));
        fixture.Expect(8);
        Assert.Equal([(tag, 1)], ended);
        // Exactly four requests fit.
        for (uint request = 1; request <= 4; request++) Assert.True(fixture.Ask(request));
        Assert.False(fixture.Ask(5));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(uint.MaxValue)]
    public void Command_that_is_removed_at_the_end_does_not_count_as_in_flight(uint tag)
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Takes(8, FakeRing.WakeUpData));
        fixture.Expect(8);
        Assert.True(fixture.Queue.TryCommand(7, 1, [], tag));
        fixture.Turns(Takes(8), Takes(8, 1));
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.Equal([(1, 1), (0, 1)], fixture.Calls);
        Assert.DoesNotContain(fixture.Kernel.InFlight, request => request.UserData is 1 or FakeRing.WakeUpData);
    }

    [Fact]
    public void Unaccepted_read_of_the_wake_up_is_removed_at_the_end()
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Takes(8, FakeRing.WakeUpData));
        fixture.Expect(8);
        fixture.Turns(Fails(Errno.EAGAIN, 1));
        fixture.Expect(8, 1);
        fixture.Turns();
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.Empty(fixture.Calls);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Disposal_waits_for_requests_and_for_the_wake_up_in_either_order(bool wakeUpFirst)
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Ask(2);
        fixture.Turns(Takes(8, 2));
        fixture.Expect(8, 2);
        (ulong first, ulong last) = wakeUpFirst ? (FakeRing.WakeUpData, 1ul) : (1ul, FakeRing.WakeUpData);
        // Between the two completions: one call that takes nothing, and one that is interrupted.
        fixture.Turns(Takes(8), Takes(0, first), Takes(0), Fails(Errno.EINTR), Takes(0, last));
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.Equal([(1, 1), (0, 1), (0, 1), (0, 1), (0, 1)], fixture.Calls);
        Assert.DoesNotContain(fixture.Kernel.InFlight, request => request.UserData is 1 or FakeRing.WakeUpData);
    }

    [Fact]
    public void Disposal_cancels_all_requests_and_does_not_wait_for_those_that_have_ended()
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Ask(2);
        fixture.Turns(Takes(8, 1, 2, FakeRing.WakeUpData));
        fixture.Expect(1, 1);
        IoUringSqe cancel = default;
        fixture.Turns((k, submit) =>
        {
            int taken = k.Take(submit);
            cancel = k.InFlight.Single();
            return taken;
        });
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.Equal([(1, 0)], fixture.Calls);
        Assert.Equal((IoUringAbi.IORING_OP_ASYNC_CANCEL, -1, IoUringAbi.IORING_ASYNC_CANCEL_ALL | IoUringAbi.IORING_ASYNC_CANCEL_ANY),
            (cancel.Opcode, cancel.Fd, cancel.CancelFlags));
    }

    [Fact]
    public void Disposal_ends_the_read_of_the_wake_up_by_a_signal_if_nothing_can_be_cancelled()
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Takes(8, 1));
        fixture.Expect(8, 1);
        fixture.Turns((k, submit) =>
        {
            int taken = k.Take(submit);
            k.Complete(k.InFlight.Single(request => request.UserData == 2UL << 32), -Errno.EINVAL);
            Span<PollFd> signal = [new PollFd { Fd = fixture.WakeUp.Fd, Events = Libc.POLLIN }];
            if (Libc.Poll(signal, 0) == 1) k.Complete(k.InFlight.Single(), (int)Libc.Read(fixture.WakeUp.Fd, new byte[8]));
            return taken;
        });
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.True(fixture.WakeUp.TryTake());
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.ENXIO)]
    public void Disposal_in_a_kernel_that_fails_leaks(int errno)
    {
        using Fixture fixture = new();
        fixture.Ask(1);
        fixture.Turns(Takes(8, 1));
        fixture.Expect(8, 1);
        fixture.Turns(Fails(errno), Takes(8, FakeRing.WakeUpData));
        fixture.Queue.Dispose();
        Assert.True(fixture.Queue.Leaked);
        Assert.Single(fixture.Calls);
    }

    /// <summary>Whether the page at an address is mapped.</summary>
    private static bool IsMapped(nint address) => Libc.MAdvise(address, Sizes.SystemPage, Libc.MADV_DONTNEED) == 0;

    /// <summary>
    /// Creates a queue over a kernel that completes only requests, and disposes of it. If it leaks, the wake-up's read is still in flight.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static (nint Buffer, nint Arena) Close(bool leaks)
    {
        using FakeRingKernel kernel = new(8, 16);
        using WakeUp wakeUp = new();
        using Arena arena = new(65536);
        Assert.Equal(0, MappedMemory.Map(Sizes.SystemPage, out MappedMemory? buffer));
        (nint, nint) addresses = (buffer!.Address, arena.Address);
        RingQueue queue = new(null, new Ring(kernel.Memory, kernel), [100], arena, wakeUp, buffer, 4, fixedBuffer: false);
        Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 4096), 1)));
        kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            k.Complete(k.InFlight[0], 4096);
            return taken;
        };
        Assert.Equal(1, queue.Wait(new BlockCompletion[4]));
        kernel.OnEnter = (k, submit, _) =>
        {
            if (leaks) return -Errno.EBADF;
            int taken = k.Take(submit);
            while (k.InFlight.Count > 0) k.Complete(k.InFlight[0], -Errno.ECANCELED);
            return taken;
        };
        queue.Dispose();
        Assert.Equal((leaks, leaks ? Sizes.SystemPage : 0), (queue.Leaked, (int)buffer.Length));
        return addresses;
    }

    [Fact]
    public void Memory_of_a_queue_that_leaked_stays_mapped_after_the_collector_has_run()
    {
        (nint buffer, nint arena) = Close(leaks: true);
        for (int i = 0; i < 2; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        Assert.True(IsMapped(buffer));
        Assert.True(IsMapped(arena));
        _ = Libc.MUnmap(buffer, Sizes.SystemPage);
        _ = Libc.MUnmap(arena, 65536);
        _ = Close(leaks: false);
    }

    [Theory]
    [InlineData(1, -Errno.EPERM, "forbidden")]
    [InlineData(0, -Errno.EPERM, "forbidden")]
    [InlineData(-Errno.EINTR, -Errno.ENXIO, "does nothing ended with ENXIO")]
    public void Wait_for_the_first_request_is_repeated_until_it_has_ended(int first, int second, string sentence)
    {
        using Arena arena = new(65536);
        using WakeUp wakeUp = new();
        UringUnavailable? refusal = null;
        int asked = 0;
        Answering([SYS_io_uring_enter], _ => asked++ == 0 ? first : second,
            () => refusal = RingQueue.TryCreate([-1], arena, wakeUp, 4, out _));
        Assert.Contains(sentence, refusal!.Value.Sentence, StringComparison.Ordinal);
        Assert.Equal(2, asked);
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.ENOMEM)]
    public void Ring_without_memory_for_the_read_of_the_wake_up_is_closed_and_refused(int errno)
    {
        using Arena arena = new(65536);
        using WakeUp wakeUp = new();
        UringUnavailable? refusal = null;
        RingQueue? queue = null;
        int ring = -1;
        List<int> closed = [];
        Answering([SYS_io_uring_enter, SYS_close], call =>
        {
            if (call.Number == SYS_close) closed.Add(call[0]);
            else ring = call[0];
            return null;
        }, () => RefusingToMap(Sizes.SystemPage, errno, () => refusal = RingQueue.TryCreate([-1], arena, wakeUp, 4, out queue)));
        Assert.Null(queue);
        Assert.Equal(-errno, refusal!.Value.Errno);
        Assert.True(ring >= 0);
        Assert.Contains(ring, closed);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Ring_that_is_closed_gives_back_its_buffers_and_its_descriptor(bool pin)
    {
        using Arena arena = new(65536);
        using WakeUp wakeUp = new();
        int ring = -1;
        List<string> calls = [];
        Answering([SYS_io_uring_enter, SYS_io_uring_register, SYS_close], call =>
        {
            switch (call.Number)
            {
                case SYS_io_uring_enter:
                    ring = call[0];
                    return null;
                case SYS_io_uring_register:
                    calls.Add((uint)call[1] == IoUringAbi.IORING_REGISTER_BUFFERS ? "register"
                        : (uint)call[1] == IoUringAbi.IORING_UNREGISTER_BUFFERS ? "unregister" : "other");
                    return 0;
                default:
                    if (call[0] == ring) calls.Add("close");
                    return null;
            }
        }, () =>
        {
            Assert.Null(RingQueue.TryCreate([-1], arena, wakeUp, 4, out RingQueue? queue, pin));
            Assert.Equal(pin, queue!.FixedBuffer);
            queue.Dispose();
            queue.Dispose();
        });
        Assert.Equal(pin ? ["register", "unregister", "close"] : ["close"], calls);
    }
}
