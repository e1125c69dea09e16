using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

// Linux's user-space block device driver (linux/ublk_cmd.h, Documentation/block/ublk.rst), used through IORING_OP_URING_CMD:
//
//   /dev/ublk-control   UBLK_U_CMD_…  a UblksrvCtrlCmd in a request of 128 bytes; may block, so it has its own ring and thread
//   /dev/ublkcN         UBLK_U_IO_…   a UblksrvIoCmd in a request of 64 bytes, from the one thread that fetched the queue's tags
//                       mmap          one array of UblksrvIoDesc per queue, [tag]; queue q begins at q times the longest such array,
//                                     in whole pages
//                       pwrite        with UBLK_F_USER_COPY: the bytes of a read, at an offset that encodes queue, tag and position
//   /dev/ublkbN         the block device, from START_DEV on
//
// A tag's life: FETCH_REQ -> (completion 0: the descriptor holds a request) -> COMMIT_AND_FETCH_REQ with its result -> … -> (completion
// -ENODEV: the device is being stopped, and the tag is not fetched again). START_DEV waits until every tag of every queue was fetched.

/// <summary>A control command, from byte 48 on of a request of 128.</summary>
[CType("struct ublksrv_ctrl_cmd")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public struct UblksrvCtrlCmd
{
    /// <summary>Number of the device; all ones with ADD_DEV: any free number.</summary>
    public uint DevId;
    /// <summary>All ones unless the command concerns a queue.</summary>
    public ushort QueueId;
    /// <summary>Length of the buffer in bytes.</summary>
    public ushort Len;
    /// <summary>Address of the buffer, for input or output.</summary>
    public ulong Addr;
    /// <summary>START_DEV and END_USER_RECOVERY: the server's PID.</summary>
    public ulong Data;
    public ushort DevPathLen;
    public ushort Pad;
    public uint Reserved;
}

/// <summary>Properties of a device: the input of ADD_DEV, the output of it and of GET_DEV_INFO.</summary>
[CType("struct ublksrv_ctrl_dev_info")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public struct UblksrvCtrlDevInfo
{
    public ushort NrHwQueues;
    public ushort QueueDepth;
    /// <summary>UBLK_S_DEV_…</summary>
    public ushort State;
    public ushort Pad0;
    /// <summary>Largest request in bytes.</summary>
    public uint MaxIoBufBytes;
    public uint DevId;
    /// <summary>The server's PID; −1 once the device was stopped.</summary>
    [CName("ublksrv_pid")]
    public int Pid;
    public uint Pad1;
    /// <summary>UBLK_F_…</summary>
    public ulong Flags;
    /// <summary>For the server's use; the driver only stores it.</summary>
    [CName("ublksrv_flags")]
    public ulong ServerFlags;
    public uint OwnerUid;
    public uint OwnerGid;
    public ulong Reserved1;
    public ulong Reserved2;
}

/// <summary>A request of the block layer, written by the driver, one per tag.</summary>
[CType("struct ublksrv_io_desc")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public struct UblksrvIoDesc
{
    /// <summary>UBLK_IO_OP_… in the lowest byte, UBLK_IO_F_… above.</summary>
    public uint OpFlags;
    /// <summary>Length in sectors of 512 bytes.</summary>
    public uint NrSectors;
    /// <summary>Offset in sectors of 512 bytes.</summary>
    public ulong StartSector;
    public ulong Addr;
}

/// <summary>A command of a queue, the last 16 bytes of a request of 64.</summary>
[CType("struct ublksrv_io_cmd")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public struct UblksrvIoCmd
{
    [CName("q_id")]
    public ushort QueueId;
    public ushort Tag;
    /// <summary>COMMIT: number of bytes done, 0, or a negative errno.</summary>
    public int Result;
    /// <summary>Address of the buffer; 0 with UBLK_F_USER_COPY.</summary>
    public ulong Addr;
}

/// <summary>Basic properties of the block device.</summary>
[CType("struct ublk_param_basic")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public struct UblkParamBasic
{
    /// <summary>UBLK_ATTR_…</summary>
    public uint Attrs;
    /// <summary>Logical block size as a power of two; the other sizes likewise.</summary>
    public byte LogicalBsShift;
    public byte PhysicalBsShift;
    public byte IoOptShift;
    public byte IoMinShift;
    /// <summary>Longest request in sectors of 512 bytes.</summary>
    public uint MaxSectors;
    public uint ChunkSectors;
    /// <summary>Length in sectors of 512 bytes.</summary>
    public ulong DevSectors;
    public ulong VirtBoundaryMask;
}

/// <summary>Parameters of a device; only the basic ones are set here.</summary>
[CType("struct ublk_params")]
[KernelHeader("linux/ublk_cmd.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct UblkParams
{
    /// <summary>Bytes of this structure.</summary>
    public uint Len;
    /// <summary>UBLK_PARAM_TYPE_…: which parameters are given.</summary>
    public uint Types;
    public UblkParamBasic Basic;
    /// <summary>Discard, device numbers, zones.</summary>
    public fixed uint Reserved[18];
}

/// <summary>The constants of linux/ublk_cmd.h used here, under their own names. Flags without a version are of Linux 6.0.</summary>
[KernelHeader("linux/ublk_cmd.h")]
public static class UblkAbi
{
    public const uint UBLK_U_CMD_GET_DEV_INFO = 0x80207502;
    public const uint UBLK_U_CMD_ADD_DEV = 0xc0207504;
    public const uint UBLK_U_CMD_DEL_DEV = 0xc0207505;
    public const uint UBLK_U_CMD_START_DEV = 0xc0207506;
    public const uint UBLK_U_CMD_STOP_DEV = 0xc0207507;
    public const uint UBLK_U_CMD_SET_PARAMS = 0xc0207508;
    public const uint UBLK_U_CMD_GET_PARAMS = 0x80207509;
    public const uint UBLK_U_CMD_START_USER_RECOVERY = 0xc0207510;
    public const uint UBLK_U_CMD_END_USER_RECOVERY = 0xc0207511;
    public const uint UBLK_U_CMD_GET_FEATURES = 0x80207513;         // 6.5
    public const uint UBLK_U_CMD_DEL_DEV_ASYNC = 0x80207514;        // 6.7

    public const uint UBLK_U_IO_FETCH_REQ = 0xc0107520;
    public const uint UBLK_U_IO_COMMIT_AND_FETCH_REQ = 0xc0107521;

    public const int UBLK_FEATURES_LEN = 8;
    public const int UBLK_MAX_QUEUE_DEPTH = 4096;
    public const int UBLK_MAX_NR_QUEUES = 1 << 12;

    public const int UBLK_IO_RES_OK = 0;

    public const long UBLKSRV_CMD_BUF_OFFSET = 0;
    public const long UBLKSRV_IO_BUF_OFFSET = 0x80000000;
    public const int UBLK_TAG_OFF = 25;
    public const int UBLK_QID_OFF = 41;

    public const ulong UBLK_F_USER_RECOVERY = 1UL << 3;             // 6.1
    public const ulong UBLK_F_USER_RECOVERY_REISSUE = 1UL << 4;     // 6.1
    public const ulong UBLK_F_CMD_IOCTL_ENCODE = 1UL << 6;          // 6.4
    public const ulong UBLK_F_USER_COPY = 1UL << 7;                 // 6.5

    public const ushort UBLK_S_DEV_DEAD = 0;
    public const ushort UBLK_S_DEV_LIVE = 1;
    public const ushort UBLK_S_DEV_QUIESCED = 2;

    public const byte UBLK_IO_OP_READ = 0;
    public const byte UBLK_IO_OP_WRITE = 1;
    public const byte UBLK_IO_OP_FLUSH = 2;

    public const uint UBLK_ATTR_READ_ONLY = 1u << 0;
    public const uint UBLK_PARAM_TYPE_BASIC = 1u << 0;

    /// <summary>A queue command that the driver does not know, because it has another driver's type ('s'). It has no effect.</summary>
    public static uint ForeignCommand => (uint)'s' << 8;

    /// <summary>Offset in /dev/ublkcN to which the bytes of a tag's request are written with UBLK_F_USER_COPY.</summary>
    public static long UserCopyOffset(int queue, int tag) =>
        UBLKSRV_IO_BUF_OFFSET + ((long)queue << UBLK_QID_OFF) + ((long)tag << UBLK_TAG_OFF);

    /// <summary>
    /// Offset for mapping a queue's descriptors, on a kernel with pages of <paramref name="page"/> bytes. The offsets of consecutive queues
    /// differ by the length of the longest possible mapping (ublk_max_cmd_buf_size): 96 KiB, or 128 KiB with pages of 64 KiB. With such
    /// pages, older kernels reject the mapping of every queue but the first (EINVAL), because the offset at which they expect it is not
    /// page-aligned. Fixed by d369735e02ef ("fix ublk_ch_mmap() for 64K page size") in 6.13, and in stable releases since December 2024.
    /// </summary>
    public static long DescriptorOffset(int queue, int page) =>
        UBLKSRV_CMD_BUF_OFFSET + ((long)queue * DescriptorLength(UBLK_MAX_QUEUE_DEPTH, page));

    /// <summary>Length of the mapping of a queue with <paramref name="depth"/> tags; the driver accepts no other length.</summary>
    public static unsafe nint DescriptorLength(int depth, int page) => Sizes.RoundUp(depth * sizeof(UblksrvIoDesc), page);
}
