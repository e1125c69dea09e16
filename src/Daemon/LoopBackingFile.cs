using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Daemon;

/// <summary>The file behind a loop device, opened by name and compared with what the driver says of it.</summary>
internal sealed class LoopBackingFile : IDisposable
{
    private const int MostPath = 4096;

    private LoopBackingFile(string path, int fd, long offset) => (Path, Fd, Offset) = (path, fd, offset);

    internal string Path { get; }

    internal int Fd { get; }

    /// <summary>Where in the file the device begins, in bytes.</summary>
    internal long Offset { get; }

    /// <summary>
    /// Null if <paramref name="device"/> is no loop device, or stands over another device, or the file cannot be found: it was deleted, lies in another mount namespace, or may
    /// not be written.
    /// </summary>
    internal static LoopBackingFile? Open(BlockDevice device)
    {
        LoopInfo64 info = default;
        if (Libc.Statx(device.Fd, Libc.STATX_BASIC_STATS, out StatxData status) < 0 || status.RdevMajor != Libc.LOOP_MAJOR) return null;
        if (Libc.Ioctl(device.Fd, Libc.LOOP_GET_STATUS64, ref info) < 0 || info.RDevice != 0) return null;
        (uint major, uint minor) = Libc.DecodeDevice(info.Device);
        foreach (string path in (ReadOnlySpan<string>)[PathInSysFs(status.RdevMinor), PathOf(info)])
        {
            if (path.Length == 0) continue;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK);
            if (fd < 0) continue;
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData file) == 0 && (file.Mode & (uint)Libc.S_IFMT) == Libc.S_IFREG
                && (file.DevMajor, file.DevMinor, file.Ino) == (major, minor, info.Inode)) return new LoopBackingFile(path, fd, (long)info.Offset);
            _ = Libc.Close(fd);
        }
        return null;
    }

    public void Dispose() => _ = Libc.Close(Fd);

    /// <summary>What the driver shows in /sys: the whole name, unlike the 63 bytes of its answer.</summary>
    private static string PathInSysFs(uint minor)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, string.Create(CultureInfo.InvariantCulture, $"/sys/dev/block/{Libc.LOOP_MAJOR}:{minor}/loop/backing_file"), Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) return "";
        byte[] bytes = new byte[MostPath];
        nint read;
        do read = Libc.Read(fd, bytes);
        while (read == -Errno.EINTR);
        _ = Libc.Close(fd);
        return read <= 0 ? "" : Encoding.UTF8.GetString(bytes, 0, (int)read).TrimEnd('\n');
    }

    private static string PathOf(in LoopInfo64 info)
    {
        ReadOnlySpan<byte> name = info.Name;
        int length = name.IndexOf((byte)0);
        return Encoding.UTF8.GetString(length < 0 ? name : name[..length]);
    }
}
