using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>The options of a <see cref="ControlServer"/>.</summary>
public sealed class ControlOptions
{
    /// <summary>Handles Android's messages; null to refuse them all.</summary>
    public IControlRequests? Messages { get; init; }

    /// <summary>Handles the requests of `ctl`; null to refuse them all.</summary>
    public IControlRequests? Lines { get; init; }

    /// <summary>Work that becomes due as time passes.</summary>
    public IControlTicks[] Ticks { get; init; } = [];

    /// <summary>
    /// True to accept every peer that the socket's mode permits, because another program chose that mode on purpose. False to accept only
    /// root and the server's own user.
    /// </summary>
    public bool AnyPeer { get; init; }

    /// <summary>Receives one message for every client that was refused or whose request failed, on the server's thread.</summary>
    public Action<string>? Report { get; init; }

    /// <summary>Signalled when <see cref="ControlServer.Failure"/> is set.</summary>
    public WakeUp? WakeUp { get; init; }
}

/// <summary>
/// Serves requests on a Unix socket with one thread and one poll call, and never blocks on a client. It understands two protocols. A
/// connection that begins with the line "ctl 1" exchanges lines; <see cref="ControlConnection"/> lists the kinds of reply lines. Any other
/// connection exchanges messages as Android's libsnapshot does, one per packet of at most 512 bytes (daemon §2, §3).
/// <code>
///   client -- request --> IControlRequests -- ControlReply, at once or later, from any thread --> buffer -- poll --> client
/// </code>
/// </summary>
public sealed class ControlServer : IDisposable
{
    /// <summary>The longest request in bytes: what Android's server receives in one call.</summary>
    public const int LongestRequest = 512;

    /// <summary>
    /// Clients at the same time. A person and some scripts need a handful; the limit protects against forgotten connections. When it is
    /// reached, a new client replaces the oldest one that has never sent a request. A client that has sent one stays as long as it likes,
    /// as Android's clients do.
    /// </summary>
    public const int MostClients = 128;

    /// <summary>
    /// Bytes of a reply that may wait for a client, in addition to the 200 KiB that its socket holds. A client that leaves more unread is
    /// dropped. Enough for the status lines of a thousand snapshots.
    /// </summary>
    internal const int MostWaiting = 256 << 10;

    /// <summary>
    /// Clients that may wait to be accepted. Android's server has 4, and its clients try again; this server's clients should not have to.
    /// </summary>
    internal const int Backlog = 64;

    /// <summary>Delay before the next try when a client could not be accepted for lack of descriptors or memory, in milliseconds.</summary>
    private const int ShortageMilliseconds = 100;

    private readonly ControlOptions _options;
    private readonly Action _ring;
    private readonly List<ControlClient> _clients = [];
    private readonly MonotonicClock _time = new();
    private readonly object _gate = new();
    private readonly EventFd _event;
    private SocketFile? _file;
    private int _listener;
    private int _woken;
    private int _ownThread;
    private long _turns;
    private bool _stop;
    private bool _accepting = true;
    private string? _failure;
    private Thread? _thread;

    private ControlServer(ControlOptions options, SocketFile? file, int listener)
    {
        (_options, _file, _listener, _ring) = (options, file, listener, Wake);
        _event = EventFd.Create();
    }

    /// <summary>The first line of a `ctl` connection.</summary>
    public static ReadOnlySpan<byte> Greeting => "ctl 1\n"u8;

    /// <summary>Iterations of the loop so far.</summary>
    internal long Turns => Interlocked.Read(ref _turns);

    /// <summary>Null while it serves; the reason if it had to give up.</summary>
    public string? Failure => Volatile.Read(ref _failure);

    /// <summary>Listens at <paramref name="path"/> and serves. Exit codes of <see cref="SocketFile.Listen"/>.</summary>
    public static ControlServer Start(string path, ControlOptions options)
    {
        SocketFile file = SocketFile.Listen(path, Backlog);
        return Start(options, file, file.Fd);
    }

