using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Serve;

/// <summary>
/// A COW and its base as files, the engine over them, and a view of the merge. Only the thread that created the fixture may use the engine.
/// </summary>
internal sealed class ViewFixture : IDisposable
{
    private const int ArenaBytes = 16 << 20;

    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();
    private readonly Arena _arena = new(ArenaBytes);
    private readonly IBlockQueue _queue;
    private readonly WorkQueue<DecodeJob> _workers;

    /// <summary>
    /// Creates the files and opens them. <paramref name="source"/> is a separate device for Copy and Xor; with
    /// <paramref name="anotherPath"/> they read the base through another path.
    /// </summary>
    internal ViewFixture(byte[] cow, byte[] old, bool allowUnsafe = false, byte[]? source = null, bool anotherPath = false,
        bool ring = false, IMergeObserver? observer = null)
    {
        string cowPath = Path.Combine(_folder.Path, "cow"), basePath = Path.Combine(_folder.Path, "base");
        File.WriteAllBytes(cowPath, cow);
        File.WriteAllBytes(basePath, old);
        Devices = [BlockDevice.Open(cowPath, DeviceAccess.Write), BlockDevice.Open(basePath, DeviceAccess.Write)];
        int sourceNumber = 1;
        if (source is not null || anotherPath)
        {
            string sourcePath = Path.Combine(_folder.Path, "source");
            if (source is not null) File.WriteAllBytes(sourcePath, source);
            else File.CreateSymbolicLink(sourcePath, basePath);
            Devices = [.. Devices, BlockDevice.Open(sourcePath, DeviceAccess.Read)];
            sourceNumber = 2;
        }
        _queue = ring && RingQueue.TryCreate(Devices, _arena, _wakeUp, 32, out RingQueue? made) is null ? made!
            : new SyncQueue(Devices, _arena, _wakeUp, 32);
        _workers = new WorkQueue<DecodeJob>(2, 64, () => new DecodeWorker(), _wakeUp);
        MergeSetup setup = new()
        {
            Io = new IoScheduler(_queue, [1, 1, 1]),
            Arena = _arena,
            Workers = _workers,
            Time = new MonotonicClock(),
            Cow = new MergeDevice(0, cowPath, cow.Length),
            Base = new MergeDevice(1, basePath, old.Length),
            Source = new MergeDevice(sourceNumber, Devices[sourceNumber].Path, source?.Length ?? old.Length),
            SharedBlocks = source is null,
            Stop = Stop,
            Readers = new ReaderGate(_wakeUp),
            Observer = observer,
            Options = new MergeOptions { CheckpointBytes = 64 << 10, UncountedBytes = 128 << 10, AllowUnsafe = allowUnsafe },
        };
        Gate = setup.Readers;
        Engine = MergeEngine.Open(setup);
        Engine.Open();
        View = new SnapshotView(Engine, setup, 1 << 20, sentence => Failure = sentence);
    }

    internal BlockDevice[] Devices { get; }

    internal MergeEngine Engine { get; }

    internal SnapshotView View { get; }

    internal StopFlag Stop { get; } = new();

    /// <summary>Tells readers from where they must read each op.</summary>
    internal ReaderGate Gate { get; }

    /// <summary>The last message about a read that failed.</summary>
    internal string? Failure { get; private set; }

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
