using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

// Structures shared by the kernel and this process (linux/io_uring.h):
//
//   io_uring_setup(entries, params) ── returns a descriptor; params say how large the rings are and where their fields lie
//
//   mmap at IORING_OFF_SQ_RING      head  tail  mask  entries  flags  dropped  array[entries]      array: index into the SQEs
//   mmap at IORING_OFF_CQ_RING      head  tail  mask  entries  flags  overflow cqes[entries]       one mapping with the former
//                                                                                                  if IORING_FEAT_SINGLE_MMAP
//   mmap at IORING_OFF_SQES         sqes[entries], 64 or (IORING_SETUP_SQE128) 128 bytes each
//
// Heads and tails are free-running 32-bit counters; the slot is counter & mask. This process writes sq.tail and cq.head, the kernel
// sq.head and cq.tail. Invariants: 0 <= sq.tail - sq.head <= sq.entries, 0 <= cq.tail - cq.head <= cq.entries (mod 2^32).

/// <summary>A request, 64 bytes. Other operations have other fields at the same offsets; these are the ones used here.</summary>
[CType("struct io_uring_sqe")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Explicit, Size = 64)]
public struct IoUringSqe
{
    /// <summary>IORING_OP_…</summary>
    [FieldOffset(0)] public byte Opcode;
    /// <summary>IOSQE_…</summary>
    [FieldOffset(1)] public byte Flags;
    [FieldOffset(2)] public ushort Ioprio;
    [FieldOffset(4)] public int Fd;
    /// <summary>Offset in the file in bytes; all ones: the file's own position, for a descriptor that has no offsets.</summary>
    [FieldOffset(8)] public ulong Off;
    /// <summary>With IORING_OP_URING_CMD: the driver's own command number.</summary>
    [FieldOffset(8)] public uint CmdOp;
    /// <summary>Address of the buffer.</summary>
    [FieldOffset(16)] public ulong Addr;
    /// <summary>Length of the buffer in bytes.</summary>
    [FieldOffset(24)] public uint Len;
    [FieldOffset(28)] public uint RwFlags;
    [FieldOffset(28)] public uint FsyncFlags;
    [FieldOffset(28)] public uint SyncRangeFlags;
    [FieldOffset(28)] public uint CancelFlags;
    /// <summary>Poll mask as the kernel expects it on a little-endian machine.</summary>
    [FieldOffset(28)][CName("poll32_events")] public uint Poll32Events;
    /// <summary>Returned with the completion.</summary>
    [FieldOffset(32)] public ulong UserData;
    /// <summary>Index of the registered buffer, for the _FIXED operations.</summary>
    [FieldOffset(40)] public ushort BufIndex;
    [FieldOffset(42)] public ushort Personality;
    [FieldOffset(44)] public int SpliceFdIn;
    [FieldOffset(48)] public ulong Addr3;
    [FieldOffset(56)] public ulong Reserved;

    /// <summary>Offset of the command bytes of IORING_OP_URING_CMD; 16 of them in a 64-byte entry, 80 in one of 128.</summary>
    public const int CommandOffset = 48;
}

/// <summary>A completion.</summary>
[CType("struct io_uring_cqe")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Sequential)]
public struct IoUringCqe
{
    public ulong UserData;
    /// <summary>The system call's result, or a negative errno.</summary>
    public int Res;
    /// <summary>IORING_CQE_F_…</summary>
    public uint Flags;
}

/// <summary>Offsets of the submission ring's fields in its mapping, in bytes.</summary>
[CType("struct io_sqring_offsets")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Sequential)]
public struct IoSqringOffsets
{
    public uint Head;
    public uint Tail;
    public uint RingMask;
    public uint RingEntries;
    public uint Flags;
    public uint Dropped;
    public uint Array;
    public uint Reserved1;
    public ulong UserAddr;
}

/// <summary>Offsets of the completion ring's fields in its mapping, in bytes.</summary>
[CType("struct io_cqring_offsets")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Sequential)]
public struct IoCqringOffsets
{
    public uint Head;
    public uint Tail;
    public uint RingMask;
    public uint RingEntries;
    public uint Overflow;
    public uint Cqes;
    public uint Flags;
    public uint Reserved1;
    public ulong UserAddr;
}

