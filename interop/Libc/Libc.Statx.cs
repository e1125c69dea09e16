using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>A time of <see cref="StatxData"/>: seconds since 1970 and nanoseconds.</summary>
[CType("struct statx_timestamp", FieldPrefix = "tv_")]
[LibraryHeader("sys/stat.h")]
[StructLayout(LayoutKind.Sequential)]
public struct StatxTimestamp
{
    public long Sec;
    public uint Nsec;
    public int Reserved;
}

/// <summary>Result of statx(2), 256 bytes; <see cref="Mask"/> names the fields that were requested and are available.</summary>
[CType("struct statx", FieldPrefix = "stx_")]
[LibraryHeader("sys/stat.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct StatxData
{
    public uint Mask;
    public uint Blksize;
    public ulong Attributes;
    public uint Nlink;
    public uint Uid;
    public uint Gid;
    public ushort Mode;
    public ushort Reserved0;
    public ulong Ino;
    /// <summary>Size in bytes; 0 for a block device.</summary>
    public ulong Size;
    public ulong Blocks;
    public ulong AttributesMask;
    public StatxTimestamp Atime;
    public StatxTimestamp Btime;
    public StatxTimestamp Ctime;
    public StatxTimestamp Mtime;
    /// <summary>Device number of the file itself, if it is a device.</summary>
    public uint RdevMajor;
    public uint RdevMinor;
    /// <summary>Device number of the file system that contains the file.</summary>
    public uint DevMajor;
    public uint DevMinor;
    public ulong MntId;
    /// <summary>With STATX_DIOALIGN: the required alignment of a buffer's address; 0 where direct I/O does not work.</summary>
    public uint DioMemAlign;
    /// <summary>With STATX_DIOALIGN: the required alignment of offsets and lengths.</summary>
    public uint DioOffsetAlign;
    public fixed ulong Reserved1[12];
}

[LibraryHeader("sys/stat.h")]
public static unsafe partial class Libc
{
    public const int AT_EMPTY_PATH = 0x1000;
    public const int AT_SYMLINK_NOFOLLOW = 0x100;
    public const uint STATX_BASIC_STATS = 0x7ff;
    /// <summary>Supported by Linux 6.1 and later.</summary>
    public const uint STATX_DIOALIGN = 0x2000;
    /// <summary>An attribute: a file system is mounted there. Linux 5.8 and later.</summary>
    public const ulong STATX_ATTR_MOUNT_ROOT = 0x2000;
    public const int S_IFMT = 0xf000;
    public const int S_IFSOCK = 0xc000;
    public const int S_IFREG = 0x8000;
    public const int S_IFBLK = 0x6000;
    public const int S_IFDIR = 0x4000;
    public const int S_IFCHR = 0x2000;
    public const int S_IFIFO = 0x1000;

    /// <summary>statx(2) of a path. Returns 0 or a negative errno.</summary>
    public static int Statx(int directory, string path, int flags, uint mask, out StatxData data)
    {
        data = default;
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        fixed (StatxData* target = &data)
        {
            if (statx(directory, buffer, flags, mask, target) >= 0) return 0;
            int error = -Marshal.GetLastPInvokeError();
            return error == -Errno.EPERM ? StatxByFStatAt(directory, buffer, flags, target) : error;
        }
    }

    /// <summary>statx(2) of an open file. Returns 0 or a negative errno.</summary>
    public static int Statx(int fd, uint mask, out StatxData data) => Statx(fd, "", AT_EMPTY_PATH, mask, out data);

    [DllImport("libc", SetLastError = true)]
    private static extern int statx(int dirfd, byte* pathname, int flags, uint mask, StatxData* buffer);
}
