using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The ring queue on a simulated kernel that interrupts, refuses, takes fewer requests, or never answers.</summary>
public sealed class RingQueueTests
{
    private sealed class Fixture : FakeRing
    {
        public Fixture(int depth, uint entries, uint completions) : base(depth, entries, completions, 65536, [100, 101]) =>
            Kernel.OnEnter = (k, submit, _) =>
            {
                int taken = k.Take(submit);
                CompleteAll();
                return taken;
            };

        public BlockCompletion[] Completions { get; } = new BlockCompletion[64];

        public bool Ask(uint tag, BlockVerb verb = BlockVerb.Read) =>
            Queue.TryQueue(new BlockRequest(verb, 1, 4096 * tag, new Slice(0, 4096), tag));

        public void CompleteAll()
        {
            foreach (IoUringSqe request in Requests(Kernel)) Kernel.Complete(request, (int)request.Len);
        }

        public uint[] Reaped(int count) => Completions.AsSpan(0, count).ToArray().Select(c => c.Tag).ToArray();
    }

    [Fact]
    public void Requests_are_plain_entries_without_links_drain_or_forced_threads()
    {
        using Fixture fixture = new(4, 8, 16);
        List<IoUringSqe> seen = [];
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            seen.AddRange(k.InFlight);
            fixture.CompleteAll();
            return taken;
        };
        fixture.Ask(1);
        fixture.Ask(2, BlockVerb.Write);
        fixture.Ask(3, BlockVerb.Flush);
        Assert.Equal(3, fixture.Queue.Wait(fixture.Completions));
        Assert.Equal(
            [(IoUringAbi.IORING_OP_READ, 101, 4096ul, 4096u), (IoUringAbi.IORING_OP_WRITE, 101, 8192ul, 4096u),
                (IoUringAbi.IORING_OP_FSYNC, 101, 0ul, 0u)],
            seen.Where(r => r.UserData != FakeRing.WakeUpData).Select(r => (r.Opcode, r.Fd, r.Off, r.Len)));
        Assert.Equal(IoUringAbi.IORING_FSYNC_DATASYNC, seen.Single(r => r.UserData == 3).FsyncFlags);
        Assert.All(seen, r => Assert.Equal(0, r.Flags));
        Assert.Equal(1, seen.Count(r => r.UserData == FakeRing.WakeUpData));
    }

    [Fact]
    public void Command_of_a_driver_is_queued_beside_requests_and_its_completion_goes_to_the_listener()
    {
        using Fixture fixture = new(4, 8, 16);
        List<IoUringSqe> seen = [];
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            seen.AddRange(k.InFlight);
            foreach (IoUringSqe command in k.InFlight.Where(r => r.Opcode == IoUringAbi.IORING_OP_URING_CMD).ToArray())
                k.Complete(command, -Errno.ENODEV);
            fixture.CompleteAll();
            return taken;
        };
        List<(uint, int)> ended = [];
        fixture.Queue.ListenToCommands((tag, result) => ended.Add((tag, result)));
        fixture.Ask(3);
        Assert.True(fixture.Queue.TryCommand(77, 0xc0107520, [1, 0, 3, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], 3));
        Assert.Equal([3u], fixture.Reaped(fixture.Queue.Wait(fixture.Completions)));
        Assert.Equal([(3u, -Errno.ENODEV)], ended);
        IoUringSqe command = seen.Single(r => r.Opcode == IoUringAbi.IORING_OP_URING_CMD);
        Assert.Equal((77, 0xc0107520u, 0x30001ul, 9ul), (command.Fd, command.CmdOp, command.Addr3, command.Reserved));

        // A command alone ends the wait, as a wake-up does.
        Assert.True(fixture.Queue.TryCommand(77, 1, [], 4));
        Assert.Equal(0, fixture.Queue.Wait(fixture.Completions));
        Assert.Equal((4u, -Errno.ENODEV), ended[^1]);
    }

    [Fact]
    public void Interrupted_wait_continues()
    {
        using Fixture fixture = new(4, 8, 16);
        int interruptions = 0;
        Func<FakeRingKernel, uint, uint, int> normal = fixture.Kernel.OnEnter;
        fixture.Kernel.OnEnter = (k, submit, complete) => interruptions++ < 50 ? -Errno.EINTR : normal(k, submit, complete);
        fixture.Ask(7);
        Assert.Equal([7u], fixture.Reaped(fixture.Queue.Wait(fixture.Completions)));
        Assert.Equal(51, interruptions);
    }

    [Fact]
    public void Requests_that_the_kernel_accepts_one_by_one_all_start_in_one_wait()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Kernel.OnEnter = (k, submit, complete) =>
        {
            int taken = k.Take(1);
            if (submit == 0 || complete > 0) fixture.CompleteAll();
            return taken;
        };
        for (uint tag = 0; tag < 4; tag++) fixture.Ask(tag);
        int count = fixture.Queue.Wait(fixture.Completions);
        Assert.True(count > 0);
        // The counter wrapped: four requests and the wake-up's read.
        Assert.Equal(uint.MaxValue, fixture.Kernel.SubmissionHead);
    }

    [Fact]
    public void Busy_ring_is_reaped_before_the_requests_are_submitted_again()
    {
        using Fixture fixture = new(4, 8, 2);
        List<(uint Submit, bool Busy)> enters = [];
        bool busy = false;
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            enters.Add((submit, busy && submit > 0));
            // A kernel with overflowed completions refuses new requests, but still delivers completions.
            if (busy && submit > 0) return -Errno.EBUSY;
            busy = false;
            int taken = k.Take(submit);
            fixture.CompleteAll();
            return taken;
        };
        for (uint tag = 0; tag < 4; tag++) fixture.Ask(tag);
        BlockCompletion[] two = new BlockCompletion[2];
        Assert.Equal(2, fixture.Queue.Wait(two));
        Assert.Equal([0u, 1u], two.Select(c => c.Tag));
        busy = true;
        fixture.Ask(8);
        List<uint> rest = [];
        while (rest.Count < 3)
        {
            int count = fixture.Queue.Wait(fixture.Completions);
            Assert.True(count > 0, Errno.Name(count));
            rest.AddRange(fixture.Reaped(count));
        }
        Assert.Equal([2u, 3u, 8u], rest);
        Assert.Contains((1u, true), enters);
        Assert.False(busy);
    }

    [Fact]
    public void Submission_is_repeated_until_the_kernel_has_memory()
    {
        using Fixture fixture = new(4, 8, 16);
        int refusals = 0;
        Func<FakeRingKernel, uint, uint, int> normal = fixture.Kernel.OnEnter;
        fixture.Kernel.OnEnter = (k, submit, complete) => refusals++ < 5 ? -Errno.EAGAIN : normal(k, submit, complete);
        fixture.Ask(1);
        Assert.Equal(1, fixture.Queue.Wait(fixture.Completions));
    }

    [Fact]
    public void Queue_fails_if_the_kernel_never_has_memory_and_nothing_is_unmapped()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Kernel.OnEnter = (_, _, _) => -Errno.EAGAIN;
        fixture.Ask(1);
        Assert.Equal(-Errno.EAGAIN, fixture.Queue.Wait(fixture.Completions));
        Assert.Equal(-Errno.EAGAIN, fixture.Queue.Wait(fixture.Completions));
        fixture.Queue.Dispose();
        Assert.True(fixture.Queue.Leaked);
        // An unmapped arena would have size 0.
        fixture.Arena.Dispose();
        Assert.Equal(65536, fixture.Arena.Size);
    }

    [Fact]
    public void Completions_out_of_order_keep_their_tags_and_results()
    {
        using Fixture fixture = new(8, 16, 32);
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            foreach (IoUringSqe request in Enumerable.Reverse(FakeRing.Requests(k))) k.Complete(request, -(int)request.UserData);
            return taken;
        };
        for (uint tag = 1; tag <= 8; tag++) fixture.Ask(tag);
        Assert.Equal(8, fixture.Queue.Wait(fixture.Completions));
        Assert.Equal(Enumerable.Range(1, 8).Reverse().Select(i => new BlockCompletion((uint)i, -i)), fixture.Completions.Take(8));
    }

    [Fact]
    public void Completions_that_overflow_the_ring_come_later_and_none_is_lost()
    {
        using Fixture fixture = new(8, 16, 2);
        for (uint tag = 0; tag < 8; tag++) fixture.Ask(tag);
        List<uint> reaped = [];
        while (reaped.Count < 8)
        {
            int count = fixture.Queue.Wait(fixture.Completions);
            Assert.True(count > 0, Errno.Name(count));
            reaped.AddRange(fixture.Reaped(count));
        }
        Assert.Equal(Enumerable.Range(0, 8).Select(i => (uint)i), reaped);
    }

    [Fact]
    public void Lost_completion_fails_the_queue()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Ask(1);
        fixture.Kernel.LostCompletions = 1;
        Assert.Equal(-Errno.EOVERFLOW, fixture.Queue.Wait(fixture.Completions));
    }

    [Fact]
    public void Queue_stays_full_until_completions_are_returned()
    {
        using Fixture fixture = new(2, 4, 8);
        Assert.True(fixture.Ask(1));
        Assert.True(fixture.Ask(2));
        Assert.False(fixture.Ask(3));
        Assert.Equal(1, fixture.Queue.Wait(fixture.Completions.AsSpan(0, 1)));
        Assert.True(fixture.Ask(3));
        Assert.False(fixture.Ask(4));
    }

    [Theory]
    [InlineData(-Errno.EINTR)]
    [InlineData(-Errno.EAGAIN)]
    [InlineData(-Errno.ECANCELED)]
    public void Read_of_the_wake_up_that_ends_without_a_signal_is_restarted(int result)
    {
        using Fixture fixture = new(4, 8, 16);
        int enters = 0;
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            k.Complete(k.InFlight.Single(r => r.UserData == FakeRing.WakeUpData), enters++ < 3 ? result : sizeof(ulong));
            return taken;
        };
        Assert.Equal(0, fixture.Queue.Wait(fixture.Completions));
        Assert.Equal(4, enters);
    }

    [Fact]
    public void Fatal_errno_of_enter_fails_the_queue()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Kernel.OnEnter = (_, _, _) => -Errno.EBADF;
        fixture.Ask(1);
        Assert.Equal(-Errno.EBADF, fixture.Queue.Wait(fixture.Completions));
    }

    [Fact]
    public void Disposal_waits_for_requests_in_flight()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Kernel.OnEnter = (k, submit, _) => k.Take(submit);
        fixture.Ask(1);
        fixture.Ask(2);
        fixture.WakeUp.Signal();
        int enters = 0;
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            if (k.InFlight.Any(r => r.UserData == 2)) k.Complete(k.InFlight.Single(r => r.UserData == 2), 4096);
            return taken;
        };
        Assert.Equal(1, fixture.Queue.Wait(fixture.Completions));
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            if (++enters >= 3) k.Complete(k.InFlight[0], -Errno.ECANCELED);
            return enters % 2 == 0 ? -Errno.EINTR : taken;
        };
        fixture.Queue.Dispose();
        Assert.False(fixture.Queue.Leaked);
        Assert.Equal(4, enters);
        Assert.DoesNotContain(fixture.Kernel.InFlight, r => r.UserData is 1 or FakeRing.WakeUpData);
    }

    [Fact]
    public void Disposal_restores_a_signal_that_its_own_read_consumed()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Ask(1);
        Assert.Equal(1, fixture.Queue.Wait(fixture.Completions));
        fixture.WakeUp.Signal();
        fixture.Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            byte[] count = new byte[8];
            k.Complete(k.InFlight.Single(r => r.UserData == FakeRing.WakeUpData), (int)Libc.Read(fixture.WakeUp.Fd, count));
            return taken;
        };
        fixture.Queue.Dispose();
        Assert.True(fixture.WakeUp.TryTake());
    }

    [Fact]
    public void Disposal_that_cannot_reap_leaks_instead_of_unmapping()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Ask(1);
        Assert.Equal(1, fixture.Queue.Wait(fixture.Completions));
        fixture.Kernel.OnEnter = (_, _, _) => -Errno.EBADF;
        fixture.Queue.Dispose();
        Assert.True(fixture.Queue.Leaked);
        fixture.Arena.Dispose();
        Assert.Equal(65536, fixture.Arena.Size);
    }

    [Fact]
    public void Disposal_removes_requests_that_were_queued_and_not_started()
    {
        using Fixture fixture = new(4, 8, 16);
        fixture.Ask(1, BlockVerb.Write);
        fixture.Queue.Dispose();
        Assert.Empty(fixture.Kernel.EnterFlags);
        Assert.False(fixture.Queue.Leaked);
    }

    [Theory]
    [InlineData(2, "set it to 0")]
    [InlineData(1, "run as root")]
    [InlineData(0, "seccomp")]
    [InlineData(-1, "seccomp")]
    public void Refusal_names_cause_and_remedy(int sysctl, string remedy)
    {
        Assert.Contains(remedy, UringUnavailable.Forbidden(-Errno.EPERM, sysctl), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(Errno.ENOSYS, "5.1")]
    [InlineData(Errno.ENOMEM, "ulimit -l")]
    [InlineData(Errno.EMFILE, "ulimit -n")]
    [InlineData(Errno.EINVAL, "kernel")]
    [InlineData(Errno.EFAULT, "EFAULT")]
    public void Every_errno_of_setup_has_its_message(int errno, string part)
    {
        UringUnavailable refusal = UringUnavailable.Of(-errno);
        Assert.Equal(-errno, refusal.Errno);
        Assert.Contains(part, refusal.Sentence, StringComparison.Ordinal);
    }
}
