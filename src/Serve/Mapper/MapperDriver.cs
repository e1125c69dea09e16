using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper, and the nodes of its devices.</summary>
internal sealed class MapperDriver : IMapperDriver
{
    private const string Folder = "/dev/mapper/";

    /// <summary>
    /// The control device's fixed number since Linux 2.6.36 (MAPPER_CTRL_MINOR). Opening its node makes the kernel load the module.
    /// </summary>
    private const uint MiscMajor = 10, ControlMinor = 236;

    private readonly int _fd;

    /// <summary>
    /// Opens the control device, and creates its node if that is missing. Throws with exit code 69 without a device mapper, 77 without
    /// permission, and 71 if no descriptors are left.
    /// </summary>
    public MapperDriver()
    {
        const string path = Folder + "control",
            missingDriver = "the kernel module dm-mod is not loaded (modprobe dm-mod), or this kernel has none";
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
            -Errno.ENOENT or -Errno.ENOTDIR => $"there is no {path}: {missingDriver}",
            -Errno.ENXIO or -Errno.ENODEV => $"{path} has no driver: {missingDriver}",
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
    /// Creates /dev/mapper/NAME if udev has not, because it does not run or did not process the event (<see cref="UdevCookie"/>). If
    /// devtmpfs has made /dev/dm-N, creates a link to it with the same text as udev's, so that a udev that starts later keeps or replaces
    /// it. Otherwise creates a node.
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
            // Either udev has just created the existing entry, or it belonged to an earlier device of that name.
            if (made != -Errno.EEXIST || LeadsTo(path, major, minor)) return made == -Errno.EEXIST ? 0 : made;
            if (!again || !IsNode(path)) return made;
            _ = Libc.Unlink(path);
        }
    }

    /// <inheritdoc/>
    public void RemoveNode(string name, uint major, uint minor)
    {
        string path = Folder + name;
        bool isLink = Libc.ReadLink(path, out string target) == 0 && target == $"../dm-{minor}";
        if (isLink || (IsNode(path) && LeadsTo(path, major, minor))) _ = Libc.Unlink(path);
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

    /// <summary>True for a symbolic link or a block device's node, which are safe to remove.</summary>
    private static bool IsNode(string path) =>
        Libc.ReadLink(path, out _) == 0 || (Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS,
            out StatxData status) == 0 && (status.Mode & Libc.S_IFMT) == Libc.S_IFBLK);
}
