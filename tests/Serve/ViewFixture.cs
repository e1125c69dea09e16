using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Serve;

/// <summary>A COW and its base as files, the engine over them, and a view of what it merges. The engine belongs to the thread that made the fixture.</summary>
internal sealed class ViewFixture : IDisposable
{
    private const int ArenaBytes = 16 << 20;

    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();
    private readonly Arena _arena = new(ArenaBytes);
    private readonly SyncQueue _queue;
    private readonly WorkQueue<DecodeJob> _workers;

    internal ViewFixture(byte[] cow, byte[] old, bool allowUnsafe = false, IMergeObserver? observer = null)
    {
        string cowPath = Path.Combine(_folder.Path, "cow"), basePath = Path.Combine(_folder.Path, "base");
        File.WriteAllBytes(cowPath, cow);
        File.WriteAllBytes(basePath, old);
        Devices = [BlockDevice.Open(cowPath, DeviceAccess.Write), BlockDevice.Open(basePath, DeviceAccess.Write)];
        _queue = new SyncQueue(Devices, _arena, _wakeUp, 32);
        _workers = new WorkQueue<DecodeJob>(2, 64, () => new DecodeWorker(), _wakeUp);
        MergeSetup setup = new()
        {
            Io = new Transfers(_queue, [1, 1]),
            Arena = _arena,
            Workers = _workers,
            Time = new MonotonicClock(),
            Cow = new MergeDevice(0, cowPath, cow.Length),
            Base = new MergeDevice(1, basePath, old.Length),
            Source = new MergeDevice(1, basePath, old.Length),
            Readers = new ReaderGate(_wakeUp),
            Observer = observer,
            Options = new MergeOptions { CheckpointBytes = 256 << 10, UncountedBytes = 512 << 10, AllowUnsafe = allowUnsafe },
        };
        Engine = MergeEngine.Open(setup);
        Engine.Open();
        View = new SnapshotView(Engine, setup, 1 << 20, sentence => Trouble = sentence);
    }

    internal BlockDevice[] Devices { get; }

    internal MergeEngine Engine { get; }

    internal SnapshotView View { get; }

    /// <summary>The last sentence about a read that failed.</summary>
    internal string? Trouble { get; private set; }

    internal byte[] Base => Unlocked.Read(Devices[1].Path, (int)Devices[1].Length);

    internal ReadContext Reader(int reads = 1, int bufferBytes = 1 << 20) => new(View, Devices, reads, bufferBytes);

    public void Dispose()
    {
        View.Dispose();
        Engine.Dispose();
        _workers.Dispose();
        _queue.Dispose();
        _arena.Dispose();
        _wakeUp.Dispose();
        foreach (BlockDevice device in Devices) device.Dispose();
        _folder.Dispose();
    }
}
