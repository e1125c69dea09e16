using System.Collections.Generic;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// A file system with one instance per kernel. It is reached at its usual mount point, or else by a detached mount (fsopen and fsmount,
/// Linux 5.2). A ramdisk may not mount /sys, and in a container /dev may be another file system.
/// </summary>
internal sealed class KernelTree
{
    private readonly string _type;
    private readonly string _mountPoint;
    private readonly long _magic;
    private long _found = Unknown;

    /// <summary>
    /// The value before the first search, and the flag of the kernel's own instance, in a bit above those of a descriptor.
    /// </summary>
    private const long Unknown = -1, Genuine = 1L << 32;

    /// <param name="type">Its name in /proc/filesystems.</param>
    /// <param name="mountPoint">Where it usually is mounted.</param>
    /// <param name="magic">The type that statfs(2) reports for this file system, which identifies it at the usual mount point; 0 if other
    /// file systems have the same type.</param>
    internal KernelTree(string type, string mountPoint, long magic) => (_type, _mountPoint, _magic) = (type, mountPoint, magic);

    /// <summary>/sys.</summary>
    internal static KernelTree Sys { get; } = new("sysfs", "/sys", Libc.SYSFS_MAGIC);

    /// <summary>The one devtmpfs, independent of this process's /dev; /dev if the kernel does not provide it.</summary>
    internal static KernelTree Dev { get; } = new("devtmpfs", "/dev", 0);

    /// <summary>Its root folder, for the *at calls; a negative errno if it is unavailable. Never closed.</summary>
    internal int Folder => (int)Found;

    /// <summary>
    /// The descriptor or errno in the lower 32 bits, with <see cref="Genuine"/> above them. Both are in one word because several threads
    /// may search at once: a reader must not combine one thread's descriptor with another thread's flag.
    /// </summary>
    private long Found
    {
        get
        {
            long known = Volatile.Read(ref _found);
            if (known != Unknown) return known;
            int folder = Scarcity.Check(OpenFolder(out bool isGenuine), _mountPoint);
            long opened = (uint)folder | (isGenuine ? Genuine : 0);
            long first = Interlocked.CompareExchange(ref _found, opened, Unknown);
            if (first == Unknown) return opened;
            if (folder >= 0) _ = Libc.Close(folder);
            return first;
        }
    }

    /// <summary>Opens a path below the root folder. A descriptor or a negative errno.</summary>
    internal int Open(string path, int flags)
    {
        if (Folder < 0) return Folder;
        int fd = Retry.OpenAt(Folder, path, flags | Libc.O_CLOEXEC);
        return Scarcity.Check(fd, path);
    }

    /// <summary>A small text file without trailing white space; null if it cannot be read.</summary>
    internal string? ReadText(string path) => SmallText.Read(Open(path, Libc.O_RDONLY))?.TrimEnd();

    /// <summary>The names in a folder; null if it cannot be read.</summary>
    internal List<string>? Names(string path)
    {
        int fd = Open(path, Libc.O_RDONLY | Libc.O_DIRECTORY);
        if (fd < 0) return null;
        List<string> names = [];
        int result = Libc.NamesIn(fd, names);
        _ = Libc.Close(fd);
        return result < 0 ? null : names;
    }

    /// <summary>True for the kernel's own instance; false if it is unavailable or may only be another mount at the usual place.</summary>
    internal bool IsGenuine => Folder >= 0 && (Found & Genuine) != 0;

    private int OpenFolder(out bool isGenuine)
    {
        int flags = Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC;
        isGenuine = true;
        if (_magic != 0 && Libc.StatFs(_mountPoint, out StatFsData there) == 0 && there.Type == _magic)
            return Libc.OpenAt(Libc.AT_FDCWD, _mountPoint, flags);
        int detached = Detached(_type);
        if (detached >= 0)
        {
            // The mount's own descriptor cannot be read; the folder keeps the mount.
            int folder = Libc.OpenAt(detached, ".", flags);
            _ = Libc.Close(detached);
            if (folder >= 0) return folder;
            detached = folder;
        }
        isGenuine = false;
        if (Errno.IsOutOfResources(detached)) return detached;
        return _magic != 0 ? detached : Libc.OpenAt(Libc.AT_FDCWD, _mountPoint, flags);
    }

    private static int Detached(string type)
    {
        int context = Libc.FsOpen(type, Libc.FSOPEN_CLOEXEC);
        if (context < 0) return context;
        int result = Libc.FsCreate(context);
        if (result == 0) result = Libc.FsMount(context, Libc.FSMOUNT_CLOEXEC);
        _ = Libc.Close(context);
        return result;
    }
}