/// <summary>Input and output of io_uring_setup.</summary>
[CType("struct io_uring_params")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct IoUringParams
{
    public uint SqEntries;
    public uint CqEntries;
    /// <summary>IORING_SETUP_…</summary>
    public uint Flags;
    public uint SqThreadCpu;
    public uint SqThreadIdle;
    /// <summary>IORING_FEAT_…, from the kernel.</summary>
    public uint Features;
    public uint WqFd;
    public fixed uint Reserved[3];
    public IoSqringOffsets SqOff;
    public IoCqringOffsets CqOff;
}

/// <summary>The argument of io_uring_enter with IORING_ENTER_EXT_ARG: a time limit for the wait (Linux 5.11).</summary>
[CType("struct io_uring_getevents_arg")]
[KernelHeader("linux/io_uring.h")]
[StructLayout(LayoutKind.Sequential)]
public struct IoUringGeteventsArg
{
    public ulong Sigmask;
    public uint SigmaskSz;
    /// <summary>Padding before Linux 6.12. 0 has the same effect before and after.</summary>
    public uint MinWaitUsec;
    /// <summary>Address of a <see cref="TimeSpec"/>, or 0.</summary>
    public ulong Ts;
}

/// <summary>A piece of memory, for IORING_REGISTER_BUFFERS.</summary>
[CType("struct iovec", FieldPrefix = "iov_")]
[LibraryHeader("sys/uio.h")]
[StructLayout(LayoutKind.Sequential)]
public struct IoVec
{
    public nint Base;
    public nuint Len;
}

/// <summary>
/// The constants of linux/io_uring.h used here, under their own names. The comment after each is the first Linux version that has it.
/// </summary>
[KernelHeader("linux/io_uring.h")]
public static class IoUringAbi
{
    public const uint IORING_SETUP_CQSIZE = 1u << 3;          // 5.5
    public const uint IORING_SETUP_CLAMP = 1u << 4;           // 5.6
    public const uint IORING_SETUP_R_DISABLED = 1u << 6;      // 5.10
    public const uint IORING_SETUP_SUBMIT_ALL = 1u << 7;      // 5.18
    public const uint IORING_SETUP_COOP_TASKRUN = 1u << 8;    // 5.19
    public const uint IORING_SETUP_TASKRUN_FLAG = 1u << 9;    // 5.19
    public const uint IORING_SETUP_SQE128 = 1u << 10;         // 5.19
    public const uint IORING_SETUP_SINGLE_ISSUER = 1u << 12;  // 6.0
    public const uint IORING_SETUP_DEFER_TASKRUN = 1u << 13;  // 6.1

    public const uint IORING_FEAT_SINGLE_MMAP = 1u << 0;      // 5.4
    public const uint IORING_FEAT_NODROP = 1u << 1;           // 5.5
    public const uint IORING_FEAT_SUBMIT_STABLE = 1u << 2;    // 5.5
    public const uint IORING_FEAT_RW_CUR_POS = 1u << 3;       // 5.6
    public const uint IORING_FEAT_FAST_POLL = 1u << 5;        // 5.7
    public const uint IORING_FEAT_EXT_ARG = 1u << 8;          // 5.11
    public const uint IORING_FEAT_NATIVE_WORKERS = 1u << 9;   // 5.12

    public const byte IORING_OP_NOP = 0;
    public const byte IORING_OP_FSYNC = 3;
    public const byte IORING_OP_READ_FIXED = 4;
    public const byte IORING_OP_WRITE_FIXED = 5;
    public const byte IORING_OP_POLL_ADD = 6;
    public const byte IORING_OP_POLL_REMOVE = 7;
    public const byte IORING_OP_SYNC_FILE_RANGE = 8;         // 5.2
    public const byte IORING_OP_TIMEOUT = 11;
    public const byte IORING_OP_ASYNC_CANCEL = 14;            // 5.5
    public const byte IORING_OP_READ = 22;                    // 5.6
    public const byte IORING_OP_WRITE = 23;                   // 5.6
    public const byte IORING_OP_URING_CMD = 46;               // 5.19

    public const byte IOSQE_FIXED_FILE = 1 << 0;
    public const byte IOSQE_IO_DRAIN = 1 << 1;
    public const byte IOSQE_IO_LINK = 1 << 2;
    public const byte IOSQE_ASYNC = 1 << 4;

    public const uint IORING_FSYNC_DATASYNC = 1u << 0;

    public const uint IORING_ASYNC_CANCEL_ALL = 1u << 0;      // 5.19
    public const uint IORING_ASYNC_CANCEL_FD = 1u << 1;       // 5.19
    public const uint IORING_ASYNC_CANCEL_ANY = 1u << 2;      // 5.19

    public const uint IORING_CQE_F_MORE = 1u << 1;

    public const long IORING_OFF_SQ_RING = 0;
    public const long IORING_OFF_CQ_RING = 0x8000000;
    public const long IORING_OFF_SQES = 0x10000000;

    public const uint IORING_SQ_NEED_WAKEUP = 1u << 0;
    public const uint IORING_SQ_CQ_OVERFLOW = 1u << 1;        // 5.8
    public const uint IORING_SQ_TASKRUN = 1u << 2;            // 5.19

    public const uint IORING_ENTER_GETEVENTS = 1u << 0;
    public const uint IORING_ENTER_EXT_ARG = 1u << 3;         // 5.11

    public const uint IORING_REGISTER_BUFFERS = 0;
    public const uint IORING_UNREGISTER_BUFFERS = 1;
    public const uint IORING_REGISTER_FILES = 2;
    public const uint IORING_UNREGISTER_FILES = 3;
    public const uint IORING_REGISTER_ENABLE_RINGS = 12;      // 5.10
}
