using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Block devices that exist only inside <see cref="Run"/>. A folder of the test stands for /sys. Opening a device opens an empty file that
/// statx reports as a block device. The kernel handles all other files.
/// </summary>
internal sealed class FakeDevices : IDisposable
{
    private static readonly (int Sys, int Dev) s_roots = (KernelTree.Sys.Folder, KernelTree.Dev.Folder);

    private readonly TempFolder _folder = new();
    private readonly Dictionary<string, (uint Major, uint Minor)> _numbers = [];
    private readonly Dictionary<int, string> _open = [];

    public FakeDevices()
    {
        Directory.CreateDirectory(_folder["dev/block"]);
        Directory.CreateDirectory(_folder["devices"]);
        File.WriteAllText(_folder["empty"], "");
    }

    /// <summary>
    /// Result of opening "own NAME" (devtmpfs) or "/dev/NAME"; 0 opens it. Without an entry "own NAME" opens and "/dev/NAME" gives -ENOENT.
    /// </summary>
    public Dictionary<string, int> Answers { get; } = [];

    /// <summary>The status of a device's descriptor, for devices whose status differs from /sys.</summary>
    public Dictionary<string, StatxData> Status { get; } = [];

    /// <summary>The loop driver's status of each device.</summary>
    public Dictionary<string, LoopInfo64> Loops { get; } = [];

    /// <summary>Errors of the loop driver's status call, as negative errnos.</summary>
    public Dictionary<string, int> LoopErrors { get; } = [];

    /// <summary>
    /// The device that is opened as descriptor 0, as in a process that was started without a standard input: "own NAME" or "/dev/NAME".
    /// </summary>
    public string? Zero { get; set; }

    /// <summary>Called first for every system call; null lets this class answer.</summary>
    public Func<SystemCall, long?> Before { get; set; } = _ => null;

    /// <summary>Fills the device mapper's reply to TABLE_STATUS and returns the call's result.</summary>
    public Func<byte[], int> Table { get; set; } = _ => -Errno.ENXIO;

    /// <summary>Result of opening a device with O_EXCL, if negative.</summary>
    public Func<string, int> RefusedAlone { get; set; } = _ => 0;

    /// <summary>Every open of a device, with its flags less O_CLOEXEC. All opens have O_CLOEXEC.</summary>
    public List<(string Name, int Flags)> Opened { get; } = [];

    /// <summary>Devices that were opened here and not closed.</summary>
    public IEnumerable<string> StillOpen => _open.Values;

    /// <summary>Names of the devices that were opened with O_EXCL.</summary>
    public string[] OpenedAlone => [.. Opened.Where(open => (open.Flags & Libc.O_EXCL) != 0).Select(open => open.Name)];

    /// <summary>
    /// Adds a device, or with <paramref name="parent"/> a partition of it. <paramref name="files"/> are further files of its folder in
    /// /sys.
    /// </summary>
    public string Add(string name, uint major, uint minor, long sectors, string? parent = null, long start = 0, string[]? slaves = null,
        params (string Name, string Text)[] files)
    {
        string path = parent == null ? _folder[$"devices/{name}"] : _folder[$"devices/{parent}/{name}"];
        Directory.CreateDirectory(path);
        File.WriteAllText($"{path}/dev", $"{major}:{minor}\n");
        File.WriteAllText($"{path}/size", $"{sectors}\n");
        if (parent != null)
        {
            File.WriteAllText($"{path}/partition", "1\n");
            File.WriteAllText($"{path}/start", $"{start}\n");
        }
        Directory.CreateDirectory($"{path}/slaves");
        foreach (string slave in slaves ?? [])
            File.CreateSymbolicLink($"{path}/slaves/{slave}",
                Directory.GetDirectories(_folder["devices"], slave, SearchOption.AllDirectories)[0]);
        foreach ((string file, string text) in (((string, string)[])[("uevent", $"MAJOR={major}\nDEVNAME={name}\nDEVTYPE=disk\n")])
            .Concat(files))
        {
            Directory.CreateDirectory(Path.GetDirectoryName($"{path}/{file}")!);
            File.WriteAllText($"{path}/{file}", text);
        }
        File.CreateSymbolicLink(_folder[$"dev/block/{major}:{minor}"], path);
        _numbers[name] = (major, minor);
        return path;
    }

