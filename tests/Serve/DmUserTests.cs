using System;
using System.Collections.Concurrent;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

public sealed class DmUserTests
{
    private const string Vector = "v3-zstd-256k-xor";

    /// <summary>Blocks of the built COW; each is a Replace with a compressed payload.</summary>
    private const int BuiltBlocks = 64;

    [Fact]
    public void Image_is_read_through_four_channels_while_it_is_merged()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 4);
        byte[] target = Golden.New;
        ConcurrentQueue<Exception> failures = new();
        bool stop = false;
        Thread[] readers = Enumerable.Range(0, 4).Select(channel => new Thread(() =>
        {
            try
            {
                for (int round = 0; round == 0 || !Volatile.Read(ref stop); round++)
                    Compare(service.Peer, channel, target, seed: (channel * 1000) + round, reads: 20);
            }
            catch (Exception e)
            {
                failures.Enqueue(e);
            }
        })).ToArray();
        foreach (Thread reader in readers) reader.Start();
        try
        {
            fixture.Engine.Run();
        }
        finally
        {
            Volatile.Write(ref stop, true);
            foreach (Thread reader in readers) reader.Join();
        }
        Assert.Empty(failures);
        byte[] image = new byte[target.Length];
        for (int at = 0; at < image.Length; at += 1 << 20)
        {
            int bytes = Math.Min(1 << 20, image.Length - at);
            service.Peer.Read(at >> 20 & 3, (ulong)at, (ulong)at / 512, bytes)!.CopyTo(image, at);
        }
        Assert.True(target.AsSpan().SequenceEqual(image));
        Assert.True(fixture.View.Times.Reads >= (4 * 20) + (image.Length >> 20));
        Assert.InRange(fixture.View.Times.WorstMicroseconds, 1, 60_000_000);
        Assert.Null(service.Server.Failure);
        Assert.Empty(service.Reports);
    }

    private static void Compare(DmUserPeer peer, int channel, byte[] target, int seed, int reads)
    {
        Random random = new(seed);
        for (int i = 0; i < reads; i++)
        {
            int sectors = random.Next(3) switch { 0 => random.Next(1, 8), 1 => random.Next(1, 256), _ => random.Next(1, 2048) };
            int sector = random.Next(0, (target.Length / 512) - sectors + 1);
            byte[]? data = peer.Read(channel, (ulong)i, (ulong)sector, sectors * 512);
            Assert.True(target.AsSpan(sector * 512, sectors * 512).SequenceEqual(data),
                $"{sectors} sectors at {sector}, seed {seed}, read {i}");
        }
    }

    [Theory]
    [InlineData(0, 1 << 20)]
    [InlineData(0, (1 << 20) + 512)]
    [InlineData(7, (1 << 20) + 512)]
    [InlineData(1, (2 << 20) + 1024)]
    [InlineData(3, 0)]
    public void Read_of_any_length_gets_one_header_and_its_data(int sector, int bytes)
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1);
        for (ulong seq = 1; seq <= 2; seq++)
            Assert.True(Golden.New.AsSpan(sector * 512, bytes).SequenceEqual(service.Peer.Read(0, seq, (ulong)sector, bytes)));
    }

    [Fact]
    public void Header_and_first_part_are_sent_in_one_call_and_further_parts_without_a_header()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1, partBytes: 64 << 10, type: DmUserPeer.SeqPacket);
        byte[] packet = new byte[1 << 20];
        service.Peer.Ask(0, 1, DmUser.DM_USER_REQ_MAP_READ, 3, 64 << 10);
        Assert.Equal(40 + (64 << 10), service.Peer.TakePacket(0, packet));
        Assert.True(Golden.New.AsSpan(3 * 512, 64 << 10).SequenceEqual(packet.AsSpan(40, 64 << 10)));

        service.Peer.Ask(0, 2, DmUser.DM_USER_REQ_MAP_READ, 3, (64 << 10) + 512);
        Assert.Equal(40 + (64 << 10), service.Peer.TakePacket(0, packet));
        Assert.Equal(512, service.Peer.TakePacket(0, packet));
        Assert.True(Golden.New.AsSpan((3 * 512) + (64 << 10), 512).SequenceEqual(packet.AsSpan(0, 512)));
    }

    [Fact]
    public void Write_is_received_completely_and_refused_and_the_next_read_is_answered()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1, partBytes: 64 << 10);
        foreach (int bytes in new[] { 512, 4096, 300_032 })
        {
            Assert.Equal(DmUser.DM_USER_RESP_ERROR,
                service.Peer.Other(0, 1, DmUser.DM_USER_REQ_MAP_WRITE, (ulong)bytes, Enumerable.Repeat((byte)0xee, bytes).ToArray()));
            Assert.True(Golden.New.AsSpan(4096, 4096).SequenceEqual(service.Peer.Read(0, 2, 8, 4096)));
        }
        Assert.Equal(1, service.Peer.Opened);
        Assert.Equal(Golden.Old, fixture.Base);
    }

    [Fact]
    public void Flush_succeeds_and_an_unknown_request_is_unsupported()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1);
        Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, service.Peer.Other(0, 1, DmUser.DM_USER_REQ_MAP_FLUSH, 0));
        Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, service.Peer.Other(0, 2, DmUser.DM_USER_REQ_MAP_WRITE, 0));
        foreach (ulong type in new[] { DmUser.DM_USER_REQ_MAP_DISCARD, DmUser.DM_USER_REQ_MAP_SECURE_ERASE,
            DmUser.DM_USER_REQ_MAP_WRITE_SAME, DmUser.DM_USER_REQ_MAP_WRITE_ZEROES, 7ul, ulong.MaxValue })
            Assert.Equal(DmUser.DM_USER_RESP_UNSUPPORTED, service.Peer.Other(0, 3, type, ulong.MaxValue));
        Assert.NotNull(service.Peer.Read(0, 4, 0, 512));
    }

    [Fact]
    public void Read_beyond_the_end_gets_an_error_and_the_next_one_is_answered()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1);
        ulong sectors = (ulong)Golden.New.Length / 512;
        (ulong Sector, ulong Bytes)[] beyond = [(sectors, 512), (sectors - 1, 1024), (0, ulong.MaxValue),
            (0, (ulong)Golden.New.Length + 512), (ulong.MaxValue / 512, 512), (1ul << 55, 512), (ulong.MaxValue, 0)];
        foreach ((ulong sector, ulong bytes) in beyond)
        {
            service.Peer.Ask(0, 9, DmUser.DM_USER_REQ_MAP_READ, sector, bytes);
            Assert.Equal(DmUser.DM_USER_RESP_ERROR, service.Peer.TakeHead(0, 9, sector, bytes));
            Assert.NotNull(service.Peer.Read(0, 10, sectors - 1, 512));
        }
    }

    [Fact]
    public void Bad_payload_fails_only_the_read_that_needs_it()
    {
        using ViewFixture fixture = new(Built(badBlock: 5), new byte[BuiltBlocks * 4096]);
        using Service service = new(fixture, channels: 1);
        for (ulong seq = 0; seq < 3; seq++)
        {
            Assert.Null(service.Peer.Read(0, seq, 5 * 8, 4096));
            Assert.NotNull(service.Peer.Read(0, seq, 6 * 8, 4096));
        }
        Assert.Equal(1, service.Peer.Opened);
        Assert.Contains("payload", fixture.Failure);
    }

    [Fact]
    public void Bad_payload_after_the_first_part_closes_the_channel_and_another_one_serves()
    {
        using ViewFixture fixture = new(Built(badBlock: 20), new byte[BuiltBlocks * 4096]);
        using Service service = new(fixture, channels: 1, spare: 3, partBytes: 64 << 10);
        for (int channel = 0; channel < 4; channel++)
        {
            // Blocks 0 to 15 are in the first part, block 20 is in the second.
            Assert.NotNull(service.Peer.Read(channel, 1, 0, 64 << 10));
            service.Peer.Ask(channel, 2, DmUser.DM_USER_REQ_MAP_READ, 0, 128 << 10);
            Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, service.Peer.TakeHead(channel, 2, 0, 128 << 10));
            Assert.Equal(64 << 10, service.Peer.Take(channel, new byte[128 << 10]));
        }
        Assert.True(service.WaitForFailure());
        Assert.Contains("was removed", service.Server.Failure);
        Assert.Equal(4, service.Reports.Count);
        Assert.All(service.Reports, report => Assert.Contains("first part", report));
    }

    [Fact]
    public void Truncated_request_closes_the_channel_and_three_in_a_row_end_the_worker()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1, spare: 5);
        for (int channel = 0; channel < 6; channel++)
        {
            // The second channel answers a request first, so it is not one of three failures in a row.
            if (channel == 1) Assert.NotNull(service.Peer.Read(channel, 1, 0, 512));
            service.Peer.Send(channel, new byte[channel + 1]);
            service.Peer.Close(channel);
            if (channel == 4) break;
        }
        Assert.True(service.WaitForFailure());
        Assert.Equal("dm-user: a message ended 35 bytes early, 3 times in a row", service.Server.Failure);
        Assert.Equal(5, service.Peer.Opened);
    }

    [Fact]
    public void Removed_device_ends_the_threads_and_only_the_last_one_reports_it()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 3, spare: 1);
        service.Peer.Close(0);
        service.Peer.Close(1);
        Assert.NotNull(service.Peer.Read(2, 1, 0, 512));
        Assert.Null(service.Server.Failure);
        service.Peer.Close(2);
        Assert.True(service.WaitForFailure());
        Assert.Equal("/dev/dm-user/system_b: the device-mapper device was removed", service.Server.Failure);
        Assert.Empty(service.Reports);
        Assert.Equal(3, service.Peer.Opened);
    }

    [Fact]
    public void Stop_interrupts_threads_that_wait_for_a_request()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        for (int i = 0; i < 20; i++)
        {
            using Service service = new(fixture, channels: 4);
            // Some channels have already answered; others wait for their first request or are about to wait.
            if (i % 2 == 0) Assert.NotNull(service.Peer.Read(i % 4, 1, 0, 512));
            service.Server.Stop();
            for (int channel = 0; channel < 4; channel++) Assert.Equal(0, service.Peer.Take(channel, new byte[1]));
            Assert.Null(service.Server.Failure);
            service.Server.Stop();
        }
    }

    [Fact]
    public void Stop_completes_a_reply_that_is_being_sent()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1, patience: int.MaxValue);
        // The reply is larger than a socket buffer, so the thread is still sending when the stop request comes.
        const int bytes = 1 << 20;
        service.Peer.Ask(0, 1, DmUser.DM_USER_REQ_MAP_READ, 0, bytes);
        Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, service.Peer.TakeHead(0, 1, 0, bytes));
        Thread stopping = new(service.Server.Stop);
        stopping.Start();
        byte[] data = new byte[bytes];
        Assert.Equal(bytes, service.Peer.Take(0, data));
        Assert.True(Golden.New.AsSpan(0, bytes).SequenceEqual(data));
        stopping.Join();
        Assert.Equal(0, service.Peer.Take(0, new byte[1]));
    }

    [Fact]
    public void Stop_abandons_a_reply_that_is_not_read()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using Service service = new(fixture, channels: 1, patience: 2);
        service.Peer.Ask(0, 1, DmUser.DM_USER_REQ_MAP_READ, 0, 1 << 20);
        Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, service.Peer.TakeHead(0, 1, 0, 1 << 20));
        service.Server.Stop();
        Assert.InRange(service.Peer.Take(0, new byte[1 << 20]), 0, (1 << 20) - 1);
    }

    [Fact]
    public void Less_memory_makes_fewer_threads_and_too_little_is_refused()
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        int one = ReadContext.Bytes(fixture.View, 1, (64 << 10) + 4096);
        foreach ((int memory, int threads) in new[] { (one, 1), ((2 * one) - 1, 1), (2 * one, 2), (4 << 20, 4), (64 << 20, 4) })
        {
            using Service service = new(fixture, channels: 4, memoryBytes: memory, count: 4);
            Assert.Equal(threads, service.Peer.Opened);
            Assert.NotNull(service.Peer.Read(threads - 1, 1, 1, 1 << 20));
        }
        SnapuserdException refused =
            Assert.Throws<SnapuserdException>(() => new Service(fixture, channels: 4, memoryBytes: one - 1, count: 4));
        Assert.Equal(ExitCode.OutOfResources, refused.Code);
    }

    [Theory]
    [InlineData("", ExitCode.Usage)]
    [InlineData("../null", ExitCode.Usage)]
    [InlineData("there-is-no-such-device", ExitCode.Unavailable)]
    public void Invalid_or_missing_device_is_refused_with_its_name(string name, ExitCode code)
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using WakeUp wakeUp = new();
        using DmUserServer server = new(fixture.View, fixture.Devices, new DmUserOptions { Name = name }, wakeUp);
        SnapuserdException refused = Assert.Throws<SnapuserdException>(server.Start);
        Assert.Equal(code, refused.Code);
        Assert.Contains(name, refused.Message);
        server.Stop();
    }

    [Theory]
    [InlineData(Errno.EACCES, ExitCode.Permission)]
    [InlineData(Errno.EBUSY, ExitCode.InUse)]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    public void Failed_open_of_a_channel_closes_the_channels_that_were_opened(int errno, ExitCode code)
    {
        using ViewFixture fixture = new(Golden.Cow(Vector), Golden.Old);
        using WakeUp wakeUp = new();
        using DmUserPeer peer = new(2);
        int calls = 0;
        DmUserOptions options = new() { Name = "x", Open = () => ++calls <= 2 ? peer.Open() : -errno };
        using DmUserServer server = new(fixture.View, fixture.Devices, options, wakeUp);
        Assert.Equal(code, Assert.Throws<SnapuserdException>(server.Start).Code);
        Assert.Equal((3, 0, 0), (calls, peer.Take(0, new byte[1]), peer.Take(1, new byte[1])));
    }

    /// <summary>A COW of single blocks with payloads, one of which is damaged.</summary>
    private static byte[] Built(int badBlock)
    {
        CowBuilder builder = new() { Compression = CowCompression.Lz4 };
        byte[] block = new byte[4096];
        for (int i = 0; i < BuiltBlocks; i++)
        {
            new Random(i).NextBytes(block.AsSpan(0, 64));
            builder.Replace((uint)i, block);
        }
        byte[] cow = builder.Build();
        // Invalid LZ4 data: a match that begins before the block.
        new byte[] { 0x0f, 0xff, 0xff, 0xff }.CopyTo(cow, builder.DataOffsets[badBlock]);
        return cow;
    }

    /// <summary>A started server and its peer. Stops the server on disposal.</summary>
    private sealed class Service : IDisposable
    {
        private readonly WakeUp _wakeUp = new();

        internal Service(ViewFixture fixture, int channels, int spare = 0, int partBytes = 1 << 20, int type = DmUserPeer.Stream,
            int? memoryBytes = null, int? count = null, int patience = 100)
        {
            Peer = new DmUserPeer(channels + spare, type);
            DmUserOptions options = new()
            {
                Name = "system_b",
                Threads = count ?? channels,
                MemoryBytes = memoryBytes ?? (channels * ReadContext.Bytes(fixture.View, 1, partBytes + 4096)),
                Report = Reports.Enqueue,
                Open = Peer.Open,
                Patience = patience,
            };
            Server = new DmUserServer(fixture.View, fixture.Devices, options, _wakeUp);
            try
            {
                Assert.Equal("/dev/dm-user/system_b", Server.Start());
            }
            catch
            {
                Dispose();
                throw;
            }
        }

        internal DmUserServer Server { get; }

        internal DmUserPeer Peer { get; }

        internal ConcurrentQueue<string> Reports { get; } = new();

        /// <summary>Blocks until the server has signalled.</summary>
        internal bool WaitForFailure()
        {
            using Arena arena = new(4096);
            using SyncQueue queue = new(Array.Empty<BlockDevice>(), arena, _wakeUp, 1);
            while (Server.Failure is null) _ = queue.Wait(new BlockCompletion[1]);
            return true;
        }

        public void Dispose()
        {
            Server.Dispose();
            Peer.Dispose();
            _wakeUp.Dispose();
        }
    }
}
