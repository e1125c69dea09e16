using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Locks on ranges of storage, keyed by the storage itself and not by its name. So two snapuserd processes that use the same storage always
/// conflict here. One may use another node, another path, a loop device that was made later, or a file that was deleted below its loop
/// device. O_EXCL and flock exclude other programs.
/// <para>
/// Each bottom (<see cref="StorageBottom"/>) has an empty file. A lock on bytes [a, b) of that file (F_OFD_SETLK) is a lock on bytes [a,
/// b) of the bottom. The files are in the folder .snapuserd of the kernel's one devtmpfs. That devtmpfs is the same in every mount
/// namespace, container and root, needs no mounted /dev, and survives switch_root. Without devtmpfs they are in /dev/.snapuserd. Only root
/// can use them; other users have only flock and O_EXCL.
/// </para>
/// <para>
/// A lock belongs to an open file. It ends with the file's last descriptor, however the process ends, and a child inherits it
/// (<see cref="InheritedHolds"/>).
/// </para>
/// </summary>
public sealed class StorageLocks : IDisposable
{
    private const string Folder = ".snapuserd";

    private readonly List<(StorageBottom Bottom, int Fd, bool Inherited)> _files = [];
    private readonly List<StoragePiece> _locked = [];

    private StorageLocks()
    {
    }

    /// <summary>
    /// True if everything was locked, in the folder that all processes of this kernel share. If false, only O_EXCL and flock exclude a
    /// process that uses another folder, or none.
    /// </summary>
    internal bool IsEverywhere { get; private set; } = true;

    /// <summary>The descriptors, for a child to inherit.</summary>
    internal IEnumerable<int> Descriptors
    {
        get
        {
            foreach ((_, int fd, _) in _files) yield return fd;
        }
    }

    /// <summary>
    /// Locks all of <paramref name="storage"/>, except the ranges that <paramref name="besides"/> has already locked for this process;
    /// null if another process holds a conflicting lock. A file is locked beyond its end, because it can grow.
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

    /// <summary>
    /// Releases the locks and removes the files that no other process has locked. Inherited locks stay with this process until it ends.
    /// </summary>
    public void Dispose()
    {
        int folder = _files.Count > 0 ? TryOpenFolder() : -1;
        foreach ((StorageBottom bottom, int fd, bool inherited) in _files)
        {
            if (inherited) continue;
            // The name may by now belong to a newer file that another process has locked. If it is still this file's name, the exclusive
            // lock ensures that no other process removes it in the meantime.
            if (folder >= 0 && Libc.LockRange(fd, new FileLock { Type = Libc.F_WRLCK }) == 0 && HasName(folder, bottom, fd))
                _ = Libc.UnlinkAt(folder, Name(bottom));
            // Without F_UNLCK the lock outlives the close while a forked child that has not yet called exec has the same file open.
            _ = Libc.LockRange(fd, new FileLock { Type = Libc.F_UNLCK });
            _ = Libc.Close(fd);
        }
        _files.Clear();
        if (folder >= 0) _ = Libc.Close(folder);
    }

    /// <summary>
    /// Records that this process holds a device only because it is another name of the storage that it uses. Other snapuserd processes
    /// that use other bytes of the device then do not treat the hold as a foreign program's. Returns a descriptor that ends the record
    /// when it is closed, or a negative errno.
    /// </summary>
    internal static int NoteName(uint major, uint minor)
    {
        int fd = OpenName(major, minor);
        if (fd >= 0) _ = Libc.LockRange(fd, new FileLock { Type = Libc.F_RDLCK });
        return fd;
    }

    /// <summary>True if another snapuserd process holds the device only as another name of its storage (<see cref="NoteName"/>).</summary>
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
    /// The ranges to lock, in the same order in every process, so that of two processes that need the same ranges, one gets all of them.
    /// A process that reads or writes through a layer has a shared lock on everything below it. So two volumes of one pool can be used at
    /// once, but no merge can write to the pool's device.
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
        // Within a bottom the exclusive locks come last, so that they prevail where ranges overlap.
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

