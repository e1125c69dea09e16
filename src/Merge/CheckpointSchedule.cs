namespace Snapuserd.Merge;

/// <summary>
/// When a checkpoint is due: when everything is written, after <see cref="MergeOptions.CheckpointBytes"/>, after
/// <see cref="MergeOptions.CheckpointMilliseconds"/>, or when a batch waits for the durable count to rise. A checkpoint that is due begins
/// as soon as no protocol runs.
/// </summary>
internal sealed class CheckpointSchedule(MergeSetup setup, Watermarks marks, RunningProtocol protocol)
{
    // Watermarks.BytesWritten when the last checkpoint began, and the time when it ended.
    private long _bytes = marks.BytesWritten;
    private long _end;

    /// <summary>A checkpoint is due.</summary>
    public bool IsDue { get; private set; }

    /// <summary>Times the durable count has advanced.</summary>
    public int Count { get; private set; }

    /// <summary>Makes a checkpoint due at once, because the merge needs what is written to be counted.</summary>
    public void Request() => IsDue = true;

    /// <summary>True if the interval is over at <paramref name="now"/>, in milliseconds. It begins when the last checkpoint ends.</summary>
    public bool IsIntervalOver(long now) => now - _end >= setup.Options.CheckpointMilliseconds;

    /// <summary>Checks whether a checkpoint is due. Must be called after batches are retired.</summary>
    public void Update()
    {
        IsDue |= marks.Written == marks.End || marks.BytesWritten - _bytes >= setup.Options.CheckpointBytes
            // The interval begins at the end of a checkpoint. While one runs, elapsed time does not make another one due.
            || (!protocol.IsRunning && IsIntervalOver(setup.Time.Milliseconds));
    }

    /// <summary>Begins the interval without a checkpoint, because the devices were flushed at the start of the run.</summary>
    public void BeginInterval() => _end = setup.Time.Milliseconds;

    /// <summary>Records that a checkpoint begins.</summary>
    public void Begin() => (IsDue, _bytes) = (false, marks.BytesWritten);

    /// <summary>Records that a checkpoint or another protocol has advanced the durable count.</summary>
    public void End()
    {
        Count++;
        _end = setup.Time.Milliseconds;
        if (marks.Durable == marks.Written) Begin();
    }
}
