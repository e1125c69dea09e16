using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>How a device is opened.</summary>
[Flags]
public enum DeviceAccess
{
    /// <summary>For reading, together with other users.</summary>
    Read = 0,
    /// <summary>For reading and writing.</summary>
    Write = 1,
    /// <summary>
    /// Exclusive: a block device must not be mounted, mapped or held by another process, and no other process may hold the lock.
    /// </summary>
    Exclusive = 2,
    /// <summary>
    /// Shared with other readers. Fails while another process holds the device exclusively, so its content does not change.
    /// </summary>
    Shared = 8,
    /// <summary>Bypasses the page cache if the device can; see <see cref="BlockDevice.IsDirect"/>.</summary>
    Direct = 4,
    /// <summary>With <see cref="Exclusive"/>: accepts a file system without locks, where other programs cannot be excluded.</summary>
    WithoutLock = 16,
    /// <summary>
    /// With <see cref="Exclusive"/> or <see cref="Shared"/>: holds the device for a child, which opens it again for its I/O
    /// (<see cref="InheritedHolds"/>).
    /// </summary>
    HoldOnly = 32,
    /// <summary>
    /// With <see cref="Exclusive"/>: without the kernel's exclusive hold, because the device mapper has it. The caller has examined the
    /// devices that hold it (<see cref="DeviceHolders"/>).
    /// </summary>
    BesideMapper = 64,
}

/// <summary>A block device, or a regular file used as one: opened, measured and locked.</summary>
public sealed class BlockDevice : IDisposable
{
    /// <summary>
    /// Attempts for a lock or an exclusive hold, <see cref="TryMilliseconds"/> apart: two seconds in all. The current holder may be:
    /// <list type="bullet">
    /// <item>a killed merge, until the kernel has finished its last request and torn down its ring;</item>
    /// <item>udev, for the moment in which it examines a device that was written to;</item>
    /// <item>a live merge, until it ends. Two seconds are enough for the other two, and a short wait before the error for this one.</item>
    /// </list>
    /// </summary>
    private const int LockTries = 100;

    private const int TryMilliseconds = 20;

    /// <summary>Attempts to open a device whose path leads to another file or device after each wait for its lock.</summary>
    private const int MostMoves = 5;

    private readonly uint _kind;
    private StorageIdentity? _storage;
    private StorageLocks? _locks;
    private List<int> _held = [];
    private int _inherited = -1;
    private bool _locked;
    private bool _rangeLocked;

    private BlockDevice(string path, int fd, in StatxData status)
    {
        Path = path;
        Fd = fd;
        _kind = Kind(status);
    }

    /// <summary>The path as the user gave it.</summary>
    public string Path { get; }

    /// <summary>The descriptor; -1 once disposed.</summary>
    public int Fd { get; private set; }

    /// <summary>True for a block device, false for a regular file.</summary>
    public bool IsBlockDevice => _kind == Libc.S_IFBLK;

    /// <summary>Length in bytes at the time of opening.</summary>
    public long Length { get; private set; }

    /// <summary>Logical sector size in bytes, the unit of an atomic write; 512 for a regular file.</summary>
    public int LogicalSector { get; private set; } = 512;

    /// <summary>Requests bypass the page cache: requested by the caller and verified by a read.</summary>
    public bool IsDirect { get; private set; }

    /// <summary>The multiple, in bytes, of all request offsets and lengths: 1 unless <see cref="IsDirect"/>.</summary>
    public int Granule { get; private set; } = 1;

    /// <summary>The multiple, in bytes, of all buffer addresses: 1 unless <see cref="IsDirect"/>.</summary>
    public int MemoryAlignment { get; private set; } = 1;

    /// <summary>The storage that the bytes lie on, independent of the path.</summary>
    public StorageIdentity Storage => _storage ?? throw new InvalidOperationException($"{Path} was not opened");

    /// <summary>
    /// A warning if the file system has no locks, so that other programs may use the file; null if the device is locked, or no lock was
    /// requested.
    /// </summary>
    public string? NotLocked { get; private set; }

