using System;
using System.Collections.Generic;
using System.Linq;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>Every protocol of docs/memory-order.md, as a model. The barriers have the names of the document's table.</summary>
internal static class Protocols
{
    private const string Gate = "src/Merge/ReaderGate.cs";
    private const string Wake = "src/Block/WakeUp.cs";
    private const string RingFile = "interop/IoUring/Ring.cs";
    private const string Signals = "interop/Entry/signals.c";
    private const string Control = "src/Control/ControlServer.cs";
    private const string Nbd = "src/Serve/Nbd/NbdServer.cs";
    private const string Session = "src/Serve/Nbd/NbdSession.cs";
    private const string Set = "src/Control/SnapshotSet.cs";
    private const string DmUser = "src/Serve/DmUser/DmUserServer.cs";
    private const string DmWorker = "src/Serve/DmUser/DmUserWorker.cs";
    private const string Tree = "src/Block/Identity/KernelTree.cs";

    private const string SeenTwice =
        "a full fence right before or after it gives the order; Volatile keeps the compiler from merging two reads into one";

    private const string OnlyDecides =
        "the value only decides whether stores follow, and no store is speculative; Volatile makes every check read the field again";

    internal static IReadOnlyList<Protocol> All { get; } =
    [
        new Protocol
        {
            Name = "ReaderGate: a location is destroyed after its last reader has left",
            Make = GateLocations,
            Sources =
            [
                new(Gate, "internal void Publish(", @"Volatile\.Write\(ref _locations,", @"Interlocked\.Increment\(ref _epoch\)"),
                new(Gate, "public int Enter(",
                    @"Volatile\.Read\(ref _epoch\)", @"Interlocked\.Increment\(ref _inside\[Place\(epoch\)\]\)",
                    @"Volatile\.Read\(ref _epoch\) == epoch", @"Leave\(epoch\)"),
                new(Gate, "public OpLocations Locations", @"Volatile\.Read\(ref _locations\)"),
                new(Gate, "public bool IsDone", @"Volatile\.Read\(ref _inside\[Place\(_epoch - 1\)\]\) == 0"),
                new(Gate, "public void Leave(", @"Interlocked\.Decrement\(ref _inside\[Place\(pass\)\]\) == 0"),
                new("src/Serve/ViewRead.cs", "private void BeginRound(", @"Gate\.Enter\(\)", @"Gate\.Locations"),
            ],
            NotNeeded = new()
            {
                ["Enter: first read"] = SeenTwice,
                ["Enter: second read"] = SeenTwice,
                ["IsDone: read"] = OnlyDecides,
            },
            Fields =
            [
                (Gate, "_locations", []),
                (Gate, "_inside", []),
                // Only the merge thread writes the epoch, so that thread may read it without a barrier.
                (Gate, "_epoch", [@"public bool IsDone => Volatile\.Read\(ref _inside\[Place\(_epoch - 1\)\]\) == 0;"]),
            ],
        },
        new Protocol
        {
            Name = "ReaderGate: the last reader wakes the merge",
            Make = GateWake,
            Sources =
            [
                new(Gate, "internal void Publish(", @"Interlocked\.Increment\(ref _epoch\)"),
                new(Gate, "public void Leave(",
                    @"Interlocked\.Decrement\(ref _inside\[Place\(pass\)\]\) == 0", @"Volatile\.Read\(ref _epoch\) != pass",
                    @"Signal\(\)"),
            ],
            NotNeeded = new()
            {
                ["Leave: read of the epoch"] = SeenTwice,
                ["IsDone: read"] = OnlyDecides,
            },
        },
        new Protocol
        {
            Name = "WakeUp: no signal is lost",
            Make = barriers => WakeUps(barriers),
            Sources =
            [
                new(Wake, "public void Signal(", @"Interlocked\.Exchange\(ref _signalled, 1\) != 0\) return", @"_event\.Signal\(\)"),
                new(Wake, "internal void Taken(", @"Interlocked\.Exchange\(ref _signalled, 0\)"),
                new(Wake, "internal bool Take(", @"_event\.Drain\(\)", @"Taken\(\)"),
                new("src/Block/RingQueue.cs", "private int Reap(", @"case WakeUpData", @"_wakeUp\.Taken\(\)"),
            ],
            Fields = [(Wake, "_signalled", [])],
        },
        new Protocol
        {
            Name = "Ring: requests",
            Make = RingRequests,
            Sources =
            [
                new(RingFile, "public uint Pending", @"Volatile\.Read\(ref \*_sqHead\)"),
                new(RingFile, "public int Enter(uint submit, uint complete)",
                    @"Volatile\.Write\(ref \*_sqTail, _prepared\)", @"_kernel\.Enter\("),
                new(RingFile, "private byte* Claim(", @"Pending >= Capacity\) return null"),
            ],
            NotNeeded = new() { ["Pending: read of the head"] = OnlyDecides },
            Fields =
            [
                (RingFile, "_sqHead", []),
                // Neither the kernel nor another thread uses the ring before the first request.
                (RingFile, "_sqTail", [@"_prepared = \*_sqTail;"]),
            ],
        },
        new Protocol
        {
            Name = "Ring: completions",
            Make = RingCompletions,
            Sources =
            [
                new(RingFile, "public bool TryReap(",
                    @"head == Volatile\.Read\(ref \*_cqTail\)", @"completion = _cqes\[head & _cqMask\]",
                    @"Volatile\.Write\(ref \*_cqHead, head \+ 1\)"),
                new(RingFile, "public uint Ready", @"Volatile\.Read\(ref \*_cqTail\)"),
            ],
            Fields =
            [
                (RingFile, "_cqTail", []),
                // Only the queue's thread writes the head of the completion ring, so that thread may read it without a barrier.
                (RingFile, "_cqHead", [@"public uint Ready => .* - \*_cqHead;", @"uint head = \*_cqHead;"]),
            ],
        },
        new Protocol
        {
            Name = "signals.c: the thread that a stop signal wakes sees the stop flag",
            Make = SignalWake,
            Sources =
            [
                new(Signals, "static void on_stop(", @"atomic_store\(&stopped, 1\)", @"atomic_load\(&event_to_signal\)", @"write\(event"),
                new("interop/Entry/EndSignals.cs", "public static bool HaveCome", @"Volatile\.Read\(ref \*snapuserd_stopped\(\)\)"),
                new("src/Block/StopFlag.cs", "public bool Requested", @"Volatile\.Read\(ref _requested\)"),
            ],
            NotNeeded = new()
            {
                ["HaveCome: read"] = "WakeUp.Taken is a full fence before it; Volatile makes a loop that polls the flag read it every time",
            },
        },
        new Protocol
        {
            Name = "signals.c: no handler writes to a closed eventfd",
            Make = SignalBell,
            Sources =
            [
                new(Signals, "static void on_stop(",
                    @"atomic_fetch_add\(&handlers_running, 1\)", @"atomic_load\(&event_to_signal\)", @"write\(event",
                    @"atomic_fetch_sub\(&handlers_running, 1\)"),
                new(Signals, "int snapuserd_listen(int event)\n", @"atomic_store\(&event_to_signal, event\)", @"wait_for_handlers\(\)"),
                new(Signals, "static void wait_for_handlers(", @"atomic_load\(&handlers_running\) != 0"),
            ],
        },
        new Protocol
        {
            Name = "signals.c: a stop signal also ends a child that is just starting",
            Make = SignalChild,
            Sources =
            [
                new(Signals, "static void on_stop(",
                    @"atomic_store\(&stopped, 1\)", @"atomic_load\(&child_to_end\)", @"kill\(child, SIGTERM\)"),
                new(Signals, "void snapuserd_forward(int child)\n",
                    @"atomic_store\(&child_to_end, child\)", @"atomic_load\(&stopped\)", @"kill\(child, SIGTERM\)"),
            ],
        },
        new Protocol
        {
            Name = "ControlServer: no wake-up is lost",
            Make = ControlWakeUp,
            Sources =
            [
                new(Control, "public void Wake(", @"Interlocked\.Exchange\(ref _woken, 1\) != 0\) return", @"_event\.Signal\(\)"),
                new(Control, "private void Serve(",
                    @"while \(true\)", @"Interlocked\.Exchange\(ref _woken, 0\)", @"Volatile\.Read\(ref _stop\)", @"Tick\(\)",
                    @"Libc\.Poll\(", @"_event\.Drain\(\)"),
            ],
            Fields = [(Control, "_woken", []), (Control, "_stop", []), (Control, "_accepting", [])],
        },
        new Protocol
        {
            Name = "NbdServer: the accepting thread notices every new deadline",
            Make = NbdWatch,
            Sources =
            [
                new(Nbd, "private void Accept(",
                    @"Volatile\.Write\(ref _watching, 0\)", @"CheckTimes\(\)", @"Volatile\.Write\(ref _watching, 1\)", @"TryWait\("),
                new(Nbd, "private bool TryWait(", @"Libc\.Poll\("),
                new(Nbd, "internal void Watch(", @"Interlocked\.Exchange\(ref _watching, 1\) == 0\) _ = _wakeUp\?\.Signal\(\)"),
                new(Session, "public void CheckTime(", @"TryEnter\(\)", @"lock \(_gate\)", @"_owes"),
                new(Session, "private bool TryEnter(", @"lock \(_gate\)"),
                new(Session, "private void Owe(", @"_owes = true", @"Watch\(\)"),
                // These members call Owe through Flush, Receive or Send. Each pattern checks that the calls are in the block of a lock.
                new(Session, "public bool Turn(",
                    @"lock \(_gate\)\s*\{[^}]*\bFlush\(\)[^}]*\bReceive\(", @"lock \(_gate\)\s*\{[^}]*\bReceive\("),
                new(Session, "private void Read(",
                    @"lock \(_gate\)\s*\{[^}]*\{[^}]*\bFlush\(\);\s*return;\s*\}[^}]*\bSend\(answer, buffer\)[^}]*\bFlush\(\)"),
            ],
            // Every member on a call path to Owe. The numbers count its declaration and its calls: for Send, two in SendParked and one in
            // Read; for Flush, one in Turn, one in Begin and two in Read.
            Mentions =
            [
                (Session, "Owe", 2),
                (Session, "Send", 4),
                (Session, "SendParked", 3),
                (Session, "Flush", 5),
                (Session, "Begin", 3),
                (Session, "TakeRequest", 2),
                (Session, "Receive", 3),
            ],
            NotNeeded = new()
            {
                ["Accept: watching = 0"] = "the session's lock orders it: deadlines are set and checked only under that lock",
                ["Watch: exchange"] = "it runs under the session's lock; it only has to be atomic",
            },
            Fields = [(Nbd, "_watching", [])],
        },
        new Protocol
        {
            Name = "Publication: a reader of the reference sees the whole object",
            Make = Publication,
            Sources =
            [
                new(Set, "private void Publish(", @"Volatile\.Write\(ref _snapshots,"),
                new(Set, "public Snapshot[] Snapshots", @"Volatile\.Read\(ref _snapshots\)"),
                new(Nbd, "private int LetIn(", @"session = new NbdSession\(", @"Volatile\.Write\(ref _sessions\[place\], session\)"),
                new(Nbd, "private NbdSession? Find(", @"Volatile\.Read\(ref _sessions\["),
                new(Control, "public string? Failure", @"Volatile\.Read\(ref _failure\)"),
                new("src/Block/WorkQueue.cs", "public Exception? FirstCrash", @"Volatile\.Read\(ref _firstCrash\)"),
            ],
            NotNeeded = new()
            {
                ["read of the reference"] = "reads through the reference come after it (an address dependency, which .NET guarantees)",
            },
        },
        new Protocol
        {
            Name = "ServeAll: the thread that sees a count of 0 sees the failure",
            Make = ServeAll,
            Sources =
            [
                new(Set, "public string? ServeAll(",
                    @"Interlocked\.CompareExchange\(ref failed,", @"Interlocked\.Decrement\(ref left\)", @"Signal\(\)",
                    @"Volatile\.Read\(ref left\) > 0", @"Volatile\.Read\(ref failed\)"),
            ],
        },
        new Protocol
        {
            Name = "KernelTree: a descriptor and its flag belong together",
            Make = KernelFolder,
            Sources =
            [
                new(Tree, "private long Found",
                    @"Volatile\.Read\(ref _found\)", @"OpenFolder\(out bool isGenuine\)",
                    @"Interlocked\.CompareExchange\(ref _found, opened, Unknown\)"),
            ],
            NotNeeded = new()
            {
                ["Found: read"] = "a reader needs only this word; Volatile keeps the compiler from reading it again after the comparison",
                ["Found: exchange"] = "nothing but this word is published; the exchange only has to let the first thread win",
            },
            Fields = [(Tree, "_found", [])],
        },
        new Protocol
        {
            Name = "dm-user: a stop reaches a worker that is about to wait for a request",
            Make = DmUserStop,
            Sources =
            [
                new(DmUser, "public void Stop(",
                    @"_stop\.Request\(\)", @"do ChannelSignal\.Send\(worker\.ThreadId\);", @"while \(!worker\.Join\(SignalAgain\)\)"),
                new(DmWorker, "public int ThreadId", @"Volatile\.Read\(ref _threadId\)"),
                new(DmWorker, "private void Run(", @"Volatile\.Write\(ref _threadId, Libc\.GetTid\(\)\)"),
            ],
        },
    ];

