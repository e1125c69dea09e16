using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>The stages of a comparison.</summary>
public enum DiffStage
{
    /// <summary>Reads both images once, in parallel.</summary>
    Compare,
    /// <summary>Searches the old image for blocks that equal changed blocks.</summary>
    FindMoved,
    /// <summary>
    /// Chooses anchors in the blocks for which <see cref="FindMoved"/> found nothing. Starts again with fewer anchors if memory is short.
    /// </summary>
    FindAnchors,
    /// <summary>Finds those anchors in the old image.</summary>
    FindPlaces,
    /// <summary>Compares the blocks for which <see cref="FindMoved"/> found nothing with similar bytes of the old image.</summary>
    FindSimilar,
    /// <summary>Breaks cycles and makes the merge order; counted in blocks of the new image.</summary>
    Order,
}

/// <summary>Progress of a stage, in bytes of the data it walks over.</summary>
public readonly record struct DiffProgress(DiffStage Stage, long Done, long Total);

/// <summary>
/// Estimates the size of blocks in the COW. One instance is used by one thread at a time. Its results must depend only on the bytes.
/// </summary>
public interface ICostEstimator : IDisposable
{
    /// <summary>
    /// Stored bytes of the payload of a unit of one or more blocks of 4096 bytes, at most <see cref="DiffOptions.MaxUnitBytes"/>. An
    /// estimate above the unit's length counts as its length, because then the unit is stored raw (cow-format §7).
    /// </summary>
    int Cost(ReadOnlySpan<byte> blocks);
}

/// <summary>Options of a comparison.</summary>
public sealed record DiffOptions
{
    /// <summary>
    /// Minimum of <see cref="MemoryBytes"/>. One half is for the windows of one worker (two of 1 MiB), the other for anchors.
    /// </summary>
    public const long MinimumMemoryBytes = 8 << 20;

    /// <summary>Maximum of <see cref="MaxUnitBytes"/>: 256 KiB (cow-format §7.3).</summary>
    public const int MostUnitBytes = 256 << 10;

    /// <summary>Similar blocks become Xor where that saves bytes. If off, they are replaced.</summary>
    public bool Xor { get; init; } = true;

    /// <summary>
    /// Bytes that an Xor takes in the COW in addition to its payload, compared with a Replace. The default, 16, is for v3 with units of
    /// many blocks: an Xor has its own op, while a Replace shares the op of its unit. Set 0 for units of one block and for v2, where both
    /// have their own op. Add 4 if a sequence list is written. At equal size Replace wins, because it never needs the journal.
    /// </summary>
    public int XorOverhead { get; init; } = 16;

    /// <summary>
    /// Maximum bytes of a unit, in which the writer combines neighbouring Replace blocks: a power of two from 4096, the default, to 256 KiB
    /// (cow-format §7.3). An Xor stays only where it saves bytes compared with such units, if every op takes <see cref="XorOverhead"/>
    /// bytes.
    /// </summary>
    public int MaxUnitBytes { get; init; } = CowOp.BlockSize;

    /// <summary>
    /// Bytes for windows and anchors, at least <see cref="MinimumMemoryBytes"/>. The comparison takes up to 32 bytes per block of the
    /// larger image in addition. More memory allows more threads, and more anchors if much has changed.
    /// </summary>
    public long MemoryBytes { get; init; } = 64 << 20;

    /// <summary>
    /// Threads that read and compare, at least 1. Fewer run if their windows do not fit into half of <see cref="MemoryBytes"/>. The plan
    /// does not depend on it.
    /// </summary>
    public int Threads { get; init; } = 1;

    /// <summary>Makes the estimator of one worker. Null: the order-0 entropy, which needs no codec.</summary>
    public Func<ICostEstimator>? Estimator { get; init; }

    /// <summary>Ends the comparison with exit code 75 once it is set.</summary>
    public StopFlag? Stop { get; init; }

    /// <summary>Called periodically, on the thread that called <see cref="Differ.Compare"/>.</summary>
    public Action<DiffProgress>? Progress { get; init; }

    /// <summary>The hash that finds moved blocks. Tests use a bad one here, because every match is verified anyway.</summary>
    internal BlockHashFunction Hash { get; init; } = BlockHash.Of;
}

/// <summary>64 bits of a block's content; never 0.</summary>
internal delegate ulong BlockHashFunction(ReadOnlySpan<byte> block);
