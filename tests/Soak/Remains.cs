using System;
using System.Buffers;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>
/// The state that must be the same before and after a round: processes, mounts, loop devices, files, and the descriptors and threads of
/// long-running processes.
/// </summary>
internal sealed class Remains
{
    private readonly SortedSet<string> _things = new(StringComparer.Ordinal);

    private Remains(Machine machine)
    {
        // The streams of ended processes close their descriptors only when they are garbage-collected.
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
        // This program's own threads are not counted, because the framework creates and ends them at any time.
        _things.Add($"{Directory.GetDirectories($"/proc/{machine.DaemonId}/task").Length} threads of the daemon");
    }

    public static Remains Now(Machine machine) => new(machine);

    /// <summary>
    /// Waits until the state equals <paramref name="before"/>, because the kernel and the daemon release resources asynchronously. Throws
    /// after a timeout.
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
            }, "the state before the round");
        }
        catch (SoakException)
        {
            throw new SoakException($"the round changes the state: {difference}");
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
            // Skip assemblies, which the framework loads on demand.
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

/// <summary>Checks the locks on storage: flock, which every program sees, and the lock file of the tested program.</summary>
internal static class Locks
{
    /// <summary>True if the lock file exists, which means that a process of the tested program uses the storage.</summary>
    public static bool IsUsed(string path) => File.Exists(NameOf(path));

    /// <summary>Throws unless the storage is free and its lock file is gone.</summary>
    public static void Free(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) throw new SoakException($"{path}: open returns {fd}");
        int locked = Libc.Flock(fd, Libc.LOCK_EX | Libc.LOCK_NB);
        _ = Libc.Flock(fd, Libc.LOCK_UN);
        _ = Libc.Close(fd);
        if (locked != 0) throw new SoakException($"{path} is still locked: flock returns {locked}");
        if (IsUsed(path)) throw new SoakException($"{path}: the lock file {NameOf(path)} still exists");
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
/// Checks that the memory of the long-running processes, after garbage collection, does not grow by more than 1 MiB after the tenth round.
/// The daemon's value is the minimum while it serves small snapshots one after the other. This program has two values: its heap, and the
/// bytes allocated by malloc.
/// </summary>
internal sealed class MemoryWatch(int begun = 0)
{
    private const int SettlesIn = 10;
    private const int Snapshots = 8;
    private const long MayGrow = 1 << 20;

    private readonly Dictionary<string, long> _settled = [];

    /// <summary>The latest values as text.</summary>
    public string Text { get; private set; } = "";

    /// <summary>Measures after every tenth round, later after every hundredth. Throws if a value has grown too much.</summary>
    /// <param name="round">The number of the round, from 1.</param>
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
    /// The daemon's smallest memory after one of several small snapshots. The daemon collects garbage at the end of each snapshot.
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
                        StringComparison.Ordinal)) throw new SoakException($"the daemon replies '{answer}' to '{message}'");
            least = Math.Min(least, Anonymous(machine.DaemonId));
        }
        foreach (string file in new[] { "memory.base", "memory.cow" }) File.Delete(machine[file]);
        return least;
    }

    private static long Heap()
    {
        // The framework keeps buffers for reuse, which are not leaks, and their number changes. Rent some of every size, so that they are
        // not counted as growth.
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
    /// struct mallinfo2 of malloc.h, which has ten numbers. The fifth is the number of bytes in separate mappings, and the eighth that of
    /// the bytes in use in the heaps.
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
