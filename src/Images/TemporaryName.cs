using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Images;

/// <summary>
/// The two names of an output file: NAME.part while it grows, and NAME when it is complete and durable. So there is never a partial file
/// under NAME. Links at NAME are followed, and the file they lead to is replaced.
/// </summary>
public sealed class TemporaryName : IDisposable
{
    // The kernel's own limit of links in a path.
    private const int MostLinks = 40;

    private readonly StatxData _existing;
    private BlockDevice? _replaced;
    private DeviceAccess _access;

    /// <summary>Examines the existing files; creates nothing.</summary>
    public TemporaryName(string path)
    {
        Path = path;
        Target = Followed(path);
        Temporary = TemporaryFor(Target);
        Exists = Libc.Statx(Libc.AT_FDCWD, Target, 0, Libc.STATX_BASIC_STATS, out _existing) == 0;
        // /dev/stdout may lead to a pipe or a deleted file, which has no real name.
        if (!Exists && Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) == 0)
            throw new SnapuserdException(ExitCode.CannotCreate,
                $"cannot create {path}: it leads to an open file that has no name (extract streams with --output -)");
    }

    /// <summary>The path as the user gave it.</summary>
    public string Path { get; }

    /// <summary>The final name, after following all links.</summary>
    public string Target { get; }

    /// <summary>The name until the file is complete.</summary>
    public string Temporary { get; }

    /// <summary>True if a file exists under the final name.</summary>
    public bool Exists { get; }

    /// <summary>True if the existing file is a regular file.</summary>
    public bool IsFile => Exists && Kind == Libc.S_IFREG;

    /// <summary>True if the existing file is a block device.</summary>
    public bool IsBlockDevice => Exists && Kind == Libc.S_IFBLK;

    /// <summary>The attributes of the file under the final name; valid only if it exists.</summary>
    public ref readonly StatxData Existing => ref _existing;

    private int Kind => (int)(_existing.Mode & (uint)Libc.S_IFMT);

    /// <summary>
    /// Locks the file that will be replaced until disposal, and checks it for data that must not be lost. Exit code 64 if either name
    /// belongs to something that this command reads, according to <paramref name="isRead"/>. Exit code 65 if it is a COW whose merge has
    /// begun, 69 if it cannot be locked (not with <paramref name="withoutLock"/>). Exit code 76 if another program or process uses it, 77
    /// if it may not be opened.
    /// </summary>
    public void Claim(Func<BlockDevice, bool> isRead, bool withoutLock)
    {
        foreach (string name in (ReadOnlySpan<string>)[Target, Temporary])
        {
            if (Libc.Statx(Libc.AT_FDCWD, name, 0, Libc.STATX_BASIC_STATS, out StatxData status) != 0) continue;
            if ((int)(status.Mode & (uint)Libc.S_IFMT) is not (Libc.S_IFREG or Libc.S_IFBLK)) continue;
            using BlockDevice existing = BlockDevice.Open(name, DeviceAccess.Read);
            if (isRead(existing))
                throw new SnapuserdException(ExitCode.Usage, $"{name} is read by this very command; write to another file");
        }
        _access = DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
        if (IsFile) _replaced = Hold();
    }

    /// <summary>Releases the lock on the replaced file.</summary>
    public void Dispose() => _replaced?.Dispose();

    /// <summary>Opens the file under the final name exclusively. Exit codes as <see cref="Claim"/>.</summary>
    private BlockDevice Hold()
    {
        BlockDevice held;
        try
        {
            held = BlockDevice.Open(Target, _access | DeviceAccess.Write);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Permission)
        {
            // A file to be replaced need not be writable.
            held = BlockDevice.Open(Target, _access);
        }
        try
        {
            BegunCow.Refuse(Target);
            return held;
        }
        catch
        {
            held.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Examines the file to be replaced again: another file may have taken its place, or another engine, which does not use our locks, may
    /// have begun to merge it.
    /// </summary>
    private void ExamineAgain()
    {
        bool there = Libc.Statx(Libc.AT_FDCWD, Target, 0, Libc.STATX_BASIC_STATS, out StatxData now) == 0;
        if (!there) return;
        if (_replaced == null)
        {
            _replaced = Hold();
            return;
        }
        if ((now.DevMajor, now.DevMinor, now.Ino) != (_existing.DevMajor, _existing.DevMinor, _existing.Ino))
            throw new SnapuserdException(ExitCode.InUse, $"{Path} was replaced by another program meanwhile, and is left as it is now");
        BegunCow.Refuse(Target);
    }

    /// <summary>
    /// Renames the file <paramref name="fd"/>, which must be durable, to its final name and makes the name durable. Returns 0 or a negative
    /// errno; <paramref name="doing"/> names the failed step. Exit codes as <see cref="Claim"/> if the file to be replaced has changed.
    /// <paramref name="warn"/> receives a message if the folder cannot be flushed.
    /// </summary>
    public int Publish(int fd, Action<string> warn, out string doing)
    {
        doing = "renaming it into place";
        int result = Rename();
        if (result < 0) return result;
        // The name is stored in the folder: without this flush a power cut could undo the rename.
        doing = "flushing its folder";
        result = FolderFlush.Of(Target, fd, out int unsupported);
        if (unsupported < 0) warn(FolderFlush.Warning(Path, unsupported));
        return result;
    }

    /// <summary>
    /// Renames the file. If there was no file under the final name, one may have appeared since; it is examined before it is replaced.
    /// </summary>
    private int Rename()
    {
        while (true)
        {
            ExamineAgain();
            if (_replaced != null) return Libc.Rename(Temporary, Target);
            int result = Libc.RenameToNewName(Temporary, Target);
            if (result == -Errno.EEXIST) continue;
            return result is -Errno.EINVAL or -Errno.ENOSYS or -Errno.EPERM ? Libc.Rename(Temporary, Target) : result;
        }
    }

    /// <summary>The target name with ".part" appended. If that would exceed NAME_MAX bytes, ".part" replaces the last bytes.</summary>
    private static string TemporaryFor(string target)
    {
        const int nameMax = 255;
        const string end = ".part", otherEnd = ".temp";
        int folder = target.LastIndexOf('/') + 1;
        byte[] name = ByteText.Encode(target.AsSpan(folder));
        // If the name alone is already too long, creating the file fails.
        if (name.Length + end.Length <= nameMax || name.Length > nameMax) return target + end;
        string start = target[..folder] + ByteText.Decode(name.AsSpan(0, nameMax - end.Length));
        return start + end == target ? start + otherEnd : start + end;
    }

    /// <summary>The path after following all links at <paramref name="path"/>. The last link's target need not exist.</summary>
    private static string Followed(string path)
    {
        for (int links = 0; links < MostLinks; links++)
        {
            if (Libc.ReadLink(path, out string next) != 0) return path;
            path = next.StartsWith('/') ? next : System.IO.Path.Combine(System.IO.Path.GetDirectoryName(path) ?? "", next);
        }
        throw ErrnoPolicy.Failure(FailedCall.Create, Errno.ELOOP, $"cannot create {path}");
    }
}
