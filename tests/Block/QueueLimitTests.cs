using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>Arguments and results at the limits of queues, wake-ups, transfers, arenas and worker threads.</summary>
public sealed class QueueLimitTests
{
    [Theory]
    [InlineData(BlockVerb.Read)]
    [InlineData(BlockVerb.Write)]
    [InlineData(BlockVerb.Flush)]
    [InlineData(BlockVerb.WriteBack)]
    public void Request_of_each_kind_names_its_device_place_and_buffer(BlockVerb verb)
    {
        ScriptedQueue queue = new(2);
        IoScheduler transfers = new(queue, [1, 1, 1, 1]);
        IoGroup group = new();
        switch (verb)
        {
            case BlockVerb.Read: transfers.Read(3, 8192, new Slice(4096, 512), group); break;
            case BlockVerb.Write: transfers.Write(3, 8192, new Slice(4096, 512), group); break;
            case BlockVerb.Flush: transfers.Flush(3, group); break;
            default: transfers.WriteBack(3, group); break;
        }
        transfers.Wait();
        Assert.True(group.IsDone);
        bool moves = verb is BlockVerb.Read or BlockVerb.Write;
        Assert.Equal(new BlockRequest(verb, 3, moves ? 8192 : 0, moves ? new Slice(4096, 512) : default, 0), Assert.Single(queue.Asked));
    }

    [Theory]
    [InlineData(BlockVerb.Read, 512)]
    [InlineData(BlockVerb.Read, -Errno.EIO)]
    [InlineData(BlockVerb.Read, 0)]
    [InlineData(BlockVerb.Flush, 0)]
    [InlineData(BlockVerb.Flush, 1)]
    [InlineData(BlockVerb.Flush, -Errno.EIO)]
    [InlineData(BlockVerb.WriteBack, 0)]
    public void Completion_before_that_of_an_earlier_request_ends_its_own_request(BlockVerb verb, int result)
    {
        ScriptedQueue queue =
            new(2) { Next = count => count - 1, Attempt = (_, request) => request.Offset == 0 ? result : request.Buffer.Length };
        IoScheduler transfers = new(queue, [1]);
        IoGroup earlier = new(), later = new();
        transfers.Read(0, 4096, new Slice(0, 512), earlier);
        switch (verb)
        {
            case BlockVerb.Read: transfers.Read(0, 0, new Slice(512, 512), later); break;
            case BlockVerb.Flush: transfers.Flush(0, later); break;
            default: transfers.WriteBack(0, later); break;
        }
        transfers.Wait();
        Assert.Equal((1, 0), (earlier.InFlight, later.InFlight));
        int errno = verb == BlockVerb.Read && result == 0 ? -Errno.EIO : Math.Min(result, 0);
        Assert.Equal(errno, later.TakeFailure()?.Errno ?? 0);
        transfers.Wait();
        Assert.True(earlier.IsDone);
        Assert.Null(earlier.TakeFailure());
        Assert.Equal(0, transfers.InFlight);
    }

    /// <summary>A queue with a limited number of requests, whose waits return results chosen by the test.</summary>
    private sealed class CountedQueue(int room, params int[] waits) : IBlockQueue
    {
        private readonly Queue<int> _waits = new(waits);

        public int Depth => 2;

        public bool TryQueue(in BlockRequest request) => room-- > 0;

        public int Wait(Span<BlockCompletion> completions)
        {
            int count = _waits.Dequeue();
            if (count > 0) completions[0] = new BlockCompletion(0, 512);
            return count;
        }

        public int Perform(in BlockRequest request) => 0;

        public void Dispose()
        {
        }
    }

