using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Xunit;
using static Snapuserd.Interop.UblkAbi;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A fake ublk driver. /dev/ublkcN is a sparse file that receives the data of reads. The rings are fakes that complete commands as
/// Documentation/block/ublk.rst specifies. Violations, such as a start before all tags are fetched or a deletion before all are returned,
/// are recorded in <see cref="Faults"/>.
/// </summary>
internal sealed class FakeUblk : IUblkDriver
{
    internal const ulong AllFeatures = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_CMD_IOCTL_ENCODE | UBLK_F_USER_COPY;

    private readonly object _gate = new();
    private readonly TempFolder _folder = new();
    private readonly List<string> _log = [];
    private readonly List<FakeRingKernel> _rings = [];
    private UblksrvCtrlDevInfo _info;
    private UblkParams _params;
    private Tag[] _tags = [];
    private bool[] _recorded = [];
    private bool _exists;
    private bool _givenUp;
    private int _fd = -1;
    private int _next;
    private int _refusedMaps;

    private enum TagState { Unfetched, Active, Given, Aborting, Aborted }

    private sealed class Tag
    {
        internal int Queue, Number, Error;
        internal TagState State;
        internal TaskResult? Result;
    }

    internal sealed class TaskResult
    {
        internal readonly ManualResetEventSlim Done = new();
        internal int Result, Queue, Tag;
    }

    internal ulong Features { get; set; } = AllFeatures;

    /// <summary>The error of the next commit of a read, and only of that one; 0 for none.</summary>
    internal int RefuseNextCommit { get; set; }

    /// <summary>The error of START_DEV and END_USER_RECOVERY; 0 for none.</summary>
    internal int RefuseStart { get; set; }

    /// <summary>True for a newer driver (Linux 7.3), which forgets a server that has ended.</summary>
    internal bool ForgetsServers { get; set; }

    /// <summary>True if a dead process has mapped the requests, and the driver still counts that mapping.</summary>
    internal bool MappedByDead { get; set; }

    /// <summary>The result of <see cref="AskQueue"/>; 0 if it depends on whether the queue has a recorded server.</summary>
    internal int QueueAnswer { get; set; }

    /// <summary>True if the block device is mounted.</summary>
    internal bool Held { get; set; }

    /// <summary>True if a thread with CAP_SYS_ADMIN has fetched a tag.</summary>
    internal bool FetchedWithSysAdmin { get; private set; }

    /// <summary>Violations of the driver's rules.</summary>
    internal ConcurrentQueue<string> Faults { get; } = new();

    internal UblksrvCtrlDevInfo Info => _info;

    internal UblkParams Params => _params;

    internal string[] Log { get { lock (_gate) return [.. _log]; } }

    internal bool Exists => _exists;

    /// <summary>Creates a device in the state after a server's death.</summary>
    internal void Leave(ushort state, int process, ulong serverFlags, ulong sectors, int queues = 1, int depth = 16,
        bool[]? recorded = null)
    {
        _exists = true;
        _info = new UblksrvCtrlDevInfo
        {
            State = state,
            Pid = process,
            ServerFlags = serverFlags,
            NrHwQueues = (ushort)queues,
            QueueDepth = (ushort)depth,
            MaxIoBufBytes = 64 << 10,
            Flags = AllFeatures,
        };
        _params = new UblkParams { Len = 112, Types = UBLK_PARAM_TYPE_BASIC, Basic = new UblkParamBasic { DevSectors = sectors } };
        MakeTags();
        _recorded = recorded ?? [.. Enumerable.Repeat(true, queues)];
    }

