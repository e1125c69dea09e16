using System;

namespace Snapuserd.Merge;

/// <summary>How devices are read and written.</summary>
public enum IoChoice
{
    /// <summary>io_uring, or plain system calls if the kernel refuses it.</summary>
    Auto,
    /// <summary>io_uring, or exit code 69.</summary>
    Uring,
    /// <summary>Plain system calls.</summary>
    Sync,
}

/// <summary>The devices of a merge or a view, and the resources it may use.</summary>
public sealed record DeviceOptions
{
    /// <summary>Path of the COW.</summary>
    public required string Cow { get; init; }
    /// <summary>Path of the base; null for operations that need none.</summary>
    public string? Base { get; init; }
    /// <summary>Path of the source, if it differs from the base.</summary>
    public string? Source { get; init; }
    /// <summary>Names of COW and base in messages, if they differ from the paths.</summary>
    public string? CowName { get; init; }
    /// <inheritdoc cref="CowName"/>
    public string? BaseName { get; init; }
    /// <summary>The source shares no block with the base.</summary>
    public bool SourceSeparate { get; init; }
    /// <summary>COW and base are written, so they are opened exclusively.</summary>
    public bool Writes { get; init; }
    /// <summary>Devices that are written may lie on file systems without locks.</summary>
    public bool WithoutLock { get; init; }
    /// <summary>How the devices are read and written.</summary>
    public IoChoice Io { get; init; }
    /// <summary>
    /// Requests in flight at once. 32 keep an NVMe drive or a RAID busy with 4 KiB requests; more only delays a stop. Android used 32 in
    /// 2022 and uses 8 today.
    /// </summary>
    public int QueueDepth { get; init; } = 32;
    /// <summary>Bytes of buffer memory.</summary>
    public required int ArenaBytes { get; init; }

    /// <summary>Default buffer memory of a merge or a view, in bytes.</summary>
    public const int DefaultArenaBytes = 32 << 20;
    /// <summary>Decompression threads; 0 for one per processor.</summary>
    public int Threads { get; init; }
    /// <summary>Receives a message about each fallback from the requested behaviour.</summary>
    public Action<string> Report { get; init; } = _ => { };
}
