namespace Snapuserd.Host;

/// <summary>Describes the server that a <see cref="Supervisor"/> keeps alive, according to their common command line.</summary>
public sealed record SupervisorOptions
{
    /// <summary>The server's name for `ctl`.</summary>
    public required string Name { get; init; }

    /// <summary>Path of the COW.</summary>
    public required string Cow { get; init; }

    /// <summary>Path of the base.</summary>
    public required string Base { get; init; }

    /// <summary>Path of the source; null if the base is the source.</summary>
    public string? Source { get; init; }

    /// <summary>Path of the control socket; null for none.</summary>
    public string? Control { get; init; }

    /// <summary>Number of the ublk device; −1 if the kernel chooses.</summary>
    public int Device { get; init; } = -1;

    /// <summary>True if the server merges without a request.</summary>
    public bool Merges { get; init; }

    /// <summary>True if the server may merge, at once or on request.</summary>
    public bool MayMerge { get; init; }

    /// <summary>True if the devices are not locked.</summary>
    public bool WithoutLock { get; init; }
}
