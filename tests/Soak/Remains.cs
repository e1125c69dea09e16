using System;
using System.Buffers;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using Snapuserd.Tests.Control;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>
/// The state that a round must restore: processes, mounts, loop devices, files, and the descriptors and threads of the processes that keep
/// running.
/// </summary>
internal sealed class Remains
{
    private readonly SortedSet<string> _things = new(StringComparer.Ordinal);

    private Remains(Machine machine)
    {
        // Streams of ended processes close their descriptors when they are collected.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        foreach (int process in Processes())
            if (process != 1 && process != Environment.ProcessId
                && process != machine.DaemonId) _things.Add($"process {process}: {Name(process)}");
        foreach (string line in File.ReadLines("/proc/self/mountinfo")) _things.Add($"mount on {line.Split(' ')[4]}");
        foreach (string device in Directory.GetDirectories("/sys/block", "loop*"))
        {
            string backing = Path.Combine(device, "loop/backing_file");
            if (Try(() => File.ReadAllText(backing).Trim()) is { } file && file.StartsWith(machine.Scratch,
                StringComparison.Ordinal)) _things.Add($"loop device over {file}");
        }
        foreach (string folder in new[] { machine.Scratch, "/run" })
            foreach (string path in Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories)) _things.Add($"file {path}");
        AddDescriptors("self", "this program");
        AddDescriptors(machine.DaemonId.ToString(CultureInfo.InvariantCulture), "the daemon");
        // This program's own threads belong to the framework, which creates and ends them at any time.
        _things.Add($"{Directory.GetDirectories($"/proc/{machine.DaemonId}/task").Length} threads of the daemon");
    }

    public static Remains Now(Machine machine) => new(machine);

    /// <summary>
    /// Waits until the state equals <paramref name="before"/>, because the kernel and the daemon close things asynchronously. Throws if
    /// that does not happen.
    /// </summary>
    public static void Settle(Machine machine, Remains before)
    {
        string? difference = null;
        try
        {
            Until.True(() =>
            {
                difference = Now(machine).Difference(before);
                return difference is null || Interrupt.IsAsked;
            }, "nothing is left");
        }
        catch (SoakException)
        {
            throw new SoakException($"the round leaves something: {difference}");
        }
        Interrupt.Check();
    }

    private string? Difference(Remains before)
    {
        string[] more = [.. _things.Except(before._things)], fewer = [.. before._things.Except(_things)];
        return more.Length + fewer.Length == 0 ? null : string.Join("; ", [.. more.Take(8).Select(thing => $"new: {thing}"),
            .. fewer.Take(8).Select(thing => $"gone: {thing}")]);
    }

    private void AddDescriptors(string process, string name)
    {
        Dictionary<string, int> targets = [];
        foreach (string descriptor in Directory.GetFileSystemEntries($"/proc/{process}/fd"))
        {
            // Pipes and sockets get new numbers each time.
            string? target = Try(() => new FileInfo(descriptor).LinkTarget)?.Split('[')[0];
            // The framework loads its assemblies on demand.
            if (target is null || (process == "self" && (target.EndsWith("/fd", StringComparison.Ordinal) || target.EndsWith(".dll",
                StringComparison.Ordinal)))) continue;
            targets[target] = targets.GetValueOrDefault(target) + 1;
        }
        foreach ((string target, int count) in targets) _things.Add($"{count} descriptors of {name} for {target}");
    }

    private static IEnumerable<int> Processes()
    {
        foreach (string folder in Directory.GetDirectories("/proc"))
            if (int.TryParse(Path.GetFileName(folder), NumberStyles.None, CultureInfo.InvariantCulture,
                out int process)) yield return process;
    }

    private static string Name(int process) => Try(() => File.ReadAllText($"/proc/{process}/cmdline").Replace('\0', ' ')) ?? "";

    private static string? Try(Func<string?> read)
    {
        try
        {
            return read();
        }
        catch (IOException)
        {
            return null;
        }
        catch (UnauthorizedAccessException)
        {
            return null;
        }
    }
}

/// <summary>The locks on a storage: those that every program sees, and the lock file that the program's own processes use.</summary>
internal static class Locks
{
    /// <summary>The lock file exists while a process of the program uses the storage.</summary>
    public static bool IsUsed(string path) => File.Exists(NameOf(path));

