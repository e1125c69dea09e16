using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.IoUringAbi;

namespace Snapuserd.Block;

/// <summary>
/// The block queue over io_uring. Requests are independent: no links, no drain, no forced worker threads. A caller that needs an order
/// waits for one request before it queues the next. Every wait has a read of the wake-up's eventfd pending in the ring, so it ends at
/// completions and at wake-ups.
/// <para>
/// Descriptors are not registered with the ring: the kernel releases registered ones only some time after the ring was closed. Until
/// then, a device opened with O_EXCL would look busy to the next command.
/// </para>
/// </summary>
public sealed class RingQueue : IBlockQueue
{
    /// <summary>
    /// The largest ring depth. A device rarely accepts more than 1024 requests at once (nr_requests); further ones wait in the kernel.
    /// </summary>
    public const int MaximumDepth = 4096;

    /// <summary>
    /// The queue counts as broken after this many attempts without progress, with a sleep of 1 ms after each. The kernel makes no progress
    /// while it has no memory for a request or does not release completions. One second is far longer than memory reclaim takes. If it is
    /// still too short, the command ends with exit code 74 and can resume.
    /// </summary>
    private const int PatienceMilliseconds = 1000;

    // A request's tag has 32 bits; the bits above them mark the ring's own entries.
    private const ulong WakeUpData = 1UL << 32;
    private const ulong CancelData = 2UL << 32;
    private const ulong CommandData = 3UL << 32;

    private readonly IoUring? _uring;
    private readonly Ring _ring;
    private readonly int[] _fds;
    private readonly Arena _arena;
    private readonly WakeUp _wakeUp;
    private readonly MappedMemory _wakeUpBuffer;
    private int _inFlight;
    private bool _listening;
    private int _broken;
    private bool _disposed;
    private Action<uint, int>? _onCommand;

    internal RingQueue(IoUring? uring, Ring ring, int[] fds, Arena arena, WakeUp wakeUp, MappedMemory wakeUpBuffer, int depth,
        bool fixedBuffer)
    {
        _uring = uring;
        _ring = ring;
        _fds = fds;
        _arena = arena;
        _wakeUp = wakeUp;
        _wakeUpBuffer = wakeUpBuffer;
        Depth = depth;
        FixedBuffer = fixedBuffer;
    }

    /// <summary>
    /// Makes a ring for <paramref name="depth"/> requests over <paramref name="devices"/>, which requests name by their index. Only the
    /// calling thread may use the queue. Returns null, or the reason why there is no ring; <see cref="SyncQueue"/> then does the same
    /// work more slowly. The caller keeps devices, arena and wake-up, and disposes of them after the queue. <paramref name="commands"/>
    /// is how many commands of <see cref="TryCommand"/> may be in flight in addition.
    /// </summary>
    public static UringUnavailable? TryCreate(ReadOnlySpan<BlockDevice> devices, Arena arena, WakeUp wakeUp, int depth,
        out RingQueue? queue, int commands = 0) =>
            TryCreate(BlockDevice.Descriptors(devices), arena, wakeUp, depth, out queue, pin: AnyDirect(devices), commands);

    internal static UringUnavailable? TryCreate(int[] fds, Arena arena, WakeUp wakeUp, int depth, out RingQueue? queue, bool pin = true,
        int commands = 0)
    {
        queue = null;
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(depth);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(depth, MaximumDepth);
        // Two more entries: the read of the wake-up, and the cancellation at the end.
        int result = IoUring.Open((uint)(depth + commands) + 2, 0, 0, out IoUring? uring);
        if (result < 0) return UringUnavailable.Of(result);
        const uint Needed = IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS;
        if ((uring!.Features & Needed) != Needed)
        {
            uring.Close();
            return UringUnavailable.TooOld();
        }
        result = Probe(uring.Ring);
        if (result < 0)
        {
            uring.Close();
            return UringUnavailable.OfProbe(result);
        }
        result = MappedMemory.Map(Sizes.SystemPage, out MappedMemory? wakeUpBuffer);
        if (result < 0)
        {
            uring.Close();
            return UringUnavailable.Of(result);
        }
        // Pinning touches every page of the arena (15 ms and 32 MiB of memory for the default size), and only direct requests gain from
        // it. RLIMIT_MEMLOCK often forbids it. Then the kernel pins the pages of each direct request separately.
        bool fixedBuffer = pin && uring.RegisterBuffer(arena.Address, arena.Size) == 0;
        arena.IsRegistered |= fixedBuffer;
        queue = new RingQueue(uring, uring.Ring, fds, arena, wakeUp, wakeUpBuffer!, depth, fixedBuffer);
        return null;
    }