    /// <summary>
    /// The merge moves an op from place 0 to place 1, and then to place 2. It fills each place before it publishes it, and destroys the old
    /// place after <c>IsDone</c> has returned true. The reader enters at most three times, because the epoch changes only twice.
    /// </summary>
    private static MemoryProgram GateLocations(Barriers b)
    {
        MemoryProgram p = new();
        Location locations = p.Location("_locations"), epoch = p.Location("_epoch");
        Location[] inside = [p.Location("_inside[0]"), p.Location("_inside[1]")];
        Location[] place = [p.Location("place 0", 1), p.Location("place 1"), p.Location("place 2")];

        ThreadProgram merge = p.Thread("merge");
        merge.Store(place[1], 1);
        merge.Store(locations, 1, b.Of("Publish: locations", Order.Release));
        merge.Update(epoch, value => value + 1, b.Of("Publish: epoch", Order.Full));
        Register stillInside = merge.Load(inside[0], b.Of("IsDone: read", Order.Acquire));
        using (merge.When(r => r[stillInside] == 0, stillInside))
        {
            merge.Store(place[0], 0);
            merge.Store(place[2], 1);
            merge.Store(locations, 2, b.Of("Publish: locations", Order.Release));
            merge.Update(epoch, value => value + 1, b.Of("Publish: epoch", Order.Full));
            Register stillInsideLater = merge.Load(inside[1], b.Of("IsDone: read", Order.Acquire));
            using (merge.When(r => r[stillInsideLater] == 0, stillInsideLater)) merge.Store(place[1], 0);
        }

        ThreadProgram reader = p.Thread("reader");
        List<Register> read = [];
        Try(3);
        p.Bad = (r, _) => read.Exists(data => r[data] == 0);
        return p;

        void Try(int times)
        {
            Register first = reader.Load(epoch, b.Of("Enter: first read", Order.Acquire));
            reader.Update(inside, first, value => value + 1, b.Of("Enter: count", Order.Full));
            Register second = reader.Load(epoch, b.Of("Enter: second read", Order.Acquire));
            using (reader.When(r => r[second] == r[first], first, second))
            {
                Register published = reader.Load(locations, b.Of("Locations: read", Order.Acquire));
                for (int i = 0; i < place.Length; i++)
                {
                    int here = i;
                    using (reader.When(r => r[published] == here, published)) read.Add(reader.Load(place[i]));
                }
                reader.Update(inside, first, value => value - 1, b.Of("Leave: count", Order.Full));
            }
            using (reader.When(r => r[second] != r[first], first, second))
            {
                reader.Update(inside, first, value => value - 1, b.Of("Leave: count", Order.Full));
                if (times > 1) Try(times - 1);
            }
        }
    }

