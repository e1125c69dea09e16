using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Images;

/// <summary>
/// A file that is written from beginning to end as NAME.part, and renamed to NAME when it is complete and durable. So there is never a
/// partial file under the final name. NAME.part remains after a power cut, and the next run overwrites it. Runs of zeros become holes.
/// </summary>
public sealed class ImageFile : IDisposable
{
    // The bits of a mode without the kind of file.
    private const uint Permissions = ushort.MaxValue & ~(uint)Libc.S_IFMT;

    /// <summary>Zero runs of this many bytes, and multiples, become holes: most file systems have blocks of this size.</summary>
    private const int HoleBytes = Sizes.Block;

    private readonly TemporaryName _name;
    private BlockDevice? _part;

    /// <summary>Examines the name but creates nothing. Exit code 73 if it belongs to anything other than a regular file.</summary>
    public ImageFile(string path)
    {
        _name = new TemporaryName(path);
        if (_name is { Exists: true, IsFile: false })
            throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is not a regular file");
    }

    /// <summary>The path as the user gave it.</summary>
    public string Path => _name.Path;

    /// <summary>Bytes written so far.</summary>
    public long Length { get; private set; }

    /// <summary>
    /// Locks the file that will be replaced. Creates the temporary file, or empties the one that a killed run left. Exit code 64 if either
    /// name belongs to one of the <paramref name="devices"/> that are read, 65 if it is a COW whose merge has begun. Exit code 69 if it
    /// cannot be locked (not with <paramref name="withoutLock"/>), 73 if it cannot be created, 76 while another run writes it or another
    /// program uses it. Exit code 77 if an existing file may not be opened.
    /// </summary>
    public void Create(DeviceSet devices, bool withoutLock)
    {
        _name.Claim(devices.Contains, withoutLock);
        DeviceAccess access = DeviceAccess.Write | DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
        do
        {
            // O_NOFOLLOW: a user who can create a link at this name must not choose the file that is overwritten.
            int flags = Libc.O_CREAT | Libc.O_WRONLY | Libc.O_CLOEXEC | Libc.O_NOFOLLOW | Libc.O_NONBLOCK;
            int fd = Retry.OpenAt(Libc.AT_FDCWD, _name.Temporary, flags, Modes.ReadableFile);
            if (fd < 0)
            {
                bool isOther = fd is -Errno.ELOOP or -Errno.ENXIO;
                string why = isOther ? $"there is a symbolic link or a pipe of that name ({Errno.Name(fd)})" : ErrnoText.Of(fd);
                throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Create, fd), $"cannot create {_name.Temporary}: {why}");
            }
            _ = Libc.Close(fd);
        }
        while (!Take(access));
    }

    /// <summary>Writes the next bytes. Exit code 74 if that fails, usually because no space is left.</summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            int zeros = 0;
            while (zeros < bytes.Length && ZeroKernel.IsZero(bytes.Slice(zeros, Math.Min(HoleBytes, bytes.Length - zeros))))
                zeros = Math.Min(zeros + HoleBytes, bytes.Length);
            int end = zeros;
            while (end < bytes.Length && !ZeroKernel.IsZero(bytes.Slice(end, Math.Min(HoleBytes, bytes.Length - end))))
                end = Math.Min(end + HoleBytes, bytes.Length);
            Write(bytes[zeros..end], Length + zeros);
            Length += end;
            bytes = bytes[end..];
        }
    }

    /// <summary>
    /// Makes the file durable, renames it to its final name, and makes the name durable. Exit code 75, without the rename, if a stop was
    /// requested before it. <paramref name="warn"/> receives a message about missing file system features.
    /// </summary>
    public void Finish(StopFlag stop, Action<string> warn)
    {
        SetLength();
        if (_name.Exists) TakeAttributes(warn);
        Check(FileFlush.Of(Fd), "flushing");
        if (stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped before {Path} got its name; nothing was changed");
        int published = _name.Publish(Fd, warn, out string doing);
        Check(published, doing);
        _part!.Dispose();
        _part = null;
    }

    /// <summary>Removes an unfinished file.</summary>
    public void Dispose()
    {
        // This must precede the release of the lock. After that, the name may belong to another run.
        if (_part != null) _ = Libc.Unlink(_name.Temporary);
        _part?.Dispose();
        _part = null;
        _name.Dispose();
    }

    private int Fd => _part!.Fd;

    /// <summary>
    /// Locks the temporary file and empties it. False if the name does not belong to the locked file: another run may have finished and
    /// renamed it. The caller then tries again.
    /// </summary>
    private bool Take(DeviceAccess access)
    {
        BlockDevice? part = null;
        try
        {
            if (Libc.ReadLink(_name.Temporary, out _) == 0)
                throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {_name.Temporary}: it is a symbolic link");
            part = BlockDevice.Open(_name.Temporary, access);
            if (part.IsBlockDevice)
                throw new SnapuserdException(ExitCode.CannotCreate, $"{_name.Temporary} exists and is not a regular file");
            if (!TryEmpty(part))
            {
                part.Dispose();
                return false;
            }
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
            // Since Create made or found the file, another run has renamed it to its final name or removed it.
            return false;
        }
        catch
        {
            part?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Empties the locked temporary file. False if the name belongs to another file or to none. Also removes the file and returns false if
    /// the file system cannot shorten it.
    /// </summary>
    private bool TryEmpty(BlockDevice part)
    {
        Check(Libc.Statx(part.Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        int there = Libc.Statx(Libc.AT_FDCWD, _name.Temporary, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData named);
        if (there < 0 || (named.DevMajor, named.DevMinor, named.Ino) != (mine.DevMajor, mine.DevMinor, mine.Ino)) return false;
        BegunCow.Refuse(_name.Temporary);
        int emptied = mine.Size > 0 ? Libc.FTruncate(part.Fd, 0) : 0;
        // If the file system cannot shorten files, a new file replaces this one.
        if (Errno.IsUnsupported(emptied) && Libc.Unlink(_name.Temporary) == 0) return false;
        Check(emptied, "emptying it");
        return true;
    }

    private void SetLength()
    {
        Check(Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        if ((long)mine.Size == Length) return;
        int result = Libc.FTruncate(Fd, Length);
        // The missing bytes at the end are zeros. Writing the last of them creates the others.
        if (Errno.IsUnsupported(result) && (long)mine.Size < Length) Write([0], Length - 1);
        else Check(result, "setting its length");
    }

    /// <summary>Copies the mode of the replaced file, and as root also its owner, where the file system supports them.</summary>
    private void TakeAttributes(Action<string> warn)
    {
        ref readonly StatxData old = ref _name.Existing;
        Check(Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData mine), "looking at it");
        if (Libc.GetEUid() == 0 && (mine.Uid, mine.Gid) != (old.Uid, old.Gid))
            CheckAttribute(Libc.FChOwn(Fd, old.Uid, old.Gid), "owner", warn);
        // A change of owner may have cleared bits of the mode.
        CheckAttribute(Libc.FChMod(Fd, old.Mode & Permissions), "mode", warn);
    }

    private void CheckAttribute(int result, string what, Action<string> warn)
    {
        if (Errno.IsUnsupported(result) || result is -Errno.EPERM or -Errno.EINVAL)
            warn($"{Path} does not get the {what} of the file it replaces: {ErrnoText.Of(result)}");
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
        if (result < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{Path}: {doing} failed: {ErrnoText.Of(result)}");
    }
}
