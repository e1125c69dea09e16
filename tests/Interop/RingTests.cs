using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Interop;

/// <summary>The ring's arithmetic on ordinary memory.</summary>
public sealed class RingTests
{
    private static IoUringSqe Nop(ulong data, uint length = 0) =>
        new() { Opcode = IoUringAbi.IORING_OP_NOP, UserData = data, Len = length };

    private static List<ulong> Reap(Ring ring)
    {
        List<ulong> data = [];
        while (ring.TryReap(out IoUringCqe completion)) data.Add(completion.UserData);
        return data;
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(uint.MaxValue - 10)]
    public void Every_request_completes_once_and_in_order_while_all_counters_wrap(uint start)
    {
        using FakeRingKernel kernel = new(4, 8, start);
        Ring ring = new(kernel.Memory, kernel);
        ulong next = 0;
        ulong expected = 0;
        for (int round = 0; round < 100; round++)
        {
            for (int i = 0; i <= round % 4; i++) Assert.True(ring.TryPrepare(Nop(next++)));
            Assert.Equal((round % 4) + 1, ring.Enter(1));
            foreach (ulong data in Reap(ring)) Assert.Equal(expected++, data);
            Assert.Equal(next, expected);
        }
    }

    [Fact]
    public void Full_submission_ring_refuses_a_request_and_keeps_its_requests()
    {
        using FakeRingKernel kernel = new(4, 8, uint.MaxValue - 1);
        Ring ring = new(kernel.Memory, kernel);
        for (ulong i = 0; i < 4; i++) Assert.True(ring.TryPrepare(Nop(i)));
        Assert.False(ring.TryPrepare(Nop(99)));
        Assert.Equal(4u, ring.Pending);
        Assert.Equal(4, ring.Enter(1));
        Assert.Equal([0, 1, 2, 3], Reap(ring));
    }

    [Fact]
    public void Requests_that_the_kernel_did_not_accept_stay_pending_and_are_submitted_again()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        List<uint> offered = [];
        kernel.OnEnter = (k, submit, _) =>
        {
            offered.Add(submit);
            return k.Take(1);
        };
        for (ulong i = 0; i < 3; i++) ring.TryPrepare(Nop(i));
        Assert.Equal(1, ring.Enter(0));
        Assert.Equal(2u, ring.Pending);
        // The freed slot can be used although earlier requests are still pending.
        Assert.True(ring.TryPrepare(Nop(3)));
        Assert.Equal(1, ring.Enter(0));
        Assert.Equal(1, ring.Enter(0));
        Assert.Equal(1, ring.Enter(0));
        Assert.Equal([3u, 3u, 2u, 1u], offered);
        Assert.Equal([0ul, 1ul, 2ul, 3ul], kernel.InFlight.Select(r => r.UserData));
    }

    [Fact]
    public void Requests_are_invisible_to_the_kernel_before_enter()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        ring.TryPrepare(Nop(1));
        Assert.Equal(0, kernel.Take(10));
    }

    [Fact]
    public void Enter_always_requests_events()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        ring.Enter(0);
        ring.TryPrepare(Nop(1));
        ring.Enter(0);
        ring.Enter(1);
        Assert.All(kernel.EnterFlags, flags => Assert.Equal(IoUringAbi.IORING_ENTER_GETEVENTS, flags));
        Assert.Equal(3, kernel.EnterFlags.Count);
    }

    [Fact]
    public void Errors_of_enter_are_returned_and_lose_no_request()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        ring.TryPrepare(Nop(7));
        Func<FakeRingKernel, uint, uint, int> normal = kernel.OnEnter;
        foreach (int errno in new[] { Errno.EINTR, Errno.EAGAIN, Errno.EBUSY })
        {
            kernel.OnEnter = (_, _, _) => -errno;
            Assert.Equal(-errno, ring.Enter(1));
            Assert.Equal(1u, ring.Pending);
        }
        kernel.OnEnter = normal;
        Assert.Equal(1, ring.Enter(1));
        Assert.Equal([7], Reap(ring));
    }

    [Fact]
    public void Completions_are_reaped_in_the_order_in_which_the_kernel_made_them()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            while (k.InFlight.Count > 0) k.Complete(k.InFlight[^1], -Errno.EIO);
            return taken;
        };
        for (ulong i = 0; i < 4; i++) ring.TryPrepare(Nop(i));
        ring.Enter(1);
        Assert.Equal(4u, ring.Ready);
        Assert.Equal([3, 2, 1, 0], Reap(ring));
        Assert.Equal(0u, ring.Ready);
    }

    [Fact]
    public void Overflowed_completions_are_announced_and_arrive_after_the_next_enter()
    {
        using FakeRingKernel kernel = new(4, 4, uint.MaxValue - 2);
        Ring ring = new(kernel.Memory, kernel);
        for (ulong i = 0; i < 4; i++) ring.TryPrepare(Nop(i));
        ring.Enter(0);
        for (ulong i = 4; i < 6; i++) ring.TryPrepare(Nop(i));
        ring.Enter(0);
        Assert.True(ring.HasOverflow);
        Assert.Equal([0, 1, 2, 3], Reap(ring));
        ring.Enter(0);
        Assert.False(ring.HasOverflow);
        Assert.Equal([4, 5], Reap(ring));
        Assert.Equal(0u, ring.Lost);
    }

    [Fact]
    public void Lost_completions_are_counted()
    {
        using FakeRingKernel kernel = new(4, 4);
        Ring ring = new(kernel.Memory, kernel);
        kernel.LostCompletions = 2;
        Assert.Equal(2u, ring.Lost);
    }

    [Fact]
    public void Withdrawn_requests_never_reach_the_kernel()
    {
        using FakeRingKernel kernel = new(4, 8);
        Ring ring = new(kernel.Memory, kernel);
        for (ulong i = 0; i < 3; i++) ring.TryPrepare(Nop(i));
        kernel.OnEnter = (k, _, _) => k.Take(1);
        ring.Enter(0);
        Assert.True(ring.TryTakeBack(out ulong data));
        Assert.Equal(2ul, data);
        Assert.True(ring.TryTakeBack(out data));
        Assert.Equal(1ul, data);
        Assert.False(ring.TryTakeBack(out _));
        Assert.Equal(0, kernel.Take(10));
        ring.TryPrepare(Nop(9));
        ring.Enter(0);
        Assert.Equal([0ul, 9ul], kernel.InFlight.Select(r => r.UserData));
    }

    [Fact]
    public void Entry_of_128_bytes_has_80_command_bytes_and_no_remains_of_an_earlier_entry()
    {
        using FakeRingKernel kernel = new(2, 4, 0, 128);
        Ring ring = new(kernel.Memory, kernel);
        byte[] command = Enumerable.Range(1, 80).Select(i => (byte)i).ToArray();
        Assert.True(ring.TryPrepare(Nop(1), command));
        Assert.True(ring.TryPrepare(Nop(2), command));
        Assert.False(ring.TryPrepare(Nop(3), command));
        Assert.Equal(command, kernel.EntryBytes(1)[48..].ToArray());
        ring.Enter(2);
        Assert.Equal([1, 2], Reap(ring));
        ring.TryPrepare(Nop(3));
        Assert.Equal(new byte[80], kernel.EntryBytes(0)[48..].ToArray());
        Assert.Throws<ArgumentException>(() => ring.TryPrepare(Nop(4), new byte[81]));
    }

    [Fact]
    public void Sizes_that_are_not_powers_of_two_are_refused()
    {
        using FakeRingKernel kernel = new(3, 8);
        Assert.Throws<ArgumentException>(() => new Ring(kernel.Memory, kernel));
    }
}