    /// <summary>
    /// A reader is inside and leaves. Meanwhile the merge publishes, checks for the reader, and sleeps if it is still inside.
    /// </summary>
    private static MemoryProgram GateWake(Barriers b)
    {
        MemoryProgram p = new();
        Location epoch = p.Location("_epoch"), inside = p.Location("_inside[0]", 1), eventfd = p.Location("wake-up");
        ThreadProgram reader = p.Thread("reader");
        Register before = reader.Update(inside, value => value - 1, b.Of("Leave: count", Order.Full));
        using (reader.When(r => r[before] == 1, before))
        {
            Register now = reader.Load(epoch, b.Of("Leave: read of the epoch", Order.Acquire));
            using (reader.When(r => r[now] != 0, now)) reader.Signal(eventfd);
        }
        ThreadProgram merge = p.Thread("merge");
        merge.Update(epoch, value => value + 1, b.Of("Publish: epoch", Order.Full));
        Register stillInside = merge.Load(inside, b.Of("IsDone: read", Order.Acquire)), woken;
        using (merge.When(r => r[stillInside] != 0, stillInside)) woken = merge.Sleep(eventfd);
        p.Bad = (r, _) => r[stillInside] != 0 && !r.Has(woken);
        return p;
    }

    /// <summary>
    /// Two threads each store work and then signal. The queue's thread sleeps in the eventfd's read, takes the signal and looks for work.
    /// In the end it must have seen the work of both. With <paramref name="takenByStore"/>, Taken is a Volatile.Write instead of an
    /// exchange.
    /// </summary>
    internal static MemoryProgram WakeUps(Barriers b, bool takenByStore = false)
    {
        MemoryProgram p = new();
        Location signalled = p.Location("_signalled"), eventfd = p.Location("eventfd");
        Location[] work = [p.Location("work a"), p.Location("work b")];
        for (int i = 0; i < work.Length; i++)
        {
            ThreadProgram signaller = p.Thread($"signaller {i}");
            signaller.Store(work[i], 1);
            Register before = signaller.Update(signalled, _ => 1, b.Of("Signal: exchange", Order.Full));
            using (signaller.When(r => r[before] == 0, before)) signaller.Signal(eventfd);
        }
        ThreadProgram queue = p.Thread("queue");
        List<Register>[] seen = [[], []];
        for (int turn = 0; turn < 2; turn++)
        {
            Register woken = queue.Sleep(eventfd);
            // The exchange and the loads of the work follow the read of the eventfd in program order.
            using IDisposable _ = queue.When(r => r.Has(woken), woken);
            if (takenByStore) queue.Store(signalled, 0, Order.Release);
            else queue.Update(signalled, _ => 0, b.Of("Taken: exchange", Order.Full));
            for (int i = 0; i < work.Length; i++) seen[i].Add(queue.Load(work[i]));
        }
        p.Bad = (r, _) => Array.Exists(seen, loads => !loads.Exists(load => r[load] == 1));
        return p;
    }