    /// <summary>Throws unless the storage is free and its lock file is gone.</summary>
    public static void Free(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) throw new SoakException($"{path}: open answers {fd}");
        int locked = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB);
        _ = Libc.Flock(fd, Libc.LOCK_UN);
        _ = Libc.Close(fd);
        if (locked != 0) throw new SoakException($"{path} is still locked: flock answers {locked}");
        if (IsUsed(path)) throw new SoakException($"{path}: {NameOf(path)} is left");
    }

    private static string NameOf(string path)
    {
        string file = path.StartsWith("/dev/loop", StringComparison.Ordinal)
            ? File.ReadAllText($"/sys/block/{Path.GetFileName(path)}/loop/backing_file").Trim() : path;
        string[] numbers = LoopDevice.Call("stat", "--format=%d %i", file).Trim().Split(' ');
        ulong device = ulong.Parse(numbers[0], CultureInfo.InvariantCulture);
        (uint major, uint minor) = Libc.DecodeDevice(device);
        return $"/dev/.snapuserd/file-{major}:{minor}-{numbers[1]}";
    }
}

/// <summary>
/// Memory of the long-running processes after garbage collection: at most 1 MiB more than after the tenth round. The daemon's value is its
/// minimum while it serves small snapshots one after the other. This program's value is what its heap and malloc have handed out.
/// </summary>
internal sealed class MemoryWatch(int begun = 0)
{
    private const int SettlesIn = 10;
    private const int Snapshots = 8;
    private const long MayGrow = 1 << 20;

    private readonly Dictionary<string, long> _settled = [];

    /// <summary>The latest value of each, for people to read.</summary>
    public string Text { get; private set; } = "";

    /// <summary>Measures after every tenth round, and later after every hundredth; throws if a value has grown.</summary>
    /// <param name="round">Counted from 1.</param>
    /// <param name="machine">The machine with the daemon.</param>
    public void Check(int round, Machine machine)
    {
        int rounds = round - begun;
        if (rounds % (rounds < 100 ? SettlesIn : 100) != 0) return;
        (string What, long Bytes)[] now =
            [("the daemon", Daemon(machine)), ("the simulator's heap", Heap()), ("malloc of the simulator", Malloc.InUse())];
        Text = "; " + string.Join(", ", now.Select(one => $"{one.What} {one.Bytes >> 10} KiB"));
        foreach ((string what, long bytes) in now)
        {
            long settled = _settled.TryGetValue(what, out long known) ? known : _settled[what] = bytes;
            if (bytes <= settled + MayGrow) continue;
            throw new SoakException($"{what} has {bytes} bytes after round {round}, and had {settled} after round {begun + SettlesIn}");
        }
    }

    /// <summary>
    /// The daemon's memory after small snapshots one after the other, the last of which has ended: it collects its garbage at the end of
    /// each.
    /// </summary>
    private static long Daemon(Machine machine)
    {
        byte[] image = new byte[64 * 4096];
        File.WriteAllBytes(machine["memory.base"], image);
        File.WriteAllBytes(machine["memory.cow"], new CowBuilder { ScratchBytes = 8192 }.Zero(1).Build());
        string devices = $"{machine["memory.cow"]},{machine["memory.base"]},{machine["memory.base"]}";
        long least = long.MaxValue;
        for (int i = 0; i < Snapshots; i++)
        {
            string name = $"memory{i}";
            using (Talker talker = machine.Talk())
                foreach (string message in new[] { $"init,{name},{devices}", $"start,{name}", $"delete,{name}" })
                    if (talker.Ask(message) is { } answer && !answer.StartsWith("success",
                        StringComparison.Ordinal)) throw new SoakException($"the daemon answers '{answer}' to '{message}'");
            least = Math.Min(least, Anonymous(machine.DaemonId));
        }
        foreach (string file in new[] { "memory.base", "memory.cow" }) File.Delete(machine[file]);
        return least;
    }

    private static long Heap()
    {
        // Buffers that the framework keeps for reuse are no leak, and their number changes with time.
        for (int size = 1 << 12; size <= 1 << 23; size *= 2)
        {
            _ = ArrayPool<byte>.Shared.Rent(size);
            _ = ArrayPool<char>.Shared.Rent(size);
        }
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return GC.GetTotalMemory(forceFullCollection: true);
    }

    private static long Anonymous(int process)
    {
        foreach (string line in File.ReadLines($"/proc/{process}/status"))
            if (line.StartsWith("RssAnon:", StringComparison.Ordinal)) return 1024 * long.Parse(line.Split(' ',
                StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);
        throw new SoakException($"process {process} has no RssAnon");
    }
}

/// <summary>Memory that native libraries have allocated with malloc.</summary>
internal static class Malloc
{
    /// <summary>
    /// struct mallinfo2 of malloc.h: ten numbers, of which the fifth and the eighth are bytes in use, in separate mappings and in the
    /// heaps.
    /// </summary>
    [InlineArray(10)]
    private struct Info
    {
        private nint _first;
    }

    public static long InUse()
    {
        Info info = mallinfo2();
        return info[4] + info[7];
    }

    [DllImport("libc")]
    private static extern Info mallinfo2();
}
