using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.IoUringAbi;

namespace Snapuserd.Block;

/// <summary>
/// The block queue over io_uring. Requests stand alone: no links, no drain, no forced worker threads; order is made by waiting.
/// The eventfd of the wake-up is always being read in the ring, so that one wait listens to everything.
/// <para>
/// Descriptors are not registered with the ring, because the kernel lets go of registered ones only some time after the ring was
/// closed, and a device opened with O_EXCL would look busy to the next command.
/// </para>
/// </summary>
public sealed class RingQueue : IBlockQueue
{
    /// <summary>
    /// Depth beyond which a ring is not asked for. Devices take 1024 requests at most (nr_requests), so more would only wait elsewhere.
    /// </summary>
    public const int MaximumDepth = 4096;

    /// <summary>
    /// Turns of one millisecond in which the kernel has no memory for a request, or does not let go of completions, before the queue counts as broken.
    /// A second is long against any memory reclaim; who pays if it is too short gets exit code 74 and can resume.
    /// </summary>
    private const int PatienceMilliseconds = 1000;

    // A tag has 32 bits, so whatever is above them is ours.
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

    internal RingQueue(IoUring? uring, Ring ring, int[] fds, Arena arena, WakeUp wakeUp, MappedMemory wakeUpBuffer, int depth, bool fixedBuffer)
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
    /// Makes a ring for <paramref name="depth"/> requests over <paramref name="devices"/>, which requests name by their index. The thread
    /// that calls this must be the only one that uses the queue. Returns null, or why there is no ring; <see cref="SyncQueue"/> does the same more slowly.
    /// Devices, arena and wake-up stay the caller's and outlive the queue. <paramref name="commands"/> is how many of <see cref="TryCommand"/> may be in flight besides.
    /// </summary>
    public static RingRefusal? TryCreate(ReadOnlySpan<BlockDevice> devices, Arena arena, WakeUp wakeUp, int depth, out RingQueue? queue, int commands = 0) =>
        TryCreate(BlockDevice.Descriptors(devices), arena, wakeUp, depth, out queue, pin: AnyDirect(devices), commands);

    internal static RingRefusal? TryCreate(int[] fds, Arena arena, WakeUp wakeUp, int depth, out RingQueue? queue, bool pin = true, int commands = 0)
    {
        queue = null;
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(depth);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(depth, MaximumDepth);
        // One more for the read of the wake-up and one for the cancellation at the end.
        int result = IoUring.Open((uint)(depth + commands) + 2, 0, 0, out IoUring? uring);
        if (result < 0) return RingRefusal.Of(result);
        const uint Needed = IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS;
        if ((uring!.Features & Needed) != Needed)
        {
            uring.Close();
            return RingRefusal.TooOld();
        }
        result = Probe(uring.Ring);
        if (result < 0)
        {
            uring.Close();
            return RingRefusal.OfProbe(result);
        }
        result = MappedMemory.Map(Sizes.SystemPage, out MappedMemory? wakeUpBuffer);
        if (result < 0)
        {
            uring.Close();
            return RingRefusal.Of(result);
        }
        // Pinning touches every page of the arena (15 ms and 32 MiB of memory for the default size), and only direct requests gain from it.
        // Mostly RLIMIT_MEMLOCK says no; then the kernel pins the pages again for every direct request.
        bool fixedBuffer = pin && uring.RegisterBuffer(arena.Address, arena.Size) == 0;
        arena.IsRegistered |= fixedBuffer;
        queue = new RingQueue(uring, uring.Ring, fds, arena, wakeUp, wakeUpBuffer!, depth, fixedBuffer);
        return null;
    }