    /// <summary>
    /// One submission entry, used twice. As in Linux, the kernel reads the tail with smp_load_acquire and writes the head with
    /// smp_store_release. In this model it has a thread of its own, as with IORING_SETUP_SQPOLL. Without that flag, it reads the tail
    /// inside io_uring_enter and needs fewer barriers.
    /// </summary>
    private static MemoryProgram RingRequests(Barriers b)
    {
        MemoryProgram p = new();
        Location entry = p.Location("entry"), tail = p.Location("sq tail"), head = p.Location("sq head");
        ThreadProgram process = p.Thread("process");
        process.Store(entry, 1);
        process.Store(tail, 1, b.Of("Enter: tail", Order.Release));
        Register headSeen = process.Load(head, b.Of("Pending: read of the head", Order.Acquire));
        using (process.When(r => r[headSeen] == 1, headSeen))
        {
            process.Store(entry, 2);
            process.Store(tail, 2, b.Of("Enter: tail", Order.Release));
        }
        ThreadProgram kernel = p.Thread("kernel");
        List<(Register Data, int Wanted)> read = [];
        for (int i = 0; i < 2; i++)
        {
            int next = i + 1;
            Register tailSeen = kernel.Load(tail, Order.Acquire);
            using IDisposable _ = kernel.When(r => r[tailSeen] >= next, tailSeen);
            read.Add((kernel.Load(entry), next));
            kernel.Store(head, next, Order.Release);
        }
        p.Bad = (r, _) => read.Exists(one => r.Has(one.Data) && r[one.Data] != one.Wanted);
        return p;
    }

