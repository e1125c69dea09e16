using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Provides a view as a read-only NBD export on a Unix socket that only its owner may open, for clients in user space. Supports the
/// newstyle handshake and structured replies, but neither TLS nor metadata contexts.
/// <para>
/// One thread accepts clients and enforces deadlines; a fixed number of workers serves all clients, see <see cref="NbdSession"/>. An idle
/// client costs a descriptor and a few hundred bytes.
/// </para>
/// </summary>
public sealed class NbdServer : IBlockServer
{
    /// <summary>
    /// The number of clients that may wait to be accepted: a thousand may connect at the same moment. For further clients, connect fails
    /// with EAGAIN or waits.
    /// </summary>
    private const int Backlog = 1024;

    /// <summary>Milliseconds before the next accept after one failed for lack of descriptors or memory.</summary>
    private const int ShortageMilliseconds = 100;

    /// <summary>
    /// The size of a socket's send buffer in bytes; the kernel doubles it. Each of the first <see cref="FewClients"/> clients gets enough
    /// to keep a copying program busy. Further clients get less to limit the sum: 2048 clients that read nothing hold about 150 MB of
    /// kernel memory instead of 870 or more.
    /// </summary>
    private const int LargeSocket = 256 << 10, SmallSocket = 32 << 10, FewClients = 32;

    /// <summary>
    /// The number of turns for one client after which the worker asks epoll for another client, which costs a system call. A turn reads at
    /// most 256 KiB.
    /// </summary>
    private const int TurnsInARow = 4;

    /// <summary>The epoll data of the event that ends the workers. No session has this ID.</summary>
    private const ulong StopId = ulong.MaxValue;

    private readonly NbdOptions _options;
    private readonly NbdExport _export;
    private readonly BlockDevice[] _devices;
    private readonly object _gate = new();
    private readonly object _stopping = new();
    private readonly ITimeSource _clock = new MonotonicClock();
    private readonly List<NbdWorker> _workers = [];
    private readonly List<Thread> _threads = [];
    private NbdSession?[] _sessions = [];
    private int[] _places = [];
    private int _free;
    private uint _generation;
    private Arena? _arena;
    private Thread? _acceptor;
    private SocketFile? _socket;
    private EventFd? _wakeUp;
    private EventFd? _end;
    private EventFd? _spare;
    private int _promised;
    private int _watching;
    private bool _stop;

    /// <summary>
    /// Creates a server for <paramref name="view"/>. <paramref name="devices"/> are the devices of the view's engine, indexed by device
    /// number. <paramref name="wakeUp"/> is signalled when <see cref="Failure"/> is set. The caller keeps ownership of all three. Throws
    /// with exit code 71 if <see cref="NbdOptions.MemoryBytes"/> is too small.
    /// </summary>
    public NbdServer(SnapshotView view, BlockDevice[] devices, NbdOptions options, WakeUp wakeUp)
    {
        (_options, _devices) = (options, devices);
        _export = new NbdExport(view, devices, options, 1, wakeUp);
    }

    /// <inheritdoc/>
    public string? Failure => _export.Failure;

    /// <summary>The number of requests received so far on all connections.</summary>
    public long Requests => _export.Requests;

    /// <inheritdoc/>
    public int Clients => Connections;

    /// <summary>The number of connected clients.</summary>
    public int Connections
    {
        get
        {
            lock (_gate) return _sessions.Length - _free;
        }
    }

    /// <summary>The number of buffers that hold a reply's data.</summary>
    internal int BuffersInUse => Buffers.InUse;

    /// <summary>The number of the server's threads, including the accepting one.</summary>
    internal int Threads => _threads.Count + 1;

    internal NbdBuffers Buffers { get; private set; } = null!;

    internal int Epoll { get; private set; } = -1;

    internal long Now => _options.Time.Milliseconds;

