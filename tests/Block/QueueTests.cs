using System;
using System.IO;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The contract of both queues, on real files.</summary>
public sealed class QueueTests
{
    public static TheoryData<string> Kinds => ["ring", "sync"];

    [Theory]
    [InlineData("ring", 1, false)]
    [InlineData("ring", 7, false)]
    [InlineData("ring", 32, true)]
    [InlineData("sync", 1, false)]
    [InlineData("sync", 7, true)]
    public void Thousands_of_transfers_at_random_places_leave_the_file_equal_to_a_model(string kind, int depth, bool direct)
    {
        const int Length = 4 << 20;
        const int Seed = 4711;
        using QueueFixture fixture = new(kind, Length, depth, direct: direct);
        byte[] model = fixture.Content;
        Random random = new(Seed);
        Slice[] slots = new Slice[depth];
        for (int i = 0; i < depth; i++) slots[i] = fixture.Arena.Take(16384)!.Value;
        IoScheduler transfers = new(fixture.Queue, [fixture.Device.Granule]);
        int ended = 0;
        for (int round = 0; ended < 5000; round++)
        {
            // Each request has a stripe of its own, so the blocks of one round do not overlap.
            int stripe = Length / depth & ~4095;
            bool write = round % 2 == 0;
            (long Offset, Slice Buffer)[] asked = new (long, Slice)[depth];
            for (int i = 0; i < depth; i++)
            {
                int length = 4096 * random.Next(1, 5);
                long offset = ((long)i * stripe) + (4096 * random.Next((stripe - length) / 4096 + 1));
                asked[i] = (offset, slots[i].Part(0, length));
                Span<byte> buffer = fixture.Arena[asked[i].Buffer];
                if (write)
                {
                    random.NextBytes(buffer);
                    buffer.CopyTo(model.AsSpan((int)offset));
                    transfers.Write(0, offset, asked[i].Buffer);
                }
                else
                {
                    buffer.Clear();
                    transfers.Read(0, offset, asked[i].Buffer);
                }
            }
            Assert.Null(transfers.Drain());
            ended += depth;
            if (write) continue;
            foreach ((long offset, Slice buffer) in asked)
                Assert.True(fixture.Arena[buffer].SequenceEqual(model.AsSpan((int)offset, buffer.Length)),
                    $"seed {Seed}: {buffer.Length} bytes at {offset} differ");
        }
        transfers.Flush(0);
        Assert.Null(transfers.Drain());
        Assert.Equal(model, File.ReadAllBytes(fixture.Folder["device"]));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Hint_to_write_back_ends_with_0_on_a_file(string kind)
    {
        using QueueFixture fixture = new(kind, 65536, 4);
        IoScheduler transfers = new(fixture.Queue, [1]);
        transfers.Write(0, 4096, fixture.Arena.Take(4096)!.Value);
        Assert.Null(transfers.Drain());
        Assert.True(fixture.Queue.TryQueue(new BlockRequest(BlockVerb.WriteBack, 0, 0, default, 9)));
        BlockCompletion[] ends = new BlockCompletion[4];
        int count;
        do count = fixture.Queue.Wait(ends);
        while (count == 0);
        Assert.Equal(1, count);
        Assert.Equal(new BlockCompletion(9, 0), ends[0]);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Full_queue_refuses_a_request_and_accepts_it_after_a_wait(string kind)
    {
        using QueueFixture fixture = new(kind, 65536, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        for (uint round = 0; round < 10; round++)
        {
            for (uint tag = 0; tag < 4; tag++)
                Assert.True(fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 4096 * tag, buffer, tag)));
            Assert.False(fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, buffer, 99)));
            Assert.Equal([0, 1, 2, 3], new System.Collections.Generic.SortedSet<uint>(fixture.Reap(4).Keys));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_across_the_end_is_short_and_past_it_empty(string kind)
    {
        using QueueFixture fixture = new(kind, 5000, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 4096, buffer, 1));
        fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 8192, buffer, 2));
        System.Collections.Generic.Dictionary<uint, int> results = fixture.Reap(2);
        Assert.Equal(904, results[1]);
        Assert.Equal(0, results[2]);
        Assert.Equal(904, fixture.Queue.Perform(new BlockRequest(BlockVerb.Read, 0, 4096, buffer, 1)));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Errno_of_a_request_is_its_result(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        using BlockDevice readOnly = BlockDevice.Open(fixture.Folder["device"], DeviceAccess.Read);
        using IBlockQueue queue = QueueFixture.Make(kind, [readOnly], fixture.Arena, fixture.WakeUp, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        BlockRequest write = new(BlockVerb.Write, 0, 0, buffer, 5);
        Assert.True(queue.TryQueue(write));
        BlockCompletion[] completions = new BlockCompletion[4];
        Assert.Equal(1, queue.Wait(completions));
        Assert.Equal(new BlockCompletion(5, -Errno.EBADF), completions[0]);
        Assert.Equal(-Errno.EBADF, queue.Perform(write));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Requests_name_their_device_by_its_number(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        File.WriteAllBytes(fixture.Folder["second"], new byte[4096]);
        using BlockDevice second = BlockDevice.Open(fixture.Folder["second"], DeviceAccess.Write);
        using IBlockQueue queue = QueueFixture.Make(kind, [fixture.Device, second], fixture.Arena, fixture.WakeUp, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        IoScheduler transfers = new(queue, [1, 1]);
        transfers.Read(0, 0, buffer);
        Assert.Null(transfers.Drain());
        transfers.Write(1, 0, buffer);
        Assert.Null(transfers.Drain());
        Assert.Equal(fixture.Content, File.ReadAllBytes(fixture.Folder["second"]));
        Assert.Equal(fixture.Content, File.ReadAllBytes(fixture.Folder["device"]));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Buffer_outside_the_arena_is_refused_before_the_kernel_sees_it(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        Assert.Throws<ArgumentOutOfRangeException>(
            () => fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(fixture.Arena.Size - 4095, 4096), 1)));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Signal_of_another_thread_ends_a_wait_without_a_completion(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        BlockCompletion[] completions = new BlockCompletion[4];
        for (int i = 0; i < 100; i++)
        {
            Thread other = new(fixture.WakeUp.Signal);
            other.Start();
            Assert.Equal(0, fixture.Queue.Wait(completions));
            other.Join();
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Signal_before_the_wait_is_not_lost_and_several_are_one(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        BlockCompletion[] completions = new BlockCompletion[4];
        fixture.WakeUp.Signal();
        fixture.WakeUp.Signal();
        Assert.Equal(0, fixture.Queue.Wait(completions));
        // The earlier signals are consumed: only the request can end this wait.
        fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, buffer, 3));
        Assert.Equal(1, fixture.Queue.Wait(completions));
        Assert.Equal(3u, completions[0].Tag);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Requests_queued_before_disposal_are_not_started(string kind)
    {
        using QueueFixture fixture = new(kind, 4096, 4);
        IBlockQueue queue = QueueFixture.Make(kind, [fixture.Device], fixture.Arena, fixture.WakeUp, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        queue.TryQueue(new BlockRequest(BlockVerb.Write, 0, 0, buffer, 1));
        queue.Dispose();
        queue.Dispose();
        Assert.Equal(fixture.Content, File.ReadAllBytes(fixture.Folder["device"]));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Next_queue_on_the_same_wake_up_gets_signals_that_the_previous_one_did_not(string kind)
    {
        using QueueFixture fixture = new("sync", 4096, 4);
        IBlockQueue first = QueueFixture.Make(kind, [fixture.Device], fixture.Arena, fixture.WakeUp, 4);
        BlockCompletion[] completions = new BlockCompletion[4];
        // After this wait the ring still has a read of the eventfd in flight, which consumes the signal.
        first.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, fixture.Arena.Take(4096)!.Value, 1));
        Assert.Equal(1, first.Wait(completions));
        fixture.WakeUp.Signal();
        first.Dispose();
        Assert.Equal(0, fixture.Queue.Wait(completions));
    }
}