    /// <summary>
    /// One completion entry, used twice. The kernel fills the read's buffer and the entry, and publishes the tail with smp_store_release.
    /// It reads the head with READ_ONCE, and reuses the entry only if the head shows that the process has read it.
    /// </summary>
    private static MemoryProgram RingCompletions(Barriers b)
    {
        MemoryProgram p = new();
        Location buffer = p.Location("buffer"), entry = p.Location("entry"), tail = p.Location("cq tail"), head = p.Location("cq head");
        ThreadProgram kernel = p.Thread("kernel");
        kernel.Store(buffer, 1);
        kernel.Store(entry, 1);
        kernel.Store(tail, 1, Order.Release);
        Register headSeen = kernel.Load(head);
        using (kernel.When(r => r[headSeen] == 1, headSeen))
        {
            kernel.Store(entry, 2);
            kernel.Store(tail, 2, Order.Release);
        }
        ThreadProgram process = p.Thread("process");
        List<(Register Data, int Wanted)> read = [];
        for (int i = 0; i < 2; i++)
        {
            int next = i + 1;
            Register tailSeen = process.Load(tail, b.Of("TryReap: read of the tail", Order.Acquire));
            using IDisposable _ = process.When(r => r[tailSeen] >= next, tailSeen);
            read.Add((process.Load(entry), next));
            read.Add((process.Load(buffer), 1));
            process.Store(head, next, b.Of("TryReap: head", Order.Release));
        }
        p.Bad = (r, _) => read.Exists(one => r.Has(one.Data) && r[one.Data] != one.Wanted);
        return p;
    }

