using System;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// A file written from beginning to end as NAME.part beside its final name and renamed when it is whole and durable, so that there is
/// never half a file under that name. A power cut leaves NAME.part, which the next run takes over. Runs of zeros become holes.
/// </summary>
internal sealed class ImageFile : IDisposable
{
    // What is left of a mode when the kind of file is taken away.
    private const uint Permissions = ushort.MaxValue & ~(uint)Libc.S_IFMT;

    /// <summary>Zeros of so many bytes, and multiples, become holes: a file system's own blocks are mostly as long.</summary>
    private const int HoleBytes = Sizes.Block;

    private readonly PartName _name;
    private BlockDevice? _part;

    /// <summary>Looks at the name and creates nothing yet. Exit code 73 when there is something under it that is no regular file.</summary>
    internal ImageFile(string path)
    {
        _name = new PartName(path);
        if (_name is { Exists: true, IsFile: false }) throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is not a regular file");
    }

    /// <summary>As the user gave it.</summary>
    internal string Path => _name.Path;

    /// <summary>Bytes so far.</summary>
    internal long Length { get; private set; }

    /// <summary>
    /// Locks what will be replaced, and creates the part or takes over what a killed run left of one. Exit code 64 if either name belongs to one of the <paramref name="devices"/> that are read, 65 if there is a COW
    /// whose merge has begun, 69 if it cannot be locked (not with <paramref name="withoutLock"/>), 73 when it cannot be created, 76 while another run writes it or another program uses it.
    /// </summary>
    internal void Create(DeviceSet devices, bool withoutLock)
    {
        _name.Claim(devices.Contains, withoutLock);
        DeviceAccess access = DeviceAccess.Write | DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
        do
        {
            // No link is followed here: whoever can plant one at this name must not choose what is overwritten.
            int flags = Libc.O_CREAT | Libc.O_WRONLY | Libc.O_CLOEXEC | Libc.O_NOFOLLOW | Libc.O_NONBLOCK;
            int fd;
            do fd = Libc.OpenAt(Libc.AT_FDCWD, _name.Temporary, flags, Convert.ToUInt32("644", 8));
            while (fd == -Errno.EINTR);
            if (fd is -Errno.ELOOP or -Errno.ENXIO)
                throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {_name.Temporary}: there is a symbolic link or a pipe of that name ({Errno.Name(fd)})");
            if (fd < 0)
            {
                bool scarce = fd is -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM;
                throw new SnapuserdException(scarce ? ExitCode.OutOfResources : ExitCode.CannotCreate, $"cannot create {_name.Temporary}: {Reason.Of(fd)}");
            }
            _ = Libc.Close(fd);
        }
        while (!Take(access));
    }

