using System;
using System.Globalization;

namespace Snapuserd.AndroidDevice;

/// <summary>State of a snapshot (android-device §5); the numbers are Android's.</summary>
public enum SnapshotRecordState
{
    /// <summary>No snapshot.</summary>
    None = 0,
    /// <summary>Its COW is written, or being written.</summary>
    Created = 1,
    /// <summary>Its merge has begun.</summary>
    Merging = 2,
    /// <summary>It is merged.</summary>
    Merged = 3,
}

/// <summary>A file of /metadata/ota/snapshots (SnapshotStatus, android-device §5): one partition of the update.</summary>
public sealed class SnapshotRecord
{
    /// <summary>Field 1. The name of the file counts, not this one.</summary>
    public string Name { get; private init; } = "";
    /// <summary>Field 2.</summary>
    public SnapshotRecordState State { get; private init; }
    /// <summary>Field 3: bytes of the new partition.</summary>
    public ulong DeviceBytes { get; private init; }
    /// <summary>Field 4: bytes of the snapshot; the same number in every known version.</summary>
    public ulong SnapshotBytes { get; private init; }
    /// <summary>Field 5: bytes of the COW in the super partition; 0 for none.</summary>
    public ulong CowPartitionBytes { get; private init; }
    /// <summary>Field 6: bytes of the COW on the data partition; 0 for none.</summary>
    public ulong CowFileBytes { get; private init; }
    /// <summary>Field 9: the COW is in the format of snapuserd, not of the kernel.</summary>
    public bool UsingSnapuserd { get; private init; }
    /// <summary>Field 10: bytes of the old partition; 0 if there was none.</summary>
    public ulong OldPartitionBytes { get; private init; }
    /// <summary>Field 11: the writer's choice; the header of the COW counts.</summary>
    public string Compression { get; private init; } = "";

    /// <summary>
    /// The partition shrinks. Shrinking partitions are merged first: their ops read the tail of the old partition, which growing partitions
    /// overwrite.
    /// </summary>
    public bool Shrinks => UsingSnapuserd && DeviceBytes < OldPartitionBytes;

    /// <summary>Parses a file. Returns null, or the reason why it is invalid.</summary>
    public static string? Parse(ReadOnlySpan<byte> file, out SnapshotRecord record)
    {
        record = new SnapshotRecord();
        if (file.IsEmpty) return "it is empty";
        if (ProtobufMessage.Parse(file) is not { } message) return "not a protobuf message";
        ulong state = message.Number(2);
        if (state > (ulong)SnapshotRecordState.Merged) return string.Create(CultureInfo.InvariantCulture, $"unknown state {state}");
        if (message.String(1) is not { } name || message.String(11) is not { } compression) return "a string is not UTF-8";
        record = new SnapshotRecord
        {
            Name = name,
            State = (SnapshotRecordState)state,
            DeviceBytes = message.Number(3),
            SnapshotBytes = message.Number(4),
            CowPartitionBytes = message.Number(5),
            CowFileBytes = message.Number(6),
            UsingSnapuserd = message.Flag(9),
            OldPartitionBytes = message.Number(10),
            Compression = compression,
        };
        return null;
    }
}