    public int Control(uint command, int id, ulong data, Span<byte> buffer, int milliseconds = -1)
    {
        switch (command)
        {
            case UBLK_U_CMD_GET_FEATURES:
                MemoryMarshal.Write(buffer, Features);
                return Features == 0 ? -Errno.EOPNOTSUPP : 0;
            case UBLK_U_CMD_ADD_DEV:
                Note("add");
                if (_exists) return -Errno.EEXIST;
                _info = MemoryMarshal.Read<UblksrvCtrlDevInfo>(buffer);
                if (_info.DevId == uint.MaxValue) _info.DevId = 0;
                _info.Flags &= AllFeatures;
                _info.State = UBLK_S_DEV_DEAD;
                MemoryMarshal.Write(buffer, _info);
                _exists = true;
                MakeTags();
                return 0;
        }
        if (!_exists) return -Errno.ENODEV;
        switch (command)
        {
            case UBLK_U_CMD_GET_DEV_INFO:
                MemoryMarshal.Write(buffer, _info);
                return 0;
            case UBLK_U_CMD_SET_PARAMS:
                Note("params");
                _params = MemoryMarshal.Read<UblkParams>(buffer);
                return 0;
            case UBLK_U_CMD_GET_PARAMS:
                MemoryMarshal.Write(buffer, _params);
                return 0;
            case UBLK_U_CMD_START_USER_RECOVERY:
                Note("recover");
                return Recover();
            case UBLK_U_CMD_START_DEV:
            case UBLK_U_CMD_END_USER_RECOVERY:
                Note(command == UBLK_U_CMD_START_DEV ? "start" : "recovered");
                lock (_gate)
                {
                    foreach (Tag tag in _tags)
                        if (tag.State != TagState.Active)
                            Faults.Enqueue($"started, but tag {tag.Number} of queue {tag.Queue} is {tag.State}");
                }
                if (!IsCharacterDeviceOpen) Faults.Enqueue("started, but the character device is closed");
                if (data == 0) return -Errno.EINVAL;
                if (RefuseStart != 0) return RefuseStart;
                (_info.State, _info.Pid) = (UBLK_S_DEV_LIVE, (int)data);
                return 0;
            case UBLK_U_CMD_STOP_DEV:
                Note("stop");
                Stop();
                return 0;
            case UBLK_U_CMD_DEL_DEV_ASYNC:
                Note("delete");
                lock (_gate)
                {
                    // Closing a ring returns all of its tags, which this fake does not see. So skip the check then.
                    foreach (Tag tag in _tags)
                        if (!_givenUp && tag.State is (TagState.Active or TagState.Given or TagState.Aborting))
                            Faults.Enqueue($"deleted, but tag {tag.Number} of queue {tag.Queue} is {tag.State}");
                }
                if (IsCharacterDeviceOpen) Faults.Enqueue("deleted, but the character device is open");
                _exists = false;
                return 0;
            default:
                return -Errno.EOPNOTSUPP;
        }
    }

    private int Recover()
    {
        lock (_gate)
        {
            if (IsCharacterDeviceOpen || _info.State != UBLK_S_DEV_QUIESCED) return -Errno.EBUSY;
            if (ForgetsServers) return 0;
            // Every attempt has its own rings.
            if (_rings.Count < _recorded.Length + _refusedMaps) Faults.Enqueue("recovery was started before every queue had its memory");
            if (!_recorded.Contains(true)) return -Errno.EINVAL;
            if (_recorded.Contains(false))
                Faults.Enqueue(
                    "recovery was started with a queue that has fetched and one that has not: the kernel dereferences a null pointer");
            _recorded = new bool[_recorded.Length];
            MappedByDead = false;
            foreach (Tag tag in _tags) tag.State = TagState.Unfetched;
            return 0;
        }
    }

    public int AskQueue(int fd, int queue)
    {
        if (!IsCharacterDeviceOpen) Faults.Enqueue("a queue was asked, but the character device is closed");
        lock (_gate) return QueueAnswer != 0 ? QueueAnswer : _recorded[queue] && !ForgetsServers ? -Errno.EINVAL : -Errno.EOPNOTSUPP;
    }

    public int FetchAndLeave(int fd, int[] queues, int depth)
    {
        Note($"complete {string.Join(' ', queues)}");
        lock (_gate)
            foreach (int queue in queues) _recorded[queue] = true;
        return 0;
    }

    public int MapDescriptors(int fd, int queue, int depth, out MappedMemory? descriptors)
    {
        descriptors = null;
        lock (_gate)
        {
            if (_recorded.Contains(false)) Faults.Enqueue($"queue {queue} mapped its requests before every queue has fetched");
            if (MappedByDead) _refusedMaps++;
        }
        return MappedByDead ? -Errno.EINVAL : MappedMemory.MapShared(fd, DescriptorOffset(queue, Sizes.SystemPage),
            DescriptorLength(depth, Sizes.SystemPage), out descriptors);
    }

    public bool IsHeld(int id) => Held;

    public bool HasNode(int id) => File.Exists(PathOf(id));

    /// <summary>Does not wait.</summary>
    public void Pause(int milliseconds) => Thread.Yield();

