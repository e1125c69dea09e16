using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.IoUringAbi;

namespace Snapuserd.Serve;

/// <summary>
/// The kernel's ublk driver. Control commands have a ring and a thread of their own, for two reasons. A command may wait for the queues'
/// threads (START_DEV waits until they have read the partition table), and control commands need ring entries of twice the size.
/// </summary>
internal sealed class UblkDriver : IUblkDriver
{
    private const string ControlPath = "/dev/ublk-control";

    private readonly object _gate = new();
    private readonly int _fd;
    private readonly MappedMemory _buffer;
    private readonly Thread _thread;
    private IoUringSqe _request;
    private UblksrvCtrlCmd _command;
    private int _result;
    private State _state = State.Starting;

    private enum State { Starting, Idle, Posted, Ended, Gone }

    /// <summary>
    /// Opens the control device and starts the thread. Throws with exit code 69 without the driver or io_uring, 77 without permission, and
    /// 71 if memory or threads are short.
    /// </summary>
    public UblkDriver()
    {
        _fd = Libc.OpenAt(Libc.AT_FDCWD, ControlPath, Libc.O_RDWR | Libc.O_CLOEXEC);
        if (_fd < 0)
        {
            bool isMissing = _fd is -Errno.ENOENT or -Errno.ENXIO or -Errno.ENODEV;
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.OpenDriver, _fd), isMissing
                ? $"there is no {ControlPath}: the kernel module ublk_drv is not loaded (modprobe ublk_drv), or this kernel has none"
                : $"cannot open {ControlPath}: {ErrnoText.Of(_fd)}");
        }
        int mapped = MappedMemory.Map(Sizes.SystemPage, out MappedMemory? buffer);
        if (mapped < 0)
        {
            _ = Libc.Close(_fd);
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map a page: {ErrnoText.Of(mapped)}");
        }
        _buffer = buffer!;
        const string name = "ublk control";
        if (WorkerThread.TryStart(name, StackSize.Usual, Run) is not { } thread)
        {
            _state = State.Gone;
            Free();
            throw WorkerThread.CannotStart(name);
        }
        _thread = thread;
        lock (_gate)
        {
            while (_state == State.Starting) Monitor.Wait(_gate);
            if (_state == State.Idle) return;
        }
        _thread.Join();
        Free();
        throw new SnapuserdException(ExitCode.Unavailable,
            $"ublk needs io_uring with requests of 128 bytes (Linux 5.19), but the system does not provide them: {ErrnoText.Of(_result)}");
    }

    /// <inheritdoc/>
    public int Control(uint command, int id, ulong data, Span<byte> buffer, int milliseconds = -1)
    {
        lock (_gate)
        {
            if (_state != State.Idle) return -Errno.EBUSY;
            buffer.CopyTo(_buffer.Span<byte>(0, buffer.Length));
            _request = new IoUringSqe { Opcode = IORING_OP_URING_CMD, Fd = _fd, CmdOp = command };
            _command = new UblksrvCtrlCmd
            {
                DevId = (uint)id,
                QueueId = ushort.MaxValue,
                Len = (ushort)buffer.Length,
                Addr = buffer.IsEmpty ? 0 : (ulong)_buffer.Address,
                Data = data,
            };
            _state = State.Posted;
            Monitor.PulseAll(_gate);
            while (_state == State.Posted)
            {
                if (milliseconds < 0) Monitor.Wait(_gate);
                else if (!Monitor.Wait(_gate, milliseconds) && _state == State.Posted) return -Errno.ETIMEDOUT;
            }
            if (_state == State.Gone) return -Errno.EIO;
            _state = State.Idle;
            _buffer.Span<byte>(0, buffer.Length).CopyTo(buffer);
            return _result;
        }
    }

    /// <inheritdoc/>
    public int OpenCharacterDevice(int id) => Libc.OpenAt(Libc.AT_FDCWD, $"/dev/ublkc{id}", Libc.O_RDWR | Libc.O_CLOEXEC);

    /// <inheritdoc/>
    public int AskQueue(int fd, int queue)
    {
        int result = IoUring.Open(1, 0, 0, out IoUring? uring);
        if (result < 0) return result;
        UblksrvIoCmd command = new() { QueueId = (ushort)queue };
        _ = uring!.Ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_URING_CMD, Fd = fd, CmdOp = UblkAbi.ForeignCommand },
            System.Runtime.InteropServices.MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvIoCmd>(in command)));
        result = Finish(uring.Ring);
        uring.Close();
        return result;
    }

    /// <inheritdoc/>
    public int FetchAndLeave(int fd, int[] queues, int depth)
    {
        int result = 0, number = 0;
        if (WorkerThread.TryStart("ublk fetch", StackSize.Usual, Run) is not { } thread) return -Errno.EAGAIN;
        thread.Join();
        UblkThreads.WaitForEnd(number);
        return result;

        void Run()
        {
            number = Libc.GetTid();
            result = Fetch(fd, queues, depth);
        }
    }

    /// <inheritdoc/>
    public int MapDescriptors(int fd, int queue, int depth, out MappedMemory? descriptors) =>
        MappedMemory.MapShared(fd, UblkAbi.DescriptorOffset(queue, Sizes.SystemPage), UblkAbi.DescriptorLength(depth, Sizes.SystemPage),
            out descriptors);

    /// <inheritdoc/>
    public void Pause(int milliseconds) => Libc.Sleep(milliseconds);

    /// <inheritdoc/>
    public bool IsHeld(int id) => BlockDeviceUse.IsHeld(PathOf(id));

    /// <inheritdoc/>
    public bool HasNode(int id)
    {
        // Without O_PATH, open would call the driver.
        int fd = Libc.OpenAt(Libc.AT_FDCWD, PathOf(id), Libc.O_PATH | Libc.O_CLOEXEC);
        if (fd >= 0) _ = Libc.Close(fd);
        return fd >= 0;
    }

    /// <inheritdoc/>
    public string PathOf(int id) => NodeOf(id);

    /// <summary>Path of block device <paramref name="id"/>.</summary>
    public static string NodeOf(int id) => $"/dev/ublkb{id}";

    /// <inheritdoc/>
    public RingQueue MakeRing(BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth, int commands)
    {
        if (RingQueue.TryCreate(devices, arena, wakeUp, depth, out RingQueue? ring, commands) is { } refusal)
            throw new SnapuserdException(ExitCode.Unavailable, $"ublk needs io_uring: {refusal.Sentence}");
        return ring!;
    }

    /// <summary>Ends the thread. If a command never completes, the thread stays until the process ends.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_state != State.Idle) return;
            _state = State.Gone;
            Monitor.PulseAll(_gate);
        }
        _thread.Join();
        Free();
    }

    private void Free()
    {
        _buffer.Dispose();
        _ = Libc.Close(_fd);
    }

    private void Run()
    {
        try
        {
            int result = IoUring.Open(1, IORING_SETUP_SQE128, 0, out IoUring? uring);
            if (result < 0)
            {
                _result = result;
                Turn(State.Gone);
                return;
            }
            Turn(State.Idle);
            while (Take())
            {
                _result = Execute(uring!.Ring);
                Turn(State.Ended);
            }
            uring!.Close();
        }
        catch (Exception)
        {
            _result = -Errno.ENOMEM;
            Turn(State.Gone);
        }
    }

    private void Turn(State state)
    {
        lock (_gate)
        {
            _state = state;
            Monitor.PulseAll(_gate);
        }
    }

    private bool Take()
    {
        lock (_gate)
        {
            while (_state is not (State.Posted or State.Gone)) Monitor.Wait(_gate);
            return _state == State.Posted;
        }
    }

    private int Execute(Ring ring)
    {
        if (!ring.TryPrepare(_request, System.Runtime.InteropServices.MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvCtrlCmd>(in _command))))
            return -Errno.EBUSY;
        return Finish(ring);
    }

    /// <summary>
    /// Fetches all tags of those queues. Ignores the results of the single fetches: <see cref="AskQueue"/> shows whether the driver refused
    /// them.
    /// </summary>
    private static int Fetch(int fd, int[] queues, int depth)
    {
        int result = IoUring.Open((uint)(queues.Length * depth), 0, 0, out IoUring? uring);
        if (result < 0) return result;
        foreach (int queue in queues)
        {
            for (int tag = 0; tag < depth; tag++)
            {
                UblksrvIoCmd command = new() { QueueId = (ushort)queue, Tag = (ushort)tag };
                _ = uring!.Ring.TryPrepare(new IoUringSqe { Opcode = IORING_OP_URING_CMD, Fd = fd, CmdOp = UblkAbi.UBLK_U_IO_FETCH_REQ },
                    System.Runtime.InteropServices.MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvIoCmd>(in command)));
            }
        }
        do
        {
            int taken = uring!.Ring.Enter(0);
            if (taken < 0 && taken is not (-Errno.EINTR or -Errno.EAGAIN or -Errno.EBUSY)) result = taken;
        }
        while (result == 0 && uring.Ring.Pending > 0);
        uring.Close();
        return result;
    }

    private static int Finish(Ring ring)
    {
        while (true)
        {
            int taken = ring.Enter(1);
            if (ring.TryReap(out IoUringCqe completion)) return completion.Res;
            if (taken >= 0 || Retry.Interrupted(taken)) continue;
            if (taken is not (-Errno.EAGAIN or -Errno.EBUSY)) return ring.TryTakeBack(out _) ? taken : -Errno.EIO;
            Libc.Sleep(1);
        }
    }
}
