using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Names of file systems, for messages.</summary>
internal static class FileSystemName
{
    /// <summary>
    /// The name of the file system of <paramref name="path"/>, such as "nfs", or its magic number if the name is not known here.
    /// </summary>
    internal static string Of(string path)
    {
        if (Libc.StatFs(path, out StatFsData data) < 0) return "its file system";
        string? name = data.Type switch
        {
            Libc.TMPFS_MAGIC => "tmpfs",
            Libc.RAMFS_MAGIC => "ramfs",
            Libc.OVERLAYFS_SUPER_MAGIC => "overlayfs",
            Libc.AUTOFS_SUPER_MAGIC => "autofs",
            Libc.SQUASHFS_MAGIC => "squashfs",
            Libc.EROFS_SUPER_MAGIC_V1 => "erofs",
            Libc.CRAMFS_MAGIC => "cramfs",
            Libc.ISOFS_SUPER_MAGIC => "iso9660",
            Libc.NFS_SUPER_MAGIC => "nfs",
            Libc.SMB_SUPER_MAGIC => "smb",
            Libc.SMB2_SUPER_MAGIC => "smb2",
            Libc.CIFS_SUPER_MAGIC => "cifs",
            Libc.FUSE_SUPER_MAGIC => "fuse",
            Libc.V9FS_MAGIC => "9p",
            Libc.CEPH_SUPER_MAGIC => "ceph",
            Libc.AFS_SUPER_MAGIC => "afs",
            Libc.MSDOS_SUPER_MAGIC => "vfat",
            Libc.EXFAT_SUPER_MAGIC => "exfat",
            Libc.EXT4_SUPER_MAGIC => "ext4",
            Libc.XFS_SUPER_MAGIC => "xfs",
            Libc.BTRFS_SUPER_MAGIC => "btrfs",
            Libc.F2FS_SUPER_MAGIC => "f2fs",
            Libc.ECRYPTFS_SUPER_MAGIC => "ecryptfs",
            _ => null,
        };
        return name ?? $"its file system (of type 0x{data.Type:x})";
    }
}
