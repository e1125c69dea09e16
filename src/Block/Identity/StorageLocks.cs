using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Locks on ranges of storage, by what the storage is and not by what it is called. Two of our processes always meet here: through another node, another path, a loop device
/// that was made later, or a file that was deleted below its loop device. Other programs are kept away by O_EXCL and flock.
/// <para>
/// Each bottom (<see cref="StorageBottom"/>) has an empty file, and a lock on bytes [a, b) of that file (F_OFD_SETLK) is a lock on bytes [a, b) of the bottom. The files are in
/// the folder .snapuserd of the kernel's one devtmpfs: there is no second one in another mount namespace, container or root, it needs no mounted /dev, and it is the
/// same before and after switch_root. Without devtmpfs they are in /dev/.snapuserd. Only root can use them; a user without rights has flock and O_EXCL.
/// </para>
/// <para>
/// A lock belongs to an open file. It ends with the last descriptor of that, however the process ends, and is passed to a child by inheritance (<see cref="InheritedHolds"/>).
/// </para>
/// </summary>
public sealed class StorageLocks : IDisposable
{
    private const string Folder = ".snapuserd";
    private const uint FolderMode = 0x1c0, FileMode = 0x180;

    private readonly List<(StorageBottom Bottom, int Fd, bool Inherited)> _files = [];
    private readonly List<StoragePiece> _locked = [];

    private StorageLocks()
    {
    }

    /// <summary>All was locked, in the one place that every process of this kernel has. If not, a process that has another place, or none, is met only by what other programs go by.</summary>
    internal bool IsEverywhere { get; private set; } = true;

    /// <summary>The descriptors, to be inherited by a child.</summary>
    internal IEnumerable<int> Descriptors
    {
        get
        {
            foreach ((_, int fd, _) in _files) yield return fd;
        }
    }

    /// <summary>
    /// Locks all of <paramref name="storage"/>, except what <paramref name="besides"/> has locked for this process already; null if another process has a lock in the way.
    /// A file is locked beyond its end, because it can grow.
    /// </summary>
    internal static StorageLocks? TryTake(StorageIdentity storage, bool exclusive, bool whole, StorageLocks? besides)
    {
        StorageLocks locks = new();
        int folder = OpenFolder();
        locks.IsEverywhere = folder >= 0 && KernelTree.Dev.IsGenuine;
        if (folder < 0) return locks;
        try
        {
            foreach ((StoragePiece piece, bool alone) in Wanted(storage, exclusive, whole, besides))
            {
                if (locks.TryLock(folder, piece, alone)) continue;
                locks.Dispose();
                return null;
            }
            return locks;
        }
        catch
        {
            locks.Dispose();
            throw;
        }
        finally
        {
            _ = Libc.Close(folder);
        }
    }

    /// <summary>Releases them, and removes the files that no other process has locked. What was inherited stays with this process until it ends.</summary>
    public void Dispose()
    {
        int folder = _files.Count > 0 ? TryOpenFolder() : -1;
        foreach ((StorageBottom bottom, int fd, bool inherited) in _files)
        {
            if (inherited) continue;
            // The name may be a later file's, which another process has locked. While this one is locked alone, its own name stays.
            if (folder >= 0 && Libc.LockRange(fd, new FileLock { Type = Libc.F_WRLCK }) == 0 && HasName(folder, bottom, fd)) _ = Libc.UnlinkAt(folder, Name(bottom));
            // Closing alone keeps the lock while a child that was just forked, and is not yet its program, has the same file open.
            _ = Libc.LockRange(fd, new FileLock { Type = Libc.F_UNLCK });
            _ = Libc.Close(fd);
        }
        _files.Clear();
        if (folder >= 0) _ = Libc.Close(folder);
    }

    /// <summary>
    /// Notes that this process holds a device only because it is another name of what it uses: others of our processes that use other bytes of it need not take it for a stranger's.
    /// Returns a descriptor that ends the note, or a negative errno.
    /// </summary>
    internal static int NoteName(uint major, uint minor)
    {
        int fd = OpenName(major, minor);
        if (fd >= 0) _ = Libc.LockRange(fd, new FileLock { Type = Libc.F_RDLCK });
        return fd;
    }