    public int OpenCharacterDevice(int id)
    {
        File.WriteAllBytes(PathOf(id), new byte[4096]);
        _fd = Libc.OpenAt(Libc.AT_FDCWD, CharacterPath, Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC, 0x180);
        if (_fd >= 0) _ = Libc.FTruncate(_fd, UBLKSRV_IO_BUF_OFFSET);
        return _fd;
    }

    private string CharacterPath => Path.Combine(_folder.Path, "ublkc");

    /// <summary>Compares the file's name: another test at the same time may have received the same descriptor number.</summary>
    private bool IsCharacterDeviceOpen => _fd >= 0 && new FileInfo($"/proc/self/fd/{_fd}").LinkTarget == CharacterPath;

    public string PathOf(int id) => Path.Combine(_folder.Path, $"ublkb{id}");

    public RingQueue MakeRing(BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth, int commands)
    {
        uint entries = System.Numerics.BitOperations.RoundUpToPowerOf2((uint)(depth + commands + 2));
        FakeRingKernel kernel = new(entries, entries * 2) { OnEnter = (ring, submit, complete) => Enter(ring, submit, complete, wakeUp) };
        // On a second attempt, wait for a start of recovery: a faulty server that does not wait for its queues has time to send one. A
        // correct server only loses that time.
        if (_refusedMaps > 0) _ = SpinWait.SpinUntil(() => { lock (_gate) return _log.Contains("recover"); }, 100);
        lock (_gate) _rings.Add(kernel);
        Assert.Equal(0, MappedMemory.Map(Sizes.SystemPage, out MappedMemory? buffer));
        return new RingQueue(null, new Ring(kernel.Memory, kernel), BlockDevice.Descriptors(devices), arena, wakeUp, buffer!, depth,
            fixedBuffer: false);
    }

