using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>The file below a loop device, opened by name and verified against the driver's information.</summary>
public sealed class LoopBackingFile : IDisposable
{
    private LoopBackingFile(string path, int fd) => (Path, Fd) = (path, fd);

    /// <summary>Path of the file.</summary>
    public string Path { get; }

    /// <summary>Its descriptor. A caller that does not dispose of this object owns it.</summary>
    public int Fd { get; }

    /// <summary>
    /// Opens the file below loop device <paramref name="minor"/> for reading and writing. Null if the loop device lies over another
    /// device, or the file cannot be opened: it was deleted, lies in another mount namespace, or is not writable.
    /// </summary>
    internal static LoopBackingFile? Open(uint minor)
    {
        LoopInfo64 info = default;
        int loop = BlockNode.Open(Libc.LOOP_MAJOR, minor, Libc.O_RDONLY | Libc.O_NONBLOCK);
        if (loop < 0) return null;
        int result = Libc.Ioctl(loop, Libc.LOOP_GET_STATUS64, ref info);
        _ = Libc.Close(loop);
        return result < 0 ? null : Open(minor, info, Libc.O_RDWR);
    }

    /// <summary>
    /// Opens the file below loop device <paramref name="minor"/>, whose driver reports <paramref name="info"/>, with
    /// <paramref name="flags"/> of open(2). Null as for the other overload.
    /// </summary>
    internal static LoopBackingFile? Open(uint minor, in LoopInfo64 info, int flags)
    {
        if (info.RDevice != 0) return null;
        (uint major, uint fileMinor) = Libc.DecodeDevice(info.Device);
        // /sys has the whole name; the ioctl returns at most 63 bytes of it.
        string inSys = SmallText.Read(KernelTree.Sys.Open($"dev/block/{Libc.LOOP_MAJOR}:{minor}/loop/backing_file", Libc.O_RDONLY)) ?? "";
        foreach (string path in (ReadOnlySpan<string>)[inSys.EndsWith('\n') ? inSys[..^1] : inSys, NameIn(info)])
        {
            if (path.Length == 0) continue;
            int fd = Scarcity.Check(Libc.OpenAt(Libc.AT_FDCWD, path, flags | Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK), path);
            if (fd < 0) continue;
            // The name may lead to another file: in this process's root, or because the file was replaced.
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData file) == 0 && (file.Mode & (uint)Libc.S_IFMT) == Libc.S_IFREG
                && (file.DevMajor, file.DevMinor, file.Ino) == (major, fileMinor, info.Inode)) return new LoopBackingFile(path, fd);
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