    /// <summary>Adds an entry that is not a device to the list of devices.</summary>
    public void AddNoise(string name) => Directory.CreateDirectory(_folder[$"dev/block/{name}"]);

    public void Run(Action action) => Answering(
        [SYS_openat, SYS_close, SYS_statx, SYS_ioctl, SYS_statfs, SYS_flock, SYS_fsync, SYS_mkdirat],
        call => Before(call) ?? Answer(call), action);

    public void Dispose()
    {
        foreach (int fd in _open.Keys.Where(fd => fd > 0)) _ = Libc.Close(fd);
        _folder.Dispose();
    }

    private long? Answer(SystemCall call)
    {
        switch (call.Number)
        {
            case SYS_openat: return Open(call[0], call.Text(1), call[2]);
            case SYS_close:
                // Descriptor 0 is the test's own and stays open.
                return _open.Remove(call[0]) && call[0] == 0 ? 0 : null;
            case SYS_statx:
                string path = call.Text(1);
                string? name = path.Length == 0 ? _open.GetValueOrDefault(call[0]) : call[0] == Libc.AT_FDCWD ? NameInDev(path) : null;
                if (name == null || !_numbers.TryGetValue(name, out (uint Major, uint Minor) number)) return null;
                call.At<StatxData>(4) = Status.TryGetValue(name, out StatxData status) ? status
                    : new StatxData { Mode = Libc.S_IFBLK, RdevMajor = number.Major, RdevMinor = number.Minor };
                return 0;
            case SYS_statfs or SYS_flock or SYS_fsync or SYS_mkdirat: return null;
            default:
                if (!_open.TryGetValue(call[0], out string? device)) return null;
                if ((uint)call[1] == Libc.LOOP_GET_STATUS64)
                {
                    if (!Loops.TryGetValue(device, out LoopInfo64 info)) return LoopErrors.GetValueOrDefault(device, -Errno.ENXIO);
                    call.At<LoopInfo64>(2) = info;
                    return 0;
                }
                if ((uint)call[1] == DeviceMapperAbi.DM_TABLE_STATUS) return Ask(call);
                return -Errno.ENOTTY;
        }
    }

    private int Ask(SystemCall call)
    {
        Span<byte> message = MemoryMarshal.CreateSpan(ref call.At<byte>(2), (int)call.At<DmIoctl>(2).DataSize);
        byte[] copy = message.ToArray();
        int result = Table(copy);
        copy.CopyTo(message);
        return result;
    }

    private long? Open(int folder, string path, int flags)
    {
        if (folder == s_roots.Sys) return Keep(Libc.OpenAt(Libc.AT_FDCWD, $"{_folder.Path}/{path}", flags), path);
        string? name = folder == s_roots.Dev ? path : folder == Libc.AT_FDCWD ? NameInDev(path) : null;
        if (name == null || (!_numbers.ContainsKey(name) && name != "mapper/control")) return null;
        string asked = folder == s_roots.Dev ? $"own {name}" : path;
        Opened.Add((asked, flags & ~Libc.O_CLOEXEC));
        if ((flags & Libc.O_CLOEXEC) == 0) throw new InvalidOperationException($"{asked} is opened without O_CLOEXEC");
        if ((flags & Libc.O_EXCL) != 0 && RefusedAlone(name) is < 0 and int refused) return refused;
        int answer = Answers.TryGetValue(asked, out int said) ? said : folder == s_roots.Dev ? 0 : -Errno.ENOENT;
        if (answer < 0) return answer;
        return Keep(asked == Zero ? 0 : Libc.OpenAt(Libc.AT_FDCWD, _folder["empty"], Libc.O_RDONLY | Libc.O_CLOEXEC), name);
    }

    private static string? NameInDev(string path) => path.StartsWith("/dev/", StringComparison.Ordinal) ? path["/dev/".Length..] : null;

    private int Keep(int fd, string name)
    {
        if (fd >= 0) _open[fd] = name;
        return fd;
    }
}
