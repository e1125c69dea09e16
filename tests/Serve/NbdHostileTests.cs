using System;
using System.Collections.Generic;
using System.Linq;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>
/// Tests clients that stop at any point of the protocol, while other clients must be served. The tests control the clock, so no test waits
/// for a timeout in real time.
/// </summary>
public sealed class NbdHostileTests
{
    private const int Minute = 60_000;

    private readonly TestClock _clock = new();

    /// <summary>A clock that the test sets.</summary>
    private sealed class TestClock : ITimeSource
    {
        private long _now = 1_000_000;

        public long Milliseconds => Volatile.Read(ref _now);

        internal void Pass(long milliseconds) => Interlocked.Add(ref _now, milliseconds);
    }

    private NbdFixture Fixture(int maxConnections = 2048, int? memory = null) =>
        new(options: new NbdOptions
        {
            Time = _clock,
            MaxConnections = maxConnections,
            MemoryBytes = memory ?? (16 << 20),
            DrainMilliseconds = 1,
        });

    /// <summary>Waits for a state that the server's threads reach; fails after a minute.</summary>
    private static void Until(Func<bool> condition, string what)
    {
        long end = Environment.TickCount64 + Minute;
        while (!condition())
        {
            if (Environment.TickCount64 > end) throw new InvalidOperationException($"not reached within a minute: {what}");
            Thread.Yield();
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Client_that_was_idle_for_minutes_still_reads_after_a_hundred_hostile_ones(bool structured)
    {
        using NbdFixture fixture = Fixture();
        using NbdClient idle = NbdClient.Ready(fixture.Path, structured);
        fixture.Compare(idle, structured, seed: 1, reads: 3);
        _clock.Pass(10 * Minute);
        fixture.Server.CheckTimes();

        List<NbdClient> silent = [], stalledReaders = [], slow = [];
        for (int i = 0; i < 100; i++)
        {
            NbdClient client;
            switch (i % 5)
            {
                case 0:
                    // Sends nothing.
                    silent.Add(new NbdClient(fixture.Path));
                    break;
                case 1:
                    // Stops in the middle of an option's data.
                    silent.Add(client = new NbdClient(fixture.Path));
                    client.Greet();
                    client.Send(NbdClient.Option(6, new byte[100], 5000));
                    break;
                case 2:
                    // Requests much and reads nothing.
                    stalledReaders.Add(client = NbdClient.Ready(fixture.Path, i % 2 == 0));
                    for (ulong n = 0; n < 50; n++) client.SendRequest(0, n, 0, (uint)fixture.Target.Length);
                    Until(() => client.HasData, "the first bytes of a reply");
                    break;
                case 3:
                    // Stops in the middle of a request.
                    slow.Add(client = NbdClient.Ready(fixture.Path));
                    client.Send(NbdClient.Request(0, 7, 4096, 4096).AsSpan(0, 20));
                    break;
                default:
                    // Stops in the middle of the data of a write.
                    slow.Add(client = NbdClient.Ready(fixture.Path));
                    client.SendRequest(1, 7, 0, 100_000);
                    client.Send(new byte[50_000]);
                    break;
            }
        }
        Read(idle, 2);

        _clock.Pass(31_000);
        fixture.Server.CheckTimes();
        Until(() => fixture.Server.Connections == 1 + slow.Count, "clients that owe a handshake or do not read are dropped");
        Assert.Equal(silent.Count + stalledReaders.Count, fixture.Reports.Count);
        Assert.Equal(silent.Count,
            fixture.Reports.Count(r => r.Contains("not finish the handshake within 30 s", StringComparison.Ordinal)));
        Assert.Equal(stalledReaders.Count,
            fixture.Reports.Count(r => r.Contains("read nothing of its replies for 30 s", StringComparison.Ordinal)));
        foreach (NbdClient client in silent) client.Drain();
        Read(idle, 3);

        // The client may complete a partly sent request or payload at any time.
        _clock.Pass(60 * Minute);
        fixture.Server.CheckTimes();
        for (int i = 0; i < slow.Count; i++)
        {
            if (i % 2 == 0)
            {
                slow[i].Send(NbdClient.Request(0, 7, 4096, 4096).AsSpan(20));
                Assert.True(fixture.Target.AsSpan(4096, 4096).SequenceEqual(slow[i].TakeReply(4096).Payload), $"{i}");
            }
            else
            {
                slow[i].Send(new byte[50_000]);
                Assert.Equal(1u, slow[i].TakeReply().Error);
            }
        }
        Assert.Null(fixture.Server.Failure);
        foreach (NbdClient client in (List<NbdClient>)[.. silent, .. stalledReaders, .. slow]) client.Dispose();

        void Read(NbdClient client, int seed)
        {
            fixture.Compare(client, structured, seed, reads: 10);
            using NbdClient fresh = NbdClient.Ready(fixture.Path, structured: true);
            fixture.Compare(fresh, structured: true, seed, reads: 3);
        }
    }

    [Fact]
    public void Thousand_idle_clients_cost_no_thread_and_no_buffer_and_all_read_after_an_hour()
    {
        using NbdFixture fixture = Fixture();
        int threads = fixture.Server.Threads;
        // All connect at once, and each starts its handshake only after the others have connected.
        List<NbdClient> clients = Enumerable.Range(0, 1000).Select(_ => new NbdClient(fixture.Path)).ToList();
        foreach (NbdClient client in clients)
        {
            client.Greet();
            client.SendOption(1);
        }
        foreach (NbdClient client in clients) client.Take(10);
        Assert.Equal(1000, fixture.Server.Connections);
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < clients.Count; i++)
            {
                int offset = i * 4096 % (fixture.Target.Length - 8192);
                byte[] got = clients[i].Read(offset, 5000, structured: false);
                Assert.True(fixture.Target.AsSpan(offset, 5000).SequenceEqual(got), $"client {i}");
            }
            Until(() => fixture.Server.BuffersInUse == 0, "no buffer is in use");
            Assert.Equal(threads, fixture.Server.Threads);
            _clock.Pass(60 * Minute);
            Assert.Equal(-1, fixture.Server.CheckTimes());
            Assert.Equal(1000, fixture.Server.Connections);
        }
        Assert.Empty(fixture.Reports);
        foreach (NbdClient client in clients) client.Dispose();
        Until(() => fixture.Server.Connections == 0, "all have left");
    }

