using System;
using System.Collections.Generic;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>The hand-over of the control socket, call by call; the test supplies the result of each.</summary>
public sealed class HandOverCallTests : IDisposable
{
    private const int Socket = 1002, Peer = 1003;

    /// <summary>The proxy's socket.</summary>
    private readonly int _proxy = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_SEQPACKET | Libc.SOCK_CLOEXEC, 0);

    private readonly WakeUp _wakeUp = new();
    private readonly List<string> _calls = [];
    private readonly Queue<(string Call, long Result)> _answers = [];
    private bool _over;

    public void Dispose()
    {
        _ = Libc.Close(_proxy);
        _wakeUp.Dispose();
    }

    private long? Answer(SystemCall call)
    {
        string name;
        long result = 0;
        switch (call.Number)
        {
            case SYS_listen: name = $"listen {call[0]} {call[1]}"; break;
            case SYS_accept4:
                (name, result) = ($"accept {call[0]} {call[3] == (Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK)}", Peer);
                break;
            case SYS_sendmsg:
                (name, result) = ($"give {call[0]} {call[2] == Libc.MSG_NOSIGNAL}", 1);
                break;
            case SYS_recvfrom:
                name = $"hear {call[0]}";
                call.At<byte>(1) = (byte)'a';
                result = 1;
                break;
            case SYS_poll: name = $"wait {call[2]}"; break;
            default:
                if (call[0] != _proxy && call[0] != Peer) return null;
                name = $"close {call[0]}";
                break;
        }
        _calls.Add(name);
        if (_answers.TryPeek(out (string Call, long Result) next) && name.StartsWith(next.Call, StringComparison.Ordinal))
            result = _answers.Dequeue().Result;
        return result;
    }

    /// <summary>
    /// Hands over the socket. The calls whose names begin with these strings get these results, in order; the others succeed. Returns the
    /// error message, "" for success.
    /// </summary>
    private string Give(params (string, long)[] answers) =>
        Run(() => SocketHandOver.Give(_proxy, Socket, () => _calls.Add("ready"), _wakeUp, () => _over),
            [SYS_listen, SYS_accept4, SYS_sendmsg, SYS_recvfrom, SYS_poll, SYS_close], answers);

    private string Run(Action action, uint[] calls, (string, long)[] answers)
    {
        _calls.Clear();
        _answers.Clear();
        foreach ((string, long) answer in answers) _answers.Enqueue(answer);
        string said = "";
        Answering(calls, Answer, () =>
        {
            try
            {
                action();
            }
            catch (SnapuserdException e)
            {
                said = $"{(int)e.Code} {e.Message}";
            }
        });
        Assert.Empty(_answers);
        return said;
    }

    private string[] Given =>
    [
        $"listen {_proxy} 4", "ready", $"accept {_proxy} True", $"give {Peer} True", $"hear {Peer}", $"close {Peer}",
    ];

    [Fact]
    public void Proxy_says_that_it_is_ready_when_it_listens_and_closes_only_what_it_made()
    {
        Assert.Equal(0, Libc.Fcntl(_proxy, Libc.F_GETFL, 0) & Libc.SOCK_NONBLOCK);
        Assert.Equal("", Give());
        Assert.Equal(Given, _calls);
        Assert.Equal(Libc.SOCK_NONBLOCK, Libc.Fcntl(_proxy, Libc.F_GETFL, 0) & Libc.SOCK_NONBLOCK);
        // A call that cannot complete yet is repeated after a wait.
        Assert.Equal("", Give(("accept", -Errno.EAGAIN), ("accept", -Errno.EINTR), ("give", -Errno.EAGAIN), ("hear", -Errno.EAGAIN),
            ("hear", -Errno.EINTR)));
        Assert.Equal([.. Given[..3], "wait 20", Given[2], "wait 20", Given[2], Given[3], "wait 20", Given[3], Given[4], "wait 20", Given[4],
            "wait 20", .. Given[4..]], _calls);
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EIO)]
    [InlineData(Errno.ECONNRESET)]
    public void A_failed_step_of_the_proxy_is_reported_and_ends_the_hand_over(int errno)
    {
        foreach ((string call, string what, int done) in new[]
        {
            ("listen", "listening for the daemon", 1), ("accept", "waiting for the daemon", 3), ("give", "handing over the socket", 4),
            ("hear", "waiting for the daemon's answer", 5),
        })
        {
            Assert.Equal($"74 {what} failed: {ErrnoText.Of(-errno)}", Give((call, -errno)));
            Assert.Equal(done < 4 ? Given[..done] : [.. Given[..done], $"close {Peer}"], _calls);
        }
    }

    [Fact]
    public void Daemon_that_goes_away_or_a_stop_ends_the_wait_of_the_proxy()
    {
        Assert.Equal("74 the daemon went away before it had the socket", Give(("hear", 0)));
        Assert.Equal(Given, _calls);
        _over = true;
        Assert.Equal("75 stopped before the daemon had its socket", Give(("accept", -Errno.EAGAIN)));
        Assert.Equal(Given[..3], _calls);
        Assert.Equal("75 stopped before the daemon had its socket", Give(("hear", -Errno.EAGAIN)));
        Assert.Equal(Given, _calls);
        Assert.Equal("", Give());
    }
}
