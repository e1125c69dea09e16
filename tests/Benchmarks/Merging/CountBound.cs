using System.Collections.Generic;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The bounds of <see cref="MergeCounts"/> for one COW of a generated pair of 24 MiB (<see cref="Content"/>), which is the same on every
/// machine. The tests fail when a count exceeds its bound; after an improvement of the engine, lower the bound. System calls have no bound:
/// the number of requests that one call completes depends on the speed of the device.
/// </summary>
internal readonly record struct CountBound(double ReadPerByte, double WrittenPerByte, long Flushes, double RequestsPerBlock)
{
    internal const long PairBytes = 24 << 20;

    /// <summary>Bounds by name of the <see cref="CowVariant"/>.</summary>
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
    /// Managed bytes that the engine's thread may allocate per op of a merge beyond those of a smaller merge: none in the steady state; the
    /// hundredth allows for noise of the runtime.
    /// </summary>
    internal const double AllocatedPerOp = 0.01;
}
