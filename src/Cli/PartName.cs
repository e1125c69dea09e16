using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// The two names of a file that is written: NAME.part while it grows, and NAME when it is whole and durable, so that there is never half a
/// file under that name. Links at NAME are followed, so that the file behind them is what is replaced.
/// </summary>
internal sealed class PartName
{
    // As many as the kernel follows itself.
    private const int MostLinks = 40;

    private readonly StatxData _existing;

    /// <summary>Looks at what is there; creates nothing.</summary>
    internal PartName(string path)
    {
        Path = path;
        Target = Followed(path);
        Temporary = Target + ".part";
        Exists = Libc.Statx(Libc.AT_FDCWD, Target, 0, Libc.STATX_BASIC_STATS, out _existing) == 0;
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

    /// <summary>Exit code 64 if either name belongs to something that <paramref name="isRead"/> says this command reads.</summary>
    internal void Refuse(Func<BlockDevice, bool> isRead)
    {
        foreach (string name in (ReadOnlySpan<string>)[Target, Temporary])
        {
            if (Libc.Statx(Libc.AT_FDCWD, name, 0, Libc.STATX_BASIC_STATS, out StatxData status) != 0) continue;
            if ((int)(status.Mode & (uint)Libc.S_IFMT) is not (Libc.S_IFREG or Libc.S_IFBLK)) continue;
            using BlockDevice existing = BlockDevice.Open(name, DeviceAccess.Read);
            if (isRead(existing)) throw new SnapuserdException(ExitCode.Usage, $"{name} is read by this very command; write to another file");
        }
    }

    /// <summary>Gives the durable file its name and makes the name durable too. Returns 0 or a negative errno, with what was being done.</summary>
    internal int Publish(out string doing)
    {
        doing = "renaming it into place";
        int result = Libc.Rename(Temporary, Target);
        if (result < 0) return result;
        // The name is the folder's: without this a power cut could still take it back.
        doing = "flushing its folder";
        string folder = System.IO.Path.GetDirectoryName(Target) is { Length: > 0 } parent ? parent : ".";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd < 0) return fd;
        result = Libc.FSync(fd);
        _ = Libc.Close(fd);
        // Some file systems have nothing to flush for a folder, and say EINVAL.
        return result == -Errno.EINVAL ? 0 : result;
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