    /// <summary>
    /// False if another open file holds a conflicting lock. If the lock file or its locks are unavailable, the lock is omitted.
    /// </summary>
    private bool TryLock(int folder, in StoragePiece piece, bool alone)
    {
        while (true)
        {
            int fd = FileOf(folder, piece.Bottom);
            if (fd < 0) return GoWithout(fd);
            // A shared lock would replace the exclusive one of this process.
            if (!alone && InheritedHolds.IsOwn(fd)) return true;
            int result;
            do
                result = Libc.LockRange(fd,
                    new FileLock { Type = alone ? Libc.F_WRLCK : Libc.F_RDLCK, Start = piece.Offset, Length = piece.End - piece.Offset });
            while (Retry.Interrupted(result));
            if (result is -Errno.EAGAIN or -Errno.EACCES) return false;
            if (result < 0) return GoWithout(result);
            // The last holder removes the file. The locked file may then have no name, and other processes would lock a new file instead:
            // try again.
            if (!IsNamed(folder, piece.Bottom, fd)) continue;
            _locked.Add(piece);
            return true;
        }
    }

    /// <summary>True if the lock file still has its name; if not, it is removed from the list.</summary>
    private bool IsNamed(int folder, StorageBottom bottom, int fd)
    {
        if (HasName(folder, bottom, fd)) return true;
        int at = _files.FindIndex(file => file.Bottom == bottom);
        // An inherited lock file without a name was removed by hand. The parent's lock no longer excludes other processes either, so a new
        // file is used.
        if (!_files[at].Inherited) _ = Libc.Close(fd);
        _files.RemoveAt(at);
        return false;
    }

    /// <summary>The bottom's name in the folder is that of the open file; also true if this cannot be determined.</summary>
    private static bool HasName(int folder, in StorageBottom bottom, int fd)
    {
        if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData mine) < 0) return true;
        int result = Libc.Statx(folder, Name(bottom), Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData named);
        if (result is < 0 and not -Errno.ENOENT) return true;
        return (mine.DevMajor, mine.DevMinor, mine.Ino) == (named.DevMajor, named.DevMinor, named.Ino);
    }

    /// <summary>The lock file of a bottom: already open, inherited, or opened now. A descriptor or a negative errno.</summary>
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

    /// <summary>
    /// Omits a lock that is unavailable on this system or to this user. Any other error fails with exit code 71 or 77, because a process
    /// that did get the lock would not be noticed.
    /// </summary>
    private bool GoWithout(int result)
    {
        IsEverywhere = false;
        if (IsUnavailable(result)) return true;
        SnapuserdException failure = ErrnoPolicy.Failure(FailedCall.Lock, result, $"storage cannot be locked in {Place}");
        throw failure.Code == ExitCode.OutOfResources ? failure : Broken(ErrnoText.Of(result));
    }

    private static bool IsUnavailable(int result) =>
        result is -Errno.EPERM or -Errno.EACCES or -Errno.ENOSYS or -Errno.ENOENT or -Errno.EROFS or -Errno.EINVAL or -Errno.EOPNOTSUPP
            or -Errno.ENODEV;

    private static SnapuserdException Broken(string why) =>
        new(ExitCode.Permission, $"storage cannot be locked: {Place}: {why}; make it a folder that belongs to root and "
            + "has mode 0700, or remove it");

    private static string Place => $"/dev/{Folder}";

    /// <summary>
    /// Opens the folder of the lock files, and makes it first if necessary. A negative errno if it is unavailable on this system or to this
    /// user. Exit code 77 if another user can change it, or something else has its name.
    /// </summary>
    private static int OpenFolder()
    {
        int root = KernelTree.Dev.Folder;
        if (root < 0) return root;
        int made = Libc.MkDirAt(root, Folder, Modes.PrivateFolder);
        if (made is < 0 and not -Errno.EEXIST) return made;
        int fd = KernelTree.Dev.Open(Folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_NOFOLLOW);
        if (fd < 0) return IsUnavailable(fd) ? fd : throw Broken(ErrnoText.Of(fd));
        // Another user with write access there could block every merge, or let two of them run.
        if (Libc.GetEUid() != 0 || Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) < 0
            || (status.Uid == 0 && (status.Mode & 0x3f) == 0))
            return fd;
        _ = Libc.Close(fd);
        throw Broken("it belongs to another user, or others may use it");
    }

    /// <summary>
    /// Opens the folder for the release of a lock; −1 if that fails. A release must work even if no descriptor is left. The lock file then
    /// stays, which does no harm.
    /// </summary>
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
        int fd = Retry.OpenAt(folder, name, Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC | Libc.O_NOFOLLOW, Modes.PrivateFile);
        return fd;
    }

    private static string Name(in StorageBottom bottom) => string.Create(CultureInfo.InvariantCulture,
        $"{(bottom.IsFile ? "file" : "disk")}-{bottom.Major}:{bottom.Minor}{(bottom.IsFile ? $"-{bottom.Inode}" : "")}");
}