    /// <summary>
    /// Serves on a socket that another program made and bound; this server owns it from here on. Exit code 64 if the descriptor cannot
    /// listen.
    /// </summary>
    public static ControlServer Adopt(int socket, ControlOptions options)
    {
        int flags = Libc.Fcntl(socket, Libc.F_GETFL, 0);
        int result = flags < 0 ? flags : Libc.Fcntl(socket, Libc.F_SETFL, flags | Libc.SOCK_NONBLOCK);
        if (result >= 0) result = Libc.Listen(socket, Backlog);
        if (result < 0)
        {
            _ = Libc.Close(socket);
            throw new SnapuserdException(ExitCode.Usage, $"the inherited control socket cannot listen: {ErrnoText.Of(result)}");
        }
        return Start(options, null, socket);
    }

    /// <summary>Accepts no more clients and removes the socket's file; connected clients stay. From any thread.</summary>
    public void StopAccepting()
    {
        Volatile.Write(ref _accepting, false);
        Wake();
    }

    /// <summary>Wakes the server's thread, for example because ticks have become due without its knowledge. From any thread.</summary>
    public void Wake()
    {
        // The server's own thread checks everything before it waits.
        if (Environment.CurrentManagedThreadId == Volatile.Read(ref _ownThread)) return;
        if (Interlocked.Exchange(ref _woken, 1) != 0) return;
        _ = _event.Signal();
    }

    /// <summary>
    /// Sends the waiting output as far as the sockets accept it, then closes every connection. From any thread but its own.
    /// </summary>
    public void Dispose()
    {
        Volatile.Write(ref _stop, true);
        Wake();
        _thread?.Join();
        _thread = null;
        CloseListener();
        _event.Dispose();
    }

    private static ControlServer Start(ControlOptions options, SocketFile? file, int listener)
    {
        ControlServer server;
        try
        {
            server = new(options, file, listener);
        }
        catch
        {
            // A socket file closes its own descriptor.
            if (file == null) _ = Libc.Close(listener);
            else file.Dispose();
            throw;
        }
        server._thread = WorkerThread.TryStart("control", StackSize.Usual, server.Run);
        if (server._thread != null) return server;
        server.Dispose();
        throw WorkerThread.CannotStart("control");
    }

    /// <summary>The main function of the server's thread. Never throws.</summary>
    private void Run()
    {
        Volatile.Write(ref _ownThread, Environment.CurrentManagedThreadId);
        try
        {
            Serve();
        }
        catch (Exception e)
        {
            Volatile.Write(ref _failure, $"the control socket is no longer served: {e.Message}");
            _options.Report?.Invoke(_failure!);
        }
        foreach (ControlClient client in _clients) client.Close();
        _clients.Clear();
        CloseListener();
        if (Failure != null) _options.WakeUp?.Signal();
    }

    private void Serve()
    {
        Span<PollFd> fds = stackalloc PollFd[MostClients + 2];
        bool shortage = false, reported = false;
        while (true)
        {
            Interlocked.Increment(ref _turns);
            // Reset the flag before any check: a later change signals again.
            Interlocked.Exchange(ref _woken, 0);
            bool stop = Volatile.Read(ref _stop);
            if (!Volatile.Read(ref _accepting)) CloseListener();
            Tick();
            bool again = false;
            for (int i = _clients.Count - 1; i >= 0; i--)
            {
                again |= _clients[i].Advance();
                if (!_clients[i].IsOver && !stop) continue;
                _clients[i].Close();
                _clients.RemoveAt(i);
            }
            if (stop) return;

            int timeout = again ? 0 : Due();
            if (shortage && (timeout < 0 || timeout > ShortageMilliseconds)) timeout = ShortageMilliseconds;
            int count = _clients.Count;
            fds[0] = new PollFd { Fd = _event.Fd, Events = Libc.POLLIN };
            // Poll ignores a negative descriptor.
            fds[1] = new PollFd { Fd = shortage ? -1 : _listener, Events = Libc.POLLIN | Libc.POLLRDHUP };
            for (int i = 0; i < count; i++)
                fds[i + 2] = new PollFd { Fd = _clients[i].HungUp ? -1 : _clients[i].Fd, Events = _clients[i].Events };
            int ready = Libc.Poll(fds[..(count + 2)], timeout);
            shortage = false;
            if (ready < 0 && !Retry.Interrupted(ready)) throw ErrnoPolicy.Failure(FailedCall.Command, ready, "poll failed");
            if (ready <= 0) continue;
            if (fds[0].ReturnedEvents != 0) _ = _event.Drain();
            for (int i = 0; i < count; i++) _clients[i].React(fds[i + 2].ReturnedEvents);
            if (fds[1].ReturnedEvents == 0) continue;
            // Another process that shares the inherited socket has shut it down. Poll would always report it as ready, and no client can
            // connect.
            if ((fds[1].ReturnedEvents & (Libc.POLLRDHUP | Libc.POLLHUP | Libc.POLLERR)) != 0)
                throw new SnapuserdException(ExitCode.InputOutput, "another process has shut the socket down");
            int refused = Accept();
            shortage = refused < 0;
            // Reported once per shortage, which may last for days.
            if (shortage && !reported) _options.Report?.Invoke($"clients of the control socket have to wait: {ErrnoText.Of(refused)}");
            reported = shortage;
        }
    }

