using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>What fstatat(2) fills on x86-64. An architecture with another layout gets its own file.</summary>
[CType("struct stat", FieldPrefix = "st_")]
[LibraryHeader("sys/stat.h")]
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct StatData
{
    public ulong Dev;
    public ulong Ino;
    public ulong Nlink;
    public uint Mode;
    public uint Uid;
    public uint Gid;
    [CName("__pad0")]
    public int Reserved0;
    public ulong Rdev;
    public long Size;
    public long Blksize;
    public long Blocks;
    public TimeSpec Atim;
    public TimeSpec Mtim;
    public TimeSpec Ctim;
    [CName("__glibc_reserved")]
    public fixed long Reserved1[3];
}

public static unsafe partial class Libc
{
    /// <summary>
    /// What statx(2) says, by fstatat(2): older container runtimes answer EPERM to statx, which they do not know, and glibc falls back only on ENOSYS.
    /// What only statx knows (mount root, alignment of direct I/O) is not in the mask.
    /// </summary>
    private static int StatxByFStatAt(int directory, byte* path, int flags, StatxData* data)
    {
        StatData stat = default;
        if (fstatat(directory, path, &stat, flags) < 0) return -Marshal.GetLastPInvokeError();
        (uint major, uint minor) = DecodeDevice(stat.Dev);
        (uint ownMajor, uint ownMinor) = DecodeDevice(stat.Rdev);
        *data = new StatxData
        {
            Mask = STATX_BASIC_STATS,
            Blksize = (uint)stat.Blksize,
            Nlink = (uint)stat.Nlink,
            Uid = stat.Uid,
            Gid = stat.Gid,
            Mode = (ushort)stat.Mode,
            Ino = stat.Ino,
            Size = (ulong)stat.Size,
            Blocks = (ulong)stat.Blocks,
            Atime = new StatxTimestamp { Sec = stat.Atim.Sec, Nsec = (uint)stat.Atim.Nsec },
            Mtime = new StatxTimestamp { Sec = stat.Mtim.Sec, Nsec = (uint)stat.Mtim.Nsec },
            Ctime = new StatxTimestamp { Sec = stat.Ctim.Sec, Nsec = (uint)stat.Ctim.Nsec },
            DevMajor = major,
            DevMinor = minor,
            RdevMajor = ownMajor,
            RdevMinor = ownMinor,
        };
        return 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int fstatat(int dirfd, byte* pathname, StatData* buffer, int flags);
}
