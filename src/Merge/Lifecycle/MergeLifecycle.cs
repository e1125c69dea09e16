using System;

namespace Snapuserd.Merge;

/// <summary>
/// One merge with the durable steps around it. The owner of the merge calls them. They depend on no observer, log or printed result.
/// <code>
///   Check          nothing is written yet: the marker beside the COW does not name another COW
///   Run            Check, then the engine, then Done
///     Begin        called by the engine, because only it knows the moment: after the flush of the COW, before the first write to Base
///     Done         all is written, counted and flushed: removes the marker
///   ConfirmMerged  an earlier process counted the last op: flushes, then Done
/// </code>
/// Any exception before Done leaves the marker, and the next run continues.
/// </summary>
public sealed class MergeLifecycle(MergeEngine engine, IMergeMarker? mark) : IDisposable
{
    /// <summary>The engine. Call <see cref="Run"/> of this class instead of the engine's own, which does not remove the marker.</summary>
    public MergeEngine Engine => engine;

    /// <summary>
    /// Opens the engine (<see cref="MergeEngine.Open(MergeSetup)"/>) with the observer guarded. <paramref name="report"/> receives one
    /// sentence if the observer throws.
    /// </summary>
    public static MergeLifecycle Open(MergeSetup setup, Action<string>? report = null)
    {
        if (setup.Observer is { } observer) setup = setup with { Observer = new ObserverGuard(observer, report) };
        return new MergeLifecycle(MergeEngine.Open(setup), setup.Marker);
    }

    /// <summary>Throws with exit code 65 if the marker names another COW, because Base then belongs to that COW.</summary>
    public void Check() => mark?.Check(engine.Cow);

    /// <summary>Merges the remaining ops and removes the marker. Exit codes of <see cref="MergeEngine.Run"/>.</summary>
    public MergeResult Run(MemoryQuota? share = null)
    {
        Check();
        MergeResult result = engine.Run(share);
        Done();
        return result;
    }

    /// <summary>
    /// Makes the result of an earlier process durable (<see cref="MergeEngine.MakeMergedDurable"/>) and removes the marker.
    /// </summary>
    public void ConfirmMerged()
    {
        engine.MakeMergedDurable();
        Done();
    }

    /// <inheritdoc/>
    public void Dispose() => engine.Dispose();

    private void Done()
    {
        if (engine.DurableCount != engine.Cow.Order.Count)
            throw new InvalidOperationException("the marker is removed only after the last op is counted");
        mark?.End();
    }
}
