using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The scheduler completes transfers whose attempts end short, empty, interrupted or failed.</summary>
public sealed class IoSchedulerTests
{
    private static readonly Slice Buffer = new(8192, 16384);

    private static (long Offset, int Start, int Length)[] Places(ScriptedQueue queue) =>
        queue.Asked.Select(r => (r.Offset, r.Buffer.Offset, r.Buffer.Length)).ToArray();

    [Theory]
    [InlineData(BlockVerb.Read, 1, 1, 1)]
    [InlineData(BlockVerb.Read, 1, 16383, 16383)]
    [InlineData(BlockVerb.Read, 512, 512, 512)]
    [InlineData(BlockVerb.Read, 512, 1000, 512)]
    [InlineData(BlockVerb.Write, 1, 4097, 4097)]
    [InlineData(BlockVerb.Write, 4096, 8191, 4096)]
    [InlineData(BlockVerb.Write, 4096, 12288, 12288)]
    public void Short_transfer_continues_after_its_last_whole_granule(BlockVerb verb, int granule, int moved, int continuesAt)
    {
        ScriptedQueue queue = new(2) { Attempt = (n, r) => n == 0 ? moved : r.Buffer.Length };
        IoScheduler transfers = new(queue, [granule]);
        if (verb == BlockVerb.Read) transfers.Read(0, 40960, Buffer);
        else transfers.Write(0, 40960, Buffer);
        Assert.Null(transfers.Drain());
        Assert.Equal([(40960, 8192, 16384), (40960 + continuesAt, 8192 + continuesAt, 16384 - continuesAt)], Places(queue));
        Assert.All(queue.Asked, r => Assert.Equal(verb, r.Verb));
    }