    /// <summary>The handler sets the flag and signals the eventfd. The queue's thread wakes, takes the signal and reads the flag.</summary>
    private static MemoryProgram SignalWake(Barriers b)
    {
        MemoryProgram p = new();
        Location stopped = p.Location("stopped"), wakeUp = p.Location("event_to_signal", 5);
        Location eventfd = p.Location("eventfd"), signalled = p.Location("_signalled");
        ThreadProgram handler = p.Thread("handler");
        handler.Store(stopped, 1, b.Of("handler: stopped = 1", Order.Release));
        Register target = handler.Load(wakeUp, b.Of("handler: read of the eventfd", Order.AcquireAfterRelease, Order.Acquire));
        using (handler.When(r => r[target] == 5, target)) handler.Signal(eventfd);
        ThreadProgram queue = p.Thread("queue");
        Register woken = queue.Sleep(eventfd), seen;
        using (queue.When(r => r.Has(woken), woken))
        {
            queue.Update(signalled, _ => 0, Order.Full);
            seen = queue.Load(stopped, b.Of("HaveCome: read", Order.Acquire));
        }
        p.Bad = (r, _) => r[seen] != 1;
        return p;
    }

    /// <summary>The main thread installs another eventfd, waits for running handlers, and closes the old eventfd.</summary>
    private static MemoryProgram SignalBell(Barriers b)
    {
        MemoryProgram p = new();
        Location running = p.Location("handlers_running"), wakeUp = p.Location("event_to_signal", 5);
        Location closed = p.Location("old eventfd is closed");
        ThreadProgram handler = p.Thread("handler");
        // C's seq_cst update may be an acquire load and a release store (LDAXR, STLXR) without a fence. They need not be atomic here,
        // because the model has only one handler.
        Register before = handler.Load(running, Order.AcquireAfterRelease);
        handler.Store(running, r => r[before] + 1, [before], b.Of("handler: running = 1", Order.Release));
        Register target = handler.Load(wakeUp, b.Of("handler: read of the eventfd", Order.AcquireAfterRelease, Order.Acquire));
        Register closedAtWrite;
        using (handler.When(r => r[target] == 5, target)) closedAtWrite = handler.Update(closed, value => value, Order.Plain);
        handler.Store(running, 0, b.Of("handler: running = 0", Order.Release));
        ThreadProgram main = p.Thread("main");
        main.Store(wakeUp, 6, b.Of("listen: eventfd", Order.Release));
        Register count = main.Load(running, b.Of("listen: read of running", Order.AcquireAfterRelease, Order.Acquire));
        using (main.When(r => r[count] == 0, count)) main.Store(closed, 1);
        p.Bad = (r, _) => r[closedAtWrite] == 1;
        return p;
    }

