using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Result of statfs(2) for a file system.</summary>
[CType("struct statfs", FieldPrefix = "f_")]
[LibraryHeader("sys/vfs.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct StatFsData
{
    /// <summary>Type of the file system: a magic number.</summary>
    public long Type;
    public long Bsize;
    public ulong Blocks;
    public ulong Bfree;
    public ulong Bavail;
    public ulong Files;
    public ulong Ffree;
    public ulong Fsid;
    public long Namelen;
    public long Frsize;
    public long Flags;
    public fixed long Spare[4];
}

[LibraryHeader("linux/magic.h")]
public static unsafe partial class Libc
{
    public const long SYSFS_MAGIC = 0x62656572;
    public const long TMPFS_MAGIC = 0x01021994;
    public const long RAMFS_MAGIC = 0x858458f6;
    public const long OVERLAYFS_SUPER_MAGIC = 0x794c7630;
    public const long AUTOFS_SUPER_MAGIC = 0x0187;
    public const long SQUASHFS_MAGIC = 0x73717368;
    public const long EROFS_SUPER_MAGIC_V1 = 0xe0f5e1e2;
    public const long CRAMFS_MAGIC = 0x28cd3d45;
    public const long ISOFS_SUPER_MAGIC = 0x9660;
    public const long NFS_SUPER_MAGIC = 0x6969;
    public const long SMB_SUPER_MAGIC = 0x517b;
    public const long SMB2_SUPER_MAGIC = 0xfe534d42;
    public const long CIFS_SUPER_MAGIC = 0xff534d42;
    public const long FUSE_SUPER_MAGIC = 0x65735546;
    public const long V9FS_MAGIC = 0x01021997;
    public const long CEPH_SUPER_MAGIC = 0x00c36400;
    public const long AFS_SUPER_MAGIC = 0x5346414f;
    public const long MSDOS_SUPER_MAGIC = 0x4d44;
    public const long EXFAT_SUPER_MAGIC = 0x2011bab0;
    /// <summary>ext2, ext3 and ext4 share one number.</summary>
    public const long EXT4_SUPER_MAGIC = 0xef53;
    public const long XFS_SUPER_MAGIC = 0x58465342;
    public const long BTRFS_SUPER_MAGIC = 0x9123683e;
    public const long F2FS_SUPER_MAGIC = 0xf2f52010;
    public const long ECRYPTFS_SUPER_MAGIC = 0xf15f;

    /// <summary>statfs(2): the file system that a path lies on. Returns 0 or a negative errno.</summary>
    public static int StatFs(string path, out StatFsData data)
    {
        data = default;
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new System.Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        fixed (StatFsData* target = &data)
            return statfs(buffer, target) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>fstatfs(2): the same for an open file. Returns 0 or a negative errno.</summary>
    public static int FStatFs(int fd, out StatFsData data)
    {
        data = default;
        fixed (StatFsData* target = &data)
            return fstatfs(fd, target) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int fstatfs(int fd, StatFsData* buffer);

    [DllImport("libc", SetLastError = true)]
    private static extern int statfs(byte* path, StatFsData* buffer);
}