    /// <summary>
    /// Has a request that does nothing done by one of the kernel's own worker threads. Flushes need one, and so do reads and writes that would block.
    /// Where none can be started (RLIMIT_NPROC, pids.max) requests end with ECANCELED; the first one that was started stays as long as the ring.
    /// </summary>
    private static int Probe(Ring ring)
    {
        if (!ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_NOP, Flags = IOSQE_ASYNC, UserData = CancelData })) return -Errno.EIO;
        while (true)
        {
            int entered = ring.Enter(1);
            if (ring.TryReap(out IoUringCqe completion)) return completion.Res;
            if (entered < 0 && entered != -Errno.EINTR) return entered;
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

    /// <summary>The arena is pinned and registered, which spares the kernel a walk through the page tables on every direct request.</summary>
    public bool FixedBuffer { get; }

    /// <summary>
    /// The ring broke or could not be emptied: the kernel may write to the arena at any time. The arena was abandoned for that reason; nothing in it can be
    /// trusted any more, and the way out is to exit.
    /// </summary>
    public bool Leaked { get; private set; }

    /// <inheritdoc/>
    public bool TryQueue(in BlockRequest request)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_inFlight == Depth) return false;
        // Room is left over for the wake-up's read, so this fits unless the kernel took less than it was offered; then the caller waits first.
        if (!_ring.TryPrepare(Entry(request))) return false;
        _inFlight++;
        return true;
    }

    /// <summary>
    /// Who gets the ends of commands, by tag and result, within <see cref="Wait"/>: it may queue nothing there, and the wait returns then as it does for a wake-up.
    /// </summary>
    public void ListenToCommands(Action<uint, int> ended) => _onCommand = ended;

    /// <summary>
    /// Queues a driver's own command (IORING_OP_URING_CMD) of up to 16 bytes, so that one thread waits for devices and for a driver at once. False when
    /// the ring is full. Commands use no memory of ours: those still in flight when the queue is disposed of are cancelled by the kernel.
    /// </summary>
    public bool TryCommand(int fd, uint command, ReadOnlySpan<byte> bytes, uint tag)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_URING_CMD, Fd = fd, CmdOp = command, UserData = CommandData | tag }, bytes);
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
            if (taken < 0 && taken != -Errno.EINTR && !stuck) return Break(taken);
            // What came first goes back first; what the kernel did not take yet is offered again at the next wait.
            if (count == completions.Length) return count;
            if ((count > 0 || woken) && (stuck || _ring.Pending == 0)) return count;
            // After EBUSY one turn only lets the kernel move its overflow into the room that was made.
            offer = taken != -Errno.EBUSY;
            if (!stuck || reaped > 0) continue;
            if (patience-- == 0) return Break(taken < 0 ? taken : -Errno.EAGAIN);
            _ = Libc.Poll(default, 1);
        }
    }

    /// <inheritdoc/>
    public int Perform(in BlockRequest request) => PlainCall.Uninterrupted(request, _fds[request.Device], _arena);

    /// <summary>
    /// Takes back what was not begun, cancels what can be cancelled, waits for the rest, and closes the ring. If that fails, or the queue broke
    /// before, nothing is closed or unmapped and <see cref="Leaked"/> says so.
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
            return new IoUringSqe { Opcode = IORING_OP_SYNC_FILE_RANGE, Fd = fd, SyncRangeFlags = Libc.SYNC_FILE_RANGE_WRITE, UserData = request.Tag };
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

    /// <summary>Moves completions out of the ring. Returns how many, or the negative errno that the wake-up's read ended with.</summary>
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

    /// <summary>Brings the ring to where the kernel knows nothing of our memory; false if that cannot be reached.</summary>
    private bool Empty()
    {
        while (_ring.TryTakeBack(out ulong data))
        {
            if (data == WakeUpData) _listening = false;
            else if (data < CommandData) _inFlight--;
        }
        if (_inFlight == 0 && !_listening) return true;

        // One request cancels them all on 5.19 and later, and is refused before. There the wake-up's read ends by the signal,
        // and reads and writes of devices end by themselves.
        _ = _ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_ASYNC_CANCEL, Fd = -1, CancelFlags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY, UserData = CancelData });
        _wakeUp.Signal();
        Span<BlockCompletion> ends = stackalloc BlockCompletion[16];
        bool empty = true;
        for (int patience = PatienceMilliseconds; empty && (_inFlight > 0 || _listening);)
        {
            int taken = _ring.Enter(_ring.Ready == 0 ? 1u : 0u);
            bool woken = false;
            int reaped = Reap(ends, ref woken);
            if (taken is -Errno.EAGAIN or -Errno.EBUSY)
            {
                if (reaped == 0) _ = Libc.Poll(default, 1);
                empty = patience-- > 0;
            }
            else
            {
                empty = taken >= 0 || taken == -Errno.EINTR;
            }
        }
        // The signal that our read swallowed may have been somebody else's: a wake-up too many does no harm, a lost one does.
        _wakeUp.Signal();
        return empty;
    }
}
