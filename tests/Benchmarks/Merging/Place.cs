using System;
using System.Collections.Generic;
using System.IO;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The storage of base and COW during a merge: files on a file system, or loop devices over two such files with direct I/O. A place holds
/// copies. <see cref="Restore"/> resets them by writing only the data that a merge of this COW overwrites.
/// </summary>
internal sealed class Place : IDisposable
{
    private const int Chunk = 1 << 20;

    // The part of a COW that a merge writes: scratch and everything before it, in whole pages.
    private const int HeadBytes = (2 << 20) + 4096;

    private static Place? s_open;

    private readonly List<string> _files = [];
    private readonly List<string> _loops = [];
    private readonly byte[] _buffer = GC.AllocateUninitializedArray<byte>(Chunk, pinned: true);
    private string _pristineBase = "", _pristineCow = "";
    private List<(long Offset, long Length)> _overwritten = [];

    private Place(string name, string folder)
    {
        Name = name;
        Folder = folder;
        Volatile.Write(ref s_open, this);
    }

    /// <summary>"ext4", "tmpfs", "loop": the file system, or the devices on it.</summary>
    internal string Name { get; }

    /// <summary>The path that a merge writes to.</summary>
    internal string Base { get; private set; } = "";

    /// <summary>The path of the COW, which a merge reads and in which it counts.</summary>
    internal string Cow { get; private set; } = "";

    /// <summary>Reads can come from a medium, so the contents of the page cache make a difference.</summary>
    internal bool CanBeCold => Name != "tmpfs";

    private string Folder { get; }

    /// <summary>
    /// Installs handlers: a signal that ends the benchmark then also removes its files in memory and detaches its loop devices.
    /// </summary>
    internal static IDisposable[] CleanUpOnSignals() =>
        Array.ConvertAll([PosixSignal.SIGINT, PosixSignal.SIGTERM, PosixSignal.SIGHUP], signal =>
            PosixSignalRegistration.Create(signal, context =>
            {
                context.Cancel = true;
                Volatile.Read(ref s_open)?.Dispose();
                Environment.Exit(75);
            }));

    /// <summary>Files in a folder of any file system.</summary>
    internal static Place OfFolder(string folder)
    {
        Directory.CreateDirectory(folder);
        return new Place(FileSystemOf(folder), folder);
    }

    /// <summary>Loop devices over files in a folder.</summary>
    internal static Place OfLoops(string folder)
    {
        Directory.CreateDirectory(folder);
        return new Place("loop", folder);
    }

    /// <summary>Copies an image and a COW here, replacing the previous copies.</summary>
    internal void Take(string pristineBase, string pristineCow)
    {
        Release();
        (_pristineBase, _pristineCow) = (pristineBase, pristineCow);
        Base = Copy(pristineBase, "base.img");
        Cow = Copy(pristineCow, "cow.img");
        _overwritten = Overwritten(pristineCow);
        if (Name != "loop") return;
        Base = Loop(Base);
        Cow = Loop(Cow);
    }

    /// <summary>Resets base and COW durably, and loads them into the page cache or drops them from it.</summary>
    internal void Restore(bool cold)
    {
        LetGo();
        RestoreRanges(_pristineBase, Base, _overwritten);
        RestoreRanges(_pristineCow, Cow, [(0, Math.Min(HeadBytes, new FileInfo(_pristineCow).Length))]);
        Cool(cold);
    }

    /// <summary>Loads base and COW into the page cache or drops them from it, after a run that wrote nothing.</summary>
    internal void Cool(bool cold)
    {
        if (cold && CanBeCold)
        {
            File.WriteAllText("/proc/sys/vm/drop_caches", "3");
            return;
        }
        Touch(Base);
        Touch(Cow);
    }

    /// <summary>Fails unless the base holds <paramref name="image"/>.</summary>
    internal void Compare(string image)
    {
        LetGo();
        byte[] other = new byte[Chunk];
        using FileStream is_ = new(Base, FileMode.Open, FileAccess.Read), should = new(image, FileMode.Open, FileAccess.Read);
        for (long at = 0; ; at += Chunk)
        {
            int count = should.ReadAtLeast(other, Chunk, throwOnEndOfStream: false);
            if (count == 0) return;
            is_.ReadExactly(_buffer.AsSpan(0, count));
            if (!_buffer.AsSpan(0, count).SequenceEqual(other.AsSpan(0, count)))
                throw new InvalidOperationException($"{Base} is not {image} between bytes {at} and {at + count}");
        }
    }

