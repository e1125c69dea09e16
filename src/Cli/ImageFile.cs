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
    private const uint Permissions = 0xfff;

    private readonly PartName _name;
    private int _fd = -1;

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

    /// <summary>Exit code 64 if the final name or that of the part belongs to one of the devices that are read.</summary>
    internal void RefuseAny(DeviceSet devices) => _name.Refuse(devices.Contains);

    /// <summary>Creates the part, or takes over what a killed run left of one. Exit code 73 when it cannot be created, 76 while another run writes it.</summary>
    internal void Create()
    {
        while (true)
        {
            // No link is followed here: whoever can plant one at this name must not choose what is overwritten.
            const int flags = Libc.O_CREAT | Libc.O_WRONLY | Libc.O_CLOEXEC | Libc.O_NOFOLLOW | Libc.O_NONBLOCK;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, _name.Temporary, flags, Convert.ToUInt32("644", 8));
            if (fd == -Errno.EINTR) continue;
            if (fd < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {_name.Temporary}: {Reason.Of(fd)}");
            try
            {
                if (Take(fd)) return;
            }
            catch
            {
                _ = Libc.Close(fd);
                throw;
            }
            _ = Libc.Close(fd);
        }
    }

    /// <summary>Writes the next bytes. Exit code 74 when that fails, mostly because no space is left.</summary>
    internal void Append(ReadOnlySpan<byte> bytes)
    {
        const int grain = 4096;
        while (bytes.Length > 0)
        {
            int zeros = 0;
            while (zeros < bytes.Length && ZeroKernel.IsZero(bytes.Slice(zeros, Math.Min(grain, bytes.Length - zeros)))) zeros = Math.Min(zeros + grain, bytes.Length);
            int end = zeros;
            while (end < bytes.Length && !ZeroKernel.IsZero(bytes.Slice(end, Math.Min(grain, bytes.Length - end)))) end = Math.Min(end + grain, bytes.Length);
            Write(bytes[zeros..end], Length + zeros);
            Length += end;
            bytes = bytes[end..];
        }
    }

    /// <summary>Makes the file durable, gives it its name, and makes that durable. Exit code 75, and no file, if a stop was asked for before the name changed.</summary>
    internal void Finish(StopFlag stop)
    {
        Check(Libc.FTruncate(_fd, Length), "setting its length");
        if (_name.Exists)
        {
            if (Libc.GetEUid() == 0) Check(Libc.FChOwn(_fd, _name.Existing.Uid, _name.Existing.Gid), "setting its owner");
            Check(Libc.FChMod(_fd, _name.Existing.Mode & Permissions), "setting its mode");
        }
        Check(Libc.FSync(_fd), "flushing");
        if (stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped before {Path} got its name; nothing was changed");
        int published = _name.Publish(out string doing);
        Check(published, doing);
        _ = Libc.Close(_fd);
        _fd = -1;
    }

    /// <summary>Removes what was not finished.</summary>
    public void Dispose()
    {
        if (_fd < 0) return;
        // Before the lock is let go of: behind that the name may be another run's.
        _ = Libc.Unlink(_name.Temporary);
        _ = Libc.Close(_fd);
        _fd = -1;
    }

    /// <summary>Locks the part and empties it. False if it got another name between open and lock: then it is a finished image, and not ours.</summary>
    private bool Take(int fd)
    {
        int locked;
        do locked = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB);
        while (locked == -Errno.EINTR);
        if (locked == -Errno.EAGAIN) throw new SnapuserdException(ExitCode.InUse, $"{_name.Temporary} is locked by another program: an extract to the same file that still runs");
        Check(locked, "locking it");
        Check(Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        if ((mine.Mode & (uint)Libc.S_IFMT) != (uint)Libc.S_IFREG) throw new SnapuserdException(ExitCode.CannotCreate, $"{_name.Temporary} exists and is not a regular file");
        int there = Libc.Statx(Libc.AT_FDCWD, _name.Temporary, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData named);
        if (there < 0 || (named.DevMajor, named.DevMinor, named.Ino) != (mine.DevMajor, mine.DevMinor, mine.Ino)) return false;
        Check(Libc.FTruncate(fd, 0), "emptying it");
        _fd = fd;
        return true;
    }

    private void Write(ReadOnlySpan<byte> bytes, long offset)
    {
        while (bytes.Length > 0)
        {
            nint written = Libc.PWrite(_fd, bytes, offset);
            if (written == -Errno.EINTR) continue;
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
