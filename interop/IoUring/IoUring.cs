using System;

namespace Snapuserd.Interop;

/// <summary>
/// An io_uring of the kernel: the descriptor, the three mappings and the <see cref="Interop.Ring"/> over them. The same thread must make,
/// use and close it (IORING_SETUP_SINGLE_ISSUER).
/// </summary>
public sealed unsafe partial class IoUring : IRingKernel
{
    /// <summary>
    /// Sets of setup flags to try, best first. DEFER_TASKRUN (6.1) runs completions only inside this process's io_uring_enter instead of
    /// interrupting the thread. COOP_TASKRUN (5.19) avoids the interrupt; the last set works everywhere. A kernel that does not know a
    /// flag returns EINVAL. SUBMIT_ALL (5.18) continues after a request that is rejected at once, so a rejection costs no extra system
    /// call.
    /// </summary>
    private static ReadOnlySpan<uint> Ladder =>
    [
        IoUringAbi.IORING_SETUP_SINGLE_ISSUER | IoUringAbi.IORING_SETUP_DEFER_TASKRUN | IoUringAbi.IORING_SETUP_SUBMIT_ALL,
        IoUringAbi.IORING_SETUP_COOP_TASKRUN | IoUringAbi.IORING_SETUP_SUBMIT_ALL,
        0,
    ];

    private int _fd;
    private nint _sqRing;
    private nint _sqRingLength;
    private nint _cqRing;
    private nint _cqRingLength;
    private nint _entries;
    private nint _entriesLength;

    private IoUring(int fd) => _fd = fd;

    /// <summary>The queues in the mapped memory: takes requests and returns completions.</summary>
    public Ring Ring { get; private set; } = null!;

    /// <summary>IORING_SETUP_… that the kernel accepted.</summary>
    public uint Flags { get; private set; }

    /// <summary>IORING_FEAT_… of this kernel.</summary>
    public uint Features { get; private set; }

    /// <summary>
    /// Makes a ring for <paramref name="entries"/> concurrent requests (rounded up to a power of two) and <paramref name="completions"/>
    /// completions (0: twice the requests). <paramref name="flags"/> are added to every set that is tried (IORING_SETUP_SQE128,
    /// IORING_SETUP_R_DISABLED). Returns 0, or a negative errno: -ENOSYS, -EPERM (sysctl, seccomp), -ENOMEM (before 5.12 and again on 6.18,
    /// possibly because of RLIMIT_MEMLOCK), -EMFILE, -EINVAL (the kernel does not know one of the flags).
    /// </summary>
    public static int Open(uint entries, uint flags, uint completions, out IoUring? ring)
    {
        ring = null;
        if (completions != 0) flags |= IoUringAbi.IORING_SETUP_CQSIZE;
        int fd = -Errno.EINVAL;
        IoUringParams parameters = default;
        foreach (uint step in Ladder)
        {
            parameters = new IoUringParams { Flags = flags | step, CqEntries = completions };
            fd = Setup(entries, &parameters);
            if (fd != -Errno.EINVAL) break;
        }
        if (fd < 0) return fd;

        IoUring made = new(fd) { Flags = parameters.Flags, Features = parameters.Features };
        int mapped = made.Map(parameters);
        if (mapped < 0)
        {
            made.Close();
            return mapped;
        }
        ring = made;
        return 0;
    }

    /// <inheritdoc/>
    public int Enter(uint submit, uint complete, uint flags) => EnterCall(_fd, submit, complete, flags);

    /// <summary>
    /// Pins <paramref name="length"/> bytes at <paramref name="address"/>, at most 1 GiB, and makes them buffer 0 of the _FIXED
    /// operations. Returns 0, -ENOMEM when RLIMIT_MEMLOCK is too small (it does not apply to privileged processes), or another negative
    /// errno.
    /// </summary>
    public int RegisterBuffer(nint address, nint length)
    {
        IoVec buffer = new() { Base = address, Len = (nuint)length };
        return RegisterCall(_fd, IoUringAbi.IORING_REGISTER_BUFFERS, &buffer, 1);
    }

    /// <summary>Unpins the buffer. Returns 0 or a negative errno.</summary>
    public int UnregisterBuffer() => RegisterCall(_fd, IoUringAbi.IORING_UNREGISTER_BUFFERS, null, 0);

    /// <summary>
    /// Starts a ring that was made with IORING_SETUP_R_DISABLED; the caller becomes its only issuer. Returns 0 or a negative errno.
    /// </summary>
    public int Enable() => RegisterCall(_fd, IoUringAbi.IORING_REGISTER_ENABLE_RINGS, null, 0);

    /// <summary>Unmaps and closes. No request may be in flight: the kernel would write to memory that has been reused.</summary>
    public void Close()
    {
        if (_entries != 0) _ = Libc.MUnmap(_entries, _entriesLength);
        if (_cqRing != 0 && _cqRing != _sqRing) _ = Libc.MUnmap(_cqRing, _cqRingLength);
        if (_sqRing != 0) _ = Libc.MUnmap(_sqRing, _sqRingLength);
        if (_fd >= 0) _ = Libc.Close(_fd);
        (_entries, _cqRing, _sqRing, _fd) = (0, 0, 0, -1);
    }

    private int Map(in IoUringParams parameters)
    {
        int entrySize = (parameters.Flags & IoUringAbi.IORING_SETUP_SQE128) != 0 ? 128 : 64;
        _sqRingLength = (nint)parameters.SqOff.Array + ((nint)parameters.SqEntries * sizeof(uint));
        _cqRingLength = (nint)parameters.CqOff.Cqes + ((nint)parameters.CqEntries * sizeof(IoUringCqe));
        _entriesLength = (nint)parameters.SqEntries * entrySize;
        bool single = (parameters.Features & IoUringAbi.IORING_FEAT_SINGLE_MMAP) != 0;
        if (single) _sqRingLength = _cqRingLength = Math.Max(_sqRingLength, _cqRingLength);

        int result = Map(_sqRingLength, IoUringAbi.IORING_OFF_SQ_RING, out _sqRing);
        if (result < 0) return result;
        if (single) _cqRing = _sqRing;
        else if ((result = Map(_cqRingLength, IoUringAbi.IORING_OFF_CQ_RING, out _cqRing)) < 0) return result;
        result = Map(_entriesLength, IoUringAbi.IORING_OFF_SQES, out _entries);
        if (result < 0) return result;
        Ring = new Ring(new RingMemory(_sqRing, _cqRing, _entries, entrySize, parameters.SqOff, parameters.CqOff), this);
        return 0;
    }

    private int Map(nint length, long offset, out nint address)
    {
        address = Libc.MMap(0, length, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED | Libc.MAP_POPULATE, _fd, offset);
        if (address >= 0) return 0;
        int result = (int)address;
        address = 0;
        return result;
    }
}
