using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Serve;

/// <summary>
/// The merged image before, while and after it is merged, for any number of threads, each with a <see cref="ViewReader"/> of its own. The
/// engine tells through its <see cref="ReaderGate"/> where every op is to be read at the moment (design §6).
/// </summary>
public sealed class SnapshotView : IDisposable
{
    private readonly MergeEngine _engine;
    private readonly Action<string>? _report;
    private int _failures;

    /// <summary>
    /// A view of what <paramref name="engine"/> merges; it was opened (<see cref="MergeEngine.Open()"/>) and outlives the view.
    /// <paramref name="cacheBytes"/> is memory for decoded units. <paramref name="report"/> gets a sentence for every read that fails, on the thread
    /// that reads. Exit code 71 if there is no memory.
    /// </summary>
    public SnapshotView(MergeEngine engine, MergeSetup setup, int cacheBytes, Action<string>? report = null)
    {
        _engine = engine;
        _report = report;
        Length = setup.Base.Length;
        Devices = (setup.Cow, setup.Base, setup.Source);
        Gate = setup.Readers;
        Cache = new UnitCache(cacheBytes, engine.Cow.MaxUnitBytes);
    }

    /// <summary>Bytes of the image: those of Base.</summary>
    public long Length { get; }

    /// <summary>Reads that ended with an error so far.</summary>
    public int Failures => Volatile.Read(ref _failures);

    /// <summary>The COW.</summary>
    public CowFile Cow => _engine.Cow;

    internal (MergeDevice Cow, MergeDevice Base, MergeDevice Source) Devices { get; }

    internal ReaderGate Gate { get; }

    internal UnitCache Cache { get; }

    internal ReadOnlySpan<byte> WindowBlock(int slot) => _engine.WindowBlock(slot);

    internal void Report(string sentence)
    {
        Interlocked.Increment(ref _failures);
        _report?.Invoke(sentence);
    }

    /// <summary>Frees the cache; no reader is left by then.</summary>
    public void Dispose() => Cache.Dispose();
}
