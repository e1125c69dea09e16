using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// A view as a read-only NBD export on a Unix socket that only its owner may open, for clients in user space. The newstyle handshake and structured replies, without TLS
/// and metadata contexts. See <see cref="NbdConnection"/> for how a client is served.
/// </summary>
public sealed class NbdServer : IBlockServer
{
    /// <summary>Clients that may wait to be let in; more get EAGAIN from their system.</summary>
    private const int Backlog = 128;

    /// <summary>Before the next try when a client could not be let in for want of descriptors or memory, in milliseconds.</summary>
    private const int ShortageMilliseconds = 100;

    private readonly NbdOptions _options;
    private readonly NbdExport _export;
    private readonly object _gate = new();
    private readonly object _stopping = new();
    private readonly Client?[] _clients;
    private readonly ITimeSource _time = new MonotonicClock();
    private Thread? _acceptor;
    private SocketFile? _socket;
    private int _bell = -1;
    private bool _stop;

    private sealed record Client(NbdConnection Connection, Thread Thread);

    /// <summary>
    /// Makes a server for <paramref name="view"/>, which it reads from <paramref name="devices"/>, those of the view's engine by number. All of it stays the caller's.
    /// <paramref name="wakeUp"/> is signalled when <see cref="Trouble"/> appears. Exit code 71 when <see cref="NbdOptions.MemoryBytes"/> is too little.
    /// </summary>
    public NbdServer(SnapshotView view, BlockDevice[] devices, NbdOptions options, WakeUp wakeUp)
    {
        _options = options;
        _export = new NbdExport(view, devices, options, options.MaxConnections, wakeUp);
        _clients = new Client?[_export.Connections];
    }

    /// <inheritdoc/>
    public string? Trouble => _export.Trouble;

    /// <summary>Requests that came so far, on all connections.</summary>
    public long Requests => _export.Requests;

    /// <summary>
    /// Listens, and returns the socket's path. Exit code 64 for a path that is none, 73 when it cannot be made or is something else than a socket, 76 when a
    /// server listens there, 77 without permission, 71 without descriptors or threads.
    /// </summary>
    public string Start()
    {
        string path = _options.SocketPath;
        try
        {
            _bell = Libc.EventFd(0, Libc.EFD_CLOEXEC | Libc.EFD_NONBLOCK);
            if (_bell < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make an eventfd: {Reason.Of(_bell)}");
            _socket = SocketFile.Listen(path, Backlog);
            Thread acceptor = new(Accept, NbdExport.StackBytes) { IsBackground = true, Name = "nbd accept" };
            StartThread(acceptor);
            _acceptor = acceptor;
            return path;
        }
        catch
        {
            Stop();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_stopping)
        {
            Client[] clients;
            lock (_gate)
            {
                _stop = true;
                Ring();
            }
            _acceptor?.Join();
            _acceptor = null;
            lock (_gate) clients = Array.FindAll(_clients, client => client != null)!;
            foreach (Client client in clients) client.Connection.StopReceiving();
            // A client that does not take its answers must not keep the system from going down.
            long end = _time.Milliseconds + _options.DrainMilliseconds;
            foreach (Client client in clients)
            {
                if (client.Thread.Join((int)Math.Clamp(end - _time.Milliseconds, 0, int.MaxValue))) continue;
                client.Connection.HangUp();
                client.Thread.Join();
            }
            _socket?.Dispose();
            lock (_gate) Close(ref _bell);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Stop();

    /// <summary>Lets clients in until it is over. Never throws.</summary>
    private void Accept()
    {
        try
        {
            Span<PollFd> fds = stackalloc PollFd[2];
            Span<byte> rung = stackalloc byte[8];
            bool shortage = false, told = false;
            while (true)
            {
                int place;
                lock (_gate)
                {
                    if (_stop) return;
                    place = Array.IndexOf(_clients, null);
                }
                fds[0] = new PollFd { Fd = _bell, Events = Libc.POLLIN };
                // A negative descriptor is not looked at: whoever is too many waits until somebody has left.
                fds[1] = new PollFd { Fd = place < 0 || shortage ? -1 : _socket!.Fd, Events = Libc.POLLIN };
                int ready = Libc.Poll(fds, shortage ? ShortageMilliseconds : -1);
                shortage = false;
                if (ready <= 0) continue;
                if (fds[0].ReturnedEvents != 0) _ = Libc.Read(_bell, rung);
                if (fds[1].ReturnedEvents == 0) continue;
                int fd = Libc.Accept4(_socket!.Fd, Libc.SOCK_CLOEXEC);
                if (fd >= 0)
                {
                    shortage = !LetIn(fd, place);
                    told = false;
                }
                else if (fd is -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM)
                {
                    // Once per shortage, which may last for days.
                    if (!told) _export.Report($"NBD: clients have to wait: {Reason.Of(fd)}");
                    shortage = told = true;
                }
            }
        }
        catch (Exception e)
        {
            _export.Fail($"NBD: no client is let in any more: {e}");
        }
    }

    private bool LetIn(int fd, int place)
    {
        NbdConnection connection = new(_export, fd);
        Thread thread = new(() => Serve(connection, place), NbdExport.StackBytes) { IsBackground = true, Name = "nbd" };
        lock (_gate) _clients[place] = new Client(connection, thread);
        try
        {
            StartThread(thread);
            return true;
        }
        catch (SnapuserdException e)
        {
            _export.Report($"NBD: a client was dropped: {e.Message}");
            _ = Libc.Close(fd);
            lock (_gate) _clients[place] = null;
            return false;
        }
    }

    private void Serve(NbdConnection connection, int place)
    {
        connection.Run(_options.HandshakeSeconds);
        lock (_gate)
        {
            _clients[place] = null;
            Ring();
        }
    }

    private void Ring()
    {
        Span<byte> one = stackalloc byte[8];
        one.Clear();
        one[0] = 1;
        if (_bell >= 0) _ = Libc.Write(_bell, one);
    }

    private static void StartThread(Thread thread)
    {
        try
        {
            thread.Start();
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            throw new SnapuserdException(ExitCode.OutOfResources, "the system has no thread left to serve with");
        }
    }

    private static void Close(ref int fd)
    {
        if (fd >= 0) _ = Libc.Close(fd);
        fd = -1;
    }
}
