using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>Options of a <see cref="CowWriter"/>. The defaults are Android's (cow-format §1, §7).</summary>
public sealed record CowWriterOptions
{
    /// <summary>Scratch bytes that Android's daemon can use; it maps exactly this many.</summary>
    public const uint DefaultScratchBytes = 2 * 1024 * 1024;

    /// <summary>
    /// Maximum number of threads. More threads than any build host has cores gain nothing, and each needs buffers and a context.
    /// </summary>
    public const int MaxThreads = 256;

    /// <summary>Maximum of <see cref="BatchBytes"/>. The arena, which also holds other buffers, must be smaller than 2 GiB.</summary>
    private const int MaxBatchBytes = 1024 * 1024 * 1024;

    /// <summary>Version of the format: 2 or 3. When appending, the file's own version applies.</summary>
    public int Version { get; init; } = 3;

    /// <summary>The algorithm of all payloads. When appending to a file that has one, it must be the same.</summary>
    public CowCompression Compression { get; init; }

    /// <summary>
    /// Compression level: gz 0 to 9, brotli 0 to 11, zstd as the library allows (negative levels are fast); none and lz4 ignore it. Null is
    /// Android's default: gz 9, brotli 11, zstd 3.
    /// </summary>
    public int? Level { get; init; }

    /// <summary>
    /// v3: bytes of the largest unit (the compression factor): 4, 8, 16, 32, 64, 128 or 256 KiB. v2 allows only 4096. When appending, the
    /// file's own size applies.
    /// </summary>
    public int MaxUnitBytes { get; init; } = CowOp.BlockSize;

    /// <summary>
    /// v2: op slots per cluster, 0 for none, never 1. v3: the blocks of a call are divided into chunks of this many blocks, and each chunk
    /// into units (cow-format §7.3). With 0 or 1 every unit has one block.
    /// </summary>
    public int ClusterOps { get; init; } = 1024;

    /// <summary>Bytes of scratch: 2 MiB, or 0. Without scratch a merge cannot journal.</summary>
    public uint ScratchBytes { get; init; } = DefaultScratchBytes;

    /// <summary>
    /// Maximum number of compression threads; 1 is the caller's own thread. If <see cref="BatchBytes"/> does not suffice for their buffers
    /// and contexts, fewer run (<see cref="CowWriter.Threads"/>). The bytes of the file do not depend on it.
    /// </summary>
    public int Threads { get; init; } = 1;

    /// <summary>Blocks of the target: every written block must be below this number. Null for no bound.</summary>
    public uint? MaxBlocks { get; init; }

    /// <summary>v3: slots of the op array. Null or 0 means <see cref="MaxBlocks"/>; without that, only an estimate is possible.</summary>
    public ulong? OpCountMax { get; init; }

    /// <summary>
    /// Bytes of buffers for payloads on their way to the file. One half is filled while the other half is compressed and written. Up to
    /// the same amount again goes to the contexts of the encoders and to buffers of two units per thread; only a single thread may need
    /// more.
    /// </summary>
    public int BatchBytes { get; init; } = 8 * 1024 * 1024;

    /// <summary>
    /// Ends the writing with exit code 75 at the next call, or inside a call that waits for an encoder. The file is then as it was at the
    /// last label or finish.
    /// </summary>
    public StopFlag? Stop { get; init; }

    /// <summary>
    /// Parses "algorithm[,level]": none (or empty), gz, brotli, lz4, zstd; the level is a signed number (cow-format §7). Exit code 64
    /// with one sentence for anything else, including levels out of range.
    /// </summary>
    public static (CowCompression Compression, int? Level) ParseCompression(string text)
    {
        string[] parts = text.Split(',');
        if (parts.Length > 2)
            throw Misuse($"the compression \"{text}\" has {parts.Length} parts; it must be an algorithm, or an algorithm and a level");
        CowCompression algorithm = parts[0] switch
        {
            "" or "none" => CowCompression.None,
            "gz" => CowCompression.Gz,
            "brotli" => CowCompression.Brotli,
            "lz4" => CowCompression.Lz4,
            "zstd" => CowCompression.Zstd,
            _ => throw Misuse($"the compression algorithm \"{parts[0]}\" is unknown; use none, gz, brotli, lz4 or zstd"),
        };
        if (parts.Length == 1) return (algorithm, null);
        if (!int.TryParse(parts[1], NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int level))
            throw Misuse($"the compression level \"{parts[1]}\" is not a number");
        CheckLevel(algorithm, level);
        return (algorithm, level);
    }

    /// <summary>The effective level: the requested one, or Android's default.</summary>
    public static int LevelOf(CowCompression algorithm, int? level) => level ?? algorithm switch
    {
        CowCompression.Gz => 9,
        CowCompression.Brotli => 11,
        CowCompression.Zstd => 3,
        _ => 0,
    };

    /// <summary>Rejects invalid options with exit code 64.</summary>
    internal void Check()
    {
        if (Version is not (2 or 3)) throw Misuse($"version {Version} cannot be written, only 2 and 3");
        if (Compression > CowCompression.Zstd) throw Misuse($"the compression algorithm {(int)Compression} is unknown");
        if (Level is { } level) CheckLevel(Compression, level);
        if (MaxUnitBytes < CowOp.BlockSize || MaxUnitBytes > CowHeader.MaxUnitBytesLimit || !int.IsPow2(MaxUnitBytes))
            throw Misuse($"units of {MaxUnitBytes} bytes cannot be written: there are 4, 8, 16, 32, 64, 128 and 256 KiB");
        if (Version == 2 && MaxUnitBytes != CowOp.BlockSize)
            throw Misuse($"units of {MaxUnitBytes} bytes need version 3; version 2 has only blocks of {CowOp.BlockSize}");
        if (ClusterOps < 0 || (Version == 2 && ClusterOps == 1))
            throw Misuse($"clusters of {ClusterOps} ops cannot be written: 0 for none, else 2 or more");
        if (ScratchBytes is not (0 or DefaultScratchBytes))
            throw Misuse($"a scratch of {ScratchBytes} bytes cannot be written: {DefaultScratchBytes} or 0");
        if (Threads is < 1 or > MaxThreads) throw Misuse($"{Threads} threads cannot be started: 1 to {MaxThreads}");
        if (OpCountMax > uint.MaxValue) throw Misuse($"{OpCountMax} ops are more than the {uint.MaxValue} that a file can have");
        if (BatchBytes is < 1 or > MaxBatchBytes) throw Misuse($"{BatchBytes} bytes of buffers are out of range: 1 to {MaxBatchBytes}");
    }

    internal static SnapuserdException Misuse(string sentence) => new(ExitCode.Usage, sentence);

    private static void CheckLevel(CowCompression algorithm, int level)
    {
        (int lowest, int highest) = algorithm switch
        {
            CowCompression.Gz => (0, 9),
            CowCompression.Brotli => (0, 11),
            CowCompression.Zstd => (ZstdCompressor.MinLevel, ZstdCompressor.MaxLevel),
            _ => (int.MinValue, int.MaxValue),
        };
        if (level < lowest || level > highest)
            throw Misuse($"{algorithm.ToString().ToLowerInvariant()} has no level {level}, only {lowest} to {highest}");
    }
}