    /// <summary>
    /// The descriptors that keep other processes away, for a child to inherit (<see cref="InheritedHolds"/>): the device's own, and those
    /// of its locks and its other names.
    /// </summary>
    public IEnumerable<int> Holds
    {
        get
        {
            if (Fd >= 0) yield return Fd;
            foreach (int fd in _held) yield return fd;
            foreach (int fd in _locks?.Descriptors ?? []) yield return fd;
        }
    }

    /// <summary>
    /// Opens a device. This process must already hold <paramref name="besides"/>: its locks also cover the storage that both devices share.
    /// Fails with one of these exit codes:
    /// <list type="bullet">
    /// <item>64: the path leads to neither a block device nor a regular file, or <see cref="DeviceAccess.Write"/> is requested and a sector
    /// is larger than a block;</item>
    /// <item>66: the path does not exist;</item>
    /// <item>69: <see cref="DeviceAccess.Exclusive"/> is requested and the file system has no locks;</item>
    /// <item>71: no memory or descriptor is left;</item>
    /// <item>74: the device cannot be read;</item>
    /// <item>76: another process uses it;</item>
    /// <item>77: it is read-only, or permission is missing.</item>
    /// </list>
    /// </summary>
    public static BlockDevice Open(string path, DeviceAccess access, BlockDevice? besides = null)
    {
        for (int tries = MostMoves; tries > 0; tries--)
            if (OpenOnce(path, access, besides) is { } device) return device;
        throw new SnapuserdException(ExitCode.InUse, $"{path} leads to another file or device each time it is opened; stop the "
            + "program that changes it");
    }

    /// <summary>Null if the path leads to another file or device after this one is locked.</summary>
    private static BlockDevice? OpenOnce(string path, DeviceAccess access, BlockDevice? besides)
    {
        bool write = (access & DeviceAccess.Write) != 0;
        // Checked before the open, because opening a tape, a terminal or a pipe has side effects.
        Check(path, Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status), write);
        CheckKind(path, status);