    /// <summary>Hands a request to the server as soon as a tag is free. Returns without waiting for the result.</summary>
    internal TaskResult Post(byte op, long sector, int sectors)
    {
        while (true)
        {
            lock (_gate)
            {
                // Round robin, so that all tags are used.
                int index = Array.FindIndex(_tags, _next, tag => tag.State == TagState.Active);
                if (index < 0) index = Array.FindIndex(_tags, tag => tag.State == TagState.Active);
                if (index >= 0)
                {
                    Tag tag = _tags[index];
                    _next = (index + 1) % _tags.Length;
                    UblksrvIoDesc request = new() { OpFlags = op, NrSectors = (uint)sectors, StartSector = (ulong)sector };
                    _ = Libc.PWrite(_fd, MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvIoDesc>(in request)),
                        DescriptorOffset(tag.Queue, Sizes.SystemPage) + (tag.Number * 24));
                    tag.Result = new TaskResult { Queue = tag.Queue, Tag = tag.Number };
                    tag.State = TagState.Given;
                    tag.Error = 0;
                    return tag.Result;
                }
            }
            Thread.Yield();
        }
    }

    /// <summary>Waits for the result of a request and returns it.</summary>
    internal static int Answer(TaskResult request)
    {
        request.Done.Wait();
        return request.Result;
    }

    /// <summary>The bytes that the server has written for a request. Valid until its tag is used again.</summary>
    internal byte[] Bytes(TaskResult request, int length)
    {
        byte[] bytes = new byte[length];
        using FileStream file = File.Open(CharacterPath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        file.Position = UserCopyOffset(request.Queue, request.Tag);
        file.ReadExactly(bytes);
        return bytes;
    }

    /// <summary>Aborts every tag, as when another process stops the device.</summary>
    internal void Stop()
    {
        lock (_gate)
        {
            // The kernel waits for requests in flight.
            while (Array.Exists(_tags, tag => tag.State == TagState.Given)) Monitor.Wait(_gate);
            foreach (Tag tag in _tags) if (tag.State == TagState.Active) (tag.State, tag.Error) = (TagState.Aborting, -Errno.ENODEV);
            (_info.State, _info.Pid) = (UBLK_S_DEV_DEAD, -1);
        }
    }

    // Empty, because the test still inspects the driver after the server has disposed of it.
    public void Dispose()
    {
    }

    internal void Free()
    {
        foreach (FakeRingKernel ring in _rings) ring.Dispose();
        _folder.Dispose();
    }

    private void Note(string what)
    {
        lock (_gate) _log.Add(what);
    }

    private void MakeTags()
    {
        _recorded = new bool[_info.NrHwQueues];
        _tags =
        [
            .. Enumerable.Range(0, _info.NrHwQueues * _info.QueueDepth)
                .Select(i => new Tag { Queue = i / _info.QueueDepth, Number = i % _info.QueueDepth }),
        ];
    }

    private int Enter(FakeRingKernel ring, uint submit, uint complete, WakeUp wakeUp)
    {
        int taken = ring.Take(submit);
        while (true)
        {
            bool any = false;
            foreach (IoUringSqe request in ring.InFlight.ToArray())
            {
                if (TryEnd(request, wakeUp, out int result))
                {
                    ring.Complete(request, result);
                    any = true;
                }
            }
            if (any || complete == 0) return taken;
            // A kernel would sleep here; no test depends on the duration.
            Span<PollFd> poll = [new PollFd { Fd = wakeUp.Fd, Events = Libc.POLLIN }];
            _ = Libc.Poll(poll, 1);
        }
    }

    private bool TryEnd(in IoUringSqe request, WakeUp wakeUp, out int result)
    {
        result = 0;
        if (request.Opcode == IoUringAbi.IORING_OP_READ && request.Fd == wakeUp.Fd)
        {
            Span<PollFd> poll = [new PollFd { Fd = wakeUp.Fd, Events = Libc.POLLIN }];
            if (Libc.Poll(poll, 0) <= 0) return false;
            result = (int)Libc.Read(wakeUp.Fd, new byte[8]);
            return true;
        }
        if (request.Opcode == IoUringAbi.IORING_OP_READ)
        {
            result = (int)Libc.PRead(request.Fd, (nint)request.Addr, (nint)request.Len, (long)request.Off);
            return true;
        }
        if (request.Opcode == IoUringAbi.IORING_OP_ASYNC_CANCEL) return true;
        Assert.Equal(IoUringAbi.IORING_OP_URING_CMD, request.Opcode);
        return TryEndCommand(request, out result);
    }

    /// <summary>Executes a command. True if it completes: its tag has a request, was aborted, or the command is refused.</summary>
    private bool TryEndCommand(in IoUringSqe request, out int result)
    {
        Span<ulong> words = [request.Addr3, request.Reserved];
        UblksrvIoCmd command = MemoryMarshal.Read<UblksrvIoCmd>(MemoryMarshal.AsBytes(words));
        lock (_gate)
        {
            Tag tag = _tags[(command.QueueId * _info.QueueDepth) + command.Tag];
            if (tag.State == TagState.Unfetched && request.CmdOp == UBLK_U_IO_FETCH_REQ)
            {
                if (_recorded[tag.Queue] && !ForgetsServers)
                {
                    result = -Errno.EINVAL;
                    return true;
                }
                FetchedWithSysAdmin |= HasSysAdmin();
                tag.State = TagState.Active;
                if (Array.TrueForAll(_tags, one => one.Queue != tag.Queue || one.State == TagState.Active)) _recorded[tag.Queue] = true;
            }
            else if (tag.State == TagState.Given && request.CmdOp == UBLK_U_IO_COMMIT_AND_FETCH_REQ && tag.Error > 0)
            {
                if (RefuseNextCommit != 0)
                {
                    (result, RefuseNextCommit) = (RefuseNextCommit, 0);
                    (tag.State, tag.Error) = (TagState.Aborted, 0);
                    _givenUp = true;
                    Monitor.PulseAll(_gate);
                    return true;
                }
                tag.Result!.Result = command.Result;
                (tag.State, tag.Error) = (TagState.Active, 0);
                tag.Result.Done.Set();
                Monitor.PulseAll(_gate);
            }
            result = tag.Error;
            if (tag.State == TagState.Aborting)
            {
                tag.State = TagState.Aborted;
                return true;
            }
            if (tag.State != TagState.Given || tag.Error > 0) return false;
            // Now the server owns the tag, and only its commit is allowed.
            tag.Error = 1;
            result = UBLK_IO_RES_OK;
            return true;
        }
    }

    private static bool HasSysAdmin() =>
        File.ReadLines("/proc/thread-self/status").First(line => line.StartsWith("CapEff:", StringComparison.Ordinal)) is { } line
        && (Convert.ToUInt64(line[7..].Trim(), 16) >> 21 & 1) != 0;
}
