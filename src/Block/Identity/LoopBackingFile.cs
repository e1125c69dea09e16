using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>The file below a loop device, opened by name and compared with what the driver says of it.</summary>
public sealed class LoopBackingFile : IDisposable
{
    private LoopBackingFile(string path, int fd, long offset) => (Path, Fd, Offset) = (path, fd, offset);

    /// <summary>Its name.</summary>
    public string Path { get; }

    /// <summary>Its descriptor; the caller's, if it does not dispose this.</summary>
    public int Fd { get; }

    /// <summary>Where in the file the device begins, in bytes.</summary>
    public long Offset { get; }

    /// <summary>
    /// Opens the file for reading and writing. Null if <paramref name="device"/> is no loop device, or stands over another device, or the file cannot be found: it was deleted, lies in another
    /// mount namespace, or may not be written.
    /// </summary>
    public static LoopBackingFile? Open(BlockDevice device)
    {
        LoopInfo64 info = default;
        if (Libc.Statx(device.Fd, Libc.STATX_BASIC_STATS, out StatxData status) < 0 || status.RdevMajor != Libc.LOOP_MAJOR) return null;
        // A partition gets the whole device's answer.
        if (BlockNode.Partition(status.RdevMajor, status.RdevMinor) != null || Libc.Ioctl(device.Fd, Libc.LOOP_GET_STATUS64, ref info) < 0) return null;
        return Open(status.RdevMinor, info, Libc.O_RDWR);
    }

    /// <summary>The same for loop device <paramref name="minor"/>, whose driver says <paramref name="info"/>, with <paramref name="flags"/> of open(2).</summary>
    internal static LoopBackingFile? Open(uint minor, in LoopInfo64 info, int flags)
    {
        if (info.RDevice != 0) return null;
        (uint major, uint fileMinor) = Libc.DecodeDevice(info.Device);
        // The whole name, unlike the 63 bytes of the driver's own answer.
        string inSys = SmallText.Read(KernelTree.Sys.Open($"dev/block/{Libc.LOOP_MAJOR}:{minor}/loop/backing_file", Libc.O_RDONLY)) ?? "";
        foreach (string path in (ReadOnlySpan<string>)[inSys.EndsWith('\n') ? inSys[..^1] : inSys, NameIn(info)])
        {
            if (path.Length == 0) continue;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, path, flags | Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK);
            if (fd < 0) continue;
            // The name may be another file's in this root, or by now.
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData file) == 0 && (file.Mode & (uint)Libc.S_IFMT) == Libc.S_IFREG
                && (file.DevMajor, file.DevMinor, file.Ino) == (major, fileMinor, info.Inode)) return new LoopBackingFile(path, fd, (long)info.Offset);
            _ = Libc.Close(fd);
        }
        return null;
    }

    /// <summary>Closes it.</summary>
    public void Dispose() => _ = Libc.Close(Fd);

    private static string NameIn(in LoopInfo64 info)
    {
        ReadOnlySpan<byte> name = info.Name;
        int length = name.IndexOf((byte)0);
        return ByteText.Decode(length < 0 ? name : name[..length]);
    }
}
