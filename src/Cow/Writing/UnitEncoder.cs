using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>
/// Encodes units into payloads as Android's writer does, with the same libraries and settings, so that the bytes are the same (cow-format
/// §7). The context is made once and kept. Nothing is allocated per unit, except by brotli, which needs a new state for each unit. Not
/// thread-safe: each worker has its own.
/// </summary>
public sealed class UnitEncoder : IDisposable
{
    /// <summary>Android's brotli window, 2^22 bytes.</summary>
    private const int BrotliWindowBits = 22;

    private readonly CowCompression _algorithm;
    private readonly int _level;
    private readonly ZlibDeflate? _deflate;
    private readonly ZstdCompressor? _zstd;

    /// <summary>
    /// Makes the context. <paramref name="level"/> null is Android's default. <paramref name="windowBytes"/> is the zstd window: the
    /// block size in v2, max_compression_size in v3. Exit code 71 without memory, 64 for a level that the library rejects.
    /// </summary>
    public UnitEncoder(CowCompression algorithm, int? level, int windowBytes)
    {
        _algorithm = algorithm;
        _level = CowWriterOptions.LevelOf(algorithm, level);
        int result = algorithm switch
        {
            CowCompression.Gz => ZlibDeflate.Create(_level, out _deflate),
            CowCompression.Zstd => ZstdCompressor.Create(_level, int.Log2(windowBytes), out _zstd),
            <= CowCompression.Zstd => 0,
            _ => -Errno.EINVAL,
        };
        if (result == -Errno.EINVAL) throw CowWriterOptions.Misuse($"{algorithm.ToString().ToLowerInvariant()} refuses level {_level}");
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make an encoder for {algorithm}: {Errno.Name(result)}");
    }

    /// <summary>
    /// Buffer size in bytes for an encoded unit, at least the bound of each library: n/255 + 16 for lz4, n/256 + 64 for zstd, and less
    /// for the others. With a smaller buffer some libraries produce other bytes, so all units get this size.
    /// </summary>
    public static int Bound(int unitBytes) => unitBytes + (unitBytes / 128) + 1024;

    /// <summary>
    /// Estimated size in bytes of an encoder's context in use. The real size rarely exceeds it. Sources: zlib.h for deflate, the growth of
    /// a process under brotli 1.0.9, and ZSTD_sizeof_CCtx of zstd 1.5 after a unit of noise.
    /// </summary>
    internal static long ContextBytes(CowCompression algorithm, int? level, int unitBytes)
    {
        const long KiB = 1024, MiB = 1024 * KiB;
        int effort = CowWriterOptions.LevelOf(algorithm, level);
        return algorithm switch
        {
            CowCompression.Gz => 268 * KiB,
            // From quality 5 on, brotli has 2^14 or 2^15 hash buckets of 2^(quality - 1) entries. Qualities 10 and 11 have a tree instead,
            // with a node of 16 bytes for every byte.
            CowCompression.Brotli when effort >= 10 => (3 * MiB) + (44L * unitBytes),
            CowCompression.Brotli when effort >= 7 => MiB + (8 * MiB << (effort - 7)),
            CowCompression.Brotli when effort >= 5 => MiB + (MiB << (effort - 5)),
            CowCompression.Brotli => MiB + (2L * unitBytes),
            CowCompression.Lz4 => 16 * KiB,
            // zstd's tables grow with the window; the optimal parser has one more table of fixed size.
            CowCompression.Zstd =>
                effort < 6 ? (128 * KiB) + (16L * unitBytes) : (300 * KiB) + (20L * unitBytes) + Math.Min(512 * KiB, 4L * unitBytes),
            _ => 0,
        };
    }

    /// <summary>
    /// Encodes <paramref name="unit"/> into <paramref name="room"/> of at least <see cref="Bound"/> bytes and returns the length, which
    /// may exceed the unit's; a negative number if the library fails. <see cref="CowCompression.None"/> copies.
    /// </summary>
    public int Encode(ReadOnlySpan<byte> unit, Span<byte> room)
    {
        switch (_algorithm)
        {
            case CowCompression.Gz:
                return _deflate!.Compress(unit, room);
            case CowCompression.Brotli:
                return BrotliEncoding.Compress(_level, BrotliWindowBits, unit, room);
            case CowCompression.Lz4:
                int length = Lz4.Compress(unit, room);
                return length > 0 ? length : -Errno.ENOSPC;
            case CowCompression.Zstd:
                return _zstd!.Compress(unit, room);
            default:
                unit.CopyTo(room);
                return unit.Length;
        }
    }

    /// <summary>Frees the context.</summary>
    public void Dispose()
    {
        _deflate?.Dispose();
        _zstd?.Dispose();
    }
}
