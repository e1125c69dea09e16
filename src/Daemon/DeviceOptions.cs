using System;

namespace Snapuserd.Daemon;

/// <summary>How devices are read and written.</summary>
public enum IoChoice
{
    /// <summary>io_uring, and plain system calls where the kernel refuses it.</summary>
    Auto,
    /// <summary>io_uring or exit code 69.</summary>
    Uring,
    /// <summary>Plain system calls.</summary>
    Sync,
}

/// <summary>Which devices a merge or a view is about, and what it may use.</summary>
public sealed record DeviceOptions
{
    /// <summary>Path of the COW.</summary>
    public required string Cow { get; init; }
    /// <summary>Path of the base; null for what needs none.</summary>
    public string? Base { get; init; }
    /// <summary>Path of the source, if it is another than the base.</summary>
    public string? Source { get; init; }
    /// <summary>What COW and base are called in sentences, if the paths do not say it.</summary>
    public string? CowName { get; init; }
    /// <inheritdoc cref="CowName"/>
    public string? BaseName { get; init; }
    /// <summary>The source shares no block with the base.</summary>
    public bool SourceSeparate { get; init; }
    /// <summary>COW and base are written, so they are opened for this process alone.</summary>
    public bool Writes { get; init; }
    /// <summary>Devices that are written may lie on file systems without locks.</summary>
    public bool WithoutLock { get; init; }
    /// <summary>How they are read and written.</summary>
    public IoChoice Io { get; init; }
    /// <summary>Requests in flight at once. 32 keep an NVMe drive or a RAID busy with 4 KiB requests; more only adds latency to a stop. Android used 32 in 2022 and 8 today.</summary>
    public int QueueDepth { get; init; } = 32;
    /// <summary>Bytes of buffers.</summary>
    public required int ArenaBytes { get; init; }
    /// <summary>Threads to decompress with; 0 for one per processor.</summary>
    public int Threads { get; init; }
    /// <summary>Takes a sentence about what goes another way than asked for.</summary>
    public Action<string> Report { get; init; } = _ => { };
}