    /// <summary>A signal arrives while the main thread starts a child. At least one of the handler and the main thread kills it.</summary>
    private static MemoryProgram SignalChild(Barriers b)
    {
        MemoryProgram p = new();
        Location stopped = p.Location("stopped"), child = p.Location("child_to_end");
        ThreadProgram handler = p.Thread("handler"), main = p.Thread("main");
        handler.Store(stopped, 1, b.Of("handler: stopped = 1", Order.Release));
        Register killed = handler.Load(child, b.Of("handler: read of the child", Order.AcquireAfterRelease, Order.Acquire));
        main.Store(child, 1, b.Of("forward: child", Order.Release));
        Register seen = main.Load(stopped, b.Of("forward: read of stopped", Order.AcquireAfterRelease, Order.Acquire));
        p.Bad = (r, _) => r[killed] == 0 && r[seen] == 0;
        return p;
    }

    /// <summary>
    /// Two threads signal. The server's thread sets <c>_woken</c> to 0, looks for work, sleeps in poll and reads the eventfd.
    /// </summary>
    private static MemoryProgram ControlWakeUp(Barriers b)
    {
        MemoryProgram p = new();
        Location woken = p.Location("_woken"), wakeUp = p.Location("_event");
        Location[] work = [p.Location("work a"), p.Location("work b")];
        for (int i = 0; i < work.Length; i++)
        {
            ThreadProgram waker = p.Thread($"waker {i}");
            waker.Store(work[i], 1);
            Register before = waker.Update(woken, _ => 1, b.Of("Wake: exchange", Order.Full));
            using (waker.When(r => r[before] == 0, before)) waker.Signal(wakeUp);
        }
        ThreadProgram server = p.Thread("server");
        List<Register>[] seen = [[], []];
        for (int turn = 0; turn < 3; turn++)
        {
            server.Update(woken, _ => 0, b.Of("Serve: exchange", Order.Full));
            for (int i = 0; i < work.Length; i++) seen[i].Add(server.Load(work[i]));
            if (turn < 2) server.Sleep(wakeUp);
        }
        p.Bad = (r, _) => Array.Exists(seen, loads => !loads.Exists(load => r[load] == 1));
        return p;
    }

    /// <summary>
    /// The accepting thread sets <c>_watching</c> to 0, looks for deadlines and sleeps without a limit if there is none. Meanwhile a
    /// session gets a deadline.
    /// </summary>
    private static MemoryProgram NbdWatch(Barriers b)
    {
        MemoryProgram p = new();
        Location watching = p.Location("_watching", 1), gate = p.Location("session's lock");
        Location owes = p.Location("_owes"), wakeUp = p.Location("_event");
        bool sessionLocks = b.Has("Owe: lock"), checkLocks = b.Has("CheckTime: lock");
        ThreadProgram acceptor = p.Thread("acceptor");
        acceptor.Store(watching, 0, b.Of("Accept: watching = 0", Order.Release));
        if (checkLocks) acceptor.Lock(gate);
        Register deadline = acceptor.Load(owes);
        if (checkLocks) acceptor.Unlock(gate);
        Register woken;
        using (acceptor.When(r => r[deadline] == 0, deadline)) woken = acceptor.Sleep(wakeUp);
        ThreadProgram session = p.Thread("session");
        if (sessionLocks) session.Lock(gate);
        session.Store(owes, 1);
        Register before = session.Update(watching, _ => 1, b.Of("Watch: exchange", Order.Full));
        using (session.When(r => r[before] == 0, before)) session.Signal(wakeUp);
        if (sessionLocks) session.Unlock(gate);
        p.Bad = (r, _) => r[deadline] == 0 && !r.Has(woken);
        return p;
    }

