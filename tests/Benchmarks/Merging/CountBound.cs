using System.Collections.Generic;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// What <see cref="MergeCounts"/> may be at most for one COW of a pair of 24 MiB that is made up (<see cref="Content"/>), so the same on every
/// machine. The tests fail when a count is above its bound; whoever makes the engine better lowers them.
/// System calls have none: how many requests one of them finishes depends on how fast the device is.
/// </summary>
internal readonly record struct CountBound(double ReadPerByte, double WrittenPerByte, long Flushes, double RequestsPerBlock)
{
    internal const long PairBytes = 24 << 20;

    /// <summary>By name of the <see cref="CowVariant"/>.</summary>
    internal static readonly Dictionary<string, CountBound> Of = new()
    {
        ["v2-gz-xor"] = new(1.1, 1.1, 10, 0.21),
        ["v3-lz4"] = new(1.06, 1.01, 6, 0.12),
        ["v3-lz4-xor"] = new(1.09, 1.1, 10, 0.21),
        ["v3-zstd-64k"] = new(0.95, 1.01, 6, 0.12),
        ["copy-v3-lz4"] = new(1.1, 1.01, 6, 0.025),
        ["xor-v3-zstd-64k"] = new(1.05, 1.01, 6, 0.035),
        ["replace-v3-zstd-64k"] = new(0.77, 1.01, 6, 0.022),
        ["chains-v3-lz4"] = new(1.11, 1.84, 28, 0.037),
    };

    /// <summary>
    /// Managed bytes that the engine's thread may allocate per op of a merge beyond what a smaller merge allocates: none in
    /// steady state, and a hundredth for the noise of whatever the runtime does.
    /// </summary>
    internal const double AllocatedPerOp = 0.01;
}