    [Fact]
    public void Transfer_of_one_byte_at_a_time_completes()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => 1 };
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, Buffer.Part(0, 100));
        Assert.Null(transfers.Drain());
        Assert.Equal(100, queue.Asked.Count);
        Assert.Equal((99, 8192 + 99, 1), Places(queue)[99]);
    }

    [Fact]
    public void Transfer_that_never_completes_a_granule_is_EIO_after_a_bounded_number_of_attempts()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => 511 };
        IoScheduler transfers = new(queue, [512]);
        transfers.Write(0, 0, Buffer);
        Assert.Equal(-Errno.EIO, transfers.Drain()!.Value.Errno);
        Assert.Equal(Retry.AttemptsBeforeSync + 1, queue.Asked.Count);
    }

    [Theory]
    [InlineData(BlockVerb.Read)]
    [InlineData(BlockVerb.Write)]
    public void Result_of_zero_is_EIO(BlockVerb verb)
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => 0 };
        IoScheduler transfers = new(queue, [1]);
        if (verb == BlockVerb.Read) transfers.Read(0, 0, Buffer);
        else transfers.Write(0, 0, Buffer);
        Assert.Equal(-Errno.EIO, transfers.Drain()!.Value.Errno);
        Assert.Single(queue.Asked);
    }

    [Fact]
    public void Result_larger_than_the_request_is_EIO()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, r) => r.Buffer.Length + 1 };
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, Buffer);
        Assert.Equal(-Errno.EIO, transfers.Drain()!.Value.Errno);
    }

    [Theory]
    [InlineData(Errno.EINTR)]
    [InlineData(Errno.EAGAIN)]
    public void Interrupted_transfer_is_repeated_and_completes(int errno)
    {
        ScriptedQueue queue = new(1) { Attempt = (n, r) => n < Retry.AttemptsBeforeSync ? -errno : r.Buffer.Length };
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, Buffer);
        Assert.Null(transfers.Drain());
        Assert.Empty(queue.Performed);
        Assert.Equal(Retry.AttemptsBeforeSync + 1, queue.Asked.Count);
    }

    [Theory]
    [InlineData(Errno.EINTR)]
    [InlineData(Errno.EAGAIN)]
    public void Transfer_that_is_always_interrupted_ends_with_one_synchronous_call(int errno)
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -errno };
        IoScheduler transfers = new(queue, [1]);
        transfers.Write(0, 4096, Buffer);
        Assert.Null(transfers.Drain());
        Assert.Equal(Retry.AttemptsBeforeSync + 1, queue.Asked.Count);
        Assert.Equal(new BlockRequest(BlockVerb.Write, 0, 4096, Buffer, 0), Assert.Single(queue.Performed) with { Tag = 0 });
    }

    [Fact]
    public void Result_of_the_synchronous_call_is_final()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -Errno.EAGAIN, Plain = _ => -Errno.EAGAIN };
        IoScheduler transfers = new(queue, [1]);
        transfers.Write(0, 0, Buffer);
        Assert.Equal(-Errno.EAGAIN, transfers.Drain()!.Value.Errno);
        Assert.Single(queue.Performed);
    }

    [Fact]
    public void Transfer_continues_through_the_queue_after_a_short_synchronous_call()
    {
        ScriptedQueue queue = new(1) { Attempt = (n, r) => n == 0 ? -Errno.ECANCELED : r.Buffer.Length, Plain = _ => 4096 };
        IoScheduler transfers = new(queue, [512]);
        transfers.Read(0, 0, Buffer);
        Assert.Null(transfers.Drain());
        Assert.Equal([(0, 8192, 16384), (4096, 12288, 12288)], Places(queue));
    }

    [Fact]
    public void Progress_resets_the_number_of_attempts()
    {
        // Each piece is interrupted fifteen times. That is below the limit for one piece, and far above it for the whole transfer.
        int step = Retry.AttemptsBeforeSync;
        ScriptedQueue queue = new(1) { Attempt = (n, _) => n % step == step - 1 ? 4096 : -Errno.EAGAIN };
        IoScheduler transfers = new(queue, [4096]);
        transfers.Read(0, 0, Buffer);
        Assert.Null(transfers.Drain());
        Assert.Empty(queue.Performed);
        Assert.Equal(4 * step, queue.Asked.Count);
    }

    [Theory]
    [InlineData(16384, 0)]
    [InlineData(-Errno.ENOSPC, -Errno.ENOSPC)]
    public void Cancelled_transfer_gets_the_result_of_the_synchronous_call(int plain, int expected)
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -Errno.ECANCELED, Plain = _ => plain };
        IoScheduler transfers = new(queue, [1]);
        transfers.Write(0, 0, Buffer);
        Assert.Equal(expected, transfers.Drain()?.Errno ?? 0);
        Assert.Single(queue.Asked);
        Assert.Single(queue.Performed);
    }

    [Fact]
    public void Transfers_that_end_in_any_order_all_complete()
    {
        const int Seed = 99;
        Random random = new(Seed);
        ScriptedQueue queue =
            new(8) { Next = random.Next, Attempt = (_, r) => random.Next(3) == 0 ? -Errno.EINTR : random.Next(1, r.Buffer.Length + 1) };
        IoScheduler transfers = new(queue, [1]);
        long[] moved = new long[100];
        Func<int, BlockRequest, int> attempt = queue.Attempt;
        queue.Attempt = (n, r) =>
        {
            int result = attempt(n, r);
            if (result > 0) moved[r.Offset / 100000] += result;
            return result;
        };
        queue.Plain = r =>
        {
            moved[r.Offset / 100000] += r.Buffer.Length;
            return r.Buffer.Length;
        };
        for (int i = 0; i < 100; i++) transfers.Read(0, i * 100000L, Buffer.Part(0, 1000 + i));
        Assert.Null(transfers.Drain());
        Assert.Equal(0, transfers.InFlight);
        for (int i = 0; i < 100; i++) Assert.True(moved[i] == 1000 + i, $"seed {Seed}: transfer {i} moved {moved[i]} bytes");
    }

    [Fact]
    public void Drain_reports_the_first_failure_and_awaits_all_and_the_next_drain_starts_clean()
    {
        ScriptedQueue queue = new(4) { Attempt = (n, r) => n switch { 1 => -Errno.EIO, 2 => -Errno.ENOSPC, _ => r.Buffer.Length } };
        IoScheduler transfers = new(queue, [1]);
        for (int i = 0; i < 4; i++) transfers.Write(0, i * 100L, Buffer.Part(0, 100));
        TransferFailure failure = transfers.Drain()!.Value;
        Assert.Equal((-Errno.EIO, 100L), (failure.Errno, failure.Request.Offset));
        Assert.Equal(4, queue.Asked.Count);
        Assert.Equal(0, transfers.InFlight);
        Assert.Null(transfers.Drain());
    }

    [Fact]
    public void Failure_names_the_whole_request_even_when_a_part_was_done()
    {
        ScriptedQueue queue = new(1) { Attempt = (n, _) => n == 0 ? 512 : -Errno.EIO };
        IoScheduler transfers = new(queue, [512]);
        transfers.Read(0, 4096, Buffer);
        Assert.Equal(new BlockRequest(BlockVerb.Read, 0, 4096, Buffer, 0), transfers.Drain()!.Value.Request);
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ESPIPE)]
    [InlineData(Errno.EAGAIN)]
    [InlineData(Errno.EINTR)]
    [InlineData(Errno.ECANCELED)]
    [InlineData(Errno.EIO)]
    public void Failed_hint_to_write_back_is_not_repeated_and_not_a_failure(int errno)
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -errno };
        IoScheduler transfers = new(queue, [1]);
        IoGroup group = new();
        transfers.WriteBack(0, group);
        Assert.False(group.IsDone);
        transfers.Wait();
        Assert.True(group.IsDone);
        Assert.Null(group.TakeFailure());
        Assert.Equal(BlockVerb.WriteBack, Assert.Single(queue.Asked).Verb);
        Assert.Empty(queue.Performed);
    }

    [Fact]
    public void Direct_device_gets_no_hint_to_write_back()
    {
        ScriptedQueue queue = new(1);
        IoScheduler transfers = new(queue, [512]);
        IoGroup group = new();
        transfers.WriteBack(0, group);
        Assert.True(group.IsDone);
        Assert.Empty(queue.Asked);
    }

    [Fact]
    public void Failed_flush_is_a_failure()
    {
        ScriptedQueue queue = new(1) { Attempt = (_, _) => -Errno.EIO };
        IoScheduler transfers = new(queue, [1]);
        transfers.Flush(0);
        TransferFailure failure = transfers.Drain()!.Value;
        Assert.Equal((BlockVerb.Flush, -Errno.EIO), (failure.Request.Verb, failure.Errno));
    }

    [Theory]
    [InlineData(Errno.EINTR)]
    [InlineData(Errno.EAGAIN)]
    [InlineData(Errno.ECANCELED)]
    [InlineData(Errno.EIO)]
    public void Failed_flush_is_not_repeated_because_a_second_would_succeed_without_the_data(int errno)
    {
        ScriptedQueue queue = new(1) { Attempt = (n, _) => n == 0 ? -errno : 0 };
        IoScheduler transfers = new(queue, [1]);
        transfers.Flush(0);
        Assert.Equal(-errno, transfers.Drain()!.Value.Errno);
        Assert.Single(queue.Asked);
    }

    [Fact]
    public void Scheduler_waits_while_the_queue_is_full()
    {
        ScriptedQueue queue = new(2);
        IoScheduler transfers = new(queue, [1]);
        for (int i = 0; i < 5; i++)
        {
            transfers.Read(0, i, Buffer);
            Assert.InRange(transfers.InFlight, 1, 2);
        }
        Assert.Equal(3, queue.Asked.Count);
        Assert.Null(transfers.Drain());
        Assert.Equal([0L, 1L, 2L, 3L, 4L], queue.Asked.Select(r => r.Offset));
    }

    [Fact]
    public void Empty_transfer_makes_no_request()
    {
        ScriptedQueue queue = new(1);
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, Buffer.Part(0, 0));
        Assert.Equal(0, transfers.InFlight);
    }

    [Fact]
    public void Failed_queue_ends_the_run_with_a_message()
    {
        ScriptedQueue queue = new(2) { Broken = -Errno.EBADF };
        IoScheduler transfers = new(queue, [1]);
        transfers.Read(0, 0, Buffer);
        SnapuserdException error = Assert.Throws<SnapuserdException>(() => { transfers.Drain(); });
        Assert.Equal(ExitCode.InputOutput, error.Code);
        Assert.Contains("EBADF", error.Message, StringComparison.Ordinal);
        Assert.True(transfers.Broken);
        Assert.Equal(1, transfers.InFlight);
    }

    [Fact]
    public void Request_that_the_queue_rejects_is_not_waited_for()
    {
        // A slice outside the arena is a bug of this program. It must end the run, not hang it.
        using Arena arena = new(4096);
        using WakeUp wakeUp = new();
        using SyncQueue queue = new([-1], arena, wakeUp, 1);
        IoScheduler transfers = new(queue, [1]);
        Assert.Throws<ArgumentOutOfRangeException>(() => transfers.Read(0, 0, new Slice(4096, 1)));
        Assert.Equal(0, transfers.InFlight);
        Assert.Null(transfers.Drain());
        transfers.Abandon();
        Assert.False(transfers.Broken);
    }
}
