using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>The hand-over of the control socket, and the property service, each with a correct peer and with a faulty one.</summary>
public sealed class HandOverTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();

    public void Dispose()
    {
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_socket_goes_from_the_proxy_to_the_daemon_and_serves_there()
    {
        string control = _folder["control"], proxyPath = _folder["proxy"];
        Assert.Equal(-1, Take(proxyPath));
        int socket = Bound(control, Libc.SOCK_STREAM), proxy = Bound(proxyPath, Libc.SOCK_SEQPACKET);
        // Bound, but no process listens yet.
        Assert.Equal(-1, Take(proxyPath));
        using ManualResetEventSlim ready = new();
        Exception? failure = null;
        Thread giver = new(() => failure = Record.Exception(() => SocketHandOver.Give(proxy, socket, ready.Set, _wakeUp, () => false)));
        giver.Start();
        ready.Wait();
        int taken = Take(proxyPath);
        giver.Join();
        Assert.Null(failure);
        Assert.True(taken >= 0);
        _ = Libc.Close(socket);
        Script script = new();
        using ControlServer server = ControlServer.Adopt(taken, new ControlOptions { Messages = script, AnyPeer = true });
        using Talker client = new(control);
        Assert.Equal("got x", client.Ask("x"));
        _ = Libc.Close(proxy);
        Assert.Equal(-1, Take(proxyPath));
    }

    [Theory]
    [InlineData("")]
    [InlineData("b")]
    [InlineData("a")]
    public void A_proxy_accepts_only_the_answer_that_it_waits_for(string answer)
    {
        string proxyPath = _folder["proxy"];
        int socket = Bound(_folder["control"], Libc.SOCK_STREAM), proxy = Bound(proxyPath, Libc.SOCK_SEQPACKET);
        using ManualResetEventSlim ready = new();
        Exception? failure = null;
        Thread giver = new(() => failure = Record.Exception(() => SocketHandOver.Give(proxy, socket, ready.Set, _wakeUp, () => false)));
        giver.Start();
        ready.Wait();
        using (Socket daemon = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified))
        {
            daemon.Connect(new UnixDomainSocketEndPoint(proxyPath));
            byte[] mark = new byte[1];
            Assert.Equal(1, daemon.Receive(mark));
            Assert.Equal((byte)'a', mark[0]);
            if (answer.Length > 0) Assert.Equal(1, daemon.Send([(byte)answer[0]]));
        }
        giver.Join();
        if (answer == "a") Assert.Null(failure);
        else Assert.Equal(ExitCode.InputOutput, Assert.IsType<SnapuserdException>(failure).Code);
        _ = Libc.Close(socket);
        _ = Libc.Close(proxy);
    }

    [Fact]
    public void A_daemon_refuses_a_byte_without_a_socket_and_waits_for_the_next_proxy_if_one_dies()
    {
        string path = _folder["proxy"];
        using Socket proxy = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
        proxy.Bind(new UnixDomainSocketEndPoint(path));
        proxy.Listen(4);
        int taken = 0;
        Exception? failure = null;
        foreach (bool speaks in (bool[])[false, true])
        {
            Thread taker = new(() => failure = Record.Exception(() => taken = Take(path)));
            taker.Start();
            using (Socket daemon = proxy.Accept())
            {
                if (speaks) Assert.Equal(1, daemon.Send("a"u8));
            }
            taker.Join();
            if (!speaks) Assert.Equal((-1, null), (taken, failure));
            else Assert.Equal(ExitCode.InputOutput, Assert.IsType<SnapuserdException>(failure).Code);
        }
    }

    [Fact]
    public void A_proxy_that_accepts_no_client_counts_as_missing()
    {
        string path = _folder["proxy"];
        using Socket proxy = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
        proxy.Bind(new UnixDomainSocketEndPoint(path));
        proxy.Listen(1);
        List<int> waiting = [];
        int connected;
        do
        {
            waiting.Add(Libc.Socket(Libc.AF_UNIX, Libc.SOCK_SEQPACKET | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
            connected = Libc.Connect(waiting[^1], path);
        }
        while (connected == 0);
        Assert.Equal(-Errno.EAGAIN, connected);
        int taken = 0;
        Thread taker = new(() => taken = Take(path)) { IsBackground = true };
        taker.Start();
        Assert.True(taker.Join(60_000), "it waits for a proxy that lets no client in");
        Assert.Equal(-1, taken);
        foreach (int one in waiting) _ = Libc.Close(one);
    }

    [Theory]
    [InlineData(Errno.ENOENT, false)]
    [InlineData(Errno.ENOTDIR, false)]
    [InlineData(Errno.ECONNREFUSED, false)]
    [InlineData(Errno.EAGAIN, false)]
    [InlineData(Errno.EINTR, false)]
    [InlineData(Errno.EPERM, true)]
    [InlineData(Errno.EACCES, true)]
    public void A_daemon_tries_again_if_there_is_no_proxy_yet_and_reports_other_errors(int errno, bool told)
    {
        string path = _folder["proxy"], said = "";
        int taken = 0, connected = -1, closed = 0;
        Answering([SYS_connect, SYS_close], call =>
        {
            if (call.Number == SYS_connect)
            {
                connected = call[0];
                return -errno;
            }
            if (call[0] == connected) closed++;
            return null;
        }, () => (taken, said) = TryTake(path));
        Assert.Equal((told ? 0 : -1, told ? $"74 connecting to {path} failed: {ErrnoText.Of(-errno)}" : "", 1), (taken, said, closed));
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(Errno.ECONNRESET, false)]
    [InlineData(Errno.EPERM, true)]
    [InlineData(Errno.EIO, true)]
    public void A_daemon_tries_again_if_the_proxy_has_gone_and_reports_other_errors(int errno, bool told)
    {
        string path = _folder["proxy"], said = "";
        int taken = 0, connected = -1, closed = 0, asked = 0, waits = 0;
        Answering([SYS_connect, SYS_recvmsg, SYS_poll, SYS_close], call =>
        {
            switch (call.Number)
            {
                case SYS_connect:
                    connected = call[0];
                    return 0;
                case SYS_recvmsg:
                    Assert.Equal(connected, call[0]);
                    return asked++ == 0 ? -Errno.EAGAIN : asked == 2 ? -Errno.EINTR : -errno;
                case SYS_poll:
                    waits += call[2];
                    return 0;
                default:
                    if (call[0] == connected) closed++;
                    return null;
            }
        }, () => (taken, said) = TryTake(path));
        Assert.Equal((told ? 0 : -1, told ? $"74 receiving from {path} failed: {ErrnoText.Of(-errno)}" : "", 1), (taken, said, closed));
        Assert.Equal((3, 40), (asked, waits));
    }

    [Fact]
    public void A_daemon_that_waits_for_a_silent_proxy_can_be_stopped()
    {
        string path = _folder["proxy"];
        using Socket proxy = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
        proxy.Bind(new UnixDomainSocketEndPoint(path));
        proxy.Listen(4);
        bool over = false;
        int taken = 0;
        Thread taker = new(() => taken = SocketHandOver.Take(path, _wakeUp, () => Volatile.Read(ref over))) { IsBackground = true };
        taker.Start();
        using Socket daemon = proxy.Accept();
        Volatile.Write(ref over, true);
        _wakeUp.Signal();
        taker.Join();
        Assert.Equal(-1, taken);
    }

    [Fact]
    public void A_proxy_that_waits_for_a_silent_daemon_can_be_stopped()
    {
        string path = _folder["proxy"];
        int socket = Bound(_folder["control"], Libc.SOCK_STREAM), proxy = Bound(path, Libc.SOCK_SEQPACKET);
        using ManualResetEventSlim ready = new();
        bool over = false;
        Exception? failure = null;
        Thread giver = new(
            () => failure = Record.Exception(() => SocketHandOver.Give(proxy, socket, ready.Set, _wakeUp, () => Volatile.Read(ref over))));
        giver.Start();
        ready.Wait();
        using Socket daemon = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
        daemon.Connect(new UnixDomainSocketEndPoint(path));
        // The daemon has the descriptor, so the giver now waits for its answer.
        Assert.Equal(1, daemon.Receive(new byte[1]));
        Volatile.Write(ref over, true);
        _wakeUp.Signal();
        giver.Join();
        Assert.Equal(ExitCode.Interrupted, Assert.IsType<SnapuserdException>(failure).Code);
        _ = Libc.Close(socket);
        _ = Libc.Close(proxy);
    }

    [Fact]
    public void A_proxy_that_waits_for_a_daemon_to_connect_can_be_stopped()
    {
        int socket = Bound(_folder["control"], Libc.SOCK_STREAM), proxy = Bound(_folder["proxy"], Libc.SOCK_SEQPACKET);
        bool ready = false;
        Assert.Equal(ExitCode.Interrupted,
            Assert.Throws<SnapuserdException>(() => SocketHandOver.Give(proxy, socket, () => ready = true, _wakeUp, () => true)).Code);
        Assert.True(ready);
        _ = Libc.Close(socket);
        _ = Libc.Close(proxy);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(24u)]
    public void A_property_is_set_by_the_protocol_of_bionic(uint answer)
    {
        string path = _folder["property_service"];
        Assert.Null(PropertyService.Set("snapuserd.ready", "true", path));
        using Socket service = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        service.Bind(new UnixDomainSocketEndPoint(path));
        service.Listen(1);
        string? why = "";
        Thread setter = new(() => why = PropertyService.Set("snapuserd.ready", "true", path));
        setter.Start();
        byte[] message = new byte[4096];
        using (Socket client = service.Accept())
        {
            int length = client.Receive(message);
            Assert.Equal("\u0001\0\u0002\0\u000f\0\0\0snapuserd.ready\u0004\0\0\0true",
                System.Text.Encoding.Latin1.GetString(message, 0, length));
            _ = client.Send(BitConverter.GetBytes(answer));
        }
        setter.Join();
        if (answer == 0) Assert.Null(why);
        else Assert.Contains("24", why, StringComparison.Ordinal);
    }

    private int Take(string path) => SocketHandOver.Take(path, _wakeUp, () => false);

    /// <summary>What Take returns and "", or 0 and the exit code and message that it throws with.</summary>
    private (int Taken, string Error) TryTake(string path)
    {
        try
        {
            return (Take(path), "");
        }
        catch (SnapuserdException e)
        {
            return (0, $"{(int)e.Code} {e.Message}");
        }
    }

    private static int Bound(string path, int type)
    {
        int fd = Libc.Socket(Libc.AF_UNIX, type | Libc.SOCK_CLOEXEC, 0);
        Assert.True(fd >= 0);
        Assert.Equal(0, Libc.Bind(fd, path));
        return fd;
    }
}