    /// <summary>Another of our processes holds the device as a name only (<see cref="NoteName"/>).</summary>
    internal static bool IsNoted(uint major, uint minor)
    {
        int fd = OpenName(major, minor);
        if (fd < 0) return false;
        bool noted = Libc.IsRangeLocked(fd, new FileLock { Type = Libc.F_WRLCK }) == 1;
        _ = Libc.Close(fd);
        return noted;
    }

    private static int OpenName(uint major, uint minor)
    {
        int folder = OpenFolder();
        if (folder < 0) return folder;
        int fd = OpenFile(folder, $"name-{major}:{minor}");
        _ = Libc.Close(folder);
        return fd;
    }

    /// <summary>Closes the files and leaves the locks to other processes that have them open, such as a child.</summary>
    internal void Leave()
    {
        foreach ((_, int fd, bool inherited) in _files)
            if (!inherited) _ = Libc.Close(fd);
        _files.Clear();
    }

    /// <summary>
    /// The ranges to lock, in an order that is the same in every process, so that two that want the same ranges do not each get a part.
    /// A process that reads or writes through a layer has a shared lock on all below it: two volumes of one pool go together, and a merge
    /// into the pool's device is kept away.
    /// </summary>
    private static List<(StoragePiece Piece, bool Alone)> Wanted(StorageIdentity storage, bool exclusive, bool whole, StorageLocks? besides)
    {
        List<(StoragePiece Piece, bool Alone)> wanted = [];
        foreach (StoragePiece piece in storage.Pieces)
        {
            StoragePiece all = whole && piece.Bottom.IsFile ? piece with { Length = long.MaxValue - piece.Offset } : piece;
            foreach (StoragePiece rest in Except(all, besides)) wanted.Add((rest, exclusive));
        }
        foreach (StoragePiece piece in storage.BelowDevices())
            foreach (StoragePiece rest in Except(piece, besides)) wanted.Add((rest, false));
        // Of one bottom the exclusive ones come last, so that they are what is left where ranges meet.
        wanted.Sort((one, other) => one.Piece.Bottom.CompareTo(other.Piece.Bottom) is not 0 and int order ? order
            : (one.Alone, one.Piece.Offset).CompareTo((other.Alone, other.Piece.Offset)));
        return wanted;
    }

    private static List<StoragePiece> Except(in StoragePiece piece, StorageLocks? besides)
    {
        List<StoragePiece> rest = [piece];
        foreach (StoragePiece held in besides?._locked ?? [])
        {
            List<StoragePiece> next = [];
            foreach (StoragePiece part in rest)
            {
                if (!part.Overlaps(held))
                {
                    next.Add(part);
                    continue;
                }
                if (part.Offset < held.Offset) next.Add(part with { Length = held.Offset - part.Offset });
                if (part.End > held.End) next.Add(part with { Offset = held.End, Length = part.End - held.End });
            }
            rest = next;
        }
        return rest;
    }

    /// <summary>False if another open file has a lock in the way. Where the file or its locks cannot be had, the lock is left out.</summary>
    private bool TryLock(int folder, in StoragePiece piece, bool alone)
    {
        while (true)
        {
            int fd = FileOf(folder, piece.Bottom);
            if (fd < 0) return GoWithout(fd);
            // A shared lock would take the place of the one that this process has alone.
            if (!alone && InheritedHolds.IsOwn(fd)) return true;
            int result;
            do result = Libc.LockRange(fd, new FileLock { Type = alone ? Libc.F_WRLCK : Libc.F_RDLCK, Start = piece.Offset, Length = piece.End - piece.Offset });
            while (result == -Errno.EINTR);
            if (result is -Errno.EAGAIN or -Errno.EACCES) return false;
            if (result < 0) return GoWithout(result);
            // The last holder removes the file; what was locked then may be a file without a name, where no other process is met.
            if (!IsNamed(folder, piece.Bottom, fd)) continue;
            _locked.Add(piece);
            return true;
        }
    }