        int flags = Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK | (write ? Libc.O_RDWR : Libc.O_RDONLY);
        bool alone = (access & DeviceAccess.Exclusive) != 0;
        int inherited = (access & (DeviceAccess.Exclusive | DeviceAccess.Shared)) != 0 ? InheritedHolds.Find(status) : -1;
        bool beside = (access & DeviceAccess.BesideMapper) != 0;
        if (Kind(status) == Libc.S_IFBLK && alone && !beside && inherited < 0) flags |= Libc.O_EXCL;
        int fd;
        for (int tries = LockTries; ;)
        {
            fd = Libc.OpenAt(Libc.AT_FDCWD, path, flags);
            if (Retry.Interrupted(fd)) continue;
            if (fd != -Errno.EBUSY || --tries == 0) break;
            Libc.Sleep(TryMilliseconds);
        }
        Check(path, fd, write);
        BlockDevice? device = null;
        try
        {
            Check(path, Libc.Statx(fd, Libc.STATX_BASIC_STATS | Libc.STATX_DIOALIGN, out status), write);
            CheckKind(path, status);
            device = new BlockDevice(path, fd, status) { _inherited = inherited };
            device.Measure(status, write);
            device._storage = StorageResolver.Of(fd, status, device.Length, out List<(uint Major, uint Minor)> unclaimed);
            // The flag is needed for the open only. While it is set, older kernels fail every uncached read from a ring with EAGAIN.
            Check(path, Libc.Fcntl(fd, Libc.F_SETFL, flags & ~Libc.O_NONBLOCK), write);
            if (alone || (access & DeviceAccess.Shared) != 0)
            {
                device.Lock(status, access, unclaimed, besides);
                if (!device.IsStillThere(status, write))
                {
                    device.Dispose();
                    return null;
                }
            }
            if ((access & DeviceAccess.Direct) != 0) device.GoDirect(status);
            return device;
        }
        catch
        {
            if (device != null) device.Dispose();
            else _ = Libc.Close(fd);
            throw;
        }
    }

    /// <summary>True if both share a byte of storage, whatever their paths: one file or device, or a window onto it.</summary>
    public bool SameFileAs(BlockDevice other) =>
        Storage.RelationTo(other.Storage, out _) is StorageRelation.Equal or StorageRelation.Overlapping;

    /// <summary>
    /// Gives up the exclusive hold and the lock of a block device, and the right to write to it, without disturbing readers: dup3
    /// replaces the descriptor atomically under the same number. Hold and lock end only when every request that began before the call has
    /// ended, so the next holder has to try more than once. The locks against other snapuserd processes (<see cref="StorageLocks"/>) stay
    /// until the device is closed. Fails with the exit codes of <see cref="Open"/>, and then changes nothing.
    /// </summary>
    public void GiveUpHold()
    {
        if (!IsBlockDevice) return;
        Check(Path, Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData mine), false);
        int flags = Libc.Fcntl(Fd, Libc.F_GETFL, 0);
        Check(Path, flags, false);
        int fd = OpenAgain(Path, flags & Libc.O_DIRECT, mine);
        // The path may lead elsewhere by now: the process changed its root, or the link was moved.
        if (fd == -Errno.ENOENT) fd = OpenAgain($"/proc/self/fd/{Fd}", flags & Libc.O_DIRECT, mine);
        Check(Path, fd, false);
        int result;
        do result = Libc.Dup3(fd, Fd, Libc.O_CLOEXEC);
        while (result is -Errno.EINTR or -Errno.EBUSY);
        _ = Libc.Close(fd);
        Check(Path, result, false);
        if (_inherited < 0) return;
        InheritedHolds.GiveUp(_inherited);
        _inherited = -1;
    }

    /// <summary>
    /// Closes the device, with the exclusive hold and the flock that other programs respect. Keeps the locks that keep other snapuserd
    /// processes away.
    /// </summary>
    public void KeepLocks()
    {
        if (_locked) _ = Libc.Flock(Fd, Libc.LOCK_UN);
        _locked = false;
        if (Fd >= 0) _ = Libc.Close(Fd);
        Fd = -1;
    }

    /// <summary>
    /// Closes the device while the kernel may still write through it. Lock and exclusive hold stay until the last of those writes has
    /// ended.
    /// </summary>
    public void CloseInUse()
    {
        _locked = _rangeLocked = false;
        _locks?.Leave();
        Dispose();
    }

    /// <summary>Closes the device and releases lock and exclusive hold. No request may be in flight (<see cref="CloseInUse"/>).</summary>
    public void Dispose()
    {
        if (Fd >= 0)
        {
            // Without LOCK_UN the lock outlives the close while a forked child that has not yet called exec has the same file open.
            if (_locked) _ = Libc.Flock(Fd, Libc.LOCK_UN);
            if (_rangeLocked) _ = Libc.LockRange(Fd, new FileLock { Type = Libc.F_UNLCK });
            _ = Libc.Close(Fd);
        }
        Fd = -1;
        foreach (int fd in _held) _ = Libc.Close(fd);
        _held = [];
        _locks?.Dispose();
        _locks = null;
    }

    /// <summary>
    /// Writes back what the page cache of a block device has, and drops what no process has mapped, so that the next read sees what was
    /// written through another device. Best effort: without permission the pages that can be dropped are.
    /// </summary>
    public static void DropCache(int fd)
    {
        int none = 0;
        if (Libc.Ioctl(fd, Libc.BLKFLSBUF, ref none) >= 0) return;
        _ = Libc.FSync(fd);
        _ = Libc.FAdvise(fd, 0, 0, Libc.POSIX_FADV_DONTNEED);
    }

    /// <summary>The descriptors of several devices, in the same order.</summary>
    internal static int[] Descriptors(ReadOnlySpan<BlockDevice> devices)
    {
        int[] fds = new int[devices.Length];
        for (int i = 0; i < fds.Length; i++) fds[i] = devices[i].Fd;
        return fds;
    }

    private static uint Kind(in StatxData status) => status.Mode & (uint)Libc.S_IFMT;

    /// <summary>
    /// Opens for reading, if the path leads to the device described by <paramref name="mine"/>; -ENOENT if it is another.
    /// </summary>
    private static int OpenAgain(string path, int flags, in StatxData mine)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC | Libc.O_NOCTTY | flags);
        if (fd < 0) return fd;
        int result = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData other);
        if (result == 0 && (other.Mode, other.RdevMajor, other.RdevMinor) == (mine.Mode, mine.RdevMajor, mine.RdevMinor)) return fd;
        _ = Libc.Close(fd);
        return result < 0 ? result : -Errno.ENOENT;
    }

    private static void CheckKind(string path, in StatxData status)
    {
        string? what = (int)Kind(status) switch
        {
            Libc.S_IFREG or Libc.S_IFBLK => null,
            Libc.S_IFDIR => "a directory",
            Libc.S_IFCHR => "a character device",
            Libc.S_IFIFO => "a pipe",
            _ => "a socket",
        };
        if (what != null) throw new SnapuserdException(ExitCode.Usage, $"{path} is {what}, not a block device or a regular file");
    }

    private static void Check(string path, int result, bool write)
    {
        if (result >= 0) return;
        string why = result switch
        {
            -Errno.EBUSY => $"it is in use: mounted, mapped, or held by another program ({Errno.Name(result)})",
            -Errno.EINVAL => $"it is not a valid path ({Errno.Name(result)})",
            _ => ErrnoText.Of(result),
        };
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Open, result),
            $"cannot open {path}{(write ? " for writing" : "")}: {why}");
    }

    private void Measure(in StatxData status, bool write)
    {
        if (!IsBlockDevice)
        {
            Length = (long)status.Size;
            return;
        }
        ulong bytes = 0;
        int sector = 0;
        int readOnly = 0;
        Check(Path, Libc.Ioctl(Fd, Libc.BLKGETSIZE64, ref bytes), write);
        Check(Path, Libc.Ioctl(Fd, Libc.BLKSSZGET, ref sector), write);
        Check(Path, Libc.Ioctl(Fd, Libc.BLKROGET, ref readOnly), write);
        // Some kernels open a write-protected device for writing and fail every write with EPERM.
        if (write && readOnly != 0) Check(Path, -Errno.EROFS, write);
        Length = checked((long)bytes);
        LogicalSector = sector;
        if (write) RefuseLargeSectors();
    }

    /// <summary>
    /// Fails with <see cref="LargeSectorException"/> (64) if a sector holds several blocks. A write of one block would also rewrite its
    /// neighbours, which a checkpoint may already count as durable.
    /// </summary>
    public void RefuseLargeSectors()
    {
        if (LogicalSector > Sizes.LargestSector) throw new LargeSectorException(Path, LogicalSector);
    }

    /// <summary>
    /// Excludes other users, as far as <paramref name="access"/> requires it. <see cref="StorageLocks"/> on the identity of the storage
    /// exclude other snapuserd processes. Other programs are excluded by flock on this file and on the file below a loop device, and by an
    /// exclusive hold on every other device over the same storage.
    /// </summary>
    private void Lock(in StatxData status, DeviceAccess access, List<(uint Major, uint Minor)> unclaimed, BlockDevice? besides)
    {
        bool alone = (access & DeviceAccess.Exclusive) != 0;
        _locks = LockStorage(alone, besides?._locks);
        if (_inherited >= 0) AwaitPredecessor();
        else
        {
            Flock(alone, (access & DeviceAccess.WithoutLock) != 0);
            // This lock also excludes a process in a container that shares the device node but not the folder of the storage locks. It does
            // not conflict with udev, which takes another kind of lock.
            if (IsBlockDevice && (access & DeviceAccess.HoldOnly) == 0) AwaitNode();
        }
        (uint, uint)? self = IsBlockDevice ? (status.RdevMajor, status.RdevMinor) : null;
        // If both devices share storage, the other one has already locked the file below, and a second lock could conflict with that one.
        if (self is { } device && besides?.SameFileAs(this) != true) LockFileBelow(device);
        if (alone) HoldOtherNames(self, unclaimed, (access & DeviceAccess.BesideMapper) != 0);
    }

    /// <summary>Takes the exclusive locks of a <see cref="StorageClaim"/>. They stay when this device is closed.</summary>
    internal StorageLocks Reserve() => LockStorage(alone: true, null);

    private StorageLocks LockStorage(bool alone, StorageLocks? besides) =>
        Await(() => StorageLocks.TryTake(Storage, alone, whole: !IsBlockDevice, besides))
        ?? throw new SnapuserdException(ExitCode.InUse,
            $"{Path} is locked by another snapuserd, under this or another name: a merge or a server that still runs, or a reader");

    /// <summary>
    /// False if the path no longer leads to this file or device. The previous holder may have put another file under the name, made this
    /// one longer, or set up the loop device again. The file or device that the path leads to now is the one to use.
    /// </summary>
    private bool IsStillThere(in StatxData opened, bool write)
    {
        if (Libc.Statx(Libc.AT_FDCWD, Path, 0, Libc.STATX_BASIC_STATS, out StatxData now) < 0) return false;
        if ((now.DevMajor, now.DevMinor, now.Ino, now.RdevMajor, now.RdevMinor) != (opened.DevMajor, opened.DevMinor, opened.Ino,
            opened.RdevMajor, opened.RdevMinor))
            return false;
        Check(Path, Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out now), write);
        Measure(now, write);
        StorageIdentity locked = Storage;
        _storage = StorageResolver.Of(Fd, now, Length);
        // A file is locked beyond its end, so it may have grown. A block device must still lie on the storage that was locked.
        return !IsBlockDevice || locked.IsSameAs(_storage);
    }

    /// <summary>Takes the flock that other programs respect.</summary>
    private void Flock(bool alone, bool goWithout)
    {
        // udev skips a disk with an exclusive flock. So the flock is shared if the storage locks already exclude other snapuserd processes.
        int kind = alone && !(IsBlockDevice && _locks is { IsEverywhere: true }) ? Libc.LOCK_EX : Libc.LOCK_SH;
        int result = AwaitFlock(Fd, kind);
        // A network file system grants an exclusive lock only to a descriptor that may write.
        if (result == -Errno.EBADF && kind == Libc.LOCK_EX) result = AwaitFlock(Fd, Libc.LOCK_SH);
        _locked = result == 0;
        if (_locked) return;
        if (result == -Errno.EAGAIN)
        {
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Lock, result),
                $"{Path} is locked by another program: a merge or a server that still runs, or a reader");
        }
        if (result is not (-Errno.ENOLCK or -Errno.ENOSYS or -Errno.EOPNOTSUPP or -Errno.EPERM or -Errno.EACCES or -Errno.EINVAL
            or -Errno.EBADF or -Errno.ENOTTY))
            Check(Path, result, false);
        string system = FileSystemName.Of(Path);
        if (alone && !goWithout)
        {
            throw new SnapuserdException(ExitCode.Unavailable,
                $"cannot lock {Path}: {system} has no locks (flock: {ErrnoText.Of(result)}); use --no-lock if "
                + "no other program uses the file");
        }
        NotLocked = $"{Path} is not locked: {system} has no locks (flock: {ErrnoText.Of(result)}); nothing keeps another program from "
            + "writing to it meanwhile";
    }

    /// <summary>
    /// Waits until the kernel has finished the last requests of the process that this one replaces, which may have been killed. The old
    /// process locked all bytes of its open file, and its pending requests keep that open file and its lock. So this process, which
    /// inherited the other holds, takes the same lock.
    /// </summary>
    private void AwaitPredecessor()
    {
        if (!TryAwaitAll())
            throw new SnapuserdException(ExitCode.InUse,
                $"{Path}: the kernel is still processing the last requests of a process that was killed; try again later");
    }

    private void AwaitNode()
    {
        if (!TryAwaitAll())
            throw new SnapuserdException(ExitCode.InUse,
                $"{Path} is locked by another program: a merge or a server that still runs, or a reader");
        _rangeLocked = true;
    }

    /// <summary>
    /// Locks all bytes of the open file itself (F_OFD_SETLK), exclusively if it can be written. False if another open file's lock
    /// conflicts.
    /// </summary>
    private bool TryAwaitAll()
    {
        int fd = Fd;
        return Await(() => LockAll(fd) is not (-Errno.EAGAIN or -Errno.EACCES) ? this : null) != null;
    }

    private static int LockAll(int fd)
    {
        bool writes = (Libc.Fcntl(fd, Libc.F_GETFL, 0) & Libc.O_ACCMODE) == Libc.O_RDWR;
        return Libc.LockRange(fd, new FileLock { Type = writes ? Libc.F_WRLCK : Libc.F_RDLCK });
    }

    private void LockFileBelow((uint Major, uint Minor) self)
    {
        string path = "";
        int fd = -1;
        bool free = Await(() => OtherNames.LockFileBelow(self, out path, out fd) == 0 ? this : null) != null;
        if (!free)
            throw new SnapuserdException(ExitCode.InUse,
                $"{Path} is a loop device over {path}, which is locked by another program: a merge or a server that still runs");
        if (fd >= 0) _held.Add(fd);
    }

    private void HoldOtherNames((uint Major, uint Minor)? self, List<(uint Major, uint Minor)> unclaimed, bool withoutMapped)
    {
        string? busy = null;
        List<int>? held = Await(() => OtherNames.Hold(Storage, self, unclaimed, out busy, withoutMapped) is var names && busy == null
            ? names : null);
        if (held == null)
            throw new SnapuserdException(ExitCode.InUse, $"{Path} is in use through {busy}: mounted, mapped, or held by another program");
        _held.AddRange(held);
    }

    private static int AwaitFlock(int fd, int kind)
    {
        int result = 0;
        _ = Await(() =>
        {
            do result = Libc.Flock(fd, kind | Libc.LOCK_NB);
            while (Retry.Interrupted(result));
            return result == -Errno.EAGAIN ? null : s_done;
        });
        return result;
    }

    private static readonly object s_done = new();

    /// <summary>
    /// Repeats the attempt for up to two seconds, in which a holder that is about to end releases its lock. Null if every attempt failed.
    /// </summary>
    private static T? Await<T>(Func<T?> attempt) where T : class
    {
        for (int tries = LockTries; ; Libc.Sleep(TryMilliseconds))
            if (attempt() is var done && (done != null || --tries == 0)) return done;
    }

    private void GoDirect(in StatxData status)
    {
        bool known = (status.Mask & Libc.STATX_DIOALIGN) != 0;
        if (known && status.DioOffsetAlign == 0) return;
        // Before Linux 6.1 a file does not report its alignment. Too large a value costs nothing; too small a value makes the read below
        // fail.
        int granule = known ? (int)status.DioOffsetAlign : IsBlockDevice ? LogicalSector : Sizes.Granule;
        int alignment = known ? (int)status.DioMemAlign : granule;
        // Requests and buffers have at most this alignment; a device that needs more is used through the page cache.
        if (granule > Sizes.Granule || alignment > Arena.Alignment) return;
        int flags = Libc.Fcntl(Fd, Libc.F_GETFL, 0);
        if (flags < 0 || Length < granule || Libc.Fcntl(Fd, Libc.F_SETFL, flags | Libc.O_DIRECT) < 0) return;

        int read = ProbeRead(granule);
        if (read == granule)
        {
            (IsDirect, Granule, MemoryAlignment) = (true, granule, alignment);
            return;
        }
        // Only this flag was changed, so clearing it restores the file as it was opened.
        Check(Path, Libc.Fcntl(Fd, Libc.F_SETFL, flags), false);
        if (read is < 0 and not -Errno.EINVAL and not -Errno.EOPNOTSUPP)
            throw new SnapuserdException(ExitCode.InputOutput, $"{Path}: reading the first {granule} bytes failed: {ErrnoText.Of(read)}");
    }

    private int ProbeRead(int length)
    {
        int result = MappedMemory.Map(length, out MappedMemory? memory);
        if (result < 0) return result;
        using (memory)
        {
            do result = (int)Libc.PRead(Fd, memory!.Address, length, 0);
            while (Retry.Interrupted(result));
        }
        return result;
    }
}
