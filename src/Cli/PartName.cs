using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// The two names of a file that is written: NAME.part while it grows, and NAME when it is whole and durable, so that there is never half a
/// file under that name. Links at NAME are followed, so that the file behind them is what is replaced.
/// </summary>
internal sealed class PartName : IDisposable
{
    // As many as the kernel follows itself.
    private const int MostLinks = 40;

    private readonly StatxData _existing;
    private BlockDevice? _replaced;
    private DeviceAccess _access;

    /// <summary>Looks at what is there; creates nothing.</summary>
    internal PartName(string path)
    {
        Path = path;
        Target = Followed(path);
        Temporary = TemporaryFor(Target);
        Exists = Libc.Statx(Libc.AT_FDCWD, Target, 0, Libc.STATX_BASIC_STATS, out _existing) == 0;
        // /dev/stdout may lead to a pipe or a deleted file, which only look as if they had a name.
        if (!Exists && Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) == 0)
            throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {path}: it leads to an open file that has no name (extract streams with --output -)");
    }

    /// <summary>As the user gave it.</summary>
    internal string Path { get; }

    /// <summary>The final name, behind all links.</summary>
    internal string Target { get; }

    /// <summary>The name until then.</summary>
    internal string Temporary { get; }

    /// <summary>There is something under the final name.</summary>
    internal bool Exists { get; }

    /// <summary>That is a regular file.</summary>
    internal bool IsFile => Exists && Kind == Libc.S_IFREG;

    /// <summary>That is a block device.</summary>
    internal bool IsBlockDevice => Exists && Kind == Libc.S_IFBLK;

    /// <summary>What the file under the final name is like; only if there is one.</summary>
    internal ref readonly StatxData Existing => ref _existing;

    private int Kind => (int)(_existing.Mode & (uint)Libc.S_IFMT);

    /// <summary>
    /// Locks the file that will be replaced until this is disposed, and looks at what would be lost. Exit code 64 if either name belongs to something that <paramref name="isRead"/> says this command reads, 65 if it is a COW whose
    /// merge has begun, 76 if another program or process uses it, 77 if it may not be opened, 69 if it cannot be locked; <paramref name="withoutLock"/>: not for that.
    /// </summary>
    internal void Claim(Func<BlockDevice, bool> isRead, bool withoutLock)
    {
        foreach (string name in (ReadOnlySpan<string>)[Target, Temporary])
        {
            if (Libc.Statx(Libc.AT_FDCWD, name, 0, Libc.STATX_BASIC_STATS, out StatxData status) != 0) continue;
            if ((int)(status.Mode & (uint)Libc.S_IFMT) is not (Libc.S_IFREG or Libc.S_IFBLK)) continue;
            using BlockDevice existing = BlockDevice.Open(name, DeviceAccess.Read);
            if (isRead(existing)) throw new SnapuserdException(ExitCode.Usage, $"{name} is read by this very command; write to another file");
        }
        _access = DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
        if (IsFile) _replaced = Hold();
    }

    /// <summary>Lets go of the file that was replaced, or was to be.</summary>
    public void Dispose() => _replaced?.Dispose();

    /// <summary>Opens the file under the final name for this process alone. Exit codes as <see cref="Claim"/>.</summary>
    private BlockDevice Hold()
    {
        BlockDevice held;
        try
        {
            held = BlockDevice.Open(Target, _access | DeviceAccess.Write);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Permission)
        {
            // To be replaced it need not be writable.
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

    /// <summary>Looks again at what will be replaced: it may be another file by now, and another engine, which knows none of our locks, may have begun to merge it.</summary>
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
    /// Gives the durable file <paramref name="fd"/> its name and makes the name durable too. Returns 0 or a negative errno, with what was being done; exit codes as <see cref="Claim"/> if what it would replace
    /// has changed.
    /// <paramref name="warn"/> takes a sentence if the folder cannot be flushed.
    /// </summary>
    internal int Publish(int fd, Action<string> warn, out string doing)
    {
        doing = "renaming it into place";
        int result = Rename();
        if (result < 0) return result;
        // The name is the folder's: without this a power cut could still take it back.
        doing = "flushing its folder";
        result = FolderFlush.Of(Target, fd, out int unsupported);
        if (unsupported < 0) warn(FolderFlush.Warning(Path, unsupported));
        return result;
    }

    /// <summary>A name that was free must be free still: what appears at the last moment is looked at as well.</summary>
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

    /// <summary>With ".part" after it; where a name would have more than NAME_MAX bytes then, in place of its last bytes.</summary>
    private static string TemporaryFor(string target)
    {
        const int nameMax = 255;
        const string end = ".part", otherEnd = ".temp";
        int folder = target.LastIndexOf('/') + 1;
        byte[] name = ByteText.Encode(target.AsSpan(folder));
        // What is too long by itself is refused when it is created.
        if (name.Length + end.Length <= nameMax || name.Length > nameMax) return target + end;
        string start = target[..folder] + ByteText.Decode(name.AsSpan(0, nameMax - end.Length));
        return start + end == target ? start + otherEnd : start + end;
    }

    /// <summary>Where the links at <paramref name="path"/> lead; the file behind the last one need not exist.</summary>
    private static string Followed(string path)
    {
        for (int links = 0; links < MostLinks; links++)
        {
            if (Libc.ReadLink(path, out string next) != 0) return path;
            path = next.StartsWith('/') ? next : System.IO.Path.Combine(System.IO.Path.GetDirectoryName(path) ?? "", next);
        }
        throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {path}: {Reason.Of(Errno.ELOOP)}");
    }
}