    public void Dispose()
    {
        Release();
        if (Directory.Exists(Folder)) Directory.Delete(Folder, recursive: true);
        Volatile.Write(ref s_open, null);
    }

    /// <summary>The type of the file system that contains a folder.</summary>
    private static string FileSystemOf(string folder)
    {
        (string Point, string Type) best = ("", "files");
        foreach (string line in File.ReadLines("/proc/mounts"))
        {
            string[] fields = line.Split(' ');
            string point = fields[1] == "/" ? "/" : fields[1] + "/";
            if ((Path.GetFullPath(folder) + "/").StartsWith(point, StringComparison.Ordinal) && point.Length >= best.Point.Length)
                best = (point, fields[2]);
        }
        return best.Type;
    }

    /// <summary>
    /// Waits until the kernel has torn down a closed ring. Until then the lock of its merge exists, and opening the files again would wait
    /// for it.
    /// </summary>
    private void LetGo()
    {
        BlockDevice.Open(Base, DeviceAccess.Shared).Dispose();
        BlockDevice.Open(Cow, DeviceAccess.Shared).Dispose();
    }

    /// <summary>Copies byte by byte, so that the copy has no holes for which a merge would have to allocate blocks.</summary>
    private string Copy(string from, string name)
    {
        string to = Path.Combine(Folder, name);
        _files.Add(to);
        using FileStream source = new(from, FileMode.Open, FileAccess.Read), target = new(to, FileMode.Create, FileAccess.Write);
        source.CopyTo(target, Chunk);
        // Loop devices have whole sectors only.
        target.Write(new byte[(int)(-target.Length & 4095)]);
        target.Flush(flushToDisk: true);
        return to;
    }

    private string Loop(string file)
    {
        string loop = ProgramRun.Run("losetup", ["--direct-io=on", "--find", "--show", file]).LastLine;
        _loops.Add(loop);
        return loop;
    }

    private void Release()
    {
        foreach (string loop in _loops) _ = ProgramRun.Run("losetup", ["--detach", loop]);
        _loops.Clear();
        foreach (string file in _files) File.Delete(file);
        _files.Clear();
    }

    private static List<(long Offset, long Length)> Overwritten(string cowPath)
    {
        using Devices devices = new(cowPath);
        using CowFile cow = devices.ReadCow();
        List<(long, long)> blocks = [];
        for (int i = 0; i < cow.OpCount; i++) blocks.Add(((long)cow[i].NewBlock * CowOp.BlockSize, cow[i].UnitBytes));
        return Ranges.Joined(blocks);
    }

    private void RestoreRanges(string from, string to, List<(long Offset, long Length)> ranges)
    {
        int source = Open(from, Libc.O_RDONLY), target = Open(to, Libc.O_RDWR);
        foreach ((long offset, long length) in ranges)
            for (long done = 0; done < length; done += Chunk)
            {
                Span<byte> bytes = _buffer.AsSpan(0, (int)Math.Min(Chunk, length - done));
                nint read = Libc.PRead(source, bytes, offset + done);
                if (read != bytes.Length || Libc.PWrite(target, bytes, offset + done) != bytes.Length)
                    throw new IOException($"cannot restore {to}");
            }
        if (Libc.FSync(target) < 0) throw new IOException($"cannot flush {to}");
        _ = Libc.Close(source);
        _ = Libc.Close(target);
    }

    private void Touch(string path)
    {
        int fd = Open(path, Libc.O_RDONLY);
        long offset = 0;
        for (nint read; (read = Libc.PRead(fd, _buffer.AsSpan(), offset)) > 0; offset += read) { }
        _ = Libc.Close(fd);
    }

    private static int Open(string path, int flags)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, flags | Libc.O_CLOEXEC);
        return fd >= 0 ? fd : throw new IOException($"cannot open {path}: {Errno.Name(fd)}");
    }
}
