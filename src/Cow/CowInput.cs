using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>A COW file opened for reading only, with plain system calls: for commands that move no blocks.</summary>
public sealed class CowInput : IDisposable
{
    // The only buffer: larger than any read of records (64 KiB) and than any unit (256 KiB).
    private const int WindowBytes = 1 << 20;

    private readonly BlockDevice _device;
    private readonly Arena _arena;
    private readonly WakeUp _wakeUp;
    private readonly SyncQueue _queue;

    /// <summary>
    /// Opens the file. By default other processes may read and write it at the same time; with <see cref="DeviceAccess.Shared"/> they may
    /// only read it.
    /// </summary>
    public CowInput(string path, DeviceAccess access = DeviceAccess.Read)
    {
        _device = BlockDevice.Open(path, access);
        _arena = new Arena(WindowBytes);
        _wakeUp = new WakeUp();
        _queue = new SyncQueue([_device], _arena, _wakeUp, 1);
        Source = new TransferSource(new IoScheduler(_queue, [_device.Granule]), _arena, _arena.Take(WindowBytes)!.Value, 0, path,
            _device.Length);
    }

    /// <summary>The file's bytes.</summary>
    public IByteSource Source { get; }

    /// <summary>The file, for calls other than reads and writes.</summary>
    public BlockDevice Device => _device;

    /// <summary>True for a block device, which is longer than its content.</summary>
    public bool IsBlockDevice => _device.IsBlockDevice;

    /// <inheritdoc/>
    public void Dispose()
    {
        _queue.Dispose();
        _wakeUp.Dispose();
        _arena.Dispose();
        _device.Dispose();
    }
}