    /// <summary>
    /// Runs a no-op request on one of the kernel's worker threads. Flushes, and reads and writes that would block, need such a thread. If
    /// the kernel cannot start one (RLIMIT_NPROC, pids.max), they end with ECANCELED. A started thread stays until the ring is closed.
    /// Returns 0 or a negative errno.
    /// </summary>
    private static int Probe(Ring ring)
    {
        if (!ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_NOP, Flags = IOSQE_ASYNC, UserData = CancelData })) return -Errno.EIO;
        while (true)
        {
            int entered = ring.Enter(1);
            if (ring.TryReap(out IoUringCqe completion)) return completion.Res;
            if (entered < 0 && !Retry.Interrupted(entered)) return entered;
        }
    }

    private static bool AnyDirect(ReadOnlySpan<BlockDevice> devices)
    {
        foreach (BlockDevice device in devices)
            if (device.IsDirect) return true;
        return false;
    }

    /// <inheritdoc/>
    public int Depth { get; }

    /// <summary>The arena is pinned and registered, so the kernel does not walk the page tables on every direct request.</summary>
    public bool FixedBuffer { get; }

    /// <summary>
    /// The ring broke or could not be emptied: the kernel may write to the arena at any time. The arena is abandoned, its contents can no
    /// longer be trusted, and the process has to exit.
    /// </summary>
    public bool Leaked { get; private set; }

    /// <inheritdoc/>
    public bool TryQueue(in BlockRequest request)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_inFlight == Depth) return false;
        // The ring also has entries for the wake-up and for the promised number of commands. It is full only if more commands are pending;
        // then the caller waits first.
        if (!_ring.TryPrepare(Entry(request))) return false;
        _inFlight++;
        return true;
    }

    /// <summary>
    /// Sets the handler of completed commands. <see cref="Wait"/> calls it with the tag and the result, and then returns as for a wake-up.
    /// The handler must not queue requests or commands.
    /// </summary>
    public void ListenToCommands(Action<uint, int> ended) => _onCommand = ended;

    /// <summary>
    /// Queues a driver's own command (IORING_OP_URING_CMD) of up to 16 bytes, so that one thread waits for devices and a driver at once.
    /// False when the ring is full. <see cref="Dispose"/> does not wait for commands, because they do not access this process's memory. The
    /// kernel cancels those in flight when the ring is closed.
    /// </summary>
    public bool TryCommand(int fd, uint command, ReadOnlySpan<byte> bytes, uint tag)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_URING_CMD, Fd = fd, CmdOp = command, UserData = CommandData | tag },
            bytes);
    }

    /// <inheritdoc/>
    public int Wait(Span<BlockCompletion> completions)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (completions.IsEmpty) throw new ArgumentException("no room for a completion", nameof(completions));
        if (_broken < 0) return _broken;

        int count = 0;
        bool woken = false;
        bool offer = true;
        for (int patience = PatienceMilliseconds; ;)
        {
            Listen();
            bool wait = offer && count == 0 && !woken && _ring.Ready == 0;
            int taken = _ring.Enter(offer ? _ring.Pending : 0, wait ? 1u : 0u);
            int reaped = Reap(completions[count..], ref woken);
            if (reaped < 0) return Break(reaped);
            if (_ring.Lost != 0) return Break(-Errno.EOVERFLOW);
            count += reaped;

            bool stuck = taken is -Errno.EAGAIN or -Errno.EBUSY || (taken == 0 && offer && _ring.Pending > 0);
            if (taken < 0 && !Retry.Interrupted(taken) && !stuck) return Break(taken);
            // Entries that the kernel does not take must not delay completions: the next wait offers these entries again.
            if (count == completions.Length) return count;
            if ((count > 0 || woken) && (stuck || _ring.Pending == 0)) return count;
            // After EBUSY, the next Enter submits nothing. It only lets the kernel move overflowed completions into the ring.
            offer = taken != -Errno.EBUSY;
            if (!stuck || reaped > 0) continue;
            if (patience-- == 0) return Break(taken < 0 ? taken : -Errno.EAGAIN);
            Libc.Sleep(1);
        }
    }

    /// <inheritdoc/>
    public int Perform(in BlockRequest request) => SyncIo.Uninterrupted(request, _fds[request.Device], _arena);

    /// <summary>
    /// Takes back unsubmitted entries, cancels the requests that can be cancelled, waits for the rest, and closes the ring. If that
    /// fails, or the queue broke before, nothing is closed or unmapped and <see cref="Leaked"/> is true.
    /// </summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        if (Leaked) return;
        if (!Empty())
        {
            Leak();
            return;
        }
        if (FixedBuffer) _ = _uring?.UnregisterBuffer();
        _uring?.Close();
        _wakeUpBuffer.Dispose();
    }

    private IoUringSqe Entry(in BlockRequest request)
    {
        int fd = _fds[request.Device];
        if (request.Verb == BlockVerb.Flush)
            return new IoUringSqe { Opcode = IORING_OP_FSYNC, Fd = fd, FsyncFlags = IORING_FSYNC_DATASYNC, UserData = request.Tag };
        if (request.Verb == BlockVerb.WriteBack)
            return new IoUringSqe
            {
                Opcode = IORING_OP_SYNC_FILE_RANGE,
                Fd = fd,
                SyncRangeFlags = Libc.SYNC_FILE_RANGE_WRITE,
                UserData = request.Tag,
            };
        byte opcode = request.Verb == BlockVerb.Read
            ? FixedBuffer ? IORING_OP_READ_FIXED : IORING_OP_READ
            : FixedBuffer ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE;
        return new IoUringSqe
        {
            Opcode = opcode,
            Fd = fd,
            Off = (ulong)request.Offset,
            Addr = (ulong)_arena.AddressOf(request.Buffer),
            Len = (uint)request.Buffer.Length,
            UserData = request.Tag,
        };
    }

    private void Listen()
    {
        if (_listening) return;
        _listening = _ring.TryPrepare(new IoUringSqe
        {
            Opcode = IORING_OP_READ,
            Fd = _wakeUp.Fd,
            Addr = (ulong)_wakeUpBuffer.Address,
            Len = sizeof(ulong),
            UserData = WakeUpData,
        });
    }

    /// <summary>Moves completions out of the ring. Returns how many, or the negative errno of the wake-up's read.</summary>
    private int Reap(Span<BlockCompletion> completions, ref bool woken)
    {
        int count = 0;
        while (count < completions.Length && _ring.TryReap(out IoUringCqe completion))
        {
            switch (completion.UserData)
            {
                case WakeUpData:
                    _listening = false;
                    if (completion.Res == sizeof(ulong))
                    {
                        _wakeUp.Taken();
                        woken = true;
                    }
                    else if (completion.Res is not (-Errno.EINTR or -Errno.EAGAIN or -Errno.ECANCELED))
                    {
                        return completion.Res < 0 ? completion.Res : -Errno.EIO;
                    }
                    break;
                case CancelData:
                    break;
                case >= CommandData:
                    woken = true;
                    _onCommand?.Invoke((uint)completion.UserData, completion.Res);
                    break;
                default:
                    _inFlight--;
                    completions[count++] = new BlockCompletion((uint)completion.UserData, completion.Res);
                    break;
            }
        }
        return count;
    }

    private int Break(int errno)
    {
        Leak();
        return _broken = errno;
    }

    private void Leak()
    {
        Leaked = true;
        _arena.Abandon();
        GC.SuppressFinalize(_wakeUpBuffer);
    }

    /// <summary>
    /// Empties the ring, so that no pending request accesses this process's memory. Returns false if that fails.
    /// </summary>
    private bool Empty()
    {
        while (_ring.TryTakeBack(out ulong data))
        {
            if (data == WakeUpData) _listening = false;
            else if (data < CommandData) _inFlight--;
        }
        if (_inFlight == 0 && !_listening) return true;

        // One request cancels all others on 5.19 and later; older kernels refuse it. On those, the signal below ends the read of the
        // eventfd, and requests to devices complete by themselves.
        _ = _ring.TryPrepare(new IoUringSqe
        {
            Opcode = IORING_OP_ASYNC_CANCEL,
            Fd = -1,
            CancelFlags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY,
            UserData = CancelData,
        });
        _wakeUp.Signal();
        Span<BlockCompletion> discarded = stackalloc BlockCompletion[16];
        bool empty = true;
        for (int patience = PatienceMilliseconds; empty && (_inFlight > 0 || _listening);)
        {
            int taken = _ring.Enter(_ring.Ready == 0 ? 1u : 0u);
            bool woken = false;
            int reaped = Reap(discarded, ref woken);
            if (taken is -Errno.EAGAIN or -Errno.EBUSY)
            {
                if (reaped == 0) Libc.Sleep(1);
                empty = patience-- > 0;
            }
            else
            {
                empty = taken >= 0 || Retry.Interrupted(taken);
            }
        }
        // The read of the eventfd may have consumed another thread's signal. Signal again: only a lost wake-up does harm.
        _wakeUp.Signal();
        return empty;
    }
}
