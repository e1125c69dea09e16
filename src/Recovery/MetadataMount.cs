using System;
using System.Buffers.Binary;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>
/// The folder /metadata: an existing one, or the partition mounted for this process alone. The mount is attached to no path, so no other
/// process sees it, and it ends with its descriptor.
/// </summary>
public sealed class MetadataMount : IDisposable
{
    // ext4: the superblock is at byte 1024, its magic at 56, and bit 2 of the incompatible features at 96 says that the journal has data.
    private const int SuperblockOffset = 1024, SuperblockBytes = 104, MagicOffset = 56, FeaturesOffset = 96;
    private const ushort Ext4Magic = 0xEF53;
    private const uint NeedsRecovery = 4;

    private readonly int _fd = -1;

    private MetadataMount(string folder) => Folder = folder;

    private MetadataMount(int fd)
    {
        _fd = fd;
        Folder = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{fd}");
    }

    /// <summary>The path of the folder, without a slash at its end.</summary>
    public string Folder { get; }

    /// <summary>
    /// Opens a folder, or mounts a block device: read-only and without touching its journal unless <paramref name="writes"/>. Exit code 66
    /// if <paramref name="path"/> does not exist, 64 if it is neither a folder nor a block device, 69 if the kernel cannot mount it, 76 if
    /// it is in use.
    /// </summary>
    public static MetadataMount Open(string path, bool writes, Action<string> warn)
    {
        int result = Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, $"{path} cannot be opened");
        uint kind = status.Mode & (uint)Libc.S_IFMT;
        if (kind == (uint)Libc.S_IFDIR) return new MetadataMount(path.Length > 1 ? path.TrimEnd('/') : path);
        if (kind == (uint)Libc.S_IFREG)
            throw new SnapuserdException(ExitCode.Usage, $"{path} is a file; if it is an image of the metadata partition, mount it (mount "
                + $"-o ro,noload,loop {path} FOLDER), and name the folder with --metadata");
        if (kind != (uint)Libc.S_IFBLK) throw new SnapuserdException(ExitCode.Usage, $"{path} is neither a folder nor a block device");
        bool ext4;
        using (BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read))
        {
            Span<byte> superblock = stackalloc byte[SuperblockBytes];
            ext4 = device.Length >= SuperblockOffset + SuperblockBytes;
            if (ext4) new DescriptorSource(device).Read(SuperblockOffset, superblock);
            ext4 &= BinaryPrimitives.ReadUInt16LittleEndian(superblock[MagicOffset..]) == Ext4Magic;
            bool dirty = ext4 && (BinaryPrimitives.ReadUInt32LittleEndian(superblock[FeaturesOffset..]) & NeedsRecovery) != 0;
            if (dirty && !writes)
                warn($"the journal of {path} needs recovery, which would write to it: the state shown may be old. `snapuserd android "
                    + "merge` recovers the journal first");
        }
        int fd = Mount(path, ext4 ? "ext4" : "f2fs", writes ? null : ext4 ? "noload" : "norecovery");
        if (fd >= 0) return new MetadataMount(fd);
        string name = ext4 ? "ext4" : "f2fs";
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Mount, fd), fd switch
        {
            -Errno.EBUSY => $"{path} is mounted elsewhere; name that folder with --metadata",
            -Errno.ENODEV or -Errno.ENOSYS => $"this kernel cannot mount {path} ({name}): {ErrnoText.Of(fd)}; mount it, and name the "
                + "folder with --metadata",
            -Errno.EINVAL => $"{path} has no file system that can be mounted",
            _ => $"{path} cannot be mounted as {name}: {ErrnoText.Of(fd)}",
        });
    }

    private static int Mount(string device, string type, string? readOnly)
    {
        int context = Libc.FsOpen(type, Libc.FSOPEN_CLOEXEC);
        if (context < 0) return context;
        int result = Libc.FsString(context, "source", device);
        if (result == 0 && readOnly != null) result = Libc.FsFlag(context, "ro");
        if (result == 0 && readOnly != null) result = Libc.FsFlag(context, readOnly);
        if (result == 0) result = Libc.FsCreate(context);
        if (result == 0)
            result = Libc.FsMount(context, Libc.FSMOUNT_CLOEXEC, readOnly != null ? Libc.MOUNT_ATTR_RDONLY : Libc.MOUNT_ATTR_NOATIME);
        _ = Libc.Close(context);
        return result;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
    }
}
