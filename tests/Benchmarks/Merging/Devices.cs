using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// Devices with a block queue and its memory, set up as in the program. At most <paramref name="depth"/> requests are in flight.
/// </summary>
internal sealed class Devices : IDisposable
{
    private readonly List<BlockDevice> _devices = [];
    private readonly List<IDisposable> _owned = [];

    /// <summary>The access with which a merge opens the devices that it writes.</summary>
    internal const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    /// <summary>Opens one file or device to read a COW from it.</summary>
    internal Devices(string path)
        : this([(path, DeviceAccess.Read)], 8 << 20)
    {
    }

    internal Devices((string Path, DeviceAccess Access)[] files, int memory, int depth = 32)
    {
        try
        {
            foreach ((string path, DeviceAccess access) in files) _devices.Add(BlockDevice.Open(path, access));
            _owned.Add(WakeUp = new WakeUp());
            _owned.Add(Arena = new Arena(memory));
            Queue = RingQueue.TryCreate(_devices.ToArray(), Arena, WakeUp, depth, out RingQueue? ring) == null
                ? ring!
                : new SyncQueue(_devices.ToArray(), Arena, WakeUp, depth);
            _owned.Add(Queue);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    internal Arena Arena { get; } = null!;

    internal WakeUp WakeUp { get; } = null!;

    internal IBlockQueue Queue { get; } = null!;

    internal BlockDevice this[int index] => _devices[index];

    internal int[] Granules => Array.ConvertAll(_devices.ToArray(), device => device.Granule);

    /// <summary>Reads the first device as a COW, through memory that is released afterwards.</summary>
    internal CowFile ReadCow()
    {
        CowFile cow = CowFile.Read(new TransferSource(new IoScheduler(Queue, Granules), Arena, Arena.Take(256 << 10)!.Value, 0,
            _devices[0].Path, _devices[0].Length));
        Arena.Reset();
        return cow;
    }

    public void Dispose()
    {
        for (int i = _owned.Count - 1; i >= 0; i--) _owned[i].Dispose();
        foreach (BlockDevice device in _devices) device.Dispose();
    }
}
