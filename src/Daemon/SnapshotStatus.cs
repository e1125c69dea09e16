using Snapuserd.Block;

namespace Snapuserd.Daemon;

/// <summary>Where a snapshot is in its life.</summary>
public enum SnapshotState
{
    /// <summary>Its COW is being read.</summary>
    Opening,
    /// <summary>It shows the new image; nothing of it is being merged.</summary>
    Serving,
    /// <summary>It waits for its turn to merge, or was paused before that.</summary>
    Queued,
    /// <summary>Its merge has begun, and goes on unless it is paused.</summary>
    Merging,
    /// <summary>Everything is merged and durable; it is shown as before.</summary>
    Merged,
    /// <summary>All is merged, and the mapped device above it stands on the base: nothing is served any more.</summary>
    Plain,
    /// <summary>Its merge has failed, or what an earlier process merged cannot be made durable. It is shown as before, and the next process may go on.</summary>
    Failed,
    /// <summary>It is gone.</summary>
    Ended,
}

/// <summary>What a snapshot has to say of itself at one moment.</summary>
public sealed record SnapshotStatus
{
    /// <summary>What it is called by those who control it.</summary>
    public required string Name { get; init; }
    /// <summary>Path of its COW.</summary>
    public required string Cow { get; init; }
    /// <summary>Path of its base.</summary>
    public required string Base { get; init; }
    /// <summary>What readers open; empty while there is nothing.</summary>
    public string Device { get; init; } = "";
    /// <summary>Where it is in its life.</summary>
    public SnapshotState State { get; init; }
    /// <summary>Its merge is held, or will not begin.</summary>
    public bool Paused { get; init; }
    /// <summary>Ops written to Base, counted as the header counts them; all there are.</summary>
    public int OpsDone { get; init; }
    /// <inheritdoc cref="OpsDone"/>
    public int OpsTotal { get; init; }
    /// <summary>Bytes of Base that those ops stand for.</summary>
    public long BytesDone { get; init; }
    /// <inheritdoc cref="BytesDone"/>
    public long BytesTotal { get; init; }
    /// <summary>Ops that earlier processes had merged.</summary>
    public int ResumedFrom { get; init; }
    /// <summary>Seconds since its merge began, or that it took.</summary>
    public double MergeSeconds { get; init; }
    /// <summary>Bytes per second that are written at the most; 0 for no limit.</summary>
    public long BytesPerSecond { get; init; }
    /// <summary>Reads that ended with an error.</summary>
    public int FailedReads { get; init; }
    /// <summary>Reads that clients asked for.</summary>
    public long Reads { get; init; }
    /// <summary>Seconds that the slowest of them took, from its arrival to its answer being ready.</summary>
    public double WorstReadSeconds { get; init; }
    /// <summary>How often its merge was taken up again, as far as this process and those before it that were supervised know.</summary>
    public int TimesResumed { get; init; }
    /// <summary>Why it has failed; empty if it has not.</summary>
    public string Error { get; init; } = "";
    /// <summary>What ended its merge before all was merged and durable: 75 if it was stopped, another code if it failed; 0 while nothing has.</summary>
    public ExitCode EndedWith { get; init; }
    /// <summary>All is merged, but the mapped device could not be put on the base; the next server tries again.</summary>
    public bool HandOverFailed { get; init; }
    /// <summary>Percent of the payloads that were decoded, while the merge has not begun to write because they are checked first; null otherwise.</summary>
    public double? CheckPercent { get; init; }
    /// <summary>Bytes per second that its merge writes at present, the check of the payloads not counted; 0 if that is not known.</summary>
    public double Rate { get; init; }

    /// <summary>Percent of its ops that are merged, 0 to 100.</summary>
    public double Percent => OpsTotal == 0 ? (State is SnapshotState.Merged or SnapshotState.Plain ? 100 : 0) : 100.0 * OpsDone / OpsTotal;
}