    [Fact]
    public void Wait_that_a_wake_up_ends_does_not_end_a_transfer()
    {
        IoScheduler transfers = new(new CountedQueue(2, 0, 0, 1), [1]);
        transfers.Read(0, 0, new Slice(0, 512));
        transfers.Wait();
        Assert.Equal((1, false), (transfers.InFlight, transfers.Broken));
        Assert.Null(transfers.Drain());
        Assert.Equal((0, false), (transfers.InFlight, transfers.Broken));
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EBADF)]
    public void Failed_wait_ends_the_transfers_and_reports_how_many_were_in_flight(int errno)
    {
        IoScheduler transfers = new(new CountedQueue(2, -errno), [1]);
        transfers.Read(0, 0, new Slice(0, 512));
        transfers.Read(0, 512, new Slice(512, 512));
        SnapuserdException failed = Assert.Throws<SnapuserdException>(transfers.Wait);
        Assert.Equal((ExitCode.InputOutput, $"the I/O queue failed while 2 requests were in flight: {ErrnoText.Of(errno)}"),
            (failed.Code, failed.Message));
        Assert.True(transfers.Broken);
    }

    [Fact]
    public void Queue_that_refuses_a_request_although_it_has_a_free_slot_is_a_defect()
    {
        IoScheduler transfers = new(new CountedQueue(0), [1]);
        Assert.Equal("the queue is full although a slot was free",
            Assert.Throws<InvalidOperationException>(() => transfers.Read(0, 0, new Slice(0, 512))).Message);
        Assert.Equal(0, transfers.InFlight);
    }

    [Fact]
    public void Synchronous_queue_returns_completions_in_request_order_as_many_as_fit()
    {
        using QueueFixture fixture = new("sync", 65536, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        uint posted = 0, ended = 0;
        foreach (int room in (int[])[1, 2, 3, 1, 4, 2])
        {
            while (fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, buffer.Part(0, (int)(posted % 7) + 1), posted))) posted++;
            Assert.Equal(4u, posted - ended);
            BlockCompletion[] completions = new BlockCompletion[room];
            Assert.Equal(room, fixture.Queue.Wait(completions));
            foreach (BlockCompletion completion in completions)
                Assert.Equal(new BlockCompletion(ended, (int)(ended++ % 7) + 1), completion);
        }
        BlockCompletion[] last = new BlockCompletion[8];
        Assert.Equal((int)(posted - ended), fixture.Queue.Wait(last));
        Assert.Equal(0, last[^1].Result);
    }

    [Fact]
    public void Synchronous_wait_consumes_a_signal_that_came_before_its_end()
    {
        using QueueFixture fixture = new("sync", 4096, 2);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        fixture.WakeUp.Signal();
        Assert.True(fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, buffer, 1)));
        Assert.Equal(1, fixture.Queue.Wait(new BlockCompletion[2]));
        Assert.False(fixture.WakeUp.TryTake());
        Assert.False(fixture.WakeUp.Wait(0));
    }

    [Fact]
    public void Synchronous_queue_that_is_disposed_of_forgets_its_requests()
    {
        using QueueFixture fixture = new("sync", 4096, 2);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        Assert.True(fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Write, 0, 0, buffer, 1)));
        fixture.Queue.Dispose();
        fixture.WakeUp.Signal();
        Assert.Equal(0, fixture.Queue.Wait(new BlockCompletion[2]));
        Assert.Equal(fixture.Content, File.ReadAllBytes(fixture.Folder["device"]));
    }

    [Theory]
    [InlineData("sync")]
    [InlineData("ring")]
    public void Hint_to_write_back_covers_all_bytes_and_its_failure_is_its_result(string kind)
    {
        using QueueFixture fixture = new(kind, 65536, 2);
        BlockRequest hint = new(BlockVerb.WriteBack, 0, 0, default, 1);
        foreach (int answer in (int[])[0, -Errno.EIO])
        {
            List<(int, long, long, int)> calls = [];
            Answering([SYS_sync_file_range], call =>
            {
                calls.Add((call[0], call.Long(1), call.Long(2), call[3]));
                return answer;
            }, () => Assert.Equal(answer, fixture.Queue.Perform(hint)));
            Assert.Equal([(fixture.Device.Fd, 0L, 0L, Libc.SYNC_FILE_RANGE_WRITE)], calls);
        }
    }

    [Fact]
    public void Flush_reaches_the_device_and_its_failure_is_its_result()
    {
        using Arena arena = new(4096);
        using WakeUp wakeUp = new();
        using SyncQueue queue = new([-1], arena, wakeUp, 1);
        foreach (BlockVerb verb in (BlockVerb[])[BlockVerb.Flush, BlockVerb.WriteBack, BlockVerb.Read, BlockVerb.Write])
        {
            Assert.Equal(-Errno.EBADF, queue.Perform(new BlockRequest(verb, 0, 0, new Slice(0, 512), 1)));
            Assert.True(queue.TryQueue(new BlockRequest(verb, 0, 0, new Slice(0, 512), 2)));
            BlockCompletion[] ends = new BlockCompletion[1];
            Assert.Equal(1, queue.Wait(ends));
            Assert.Equal(new BlockCompletion(2, -Errno.EBADF), ends[0]);
        }
    }

    [Theory]
    [InlineData(Errno.ENOSYS, true)]
    [InlineData(Errno.EOPNOTSUPP, true)]
    [InlineData(Errno.EINVAL, true)]
    [InlineData(Errno.EBADF, true)]
    [InlineData(Errno.EPERM, true)]
    [InlineData(Errno.EACCES, true)]
    [InlineData(Errno.EROFS, true)]
    [InlineData(Errno.EIO, false)]
    [InlineData(Errno.ENOSPC, false)]
    [InlineData(Errno.EINTR, false)]
    [InlineData(0, false)]
    public void Flush_counts_as_unsupported_if_the_system_has_none_or_permits_no_writes(int errno, bool lacking) =>
        Assert.Equal(lacking, FileFlush.IsLacking(-errno));

    [Fact]
    public void Wake_up_is_closed_once_and_by_execve()
    {
        WakeUp wakeUp = new();
        int fd = wakeUp.Fd;
        Assert.Equal(1, Libc.Fcntl(fd, Libc.F_GETFD, 0));
        Assert.Equal(Libc.O_RDWR, Libc.Fcntl(fd, Libc.F_GETFL, 0) & (Libc.O_ACCMODE | Libc.O_NONBLOCK));
        List<int> closed = [];
        Answering([SYS_close], call =>
        {
            if (call[0] == fd) closed.Add(fd);
            return null;
        }, () =>
        {
            wakeUp.Dispose();
            wakeUp.Dispose();
        });
        Assert.Equal([fd], closed);
    }

    [Fact]
    public void Wake_up_may_have_descriptor_0()
    {
        int count = 0;
        bool closed = false;
        Answering([SYS_eventfd2, SYS_read, SYS_write, SYS_close], call =>
        {
            if (call.Number == SYS_eventfd2) return 0;
            if (call[0] != 0) return null;
            switch (call.Number)
            {
                case SYS_write:
                    count++;
                    return 8;
                case SYS_read:
                    count = 0;
                    return 8;
                default:
                    closed = true;
                    return 0;
            }
        }, () =>
        {
            using WakeUp wakeUp = new();
            Assert.Equal((0, 0), (wakeUp.Fd, count));
            wakeUp.Signal();
            Assert.Equal(1, count);
            Assert.True(wakeUp.TryTake());
            Assert.Equal(0, count);
        });
        Assert.True(closed);
    }

    [Theory]
    [InlineData("0\n", "io_uring is forbidden (EPERM)")]
    [InlineData("1\n", "io_uring is reserved for privileged processes by sysctl kernel.io_uring_disabled=1")]
    [InlineData("2\n", "io_uring is disabled by sysctl kernel.io_uring_disabled=2")]
    [InlineData("2", "io_uring is disabled by sysctl kernel.io_uring_disabled=2")]
    [InlineData("2               ", "io_uring is disabled by sysctl kernel.io_uring_disabled=2")]
    [InlineData("", "io_uring is forbidden (EPERM)")]
    [InlineData("x\n", "io_uring is forbidden (EPERM)")]
    [InlineData(null, "io_uring is forbidden (EPERM)")]
    public void Refused_ring_is_explained_by_the_sysctl_even_if_its_file_is_descriptor_0(string? text, string sentence)
    {
        foreach (int number in (int[])[0, 1_000_000])
        {
            int closed = 0;
            UringUnavailable refusal = default;
            Answering([SYS_openat, SYS_read, SYS_close], call =>
            {
                if (call.Number == SYS_openat)
                    return call.Text(1) == "/proc/sys/kernel/io_uring_disabled" ? text == null ? -Errno.ENOENT : number : null;
                if (call[0] != number) return null;
                if (call.Number == SYS_close)
                {
                    closed++;
                    return 0;
                }
                byte[] bytes = Encoding.ASCII.GetBytes(text!);
                bytes.CopyTo(MemoryMarshal.CreateSpan(ref call.At<byte>(1), bytes.Length));
                return bytes.Length;
            }, () => refusal = UringUnavailable.Of(-Errno.EPERM));
            Assert.Equal(-Errno.EPERM, refusal.Errno);
            Assert.StartsWith(sentence, refusal.Sentence, StringComparison.Ordinal);
            Assert.Equal(text == null ? 0 : 1, closed);
        }
    }

    [Theory]
    [InlineData(0, 65536ul, " (now 65536 bytes)")]
    [InlineData(0, ulong.MaxValue, "")]
    [InlineData(-Errno.EPERM, 65536ul, "")]
    [InlineData(-Errno.ENOSYS, 65536ul, "")]
    public void Ring_without_memory_names_the_limit_if_there_is_one(int answer, ulong limit, string now)
    {
        string sentence = "";
        Answering([SYS_prlimit64], call =>
        {
            if (call[1] != Libc.RLIMIT_MEMLOCK || call.Long(2) != 0) return null;
            if (answer == 0) call.At<ResourceLimit>(3) = new ResourceLimit { Current = limit, Maximum = ulong.MaxValue };
            return answer;
        }, () => sentence = UringUnavailable.Of(-Errno.ENOMEM).Sentence);
        Assert.Equal($"no memory for io_uring's rings; old and very new kernels count them against RLIMIT_MEMLOCK{now}, try to "
            + "raise it (ulimit -l)", sentence);
    }

    private sealed class NoMemory(int errno) : SystemMemory(Sizes.SystemPage)
    {
        public override nint Map(nint length) => -errno;
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.ENOMEM)]
    public void Arena_that_cannot_be_mapped_is_71(int errno)
    {
        SnapuserdException refused = Assert.Throws<SnapuserdException>(() => new Arena(65536, new NoMemory(errno)));
        Assert.Equal((ExitCode.OutOfResources, $"cannot map 65536 bytes of buffer memory: {ErrnoText.Of(errno)}; try a smaller --memory"),
            (refused.Code, refused.Message));
    }

    [Fact]
    public void Arena_is_unmapped_unless_it_was_abandoned()
    {
        Arena arena = new(65536), abandoned = new(65536);
        nint address = abandoned.Address;
        arena.Dispose();
        Assert.Equal((0, 0), (arena.Size, arena.Address));
        abandoned.Abandon();
        abandoned.Dispose();
        Assert.Equal((65536, address), (abandoned.Size, abandoned.Address));
        _ = Libc.MUnmap(address, 65536);
    }

    [Fact]
    public void Kernel_of_xor_names_the_argument_and_both_lengths()
    {
        ArgumentException refused = Assert.Throws<ArgumentException>("source", () => XorKernel.XorInto(new byte[4], new byte[5]));
        Assert.StartsWith("5 bytes cannot be xored into 4", refused.Message, StringComparison.Ordinal);
    }

    private sealed class Worker(Func<int, int> job) : IWorker<int>
    {
        public int Disposed { get; private set; }

        public int Do(in int number) => job(number);

        public void Dispose() => Disposed++;
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    public void Work_queue_needs_a_thread_and_space_for_a_job(int count)
    {
        using WakeUp wakeUp = new();
        Assert.Throws<ArgumentOutOfRangeException>("threads", () => new WorkQueue<int>(count, 1, () => new Worker(job => job), wakeUp));
        Assert.Throws<ArgumentOutOfRangeException>("capacity", () => new WorkQueue<int>(1, count, () => new Worker(job => job), wakeUp));
        Assert.Throws<ArgumentOutOfRangeException>("capacity", () => new InlineWorkQueue<int>(new Worker(job => job), count));
        Assert.Throws<ArgumentOutOfRangeException>("depth", () => new SyncQueue([1], new Arena(4096), wakeUp, count));
    }

    [Fact]
    public void Closed_work_queue_accepts_no_job_and_disposes_its_workers_once()
    {
        using WakeUp wakeUp = new();
        Worker worker = new(job => job);
        WorkQueue<int> queue = new(1, 1, () => worker, wakeUp);
        queue.Dispose();
        queue.Dispose();
        Assert.Equal(1, worker.Disposed);
        Assert.Throws<ObjectDisposedException>(() => queue.TryPost(1, 1));
    }

    [Fact]
    public void Every_thread_of_a_work_queue_works()
    {
        using WakeUp wakeUp = new();
        using Barrier all = new(3);
        // No job ends until three are running.
        using WorkQueue<int> queue = new(3, 3, () => new Worker(job => all.SignalAndWait(-1) ? job : -1), wakeUp);
        for (uint tag = 0; tag < 3; tag++) Assert.True(queue.TryPost((int)tag, tag));
        for (int ended = 0; ended < 3; ended++)
        {
            queue.WaitForEnd();
            Assert.True(queue.TryReap(out uint tag, out int result));
            Assert.Equal((int)tag, result);
        }
    }

    [Fact]
    public void Inline_queue_signals_the_end_of_every_job()
    {
        using WakeUp wakeUp = new();
        using InlineWorkQueue<int> queue = new(new Worker(job => job + 1), 2, wakeUp);
        Assert.Equal(2, queue.Capacity);
        for (int i = 0; i < 3; i++)
        {
            Assert.False(wakeUp.TryTake());
            Assert.True(queue.TryPost(i, (uint)i));
            Assert.True(wakeUp.TryTake());
            queue.WaitForEnd();
            Assert.True(queue.TryReap(out uint tag, out int result));
            Assert.Equal(((uint)i, i + 1), (tag, result));
        }
    }

    /// <summary>
    /// Runs <paramref name="action"/> where the system can start only <paramref name="count"/> more threads with small stacks, as workers
    /// have.
    /// </summary>
    private static void WithThreads(int count, Action action) => Answering([SYS_clone3], call =>
    {
        const int StackSizeOffset = 48;
        long stack = Unsafe.AddByteOffset(ref call.At<long>(0), StackSizeOffset);
        // The C library may reuse an earlier thread's stack, up to four times the size.
        return stack is > 256 << 10 and <= 2 << 20 && count-- <= 0 ? -Errno.EAGAIN : null;
    }, action);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Available_threads_do_the_work_of_those_that_cannot_start(int threads) => WithThreads(threads, () =>
    {
        using WakeUp wakeUp = new();
        HashSet<int> workers = [];
        using WorkQueue<int> queue = new(3, 20, () => new Worker(job =>
        {
            lock (workers) workers.Add(Environment.CurrentManagedThreadId);
            return job;
        }), wakeUp);
        for (uint tag = 0; tag < 20; tag++) Assert.True(queue.TryPost((int)tag, tag));
        for (int ended = 0; ended < 20; ended++)
        {
            queue.WaitForEnd();
            Assert.True(queue.TryReap(out uint tag, out int result));
            Assert.Equal((int)tag, result);
        }
        lock (workers) Assert.InRange(workers.Count, 1, threads);
    });

    [Fact]
    public void Failure_to_start_any_worker_thread_is_71() => WithThreads(0, () =>
    {
        using WakeUp wakeUp = new();
        Worker worker = new(job => job);
        using (WorkQueue<int> queue = new(2, 2, () => worker, wakeUp))
        {
            SnapuserdException refused = Assert.Throws<SnapuserdException>(() => queue.TryPost(1, 1));
            Assert.Equal((ExitCode.OutOfResources, $"cannot start thread worker 0: {ErrnoText.Of(Errno.EAGAIN)}; try --threads 1, more "
                + "memory, or to raise the limits (ulimit -u, pids.max of the cgroup)"),
                (refused.Code, refused.Message));
            Assert.Throws<InvalidOperationException>(queue.WaitForEnd);
        }
        Assert.Equal(2, worker.Disposed);
    });

    [Fact]
    public void Thread_continues_after_an_exception_outside_its_job()
    {
        // Without a wake-up object, the worker throws after its job, as it would if memory ran out.
        using WorkQueue<int> queue = new(1, 4, () => new Worker(job => job), null!);
        for (uint tag = 0; tag < 4; tag++) Assert.True(queue.TryPost((int)tag, tag));
        for (uint ended = 0; ended < 4; ended++)
        {
            queue.WaitForEnd();
            Assert.True(queue.TryReap(out uint tag, out int result));
            Assert.Equal((ended, (int)ended), (tag, result));
        }
        Assert.IsType<NullReferenceException>(queue.FirstCrash);
    }

    private struct Held
    {
        public object? What;
    }

    private sealed class HeldWorker : IWorker<Held>
    {
        public int Do(in Held job) => job.What == null ? 0 : 1;

        public void Dispose()
        {
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static WeakReference Post(WorkQueue<Held> queue)
    {
        object what = new();
        Assert.True(queue.TryPost(new Held { What = what }, 1));
        return new WeakReference(what);
    }

    [Fact]
    public void Work_queue_keeps_no_reference_to_an_ended_job()
    {
        using WakeUp wakeUp = new();
        using WorkQueue<Held> queue = new(1, 4, () => new HeldWorker(), wakeUp);
        WeakReference job = Post(queue);
        queue.WaitForEnd();
        Assert.True(queue.TryReap(out _, out int result));
        Assert.Equal(1, result);
        // The next job overwrites the first on the worker's stack, but takes another entry of the queue.
        for (int i = 0; i < 2; i++)
        {
            Assert.True(queue.TryPost(default, 2));
            queue.WaitForEnd();
            Assert.True(queue.TryReap(out _, out _));
        }
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Assert.False(job.IsAlive);
    }
}
