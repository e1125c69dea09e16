using Snapuserd.Block;

namespace Snapuserd.Control;

/// <summary>The state of a snapshot.</summary>
public enum SnapshotState
{
    /// <summary>Its COW is being read.</summary>
    Opening,
    /// <summary>It shows the new image; no merge is running.</summary>
    Serving,
    /// <summary>Its merge waits for its turn, or was paused before it began.</summary>
    Queued,
    /// <summary>Its merge has begun, and runs unless it is paused.</summary>
    Merging,
    /// <summary>Everything is merged and durable; it is served as before.</summary>
    Merged,
    /// <summary>Everything is merged, and the mapped device is on the base: nothing is served any more.</summary>
    Plain,
    /// <summary>
    /// Its merge failed, or the result of an earlier process's merge cannot be made durable. It is served as before, and the next process
    /// may continue.
    /// </summary>
    Failed,
    /// <summary>It has ended.</summary>
    Ended,
}

/// <summary>The status of a snapshot at one moment.</summary>
public sealed record SnapshotStatus
{
    /// <summary>The name under which `ctl` and other clients address it.</summary>
    public required string Name { get; init; }
    /// <summary>Path of its COW.</summary>
    public required string Cow { get; init; }
    /// <summary>Path of its base.</summary>
    public required string Base { get; init; }
    /// <summary>The path that readers open; empty while there is none.</summary>
    public string Device { get; init; } = "";
    /// <summary>The state of the snapshot.</summary>
    public SnapshotState State { get; init; }
    /// <summary>Its merge is paused, or will not begin until it is resumed.</summary>
    public bool Paused { get; init; }
    /// <summary>Ops written to the base, as the header counts them, and their total.</summary>
    public int OpsDone { get; init; }
    /// <inheritdoc cref="OpsDone"/>
    public int OpsTotal { get; init; }
    /// <summary>Bytes of the base that those ops cover.</summary>
    public long BytesDone { get; init; }
    /// <inheritdoc cref="BytesDone"/>
    public long BytesTotal { get; init; }
    /// <summary>Ops merged by earlier processes.</summary>
    public int ResumedFrom { get; init; }
    /// <summary>Seconds since its merge began, or its duration once it has ended.</summary>
    public double MergeSeconds { get; init; }
    /// <summary>The merge's rate limit in bytes per second; 0 for no limit.</summary>
    public long BytesPerSecond { get; init; }
    /// <summary>Reads that ended with an error.</summary>
    public int FailedReads { get; init; }
    /// <summary>Reads requested by clients.</summary>
    public long Reads { get; init; }
    /// <summary>Duration of the slowest of them, in seconds, from its arrival until its data is ready.</summary>
    public double WorstReadSeconds { get; init; }
    /// <summary>How often its merge was resumed, as far as this process and the supervised processes before it know.</summary>
    public int TimesResumed { get; init; }
    /// <summary>Why it failed; empty if it did not.</summary>
    public string Error { get; init; } = "";
    /// <summary>
    /// Exit code of a merge that ended before everything was merged and durable: 75 if it was stopped, another code if it failed; 0 if
    /// neither happened.
    /// </summary>
    public ExitCode EndedWith { get; init; }
    /// <summary>Everything is merged, but the mapped device could not be moved to the base; the next server tries again.</summary>
    public bool HandOverFailed { get; init; }
    /// <summary>Percent of the payloads decoded by the check that precedes the first write; null outside that check.</summary>
    public double? CheckPercent { get; init; }
    /// <summary>Current write rate of the merge in bytes per second, without the check of the payloads; 0 if unknown.</summary>
    public double Rate { get; init; }

    /// <summary>Percent of its ops that are merged, 0 to 100.</summary>
    public double Percent => OpsTotal == 0 ? (State is SnapshotState.Merged or SnapshotState.Plain ? 100 : 0) : 100.0 * OpsDone / OpsTotal;
}
