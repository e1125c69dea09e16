using System.Collections.Generic;

namespace Snapuserd.AndroidDevice;

/// <summary>A file of /metadata/ota/snapshots: its name, and its content or the reason why that is invalid.</summary>
public sealed record SnapshotFile(string Name, SnapshotRecord Record, string? Problem = null);

/// <summary>A table, or the reason why there is none.</summary>
public sealed record TableFact(LpTable? Table, string? Problem)
{
    /// <summary>The table is not there at all.</summary>
    public static TableFact Missing { get; } = new(null, "it does not exist");
}

/// <summary>The merge status in misc, and the number of the slot that was current when it was written.</summary>
public readonly record struct MiscFact(BootloaderMergeStatus Status, int Slot);

/// <summary>
/// Everything on a device that decides what may be merged, without the COWs: the input of <see cref="UpdatePlan.Of"/>. Names of slots are
/// suffixes, <c>_a</c> and <c>_b</c>.
/// </summary>
public sealed record DeviceFacts
{
    /// <summary>The suffix of the current slot; null if neither the device nor an option tells it.</summary>
    public string? Slot { get; init; }
    /// <summary>The file state; null if it is invalid.</summary>
    public UpdateStatus? Status { get; init; } = new();
    /// <summary>The reason why the file state is invalid.</summary>
    public string? StatusProblem { get; init; }
    /// <summary>
    /// The content of the file snapshot-boot: the slot that was current when the update was written. Null if it is missing.
    /// </summary>
    public string? SourceSlot { get; init; }
    /// <summary>The file snapshot-boot-without-slot-switch exists.</summary>
    public bool WithoutSlotSwitch { get; init; }
    /// <summary>The file rollback-indicator exists.</summary>
    public bool RolledBack { get; init; }
    /// <summary>The file snapuserd-from-system exists.</summary>
    public bool SnapuserdFromSystem { get; init; }
    /// <summary>The update's files are in the super partition, not in /metadata.</summary>
    public bool StateInSuper { get; init; }
    /// <summary>All snapshot files, also those of the other slot.</summary>
    public IReadOnlyList<SnapshotFile> Snapshots { get; init; } = [];
    /// <summary>The table of the current slot.</summary>
    public TableFact Table { get; init; } = TableFact.Missing;
    /// <summary>Parts of <see cref="Table"/> that were read from the backup because the primary was damaged; "" for none.</summary>
    public string RepairedTable { get; init; } = "";
    /// <summary>The file old-partition-metadata: the table of the other slot before the update.</summary>
    public TableFact OldTable { get; init; } = TableFact.Missing;
    /// <summary>The file gsi/ota/lp_metadata: images on the data partition.</summary>
    public TableFact Images { get; init; } = TableFact.Missing;
    /// <summary>The merge status in misc; null if misc is missing or has another layout.</summary>
    public MiscFact? Misc { get; init; }
    /// <summary>Bytes of each block device that is there, by its name in the tables.</summary>
    public IReadOnlyDictionary<string, long> Devices { get; init; } = new Dictionary<string, long>();
}