    /// <summary>
    /// Starts to listen, and returns the socket's path. Throws with these exit codes:
    /// <list type="bullet">
    /// <item>64: the path is invalid;</item>
    /// <item>71: no descriptors or threads are left;</item>
    /// <item>73: the socket cannot be made, or the path is another kind of file;</item>
    /// <item>76: a server listens there;</item>
    /// <item>77: the process lacks the permission.</item>
    /// </list>
    /// </summary>
    public string Start()
    {
        string path = _options.SocketPath;
        try
        {
            _wakeUp = EventFd.Create();
            _end = EventFd.Create();
            _spare = EventFd.Create();
            Epoll = Check(Libc.EpollCreate1(Libc.EPOLL_CLOEXEC), "an epoll descriptor");
            _ = Check(Libc.EpollCtl(Epoll, Libc.EPOLL_CTL_ADD, _end.Fd, Libc.EPOLLIN, StopId), "an epoll descriptor");
            _socket = SocketFile.Listen(path, Backlog);
            MakePlaces();
            MakeBuffers();
            // Start the accepting thread before the workers, which take all threads that they can get.
            _acceptor = WorkerThread.Start("nbd accept", StackSize.Usual, Accept);
            MakeWorkers();
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
            lock (_gate)
            {
                _stop = true;
                _ = _wakeUp?.Signal();
            }
            _acceptor?.Join();
            _acceptor = null;
            foreach (NbdSession session in Sessions()) session.StopReceiving();
            // Limit the wait: a client that does not read its replies must not block a shutdown.
            if (!WaitUntilEmpty(_options.DrainMilliseconds))
            {
                foreach (NbdSession session in Sessions()) session.HangUp();
                _ = WaitUntilEmpty(int.MaxValue);
            }
            // No worker reads the eventfd, so epoll reports it to every worker.
            _ = _end?.Signal();
            foreach (Thread thread in _threads) thread.Join();
            _threads.Clear();
            foreach (NbdWorker worker in _workers) worker.Dispose();
            _workers.Clear();
            _arena?.Dispose();
            _arena = null;
            _socket?.Dispose();
            NbdDescriptors.Release(_promised);
            _promised = 0;
            lock (_gate)
            {
                _wakeUp?.Dispose();
                _end?.Dispose();
                _spare?.Dispose();
                if (Epoll >= 0) _ = Libc.Close(Epoll);
                Epoll = -1;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Stop();

    /// <summary>
    /// Drops the clients whose deadline has passed. Returns the milliseconds until the next check, or −1 if no client has a deadline.
    /// </summary>
    internal int CheckTimes()
    {
        long next = long.MaxValue;
        for (int i = 0; i < _sessions.Length; i++) Volatile.Read(ref _sessions[i])?.CheckTime(_options, ref next);
        // A client's time limit may begin during the wait, so do not wait longer than the shorter of the two limits.
        long longest = Math.Min(_options.HandshakeSeconds, _options.AnswerSeconds) * 1000L;
        return next == long.MaxValue ? -1 : (int)Math.Clamp(next - Now, 0, longest);
    }

    /// <summary>Wakes the accepting thread. For tests that change the time.</summary>
    internal void LookAgain() => _ = _wakeUp?.Signal();

    /// <summary>Called when a session's deadline starts: wakes the accepting thread if it waits without a timeout.</summary>
    internal void Watch()
    {
        if (Interlocked.Exchange(ref _watching, 1) == 0) _ = _wakeUp?.Signal();
    }

    /// <summary>Removes a closed session.</summary>
    internal void Remove(NbdSession session)
    {
        int place = (int)(uint)session.Id;
        lock (_gate)
        {
            Volatile.Write(ref _sessions[place], null);
            _places[_free++] = place;
            if (_free == 1) _ = _wakeUp?.Signal();
            if (_free == _sessions.Length) Monitor.PulseAll(_gate);
        }
    }

    internal Span<byte> Data(NbdBuffer buffer, int from, int length) => _arena![buffer.Slice.Part(from, length)];

    private void MakePlaces()
    {
        _promised = NbdDescriptors.Promise(Math.Max(_options.MaxConnections, 1));
        _sessions = new NbdSession?[_promised];
        _places = new int[_promised];
        for (int i = 0; i < _promised; i++) _places[i] = _promised - 1 - i;
        _free = _promised;
    }

    private void MakeBuffers()
    {
        int perReader = ViewReader.BytesPerRead(_export.View);
        _arena = new Arena(checked((_export.Workers * perReader) + (_export.Buffers * _export.BufferBytes)));
        Buffers = new NbdBuffers(_arena, _export.Buffers, _export.BufferBytes);
    }

    private void MakeWorkers()
    {
        for (int i = 0; i < _export.Workers; i++)
        {
            NbdWorker worker = new(_export.View, _devices, _arena!);
            _workers.Add(worker);
            Thread? thread = WorkerThread.TryStart("nbd", StackSize.Usual, () => Work(worker));
            // Continue with the workers that were started.
            if (thread == null && i > 0) return;
            _threads.Add(thread ?? throw WorkerThread.CannotStart("nbd"));
        }
    }

    /// <summary>Runs turns of sessions until the server ends. Never throws.</summary>
    private void Work(NbdWorker worker)
    {
        while (true)
        {
            int found = Libc.EpollWait(Epoll, out uint events, out ulong id, -1);
            if (found is -Errno.EPERM or -Errno.ENOSYS)
            {
                _export.Fail($"NBD: no client can be served: epoll_wait failed: {ErrnoText.Of(found)}");
                return;
            }
            if (found <= 0) continue;
            for (int turns = 1; ; turns++)
            {
                if (id == StopId) return;
                NbdSession? session = Find(id);
                if (session == null || !session.Turn(worker, events)) break;
                // The session has more work. After some turns, serve other clients that are ready first.
                events = 0;
                if (turns % TurnsInARow != 0) continue;
                if (Libc.EpollWait(Epoll, out uint others, out ulong other, 0) <= 0) continue;
                session.Yield();
                (events, id) = (others, other);
            }
        }
    }

    private NbdSession? Find(ulong id)
    {
        NbdSession? session = Volatile.Read(ref _sessions[(int)(uint)id]);
        return session?.Id == id ? session : null;
    }

    private NbdSession[] Sessions()
    {
        lock (_gate) return Array.FindAll(_sessions, session => session != null)!;
    }

    private bool WaitUntilEmpty(int milliseconds)
    {
        long end = _clock.Milliseconds + milliseconds;
        lock (_gate)
        {
            while (_free < _sessions.Length)
            {
                long left = end - _clock.Milliseconds;
                if (left <= 0) return false;
                Monitor.Wait(_gate, (int)Math.Min(left, int.MaxValue));
            }
            return true;
        }
    }

    /// <summary>Accepts clients and enforces deadlines until the server ends. Never throws.</summary>
    private void Accept()
    {
        try
        {
            Crowd crowd = new(_options, _export);
            int shortage = 0;
            while (true)
            {
                Volatile.Write(ref _watching, 0);
                int wait = CheckTimes();
                if (wait >= 0) Volatile.Write(ref _watching, 1);
                bool full;
                lock (_gate)
                {
                    if (_stop) return;
                    full = _free == 0;
                }
                crowd.Update(full, _sessions.Length, shortage, Now);
                if (crowd.Patience > 0) wait = Sooner(wait, crowd.Patience);
                if (shortage < 0) wait = Sooner(wait, ShortageMilliseconds);
                if (!TryWait(wait, forClients: crowd.Patience <= 0, out bool arrived)) return;
                // After a failed accept, try again even if no client waits.
                if (shortage == 0 && !arrived) continue;
                // If a client has left during the wait, a waiting client gets its slot.
                if (full) lock (_gate) full = _free == 0;
                if (!full) shortage = LetIn();
                if (shortage is -Errno.EPERM or -Errno.ENOSYS)
                {
                    // A sandbox forbids accept. Fail the server, because clients would wait for ever, and this thread would run in a busy
                    // loop.
                    _export.Fail($"NBD: no client can be let in: {ErrnoText.Of(shortage)}");
                    return;
                }
                // Refuse clients that have waited too long: they can report an error, which they cannot while they wait in the backlog.
                if ((full || shortage < 0) && crowd.Waits && crowd.Patience <= 0) TurnAway();
            }
        }
        catch (Exception e)
        {
            _export.Fail($"NBD: no client is let in any more: {e}");
        }
    }

    /// <summary>
    /// Waits at most <paramref name="wait"/> milliseconds (−1: no limit) until this thread is woken or, with <paramref name="forClients"/>,
    /// a client connects. If a sandbox forbids that, fails the server and returns false.
    /// </summary>
    private bool TryWait(int wait, bool forClients, out bool come)
    {
        Span<PollFd> fds = stackalloc PollFd[2];
        fds[0] = new PollFd { Fd = _wakeUp!.Fd, Events = Libc.POLLIN };
        // Poll ignores a negative descriptor.
        fds[1] = new PollFd { Fd = forClients ? _socket!.Fd : -1, Events = Libc.POLLIN };
        int ready = Libc.Poll(fds, wait);
        come = ready > 0 && fds[1].ReturnedEvents != 0;
        if (ready is -Errno.EPERM or -Errno.ENOSYS)
        {
            // A sandbox forbids poll. Fail the server, because this thread would run in a busy loop.
            _export.Fail($"NBD: no client can be let in: poll failed: {ErrnoText.Of(ready)}");
            return false;
        }
        if (ready > 0 && fds[0].ReturnedEvents != 0) _ = _wakeUp.Drain();
        return true;
    }

    private static int Sooner(int wait, long other) => wait < 0 ? (int)Math.Min(other, int.MaxValue) : (int)Math.Min(wait, other);

    /// <summary>Accepts a client. Returns 0, also if none waits, or a negative errno, for example if no descriptors are left.</summary>
    private int LetIn()
    {
        int fd = Libc.Accept4(_socket!.Fd, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
        if (fd < 0) return fd is -Errno.EAGAIN or -Errno.EINTR ? 0 : fd;
        int place, count;
        NbdSession session;
        lock (_gate)
        {
            place = _places[--_free];
            count = _sessions.Length - _free;
            // The generation distinguishes the session from earlier ones in the same slot. It has 31 bits, so the ID never equals StopId.
            _generation = (_generation + 1) & int.MaxValue;
            ulong id = ((ulong)_generation << 32) | (uint)place;
            session = new NbdSession(this, _export, fd, id, count <= FewClients ? LargeSocket : SmallSocket);
            Volatile.Write(ref _sessions[place], session);
        }
        int started = session.Start();
        if (started >= 0) return 0;
        _export.Report($"NBD: a client was dropped: {ErrnoText.Of(started)}");
        session.HangUp();
        _export.FailIfForbidden(started);
        return 0;
    }

    /// <summary>
    /// Refuses a waiting client: accepts and closes its connection. If no descriptor is left, closes the reserved one first.
    /// </summary>
    private void TurnAway()
    {
        int fd = Libc.Accept4(_socket!.Fd, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
        if (fd is -Errno.EMFILE or -Errno.ENFILE && _spare != null)
        {
            _spare.Dispose();
            _spare = null;
            fd = Libc.Accept4(_socket!.Fd, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
        }
        if (fd >= 0)
        {
            _ = Libc.Shutdown(fd, Libc.SHUT_RDWR);
            _ = Libc.Close(fd);
        }
        _spare ??= EventFd.TryCreate();
    }

    /// <summary>The time for which clients have had to wait because slots or descriptors are exhausted.</summary>
    private sealed class Crowd(NbdOptions options, NbdExport export)
    {
        private long _since = -1;

        /// <summary>True if new clients have to wait.</summary>
        internal bool Waits => _since >= 0;

        /// <summary>
        /// Milliseconds until waiting clients are refused; 0 or less if they must be refused now, or if clients do not have to wait.
        /// </summary>
        internal long Patience { get; private set; }

        /// <summary>
        /// Updates the state: whether all <paramref name="slots"/> are taken (<paramref name="full"/>), and the negative errno of the last
        /// accept, or 0 (<paramref name="shortage"/>). Reports once that clients have to wait.
        /// </summary>
        internal void Update(bool full, int slots, int shortage, long now)
        {
            if (!full && shortage >= 0)
            {
                (_since, Patience) = (-1, 0);
                return;
            }
            if (_since < 0)
            {
                _since = now;
                export.Report(full
                    ? $"NBD: there are {slots} clients; new ones have to wait until one leaves"
                    : $"NBD: clients have to wait: {ErrnoText.Of(shortage)}");
            }
            Patience = _since + (options.CrowdedSeconds * 1000L) - now;
        }
    }

    private static int Check(int result, string what) =>
        result >= 0 ? result : throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make {what}: {ErrnoText.Of(result)}");
}
