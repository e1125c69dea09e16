using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>What a comparison is at.</summary>
public enum DiffStage
{
    /// <summary>Both images are read once, side by side.</summary>
    Compare,
    /// <summary>Changed blocks are looked up among those of the old image.</summary>
    FindMoved,
    /// <summary>Anchors of what is still unexplained are chosen; begins anew with fewer of them where memory is short.</summary>
    FindAnchors,
    /// <summary>Where the old image has those anchors.</summary>
    FindPlaces,
    /// <summary>What is still unexplained is compared with similar bytes of the old image.</summary>
    FindSimilar,
    /// <summary>Cycles are broken and the merge order is made; counted in blocks of the new image.</summary>
    Order,
}

/// <summary>How far a stage has come, in bytes of what it walks over.</summary>
public readonly record struct DiffProgress(DiffStage Stage, long Done, long Total);

/// <summary>Says what blocks would take in the COW. One instance is used by one thread at a time; its answers depend on nothing but the bytes.</summary>
public interface ICostEstimator : IDisposable
{
    /// <summary>
    /// Stored bytes of a unit of one or more blocks of 4096 bytes, at most <see cref="DiffOptions.MaxUnitBytes"/>, as a payload; more than its
    /// length counts as its length, because then it is stored raw (cow-format §7).
    /// </summary>
    int Cost(ReadOnlySpan<byte> blocks);
}

/// <summary>How two images are compared.</summary>
public sealed record DiffOptions
{
    /// <summary>
    /// Least <see cref="MemoryBytes"/>: half of it holds the windows of one worker (two of 1 MiB), half of it anchors.
    /// </summary>
    public const long MinimumMemoryBytes = 8 << 20;

    /// <summary>Largest <see cref="MaxUnitBytes"/>: 256 KiB (cow-format §7.3).</summary>
    public const int MostUnitBytes = 256 << 10;

    /// <summary>Similar blocks become Xor where that saves bytes; off, they are replaced.</summary>
    public bool Xor { get; init; } = true;

    /// <summary>
    /// Bytes that an Xor takes in the COW beside its payload and a Replace does not. In v3 with units of many blocks that is the op, 16 bytes,
    /// which a Replace shares with its unit; the default. With units of one block, and in v2, it is 0: either has an op of its own. 4 more where
    /// a sequence list is written. At equal bytes Replace wins, because it never needs the journal.
    /// </summary>
    public int XorOverhead { get; init; } = 16;

    /// <summary>
    /// Most bytes of a unit into which the writer puts neighbouring Replace ops: a power of two from 4096, the default, to 256 KiB
    /// (cow-format §7.3). An Xor stays only where it saves bytes beside such units, too. An op takes <see cref="XorOverhead"/> bytes then.
    /// </summary>
    public int MaxUnitBytes { get; init; } = CowOp.BlockSize;

    /// <summary>
    /// Bytes for windows and anchors, at least <see cref="MinimumMemoryBytes"/>. On top come at most 32 bytes per block of the larger
    /// image. More of it allows more threads, and more anchors where much has changed.
    /// </summary>
    public long MemoryBytes { get; init; } = 64 << 20;

    /// <summary>Threads that read and compare, at least 1; fewer run if their windows do not fit half of <see cref="MemoryBytes"/>. The plan does not depend on it.</summary>
    public int Threads { get; init; } = 1;

    /// <summary>Makes the estimator of one worker; null: the order-0 entropy, which needs no codec.</summary>
    public Func<ICostEstimator>? Estimator { get; init; }

    /// <summary>Ends the comparison with exit code 75 once it is set.</summary>
    public StopFlag? Stop { get; init; }

    /// <summary>Called on the caller's thread now and then.</summary>
    public Action<DiffProgress>? Progress { get; init; }

    /// <summary>The hash that finds moved blocks; tests put a bad one here, because every match is verified anyway.</summary>
    internal BlockHashFunction Hash { get; init; } = BlockHash.Of;
}

/// <summary>64 bits of a block's content; never 0.</summary>
internal delegate ulong BlockHashFunction(ReadOnlySpan<byte> block);
