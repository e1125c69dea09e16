using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests the server's life cycle: its socket, all kinds of clients, and its stop.</summary>
public sealed class NbdServerTests
{
    [Fact]
    public void Only_the_owner_may_open_the_socket_and_the_server_removes_it()
    {
        using NbdFixture fixture = new();
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, fixture.Path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status));
        Assert.Equal(Libc.S_IFSOCK | 0x180, status.Mode);
        fixture.Server.Stop();
        Assert.False(File.Exists(fixture.Path));
        fixture.Server.Stop();
    }

    [Fact]
    public void Socket_of_a_dead_server_is_replaced_and_that_of_a_living_one_is_not()
    {
        using NbdFixture fixture = new();
        Assert.Equal(ExitCode.InUse, Refusal(fixture, fixture.Path));
        using (NbdClient client = NbdClient.Ready(fixture.Path)) fixture.Compare(client, structured: false, seed: 1, reads: 2);

        string dead = Path.Combine(fixture.Folder, "dead");
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            socket.Bind(new UnixDomainSocketEndPoint(dead));
            // Disposing the socket would remove the file; move it aside first.
            File.Move(dead, dead + "2");
        }
        File.Move(dead + "2", dead);
        using NbdServer second = fixture.Make(new NbdOptions { SocketPath = dead });
        Assert.Equal(dead, second.Start());
        using (NbdClient client = NbdClient.Ready(dead)) fixture.Compare(client, structured: false, seed: 1, reads: 2);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Read_is_counted_once_even_if_it_has_several_parts_or_fails(bool structured)
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured);
        Assert.Equal((0, 0), (fixture.View.View.Times.Reads, fixture.View.View.Times.WorstMicroseconds));
        // Longer than any buffer of the server.
        _ = client.Read(4096, 700_000, structured);
        Assert.Equal(1, fixture.View.View.Times.Reads);
        _ = client.Read(0, 512, structured);
        Assert.Equal(2, fixture.View.View.Times.Reads);
        Assert.InRange(fixture.View.View.Times.WorstMicroseconds, 1, 60_000_000);
        (long offset, _) = fixture.Damage();
        client.SendRequest(0, 7, (ulong)offset, 4096);
        Assert.NotEqual(0u, client.TakeReply(4096).Error);
        Assert.Equal((3, 1), (fixture.View.View.Times.Reads, fixture.View.View.Failures));
    }

    [Fact]
    public void Paths_that_cannot_be_a_socket_are_refused()
    {
        using NbdFixture fixture = new();
        string file = Path.Combine(fixture.Folder, "file");
        File.WriteAllText(file, "precious");
        Assert.Equal(ExitCode.CannotCreate, Refusal(fixture, file));
        Assert.Equal("precious", File.ReadAllText(file));
        Assert.Equal(ExitCode.CannotCreate, Refusal(fixture, Path.Combine(fixture.Folder, "missing", "nbd")));
        Assert.Equal(ExitCode.Usage, Refusal(fixture, Path.Combine(fixture.Folder, new string('x', 108))));
        Assert.Equal(ExitCode.Usage, Refusal(fixture, ""));
    }

    [Fact]
    public void Stopping_does_not_remove_the_socket_of_a_successor()
    {
        using NbdFixture fixture = new();
        File.Delete(fixture.Path);
        using NbdServer successor = fixture.Make(new NbdOptions { SocketPath = fixture.Path });
        successor.Start();
        fixture.Server.Stop();
        using NbdClient client = NbdClient.Ready(fixture.Path);
        fixture.Compare(client, structured: false, seed: 1, reads: 2);
    }

    [Fact]
    public void Too_little_memory_is_refused_and_the_minimum_is_enough()
    {
        using ViewFixture view = new(Golden.Cow(NbdFixture.Zstd), Golden.Old);
        int least = ReadContext.Bytes(view.View, 1, 64 << 10);
        using WakeUp wakeUp = new();
        Assert.Equal(ExitCode.OutOfResources, Assert.Throws<SnapuserdException>(() => new NbdServer(view.View, view.Devices,
            new NbdOptions { MemoryBytes = least - 1 }, wakeUp)).Code);
        using NbdFixture fixture = new(options: new NbdOptions { MemoryBytes = least });
        using (NbdClient client = NbdClient.Ready(fixture.Path)) fixture.Compare(client, structured: false, seed: 1, reads: 20);
        using NbdClient next = NbdClient.Ready(fixture.Path, structured: true);
        fixture.Compare(next, structured: true, seed: 1, reads: 20);
    }

    [Fact]
    public void Hundred_successive_connections_are_served_and_leave_nothing_open()
    {
        using NbdFixture fixture = new(options: new NbdOptions { MaxConnections = 2 });
        for (int i = 0; i < 100; i++)
        {
            bool structured = i % 2 == 0;
            using NbdClient client = NbdClient.Ready(fixture.Path, structured);
            fixture.Compare(client, structured, i, reads: 2);
            // Some clients disconnect properly, some just close, some close with a request in flight.
            if (i % 3 == 0) client.SendRequest(2, 0, 0, 0);
            if (i % 3 == 1) client.SendRequest(0, 0, 0, 4 << 20);
        }
        Assert.NotEqual(0, Sockets());
        fixture.Server.Stop();
        // The server's ends of all connections have its socket's name. A child process that another test has just started may hold some of
        // them for a moment.
        for (long end = Environment.TickCount64 + 60_000; Sockets() > 0 && Environment.TickCount64 < end;) Thread.Yield();
        Assert.Equal(0, Sockets());
        Assert.Null(fixture.Server.Failure);

        int Sockets() => File.ReadLines("/proc/net/unix").Count(line => line.EndsWith(" " + fixture.Path, StringComparison.Ordinal));
    }

    [Fact]
    public void Excess_client_waits_until_another_has_left()
    {
        using NbdFixture fixture = new(options: new NbdOptions { MaxConnections = 1 });
        NbdClient first = NbdClient.Ready(fixture.Path);
        using NbdClient second = new(fixture.Path);
        fixture.Compare(first, structured: false, seed: 1, reads: 5);
        first.Dispose();
        second.Greet();
        second.SendOption(1);
        second.Take(10);
        fixture.Compare(second, structured: false, seed: 1, reads: 5);
    }

    [Fact]
    public void Garbage_ends_only_its_own_connection()
    {
        using NbdFixture fixture = new();
        using NbdClient live = NbdClient.Ready(fixture.Path, structured: true);
        for (int seed = 0; seed < 150; seed++)
        {
            Random random = new(seed);
            byte[] junk = new byte[random.Next(1, 2000)];
            random.NextBytes(junk);
            using NbdClient client = new(fixture.Path);
            byte[] before = (seed % 4) switch
            {
                0 => [],
                1 => NbdClient.Big32(3),
                2 => [.. NbdClient.Big32(3), .. NbdClient.Option((uint)random.Next(1, 12), junk)],
                _ => [.. NbdClient.Big32(3), .. NbdClient.Option(1), .. NbdClient.Request((ushort)random.Next(0, 10), 1,
                    (ulong)random.NextInt64(), (uint)random.Next(), (ushort)random.Next(0, 9))],
            };
            try
            {
                client.Send([.. before, .. junk]);
                client.CloseSending();
            }
            catch (SocketException)
            {
                // The server closed the connection before the client had sent everything.
            }
            client.Drain();
            if (seed % 30 == 0) fixture.Compare(live, structured: true, seed, reads: 3);
        }
        Assert.Null(fixture.Server.Failure);
    }

    [Fact]
    public void Client_that_does_not_read_delays_neither_other_clients_nor_the_merge()
    {
        using NbdFixture fixture = new();
        using NbdClient stalled = NbdClient.Ready(fixture.Path, structured: true), half = NbdClient.Ready(fixture.Path);
        for (ulong i = 0; i < 20; i++) stalled.SendRequest(0, i, 0, (uint)fixture.Target.Length);
        half.SendRequest(0, 1, 0, (uint)fixture.Target.Length);
        half.Take(100_000);

        using NbdClient live = NbdClient.Ready(fixture.Path, structured: true);
        fixture.Compare(live, structured: true, seed: 1, reads: 40);
        fixture.View.Engine.Run();
        fixture.Compare(live, structured: true, seed: 2, reads: 40);
        Assert.Equal(fixture.Target, fixture.View.Base);

        // Data requested before the merge and received after it must also be the target's.
        half.Take(16 + fixture.Target.Length - 100_000);
        fixture.Compare(half, structured: false, seed: 3, reads: 10);
        Assert.Null(fixture.Server.Failure);
    }

    [Fact]
    public void Reads_of_several_clients_show_the_target_while_the_merge_runs()
    {
        using NbdFixture fixture = new();
        bool stop = false;
        List<Exception> failures = [];
        Thread[] threads = Enumerable.Range(0, 3).Select(i => new Thread(() =>
        {
            try
            {
                using NbdClient client = NbdClient.Ready(fixture.Path, structured: i % 2 == 0);
                for (int round = 0; round == 0 || !Volatile.Read(ref stop); round++)
                    fixture.Compare(client, structured: i % 2 == 0, (i * 1000) + round, reads: 10);
            }
            catch (Exception e)
            {
                lock (failures) failures.Add(e);
            }
        })).ToArray();
        foreach (Thread thread in threads) thread.Start();
        fixture.View.Engine.Run();
        Volatile.Write(ref stop, true);
        foreach (Thread thread in threads) thread.Join();
        Assert.Empty(failures);
        Assert.Equal(fixture.Target, fixture.View.Base);
    }

    [Fact]
    public void Stop_answers_the_received_requests_and_refuses_new_clients()
    {
        using NbdFixture fixture = new(options: new NbdOptions { DrainMilliseconds = 60_000 });
        using NbdClient client = NbdClient.Ready(fixture.Path);
        for (ulong i = 0; i < 10; i++) client.SendRequest(0, i, i << 16, 1 << 16);
        Thread stopping = new(fixture.Server.Stop);
        stopping.Start();
        HashSet<ulong> answered = [];
        for (int i = 0; i < 10; i++)
        {
            NbdReply reply = client.TakeReply(1 << 16);
            Assert.True(answered.Add(reply.Cookie)
                && fixture.Target.AsSpan((int)(reply.Cookie << 16), 1 << 16).SequenceEqual(reply.Payload), $"{reply.Cookie}");
        }
        Assert.Equal(0, client.Drain());
        stopping.Join();
        Assert.ThrowsAny<SocketException>(() => new NbdClient(fixture.Path));
    }

    [Fact]
    public void Stop_does_not_wait_for_a_client_that_does_not_read()
    {
        using NbdFixture fixture = new(options: new NbdOptions { DrainMilliseconds = 1 });
        using NbdClient stalled = NbdClient.Ready(fixture.Path), silent = new(fixture.Path);
        for (ulong i = 0; i < 20; i++) stalled.SendRequest(0, i, 0, (uint)fixture.Target.Length);
        stalled.Take(100);
        fixture.Server.Stop();
        Assert.InRange(stalled.Drain(), 0, (20 * fixture.Target.Length) - 1);
        Assert.Null(fixture.Server.Failure);
    }

    private static ExitCode Refusal(NbdFixture fixture, string path)
    {
        using NbdServer server = fixture.Make(new NbdOptions { SocketPath = path });
        return Assert.Throws<SnapuserdException>(server.Start).Code;
    }
}
