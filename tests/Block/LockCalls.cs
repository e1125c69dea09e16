using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>
/// Records the system calls on the folder of the lock files and on its files, and answers some of them. The kernel answers the others.
/// </summary>
internal sealed class LockCalls
{
    private const string Folder = ".snapuserd";

    /// <summary>Name and real descriptor of each open file. The descriptors differ where the caller sees 0.</summary>
    private readonly Dictionary<int, (string Name, int Real)> _open = [];

    /// <summary>The calls in order, such as "mkdir", "open NAME", "lock NAME alone 0+10", "named NAME", "close NAME".</summary>
    public List<string> Asked { get; } = [];

    /// <summary>The result of a call, given its text in <see cref="Asked"/>; null lets the kernel answer.</summary>
    public Func<string, long?> Answer { get; set; } = _ => null;

    /// <summary>Result of statx on the folder; null for the kernel's.</summary>
    public StatxData? FolderStatus { get; set; }

    /// <summary>Name of the file that is opened as descriptor 0, as in a process that was started without a standard input.</summary>
    public string? Zero { get; set; }

    /// <summary>Names of the files that were opened and not closed.</summary>
    public string[] StillOpen => [.. _open.Values.Select(one => one.Name)];

    /// <summary>Modes of the created files and folders.</summary>
    public HashSet<string> Modes { get; } = [];

    public void Run(Action action) =>
        Answering([SYS_openat, SYS_close, SYS_statx, SYS_newfstatat, SYS_mkdirat, SYS_unlinkat, SYS_fcntl], Ask, action);

    private long? Ask(SystemCall call)
    {
        bool isRoot = call[0] == KernelTree.Dev.Folder;
        if (!_open.TryGetValue(call[0], out (string Name, int Real) of) && !(isRoot && call.Number is SYS_mkdirat or SYS_openat))
            return null;
        switch (call.Number)
        {
            case SYS_mkdirat:
                if (!isRoot || call.Text(1) != Folder) return null;
                _ = Modes.Add($"folder {Convert.ToString(call[2], 8)}");
                return Said("mkdir");
            case SYS_openat:
                string name = call.Text(1);
                if (isRoot && name != Folder) return null;
                if (!isRoot) _ = Modes.Add($"file {Convert.ToString(call[3], 8)}");
                return Said($"open {name}") ?? Keep(Libc.OpenAt(isRoot ? call[0] : of.Real, name, call[2], (uint)call[3]), name);
            case SYS_close:
                Asked.Add($"close {of.Name}");
                _ = _open.Remove(call[0]);
                return call[0] == 0 ? Libc.Close(of.Real) : null;
            case SYS_unlinkat:
                return Said($"remove {call.Text(1)}") ?? (call[0] == 0 ? Libc.UnlinkAt(of.Real, call.Text(1)) : null);
            case SYS_fcntl:
                return call[1] is Libc.F_OFD_SETLK or Libc.F_OFD_GETLK ? Lock(call, of) : null;
            default:
                string path = call.Text(1);
                long? said = Said(path.Length == 0 ? $"status {of.Name}" : $"named {path}");
                if (said != null || call.Number == SYS_newfstatat) return said;
                if (path.Length == 0 && of.Name == Folder && FolderStatus is { } status)
                {
                    call.At<StatxData>(4) = status;
                    return 0;
                }
                return call[0] == 0 ? Libc.Statx(of.Real, path, call[2], (uint)call[3], out call.At<StatxData>(4)) : null;
        }
    }

    private long? Said(string call)
    {
        Asked.Add(call);
        return Answer(call);
    }

    private long? Lock(SystemCall call, (string Name, int Real) of)
    {
        ref FileLock range = ref call.At<FileLock>(2);
        string kind = range.Type switch { Libc.F_WRLCK => "alone", Libc.F_RDLCK => "shared", _ => "not" };
        bool asks = call[1] == Libc.F_OFD_GETLK;
        if (Said($"{(asks ? "ask" : "lock")} {of.Name} {kind} {range.Start}+{range.Length}") is { } said) return said;
        if (call[0] != 0) return null;
        if (!asks) return Libc.LockRange(of.Real, range);
        if (Libc.IsRangeLocked(of.Real, range) == 0) range.Type = Libc.F_UNLCK;
        return 0;
    }

    private int Keep(int fd, string name)
    {
        if (fd < 0) return fd;
        int given = name == Zero ? 0 : fd;
        _open[given] = (name, fd);
        return given;
    }
}