    [Fact]
    public void Slow_handshake_must_be_complete_within_thirty_seconds()
    {
        using NbdFixture fixture = Fixture();
        using NbdClient client = new(fixture.Path), quick = new(fixture.Path);
        client.Take(18);
        foreach (byte b in (byte[])[0, 0, 0])
        {
            client.Send([b]);
            _clock.Pass(9_999);
            fixture.Server.CheckTimes();
        }
        Assert.Equal(2, fixture.Server.Connections);
        client.Send([3]);
        // The other client completes it at the last moment.
        quick.Greet();
        quick.SendOption(1);
        quick.Take(10);
        _clock.Pass(3);
        fixture.Server.CheckTimes();
        Assert.Equal(0, client.Drain());
        Until(() => fixture.Server.Connections == 1, "only the quick one is left");
        fixture.Compare(quick, structured: false, seed: 1, reads: 3);
    }

    [Fact]
    public void Client_that_reads_slowly_gets_the_whole_reply_and_one_that_stops_reading_is_dropped()
    {
        using NbdFixture fixture = Fixture();
        using NbdClient client = NbdClient.Ready(fixture.Path);
        client.SendRequest(0, 5, 0, (uint)fixture.Target.Length);
        byte[] head = client.Take(16);
        Assert.Equal(0u, NbdClient.Read32(head, 4));
        // A part is larger than the socket buffers, so the server has sent some of it since the clock was last changed.
        const int part = 1 << 20;
        for (int at = 0; at < fixture.Target.Length; at += part)
        {
            int length = Math.Min(part, fixture.Target.Length - at);
            Assert.True(fixture.Target.AsSpan(at, length).SequenceEqual(client.Take(length)), $"{at}");
            _clock.Pass(29_000);
            fixture.Server.CheckTimes();
        }
        // The client has read everything, so it may be idle for any time.
        _clock.Pass(60 * Minute);
        fixture.Server.CheckTimes();
        fixture.Compare(client, structured: false, seed: 2, reads: 3);
        Assert.Empty(fixture.Reports);

        // A reply that fits into the socket buffer must also be read in time.
        client.SendRequest(0, 6, 0, 4096);
        Until(() => client.HasData, "the reply");
        _clock.Pass(30_001);
        fixture.Server.CheckTimes();
        Until(() => fixture.Server.Connections == 0, "it is dropped");
        Assert.Contains("read nothing", Assert.Single(fixture.Reports), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Waiting_replies_lose_their_buffers_to_others_and_are_still_complete(bool structured)
    {
        // Enough memory for one worker and one buffer.
        int least;
        using (ViewFixture view = new(Golden.Cow(NbdFixture.Zstd), Golden.Old)) least = ReadContext.Bytes(view.View, 1, 64 << 10);
        using NbdFixture fixture = Fixture(memory: least);
        NbdClient[] stalled = Enumerable.Range(0, 20).Select(_ => NbdClient.Ready(fixture.Path, structured)).ToArray();
        for (int i = 0; i < stalled.Length; i++)
        {
            stalled[i].SendRequest(0, 77, 0, (uint)fixture.Target.Length);
            // This client has the buffer now; the previous client has lost it.
            Until(() => fixture.Server.Buffers.Waiting == (1, i), $"the reply to client {i} waits");
        }
        using NbdClient live = NbdClient.Ready(fixture.Path, structured: true);
        fixture.Compare(live, structured: true, seed: 1, reads: 20);
        foreach (NbdClient client in stalled.AsEnumerable().Reverse())
        {
            byte[] got = client.TakeRead(0, fixture.Target.Length, structured);
            Assert.True(fixture.Target.AsSpan().SequenceEqual(got), "a reply has wrong data");
        }
        Assert.Null(fixture.Server.Failure);
        foreach (NbdClient client in stalled) client.Dispose();
    }

    [Fact]
    public void Client_with_endless_requests_does_not_starve_another_client()
    {
        using NbdFixture fixture = Fixture();
        using NbdClient greedy = NbdClient.Ready(fixture.Path, structured: true);
        bool stop = false;
        Thread thread = new(() =>
        {
            for (ulong i = 0; i < 16; i++) greedy.SendRequest(0, i, 0, (uint)fixture.Target.Length);
            for (int open = 16; open > 0;)
            {
                if (!greedy.TakeReply().Done) continue;
                if (Volatile.Read(ref stop)) open--;
                else greedy.SendRequest(0, 99, 0, (uint)fixture.Target.Length);
            }
        });
        thread.Start();
        using NbdClient modest = NbdClient.Ready(fixture.Path);
        fixture.Compare(modest, structured: false, seed: 4, reads: 50);
        Volatile.Write(ref stop, true);
        thread.Join();
        Assert.Null(fixture.Server.Failure);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Client_that_closes_its_sending_half_still_gets_all_replies(bool structured)
    {
        using NbdFixture fixture = Fixture();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured);
        client.SendRequest(0, 77, 0, (uint)fixture.Target.Length);
        client.SendRequest(3, 78, 0, 0);
        client.CloseSending();
        // Below the limit of thirty seconds.
        Until(() => client.HasData, "the beginning of a reply");
        _clock.Pass(29_000);
        fixture.Server.CheckTimes();
        if (structured)
        {
            long data = 0;
            int ends = 0;
            while (ends < 2)
            {
                NbdReply reply = client.TakeReply();
                if (reply.Cookie == 77) data += reply.Payload.Length - 8;
                if (reply.Done) ends++;
            }
            Assert.Equal(fixture.Target.Length, data);
        }
        else
        {
            // The server may send the two in either order.
            HashSet<ulong> cookies = [];
            for (int i = 0; i < 2; i++)
            {
                byte[] head = client.Take(16);
                ulong cookie = System.Buffers.Binary.BinaryPrimitives.ReadUInt64BigEndian(head.AsSpan(8));
                Assert.True(cookies.Add(cookie));
                if (cookie == 77) Assert.Equal(fixture.Target, client.Take(fixture.Target.Length));
            }
        }
        Assert.Equal(0, client.Drain());
    }

    [Fact]
    public void Clients_that_disconnect_at_any_point_leave_nothing_open()
    {
        using NbdFixture fixture = Fixture();
        for (int seed = 0; seed < 300; seed++)
        {
            Random random = new(seed);
            using NbdClient client = seed % 3 == 0 ? new(fixture.Path) : NbdClient.Ready(fixture.Path, seed % 2 == 0);
            if (seed % 3 == 0) continue;
            for (ulong i = 0; i < (ulong)random.Next(1, 30); i++) client.SendRequest(0, i, 0, (uint)random.Next(1, fixture.Target.Length));
            client.Send(NbdClient.Request(1, 1, 0, 5000).AsSpan(0, random.Next(1, 29)));
            if (random.Next(2) == 0) client.Take(random.Next(1, 16));
        }
        Until(() => fixture.Server.Connections == 0, "all are gone");
        Until(() => fixture.Server.BuffersInUse == 0, "all buffers are free");
        Assert.Empty(fixture.Reports);
        using NbdClient live = NbdClient.Ready(fixture.Path);
        fixture.Compare(live, structured: false, seed: 1, reads: 10);
    }

    [Fact]
    public void Handshake_continues_when_the_client_reads_its_replies_late()
    {
        using NbdFixture fixture = Fixture();
        using NbdClient client = new(fixture.Path);
        client.Greet();
        // Sends many options, one with the most data, and a request before it reads the first reply.
        for (int i = 0; i < 200; i++) client.SendOption(3);
        client.SendOption(6, new byte[9000]);
        client.SendOption(7, NbdClient.Info("", [1, 1, 3, 0, 77]));
        client.SendRequest(0, 77, 4096, 4096);
        for (int i = 0; i < 200; i++)
        {
            Assert.Equal(2u, client.TakeOptionReply().Type);
            Assert.Equal(1u, client.TakeOptionReply().Type);
        }
        Assert.Equal(0x80000009, client.TakeOptionReply().Type);
        while (client.TakeOptionReply().Type != 1) { }
        Assert.True(fixture.Target.AsSpan(4096, 4096).SequenceEqual(client.TakeReply(4096).Payload));
    }

    [Fact]
    public void Excess_client_waits_for_a_slot_and_is_refused_after_the_timeout()
    {
        using NbdFixture fixture = Fixture(maxConnections: 2);
        NbdClient first = NbdClient.Ready(fixture.Path);
        using NbdClient second = NbdClient.Ready(fixture.Path);
        Until(() => !fixture.Reports.IsEmpty, "the server reports that all slots are taken");
        Assert.Contains("there are 2 clients", Assert.Single(fixture.Reports), StringComparison.Ordinal);
        using (NbdClient third = new(fixture.Path))
        {
            _clock.Pass(30_001);
            fixture.Server.LookAgain();
            Assert.Equal(0, third.Drain());
        }
        fixture.Compare(first, structured: false, seed: 1, reads: 3);
        fixture.Compare(second, structured: false, seed: 1, reads: 3);
        first.Dispose();
        Until(() => fixture.Server.Connections == 1, "one has left");
        using NbdClient fourth = NbdClient.Ready(fixture.Path);
        fixture.Compare(fourth, structured: false, seed: 1, reads: 3);
    }

    [Fact]
    public void Client_that_connects_after_another_has_left_is_not_refused()
    {
        // The accepting thread reports after it has seen that every slot is taken, and before it waits for clients. The report's handler
        // makes one client leave and another one connect.
        using NbdFixture fixture = Fixture();
        string path = fixture.Path + "2";
        NbdServer? server = null;
        NbdClient? first = null, second = null;
        using ManualResetEventSlim connected = new();
        NbdOptions options = new()
        {
            SocketPath = path,
            MaxConnections = 1,
            CrowdedSeconds = 0,
            Time = _clock,
            DrainMilliseconds = 1,
            Report = _ =>
            {
                if (second != null || !connected.Wait(Minute)) return;
                first!.Dispose();
                Until(() => server!.Connections == 0, "the first client has left");
                second = new NbdClient(path);
            },
        };
        using (server = fixture.Make(options))
        {
            server.Start();
            first = new NbdClient(path);
            connected.Set();
            Until(() => Volatile.Read(ref second) != null, "the second client has connected");
            using (second) second!.Greet();
        }
    }

    [Fact]
    public void Export_name_above_the_protocols_limit_is_refused()
    {
        using NbdFixture fixture = Fixture();
        NbdOptions tooLong = new() { SocketPath = fixture.Path + "2", ExportName = new string('x', 4097) };
        Assert.Equal(ExitCode.Usage, Assert.Throws<SnapuserdException>(() => fixture.Make(tooLong)).Code);
        using NbdServer server = fixture.Make(new NbdOptions { SocketPath = fixture.Path + "2", ExportName = new string('x', 4096) });
        server.Start();
        using NbdClient client = new(fixture.Path + "2");
        client.Greet();
        client.SendOption(3);
        Assert.Equal(4100, client.TakeOptionReply().Data.Length);
        Assert.Equal(1u, client.TakeOptionReply().Type);
        client.SendOption(7, NbdClient.Info(new string('x', 4096), [1]));
        while (client.TakeOptionReply().Type != 1) { }
        fixture.Compare(client, structured: false, seed: 1, reads: 3);
    }

    [Theory]
    [InlineData(ulong.MaxValue, 0, 2048, 2048)]
    [InlineData(1024ul, 0, 2048, 768)]
    [InlineData(1024ul, 700, 2048, 68)]
    [InlineData(1024ul, 768, 2048, 1)]
    [InlineData(1024ul, 5000, 2048, 1)]
    [InlineData(64ul, 0, 2048, 32)]
    [InlineData(0ul, 0, 2048, 1)]
    public void Servers_share_the_descriptors_within_the_process_limit(ulong limit, int promised, int wanted, int share) =>
        Assert.Equal(share, NbdDescriptors.Share(limit, promised, wanted));
}
