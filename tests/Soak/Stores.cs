using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>Storage that can lose all unflushed data.</summary>
internal interface ICuttable
{
    void Cut();
}

/// <summary>
/// A file system on a loop device over a file in memory, whose power can be cut. The file system's shutdown ioctl with NOLOGFLUSH discards
/// unwritten data, and the next mount replays the journal. In its default mode the ioctl would write the data first.
/// </summary>
internal sealed class FileSystem : ICuttable, IDisposable
{
    // 0x8004587d is both EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, and 2 is NOLOGFLUSH for both.
    private const string ShutDown = """
        open(my $folder, "<", $ARGV[0]) or die "$ARGV[0]: $!";
        my $mode = pack("I", 2);
        ioctl($folder, 0x8004587d, $mode) or die "$ARGV[0]: shutdown: $!";
        """;

    private readonly string _image, _type;
    private bool _mounted;

    public FileSystem(string image, string folder, string type)
    {
        (_image, Folder, _type) = (image, folder, type);
        using (FileStream file = File.Create(image)) file.SetLength(type == "xfs" ? 320L << 20 : 128L << 20);
        LoopDevice.Call($"mkfs.{type}", ["-q", image]);
        Directory.CreateDirectory(folder);
        Mount();
    }

    public string Folder { get; }

    public void Cut()
    {
        LoopDevice.Call("perl", "-e", ShutDown, Folder);
        Unmount();
        Mount();
    }

    public void Dispose()
    {
        if (_mounted) Unmount();
    }

    private void Mount()
    {
        // With the option loop, the loop device is removed when the mount ends in any way. By default, ext4 commits every five seconds and
        // writes a file that replaces another at once. Both would hide a missing flush, so switch them off.
        LoopDevice.Call("mount", "-t", _type, "-o", _type == "ext4" ? "loop,commit=600,noauto_da_alloc" : "loop", _image, Folder);
        _mounted = true;
    }

    private void Unmount()
    {
        // Retry, because the ring of a killed process keeps its files open until the kernel has removed it.
        Until.True(() => Binary.RunProgram("umount", [Folder]).ExitCode == 0, $"{Folder} to be unmounted");
        _mounted = false;
    }
}

/// <summary>Waits for an action of another process or of the kernel.</summary>
internal static class Until
{
    private const int LongestMilliseconds = 60_000;

    public static void True(Func<bool> condition, string what)
    {
        long end = Environment.TickCount64 + LongestMilliseconds;
        while (!condition())
        {
            if (Environment.TickCount64 > end) throw new SoakException($"waited a minute in vain for {what}");
            System.Threading.Thread.Sleep(5);
        }
    }
}

/// <summary>An error that a round found.</summary>
internal sealed class SoakException(string message, Exception? cause = null) : Exception(message, cause);

/// <summary>The storage of a COW or a base, with a fixed length. Its path may change with a power cut.</summary>
internal abstract class Store : IDisposable
{
    /// <summary>Creates the storage, filled with zeros.</summary>
    public static Store Make(Place place, Machine machine, string name, long bytes) => place switch
    {
        Place.Tmpfs => new FileStore(machine.Work, null, name, bytes),
        Place.Ext4 => new FileStore(machine.Ext4.Folder, machine.Ext4, name, bytes),
        Place.Xfs => new FileStore(machine.Xfs.Folder, machine.Xfs, name, bytes),
        Place.Loop => new LoopStore(machine[name], bytes),
        _ => new CutStore(machine[name], bytes),
    };

    public abstract string Path { get; }

    /// <summary>The object that loses power together with this storage; null if it cannot lose power.</summary>
    public virtual ICuttable? Power => null;

    /// <summary>Processes whose kill cuts the power of the disk.</summary>
    public virtual IEnumerable<int> Plugs => [];

    /// <summary>Writes bytes to the beginning and flushes them, without the tested program.</summary>
    public void Put(byte[] bytes)
    {
        using (FileStream file = new(Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            file.Write(bytes);
            file.Flush(flushToDisk: true);
        }
        LoopDevice.Call("sync", Path);
    }

    /// <summary>The first bytes, as other processes read them.</summary>
    public byte[] See(int count) => Unlocked.Read(Path, count);

    public abstract void Dispose();
}

/// <summary>Storage in a file.</summary>
internal sealed class FileStore : Store
{
    private readonly FileSystem? _fileSystem;

    public FileStore(string folder, FileSystem? fileSystem, string name, long bytes)
    {
        _fileSystem = fileSystem;
        Path = System.IO.Path.Combine(folder, name);
        using (FileStream file = File.Create(Path)) file.SetLength(bytes);
        LoopDevice.Call("sync", Path, folder);
    }

    public override string Path { get; }

    public override ICuttable? Power => _fileSystem;

    public override void Dispose() => File.Delete(Path);
}

/// <summary>Storage on a loop device.</summary>
internal sealed class LoopStore : Store
{
    private readonly string _file;
    private readonly LoopDevice _device;

    public LoopStore(string file, long bytes)
    {
        _file = file;
        using (FileStream made = File.Create(file)) made.SetLength(bytes);
        _device = new LoopDevice(file);
    }

    public override string Path => _device.Path;

    public override void Dispose()
    {
        _device.Dispose();
        File.Delete(_file);
    }
}

/// <summary>Storage on a loop device that loses its cache at a power cut.</summary>
internal sealed class CutStore : Store, ICuttable
{
    private readonly string _file;
    private CutDisk _disk;

    public CutStore(string file, long bytes)
    {
        _file = file;
        using (FileStream made = File.Create(file)) made.SetLength(bytes);
        _disk = new CutDisk(file);
    }

    public override string Path => _disk.Path;

    public override ICuttable? Power => this;

    public override IEnumerable<int> Plugs => [_disk.Plug];

    public void Cut()
    {
        _disk.Cut();
        _disk = new CutDisk(_file);
    }

    public override void Dispose()
    {
        _disk.Dispose();
        File.Delete(_file);
    }
}
