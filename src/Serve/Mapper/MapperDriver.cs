using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper, and the nodes of its devices.</summary>
internal sealed class MapperDriver : IMapperDriver
{
    private const string Folder = "/dev/mapper/";

    /// <summary>A fixed number since Linux 2.6.36 (MAPPER_CTRL_MINOR); opening such a node loads the module if the kernel has it.</summary>
    private const uint MiscMajor = 10, ControlMinor = 236;

    private readonly int _fd;

    /// <summary>
    /// Opens the control device, and makes its node if it is missing. Exit code 69 without a device mapper, 77 without permission, 71
    /// without descriptors.
    /// </summary>
    public MapperDriver()
    {
        const string path = Folder + "control",
            noDriver = "the kernel module dm-mod is not loaded (modprobe dm-mod), or this kernel has none";
        _fd = Open(path);
        if (_fd is -Errno.ENOENT or -Errno.ENOTDIR)
        {
            _ = Libc.MkDir(Folder, Modes.ReadableFolder);
            int made = Libc.MkNod(path, (uint)Libc.S_IFCHR | Modes.PrivateFile, MiscMajor, ControlMinor);
            if (made is 0 or -Errno.EEXIST) _fd = Open(path);
            else if (made is -Errno.EPERM or -Errno.EACCES) _fd = made;
        }
        if (_fd >= 0) return;
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.OpenDriver, _fd), _fd switch
        {
            -Errno.ENOENT or -Errno.ENOTDIR => $"there is no {path}: {noDriver}",
            -Errno.ENXIO or -Errno.ENODEV => $"{path} has no driver: {noDriver}",
            _ => $"cannot open {path}: {ErrnoText.Of(_fd)}",
        });
    }

    /// <inheritdoc/>
    public IUdev Udev { get; } = new SystemUdev();

    /// <inheritdoc/>
    public int Control(uint command, Span<byte> message)
    {
        int result = Libc.Ioctl(_fd, command, ref MemoryMarshal.GetReference(message));
        return result < 0 ? result : 0;
    }

    /// <inheritdoc/>
    public string PathOf(string name) => Folder + name;

    /// <summary>
    /// Makes /dev/mapper/NAME, where udev's rule has not: there is no udev, or it does not answer (<see cref="UdevCookie"/>). devtmpfs
    /// makes /dev/dm-N, and the link made here equals udev's byte for byte: a udev that starts later keeps it, or replaces it by a rename.
    /// Without /dev/dm-N this makes a node.
    /// </summary>
    public int MakeNode(string name, uint major, uint minor)
    {
        string path = Folder + name;
        if (LeadsTo(path, major, minor)) return 0;
        _ = Libc.MkDir(Folder, Modes.ReadableFolder);
        for (bool again = true; ; again = false)
        {
            int made = LeadsTo($"/dev/dm-{minor}", major, minor)
                ? Libc.SymLink($"../dm-{minor}", path)
                : Libc.MkNod(path, (uint)Libc.S_IFBLK | Modes.PrivateFile, major, minor);
            // The existing entry may be udev's, made just now, or left by an earlier device of that name.
            if (made != -Errno.EEXIST || LeadsTo(path, major, minor)) return made == -Errno.EEXIST ? 0 : made;
            if (!again || !IsNode(path)) return made;
            _ = Libc.Unlink(path);
        }
    }

    /// <inheritdoc/>
    public void RemoveNode(string name, uint major, uint minor)
    {
        string path = Folder + name;
        bool dangles = Libc.ReadLink(path, out string target) == 0 && target == $"../dm-{minor}";
        if (dangles || (IsNode(path) && LeadsTo(path, major, minor))) _ = Libc.Unlink(path);
    }

    /// <inheritdoc/>
    public void Pause(int milliseconds) => Libc.Sleep(milliseconds);

    /// <summary>Closes the control device; mapped devices stay.</summary>
    public void Dispose() => _ = Libc.Close(_fd);

    private static int Open(string path)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CLOEXEC);
        return fd;
    }

    private static bool LeadsTo(string path, uint major, uint minor) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0
        && (status.Mode & Libc.S_IFMT) == Libc.S_IFBLK && status.RdevMajor == major && status.RdevMinor == minor;

    /// <summary>A symbolic link, or a node of a block device: safe to remove.</summary>
    private static bool IsNode(string path) =>
        Libc.ReadLink(path, out _) == 0 || (Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS,
            out StatxData status) == 0 && (status.Mode & Libc.S_IFMT) == Libc.S_IFBLK);
}
