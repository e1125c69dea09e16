using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Jobs on worker threads, and on the calling thread (inline queue).</summary>
public sealed class WorkQueueTests
{
    /// <summary>Runs the given job, and records whether two threads ran in it at the same time.</summary>
    private sealed class Worker : IWorker<int>
    {
        private int _inside;

        public Func<int, int> Job { get; init; } = job => job * 2;

        public int Done { get; private set; }

        public bool Shared { get; private set; }

        public bool Disposed { get; private set; }

        public int Do(in int job)
        {
            if (Interlocked.Increment(ref _inside) != 1) Shared = true;
            Done++;
            try
            {
                return Job(job);
            }
            finally
            {
                Interlocked.Decrement(ref _inside);
            }
        }

        public void Dispose() => Disposed = true;

        public static Func<Worker> Factory(List<Worker> all, Func<int, int> job) => () =>
        {
            Worker worker = new() { Job = job };
            all.Add(worker);
            return worker;
        };
    }

    private static Dictionary<uint, int> ReapAll(IWorkQueue<int> queue, int count)
    {
        Dictionary<uint, int> results = [];
        while (results.Count < count)
        {
            queue.WaitForEnd();
            while (queue.TryReap(out uint tag, out int result)) results.Add(tag, result);
        }
        return results;
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 3)]
    [InlineData(4, 16)]
    public void Every_job_is_done_once_by_some_worker_and_no_worker_is_shared(int threads, int capacity)
    {
        List<Worker> workers = [];
        using WakeUp wakeUp = new();
        Dictionary<uint, int> results = [];
        using (WorkQueue<int> queue = new(threads, capacity, Worker.Factory(workers, job => job * 2), wakeUp))
        {
            Assert.Equal(capacity, queue.Capacity);
            for (int job = 0; job < 5000; job++)
            {
                while (!queue.TryPost(job, (uint)job))
                {
                    queue.WaitForEnd();
                    while (queue.TryReap(out uint tag, out int result)) results.Add(tag, result);
                }
            }
            while (results.Count < 5000)
            {
                queue.WaitForEnd();
                while (queue.TryReap(out uint tag, out int result)) results.Add(tag, result);
            }
            Assert.False(queue.TryReap(out _, out _));
        }
        Assert.All(results, r => Assert.Equal((int)r.Key * 2, r.Value));
        Assert.Equal(threads, workers.Count);
        Assert.Equal(5000, workers.Sum(w => w.Done));
        Assert.All(workers, w => Assert.False(w.Shared));
        Assert.All(workers, w => Assert.True(w.Disposed));
    }

    [Fact]
    public void Queue_is_full_until_an_ended_job_is_reaped()
    {
        using WakeUp wakeUp = new();
        using WorkQueue<int> queue = new(2, 3, Worker.Factory([], job => job), wakeUp);
        for (uint tag = 0; tag < 3; tag++) Assert.True(queue.TryPost(0, tag));
        queue.WaitForEnd();
        Assert.False(queue.TryPost(0, 3));
        Assert.True(queue.TryReap(out _, out _));
        Assert.True(queue.TryPost(0, 3));
        Assert.Equal(3, ReapAll(queue, 3).Count);
    }

    [Fact]
    public void Job_that_throws_ends_with_a_negative_result_and_the_others_continue()
    {
        using WakeUp wakeUp = new();
        using WorkQueue<int> queue =
            new(2, 100, Worker.Factory([], job => job % 10 == 0 ? throw new FormatException("job " + job) : job), wakeUp);
        for (int job = 0; job < 100; job++) Assert.True(queue.TryPost(job, (uint)job));
        Dictionary<uint, int> results = ReapAll(queue, 100);
        Assert.All(results, r => Assert.Equal(r.Key % 10 == 0 ? WorkQueue<int>.Crashed : (int)r.Key, r.Value));
        Assert.IsType<FormatException>(queue.FirstCrash);
    }

    [Theory]
    [InlineData("ring")]
    [InlineData("sync")]
    public void End_of_a_job_wakes_the_block_queue(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 2);
        using WorkQueue<int> queue = new(2, 8, Worker.Factory([], job => job), fixture.WakeUp);
        int ended = 0;
        for (int posted = 0; ended < 500;)
        {
            while (posted < 500 && queue.TryPost(posted, (uint)posted)) posted++;
            // Only the end of a job can end this wait. If the signal were lost, the test would hang here.
            Assert.Equal(0, fixture.Queue.Wait(new BlockCompletion[2]));
            while (queue.TryReap(out _, out _)) ended++;
        }
    }

    [Fact]
    public void Disposal_waits_for_the_running_job_and_drops_the_others()
    {
        List<Worker> workers = [];
        using WakeUp wakeUp = new();
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim go = new();
        WorkQueue<int> queue = new(1, 3, Worker.Factory(workers, job =>
        {
            begun.Set();
            go.Wait();
            return job;
        }), wakeUp);
        for (uint tag = 0; tag < 3; tag++) queue.TryPost(1, tag);
        begun.Wait();
        Thread disposer = new(queue.Dispose);
        disposer.Start();
        // The job may end only after the disposal waits for its thread, so that the thread cannot take another job first.
        while ((disposer.ThreadState & ThreadState.WaitSleepJoin) == 0) Thread.Yield();
        Assert.False(workers[0].Disposed);
        go.Set();
        disposer.Join();
        Assert.Equal(1, workers[0].Done);
        Assert.True(workers[0].Disposed);
    }

    [Fact]
    public void Failure_to_create_a_worker_is_thrown_to_the_caller_and_leaves_nothing()
    {
        List<Worker> workers = [];
        using WakeUp wakeUp = new();
        Func<Worker> make = Worker.Factory(workers, job => job);
        Assert.Throws<FormatException>(
            () => new WorkQueue<int>(3, 3, () => workers.Count == 2 ? throw new FormatException() : make(), wakeUp));
        Assert.Equal(2, workers.Count);
        Assert.All(workers, w => Assert.True(w.Disposed));
    }

    [Fact]
    public void Waiting_for_nothing_is_an_error()
    {
        using WakeUp wakeUp = new();
        using WorkQueue<int> queue = new(1, 1, Worker.Factory([], job => job), wakeUp);
        Assert.Throws<InvalidOperationException>(queue.WaitForEnd);
        using InlineWorkQueue<int> inline = new(new Worker(), 1);
        Assert.Throws<InvalidOperationException>(inline.WaitForEnd);
    }

    [Fact]
    public void Inline_queue_does_jobs_in_the_order_in_which_they_are_posted_and_is_bounded()
    {
        List<int> order = [];
        Worker worker = new()
        {
            Job = job =>
            {
                order.Add(job);
                return -job;
            },
        };
        using (InlineWorkQueue<int> queue = new(worker, 2))
        {
            for (int round = 0; round < 5; round++)
            {
                Assert.True(queue.TryPost(1, 10));
                Assert.True(queue.TryPost(2, 20));
                Assert.False(queue.TryPost(3, 30));
                Assert.True(queue.TryReap(out uint tag, out int result));
                Assert.Equal((10u, -1), (tag, result));
                Assert.True(queue.TryReap(out tag, out result));
                Assert.Equal((20u, -2), (tag, result));
                Assert.False(queue.TryReap(out _, out _));
            }
        }
        Assert.Equal(Enumerable.Repeat(new[] { 1, 2 }, 5).SelectMany(p => p), order);
        Assert.True(worker.Disposed);
    }
}