    /// <summary>The lock file still has its name; if not, it is forgotten.</summary>
    private bool IsNamed(int folder, StorageBottom bottom, int fd)
    {
        if (HasName(folder, bottom, fd)) return true;
        int at = _files.FindIndex(file => file.Bottom == bottom);
        // An inherited one without a name was removed by hand: the parent's lock meets no other process either, so a new file is used.
        if (!_files[at].Inherited) _ = Libc.Close(fd);
        _files.RemoveAt(at);
        return false;
    }

    /// <summary>The bottom's name in the folder is that of the open file; also where that cannot be asked.</summary>
    private static bool HasName(int folder, in StorageBottom bottom, int fd)
    {
        if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData mine) < 0) return true;
        int result = Libc.Statx(folder, Name(bottom), Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData named);
        if (result is < 0 and not -Errno.ENOENT) return true;
        return (mine.DevMajor, mine.DevMinor, mine.Ino) == (named.DevMajor, named.DevMinor, named.Ino);
    }

    /// <summary>The lock file of a bottom: the one that is open already, the one that was inherited, or one that is opened now. A descriptor or a negative errno.</summary>
    private int FileOf(int folder, in StorageBottom bottom)
    {
        foreach ((StorageBottom known, int open, _) in _files)
            if (known == bottom) return open;
        int fd = OpenFile(folder, Name(bottom));
        if (fd < 0) return fd;
        int held = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 ? InheritedHolds.Find(status) : -1;
        if (held >= 0) _ = Libc.Close(fd);
        _files.Add((bottom, held >= 0 ? held : fd, held >= 0));
        return _files[^1].Fd;
    }

    /// <summary>For what is not to be had here, or not for this user. Exit codes 71 and 77 for anything else: going on would leave others unmet that do have it.</summary>
    private bool GoWithout(int result)
    {
        IsEverywhere = false;
        if (IsUnavailable(result)) return true;
        bool scarce = result is -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM or -Errno.ENOSPC or -Errno.ENOLCK;
        throw scarce ? new SnapuserdException(ExitCode.OutOfResources, $"storage cannot be locked in {Place}: {Reason.Of(result)}") : Broken(Reason.Of(result));
    }

    private static bool IsUnavailable(int result) =>
        result is -Errno.EPERM or -Errno.EACCES or -Errno.ENOSYS or -Errno.ENOENT or -Errno.EROFS or -Errno.EINVAL or -Errno.EOPNOTSUPP or -Errno.ENODEV;

    private static SnapuserdException Broken(string why) =>
        new(ExitCode.Permission, $"storage cannot be locked: {Place}: {why}; it is to be a folder of root's with mode 0700, and whatever else is there can be removed");

    private static string Place => $"/dev/{Folder}";

    /// <summary>The folder of the lock files; a negative errno if there is none for this user. Exit code 77 if something else is in its place.</summary>
    private static int OpenFolder()
    {
        int root = KernelTree.Dev.Folder;
        if (root < 0) return root;
        int made = Libc.MkDirAt(root, Folder, FolderMode);
        if (made is < 0 and not -Errno.EEXIST) return made;
        int fd = KernelTree.Dev.Open(Folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_NOFOLLOW);
        if (fd < 0) return IsUnavailable(fd) ? fd : throw Broken(Reason.Of(fd));
        // Another user who can write there could block every merge, or let two of them run.
        if (Libc.GetEUid() != 0 || Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) < 0 || (status.Uid == 0 && (status.Mode & 0x3f) == 0)) return fd;
        _ = Libc.Close(fd);
        throw Broken("it belongs to another user, or others may use it");
    }

    /// <summary>The same for the end of a lock, which must come without a descriptor to spare as well: then the file stays, which harms nothing.</summary>
    private static int TryOpenFolder()
    {
        try
        {
            return OpenFolder();
        }
        catch (SnapuserdException)
        {
            return -1;
        }
    }

    private static int OpenFile(int folder, string name)
    {
        int fd;
        do fd = Libc.OpenAt(folder, name, Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC | Libc.O_NOFOLLOW, FileMode);
        while (fd == -Errno.EINTR);
        return fd;
    }

    private static string Name(in StorageBottom bottom) => string.Create(CultureInfo.InvariantCulture,
        $"{(bottom.IsFile ? "file" : "disk")}-{bottom.Major}:{bottom.Minor}{(bottom.IsFile ? $"-{bottom.Inode}" : "")}");
}
