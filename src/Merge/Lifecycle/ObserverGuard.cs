using System;

namespace Snapuserd.Merge;

/// <summary>
/// Keeps the exceptions of an observer away from the merge that it observes. The first exception is reported once, and then the observer
/// gets no more progress. The result of the merge is still passed to it. No observer can change which data becomes durable.
/// </summary>
/// <param name="observer">The observer that may throw.</param>
/// <param name="report">Receives one message about the first exception; null for none. It may throw as well.</param>
public sealed class ObserverGuard(IMergeObserver observer, Action<string>? report) : IMergeObserver
{
    private bool _failed;

    /// <inheritdoc/>
    public void Progress(in MergeProgress progress)
    {
        if (_failed) return;
        try
        {
            observer.Progress(progress);
        }
        catch (Exception e)
        {
            Report(e);
        }
    }

    /// <inheritdoc/>
    public void Checking(in MergeProgress progress)
    {
        if (_failed) return;
        try
        {
            observer.Checking(progress);
        }
        catch (Exception e)
        {
            Report(e);
        }
    }

    /// <summary>Passes an event to the observer, also after an earlier exception.</summary>
    public void Tell(Action call)
    {
        try
        {
            call();
        }
        catch (Exception e)
        {
            Report(e);
        }
    }

    private void Report(Exception e)
    {
        if (_failed) return;
        _failed = true;
        try
        {
            report?.Invoke($"the progress of the merge can no longer be shown, and the merge continues: {e.GetType().Name}: {e.Message}");
        }
        catch (Exception)
        {
            // The report uses the same outputs as the observer, so this exception cannot be reported anywhere.
        }
    }
}