    /// <summary>A writer fills an object and stores a reference to it. A reader follows the reference.</summary>
    private static MemoryProgram Publication(Barriers b)
    {
        MemoryProgram p = new();
        Location oldObject = p.Location("the old object", 7), newObject = p.Location("the new object"), reference = p.Location("reference");
        ThreadProgram writer = p.Thread("writer"), reader = p.Thread("reader");
        writer.Store(newObject, 1);
        writer.Store(reference, 1, b.Of("write of the reference", Order.Release));
        Register which = reader.Load(reference, b.Of("read of the reference", Order.Acquire));
        Register data = reader.Load([oldObject, newObject], which);
        p.Bad = (r, _) => r[data] == 0;
        return p;
    }

    /// <summary>
    /// A snapshot's thread stores its failure and counts down. The waiting thread sees 0 and reads the failure.
    /// </summary>
    private static MemoryProgram ServeAll(Barriers b)
    {
        MemoryProgram p = new();
        Location failed = p.Location("failed"), left = p.Location("left", 1);
        ThreadProgram snapshot = p.Thread("snapshot"), waiting = p.Thread("waiting");
        snapshot.Update(failed, value => value == 0 ? 1 : value, b.Of("failed and left: updates", Order.Full));
        snapshot.Update(left, value => value - 1, b.Of("failed and left: updates", Order.Full));
        Register count = waiting.Load(left, b.Of("left: read", Order.Acquire)), name = waiting.Load(failed);
        p.Bad = (r, _) => r[count] == 0 && r[name] == 0;
        return p;
    }

    /// <summary>
    /// Two threads open the folder, find that it is not the kernel's own, and agree on one descriptor. A third thread reads the result.
    /// Without "one word", the model has two fields, as earlier code did: for a moment, one opener could store "genuine" after the other
    /// had already published the descriptor.
    /// </summary>
    private static MemoryProgram KernelFolder(Barriers b)
    {
        const int opened = 1, genuine = 2;
        MemoryProgram p = new();
        Location found = p.Location("_found"), isGenuine = p.Location("_isGenuine");
        bool oneWord = b.Has("one word");
        foreach (string name in (string[])["opener a", "opener b"])
        {
            ThreadProgram opener = p.Thread(name);
            if (!oneWord)
            {
                opener.Store(isGenuine, genuine, Order.Release);
                opener.Store(isGenuine, 0, Order.Release);
            }
            opener.Update(found, value => value == 0 ? opened : value, b.Of("Found: exchange", Order.Full));
        }
        ThreadProgram asking = p.Thread("asking");
        Register folder = asking.Load(found, b.Of("Found: read", Order.Acquire));
        Register bit = asking.Load(oneWord ? found : isGenuine, Order.Acquire);
        p.Bad = (r, _) => r[folder] == opened && (r[bit] & genuine) != 0;
        return p;
    }

    /// <summary>
    /// The worker stores its thread ID, checks for a stop request, and then sleeps in a read that only a signal ends. Release and acquire
    /// are not enough: each thread may miss the other's store (store buffering). So the stopping thread repeats the signal until the worker
    /// ends. The model's second signal represents all later ones.
    /// </summary>
    private static MemoryProgram DmUserStop(Barriers b)
    {
        MemoryProgram p = new();
        Location stop = p.Location("_stop"), threadId = p.Location("_threadId"), signal = p.Location("signal");
        ThreadProgram stopper = p.Thread("stopper");
        stopper.Store(stop, 1, Order.Release);
        Register first = stopper.Load(threadId, Order.Acquire);
        using (stopper.When(r => r[first] != 0, first)) stopper.Signal(signal);
        if (b.Has("Stop: again"))
        {
            using IDisposable _ = stopper.When(r => r[first] == 0, first);
            // A later attempt reads the thread ID, because every store becomes visible eventually.
            stopper.Update([threadId], null, value => value, Order.Plain, value => value != 0);
            stopper.Signal(signal);
        }
        ThreadProgram worker = p.Thread("worker");
        worker.Store(threadId, 1, Order.Release);
        Register stopSeen = worker.Load(stop, Order.Acquire), woken;
        using (worker.When(r => r[stopSeen] == 0, stopSeen)) woken = worker.Sleep(signal);
        p.Bad = (r, _) => r[stopSeen] == 0 && !r.Has(woken);
        return p;
    }
}
