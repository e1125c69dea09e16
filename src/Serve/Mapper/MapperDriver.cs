using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper, and the nodes of its devices.</summary>
internal sealed class MapperDriver : IMapperDriver
{
    private const string Folder = "/dev/mapper/";

    /// <summary>A number of its own since Linux 2.6.36 (MAPPER_CTRL_MINOR); opening a node of it loads the module where the kernel can.</summary>
    private const uint MiscMajor = 10, ControlMinor = 236;

    private const uint NodeMode = 0x180, FolderMode = 0x1ed;

    private readonly int _fd;

    /// <summary>Opens the control device, and makes its node where nobody has. Exit code 69 without a device mapper, 77 without permission, 71 without descriptors.</summary>
    public MapperDriver()
    {
        const string path = Folder + "control", noDriver = "the kernel module dm-mod is not loaded (modprobe dm-mod), or this kernel has none";
        _fd = Open(path);
        if (_fd is -Errno.ENOENT or -Errno.ENOTDIR)
        {
            _ = Libc.MkDir(Folder, FolderMode);
            int made = Libc.MkNod(path, (uint)Libc.S_IFCHR | NodeMode, MiscMajor, ControlMinor);
            if (made is 0 or -Errno.EEXIST) _fd = Open(path);
            else if (made is -Errno.EPERM or -Errno.EACCES) _fd = made;
        }
        if (_fd >= 0) return;
        throw _fd switch
        {
            -Errno.ENOENT or -Errno.ENOTDIR => new SnapuserdException(ExitCode.Unavailable, $"there is no {path}: {noDriver}"),
            -Errno.ENXIO or -Errno.ENODEV => new SnapuserdException(ExitCode.Unavailable, $"{path} has no driver: {noDriver}"),
            -Errno.EACCES or -Errno.EPERM or -Errno.EROFS => new SnapuserdException(ExitCode.Permission, $"cannot open {path}: {Reason.Of(_fd)}"),
            _ => new SnapuserdException(ExitCode.OutOfResources, $"cannot open {path}: {Reason.Of(_fd)}"),
        };
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
    /// devtmpfs makes /dev/dm-N, udev's rule the link in /dev/mapper. Where udev did not, because there is none, or none that answers (<see cref="UdevCookie"/>), the link is made here, the same to the
    /// letter: a udev that comes later finds it as it wants it, or puts its own in its place by a rename. Where there is no /dev/dm-N, it is a node.
    /// </summary>
    public int MakeNode(string name, uint major, uint minor)
    {
        string path = Folder + name;
        if (LeadsTo(path, major, minor)) return 0;
        _ = Libc.MkDir(Folder, FolderMode);
        for (bool again = true; ; again = false)
        {
            int made = LeadsTo($"/dev/dm-{minor}", major, minor)
                ? Libc.SymLink($"../dm-{minor}", path)
                : Libc.MkNod(path, (uint)Libc.S_IFBLK | NodeMode, major, minor);
            // What is there may be udev's of this very moment, or what an earlier device of that name has left.
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
    public void Pause(int milliseconds) => _ = Libc.Poll(default, milliseconds);

    /// <summary>Closes the control device; mapped devices stay.</summary>
    public void Dispose() => _ = Libc.Close(_fd);

    private static int Open(string path)
    {
        int fd;
        do fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CLOEXEC);
        while (fd == -Errno.EINTR);
        return fd;
    }

    private static bool LeadsTo(string path, uint major, uint minor) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0
        && (status.Mode & Libc.S_IFMT) == Libc.S_IFBLK && status.RdevMajor == major && status.RdevMinor == minor;

    /// <summary>A link or a node of a block device: nothing that somebody would miss.</summary>
    private static bool IsNode(string path) =>
        Libc.ReadLink(path, out _) == 0 || (Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && (status.Mode & Libc.S_IFMT) == Libc.S_IFBLK);
}