    /// <summary>Writes the next bytes. Exit code 74 when that fails, mostly because no space is left.</summary>
    internal void Append(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            int zeros = 0;
            while (zeros < bytes.Length && ZeroKernel.IsZero(bytes.Slice(zeros, Math.Min(HoleBytes, bytes.Length - zeros)))) zeros = Math.Min(zeros + HoleBytes, bytes.Length);
            int end = zeros;
            while (end < bytes.Length && !ZeroKernel.IsZero(bytes.Slice(end, Math.Min(HoleBytes, bytes.Length - end)))) end = Math.Min(end + HoleBytes, bytes.Length);
            Write(bytes[zeros..end], Length + zeros);
            Length += end;
            bytes = bytes[end..];
        }
    }

    /// <summary>Makes the file durable, gives it its name, and makes that durable. Exit code 75, and no file, if a stop was asked for before the name changed.
    /// <paramref name="warn"/> takes a sentence about what the file system lacks.</summary>
    internal void Finish(StopFlag stop, Action<string> warn)
    {
        SetLength();
        if (_name.Exists) TakeAttributes(warn);
        Check(Libc.FSync(Fd), "flushing");
        if (stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped before {Path} got its name; nothing was changed");
        int published = _name.Publish(Fd, warn, out string doing);
        Check(published, doing);
        _part!.Dispose();
        _part = null;
    }

    /// <summary>Removes what was not finished.</summary>
    public void Dispose()
    {
        // Before the lock is let go of: after that the name may be another run's.
        if (_part != null) _ = Libc.Unlink(_name.Temporary);
        _part?.Dispose();
        _part = null;
        _name.Dispose();
    }

    private int Fd => _part!.Fd;

    /// <summary>Locks the part and empties it. False if the name is another file's by now: then that was a finished image, and not ours.</summary>
    private bool Take(DeviceAccess access)
    {
        BlockDevice? part = null;
        try
        {
            if (Libc.ReadLink(_name.Temporary, out _) == 0) throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {_name.Temporary}: it is a symbolic link");
            part = BlockDevice.Open(_name.Temporary, access);
            if (part.IsBlockDevice) throw new SnapuserdException(ExitCode.CannotCreate, $"{_name.Temporary} exists and is not a regular file");
            Check(Libc.Statx(part.Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
            int there = Libc.Statx(Libc.AT_FDCWD, _name.Temporary, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData named);
            if (there < 0 || (named.DevMajor, named.DevMinor, named.Ino) != (mine.DevMajor, mine.DevMinor, mine.Ino))
            {
                part.Dispose();
                return false;
            }
            BegunCow.Refuse(_name.Temporary);
            int emptied = mine.Size > 0 ? Libc.FTruncate(part.Fd, 0) : 0;
            // Where no file can be made shorter, another takes its name.
            if (Errno.IsUnsupported(emptied) && Libc.Unlink(_name.Temporary) == 0)
            {
                part.Dispose();
                return false;
            }
            Check(emptied, "emptying it");
            _part = part;
            return true;
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.Usage or ExitCode.Permission)
        {
            part?.Dispose();
            throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {_name.Temporary}: {e.Message}");
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing && part == null)
        {
            // It got its final name between the two calls.
            return false;
        }
        catch
        {
            part?.Dispose();
            throw;
        }
    }

    private void SetLength()
    {
        Check(Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        if ((long)mine.Size == Length) return;
        int result = Libc.FTruncate(Fd, Length);
        // What is missing at the end is zeros: a written one makes the others.
        if (Errno.IsUnsupported(result) && (long)mine.Size < Length) Write([0], Length - 1);
        else Check(result, "setting its length");
    }

    /// <summary>Owner and mode of the file that is replaced, where the file system has such things.</summary>
    private void TakeAttributes(Action<string> warn)
    {
        ref readonly StatxData old = ref _name.Existing;
        Check(Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        if (Libc.GetEUid() == 0 && (mine.Uid, mine.Gid) != (old.Uid, old.Gid)) CheckAttribute(Libc.FChOwn(Fd, old.Uid, old.Gid), "owner", warn);
        // A change of owner may have taken a bit of the mode away.
        CheckAttribute(Libc.FChMod(Fd, old.Mode & Permissions), "mode", warn);
    }

    private void CheckAttribute(int result, string what, Action<string> warn)
    {
        if (Errno.IsUnsupported(result) || result is -Errno.EPERM or -Errno.EINVAL)
            warn($"{Path} does not get the {what} of the file it replaces: {Reason.Of(result)}");
        else Check(result, $"setting its {what}");
    }

    private void Write(ReadOnlySpan<byte> bytes, long offset)
    {
        int tries = 0;
        while (bytes.Length > 0)
        {
            nint written = Libc.PWrite(Fd, bytes, offset);
            if (Retry.Again(written, ref tries)) continue;
            Check((int)(written == 0 ? -Errno.EIO : written), $"writing at {offset}");
            bytes = bytes[(int)written..];
            offset += written;
        }
    }

    private void Check(int result, string doing)
    {
        if (result < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{Path}: {doing} failed: {Reason.Of(result)}");
    }
}