    private void Tick()
    {
        if (_options.Ticks.Length == 0) return;
        long now = _time.Milliseconds;
        foreach (IControlTicks ticks in _options.Ticks)
            if (ticks.Due(now) == 0) ticks.Tick(now);
    }

    /// <summary>Milliseconds until the next tick is due; −1 if none is.</summary>
    private int Due()
    {
        if (_options.Ticks.Length == 0) return -1;
        long now = _time.Milliseconds;
        int timeout = -1;
        foreach (IControlTicks ticks in _options.Ticks)
        {
            int due = ticks.Due(now);
            if (due >= 0 && (timeout < 0 || due < timeout)) timeout = due;
        }
        return timeout;
    }

    /// <summary>
    /// Accepts one client. Returns a negative errno if no descriptor or memory is left, else 0. A client that is refused is disconnected,
    /// so that it does not wait for a reply.
    /// </summary>
    private int Accept()
    {
        int fd = Libc.Accept4(_listener, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
        if (Errno.IsOutOfResources(fd)) return fd;
        if (fd is -Errno.EPERM or -Errno.ENOSYS)
            throw ErrnoPolicy.Failure(FailedCall.Command, fd, "cannot accept clients on the control socket");
        if (fd < 0) return 0;
        // Check the credentials first: a client that is not permitted must not replace another.
        string? why = Refusal(fd);
        if (why == null && _clients.Count >= MostClients && !MakeRoom()) why = $"{MostClients} clients are connected already";
        if (why != null)
        {
            _options.Report?.Invoke($"a client of the control socket was refused: {why}");
            _ = Libc.Shutdown(fd, Libc.SHUT_RDWR);
            _ = Libc.Close(fd);
            return 0;
        }
        _clients.Add(new ControlClient(fd, _options, _ring));
        return 0;
    }

    /// <summary>Drops the oldest client that has never sent a request; the list is in the order of arrival.</summary>
    private bool MakeRoom()
    {
        for (int i = 0; i < _clients.Count; i++)
        {
            // It may have sent a request or closed since the last check.
            if (!_clients[i].IsSilent) continue;
            _clients[i].Close();
            _clients.RemoveAt(i);
            _options.Report?.Invoke(
                "a client of the control socket that had never sent a request was dropped to make room for another");
            return true;
        }
        return false;
    }

    private string? Refusal(int fd)
    {
        if (_options.AnyPeer) return null;
        int result = Libc.GetSockOpt(fd, Libc.SOL_SOCKET, Libc.SO_PEERCRED, out PeerCredentials peer);
        if (result < 0) return $"its user cannot be determined: {ErrnoText.Of(result)}";
        return peer.Uid == 0 || peer.Uid == Libc.GetEUid() ? null : $"process {peer.Pid} belongs to user {peer.Uid}";
    }

    private void CloseListener()
    {
        lock (_gate)
        {
            if (_file != null) _file.Dispose();
            else if (_listener >= 0) _ = Libc.Close(_listener);
            (_file, _listener) = (null, -1);
        }
    }
}
