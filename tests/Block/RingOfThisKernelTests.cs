using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The ring queue on this machine's kernel: refusals, endless requests, signals.</summary>
public sealed class RingOfThisKernelTests
{
    [Theory]
    [InlineData(Errno.EPERM, "forbidden")]
    [InlineData(Errno.ENOSYS, "has no io_uring")]
    [InlineData(Errno.ENOMEM, "RLIMIT_MEMLOCK")]
    [InlineData(Errno.EINVAL, "rejects the")]
    public void Refused_ring_has_a_reason_and_the_synchronous_queue_replaces_it(int errno, string sentence)
    {
        using QueueFixture fixture = new("sync", 4096, 4);
        OwnThread.Refusing(OwnThread.SYS_io_uring_setup, errno, () =>
        {
            UringUnavailable refusal = RingQueue.TryCreate([fixture.Device], fixture.Arena, fixture.WakeUp, 4, out RingQueue? ring)!.Value;
            Assert.Null(ring);
            Assert.Equal(-errno, refusal.Errno);
            Assert.Contains(sentence, refusal.Sentence, StringComparison.Ordinal);
        });
        fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, fixture.Arena.Take(4096)!.Value, 1));
        Assert.Equal(4096, fixture.Reap(1)[1]);
    }

    [Fact]
    public void Ring_whose_buffers_cannot_be_pinned_works_with_unpinned_ones()
    {
        using QueueFixture fixture = new("sync", 65536, 4);
        Slice buffer = fixture.Arena.Take(4096)!.Value;
        OwnThread.Refusing(OwnThread.SYS_io_uring_register, Errno.ENOMEM, () =>
        {
            // The device is not opened for direct I/O. A ring over a direct device would request pinned buffers by itself.
            Assert.Null(RingQueue.TryCreate([fixture.Device.Fd], fixture.Arena, fixture.WakeUp, 4, out RingQueue? ring, pin: true));
            using (ring)
            {
                Assert.False(ring!.FixedBuffer);
                Assert.False(fixture.Arena.IsRegistered);
                IoScheduler transfers = new(ring, [1]);
                transfers.Read(0, 8192, buffer);
                Assert.Null(transfers.Drain());
            }
            Assert.False(ring.Leaked);
        });
        Assert.Equal(fixture.Content.AsSpan(8192, 4096).ToArray(), fixture.Arena[buffer].ToArray());
    }

    [Fact]
    public void Ring_with_a_request_that_would_never_end_can_be_closed()
    {
        using Arena arena = new(65536);
        using WakeUp wakeUp = new();
        int endless = Libc.EventFd(0, Libc.EFD_CLOEXEC);
        Assert.Null(RingQueue.TryCreate([endless], arena, wakeUp, 4, out RingQueue? ring));
        Assert.True(ring!.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 8), 1)));
        wakeUp.Signal();
        Assert.Equal(0, ring.Wait(new BlockCompletion[4]));
        ring.Dispose();
        Assert.False(ring.Leaked);
        // If the read had survived, it would take this signal and write to the arena.
        Assert.Equal(8, Libc.Write(endless, BitConverter.GetBytes(7UL)));
        byte[] count = new byte[8];
        Assert.Equal(8, Libc.Read(endless, count));
        Assert.Equal(7UL, BitConverter.ToUInt64(count));
        Assert.Equal(0, BitConverter.ToInt64(arena[new Slice(0, 8)]));
        _ = Libc.Close(endless);
    }

    [Fact]
    public void Ring_with_reads_in_flight_can_be_closed()
    {
        for (int round = 0; round < 20; round++)
        {
            using QueueFixture fixture = new("ring", 1 << 20, 32, direct: true);
            for (uint tag = 0; tag < 32; tag++)
                fixture.Queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, tag * 32768, fixture.Arena.Take(32768)!.Value, tag));
            Assert.Equal(1, fixture.Queue.Wait(new BlockCompletion[1]));
            fixture.Queue.Dispose();
            Assert.False(((RingQueue)fixture.Queue).Leaked);
        }
    }

    [Theory]
    [InlineData("ring")]
    [InlineData("sync")]
    public void Signals_that_arrive_continuously_do_not_change_the_result(string kind)
    {
        OwnThread.Interrupted(sent =>
        {
            using QueueFixture fixture = new(kind, 4 << 20, 8, direct: true);
            Slice[] buffers = new Slice[8];
            for (int i = 0; i < 8; i++) buffers[i] = fixture.Arena.Take(16384)!.Value;
            IoScheduler transfers = new(fixture.Queue, [fixture.Device.Granule]);
            for (int round = 0; round < 400 || sent() < 1000; round++)
            {
                for (int i = 0; i < 8; i++)
                {
                    fixture.Arena[buffers[i]].Clear();
                    transfers.Read(0, (((round % 32 * 8) + i) * 16384), buffers[i]);
                }
                Assert.Null(transfers.Drain());
                for (int i = 0; i < 8; i++)
                    Assert.True(fixture.Arena[buffers[i]].SequenceEqual(fixture.Content.AsSpan((((round % 32 * 8) + i) * 16384), 16384)));
                if (round % 10 != 0) continue;
                transfers.Write(0, 0, buffers[0]);
                Assert.Null(transfers.Drain());
                fixture.Arena[buffers[0]].CopyTo(fixture.Content);
                transfers.Flush(0);
                Assert.Null(transfers.Drain());
            }
        });
    }

    [RootFact]
    public void Loop_device_is_read_and_written_with_direct_io()
    {
        using TempFolder folder = new();
        byte[] content = new byte[4 << 20];
        new Random(3).NextBytes(content);
        File.WriteAllBytes(folder["image"], content);
        using (LoopDevice loop = new(folder["image"]))
        using (Arena arena = new(1 << 20))
        using (WakeUp wakeUp = new())
        using (BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Write | DeviceAccess.Exclusive | DeviceAccess.Direct))
        {
            Assert.True(device.IsDirect);
            using IBlockQueue queue = QueueFixture.Make("ring", [device], arena, wakeUp, 16);
            IoScheduler transfers = new(queue, [device.Granule]);
            // Copies the image backwards in pieces of 64 KiB: reads at one end, writes at the other.
            for (int low = 0, high = content.Length - 65536; low < high; low += 65536, high -= 65536)
            {
                transfers.Read(0, low, new Slice(0, 65536));
                transfers.Read(0, high, new Slice(65536, 65536));
                Assert.Null(transfers.Drain());
                transfers.Write(0, high, new Slice(0, 65536));
                transfers.Write(0, low, new Slice(65536, 65536));
                Assert.Null(transfers.Drain());
            }
            transfers.Flush(0);
            Assert.Null(transfers.Drain());
        }
        byte[] after = File.ReadAllBytes(folder["image"]);
        for (int piece = 0; piece < content.Length; piece += 65536)
            Assert.True(after.AsSpan(piece, 65536).SequenceEqual(content.AsSpan(content.Length - 65536 - piece, 65536)),
                $"piece at {piece}");
    }
}
