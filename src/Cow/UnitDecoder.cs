using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>Reason why a unit could not be decoded. The negative values are the results of <see cref="UnitDecoder.Decode"/>.</summary>
public enum UnitError
{
    /// <summary>No error.</summary>
    None = 0,
    /// <summary>The stream is malformed or its checksum is wrong.</summary>
    Corrupt = -1,
    /// <summary>The stored bytes end before the stream does (zstd reports the same when data follows the frame).</summary>
    Truncated = -2,
    /// <summary>The stream ended before the unit was full.</summary>
    TooShort = -3,
    /// <summary>The stream decodes to more bytes than the unit has.</summary>
    TooLong = -4,
    /// <summary>Stored bytes remain after the end of the stream.</summary>
    TrailingBytes = -5,
    /// <summary>The length of a raw payload differs from its unit's.</summary>
    RawLength = -6,
    /// <summary>The codec could not allocate memory.</summary>
    OutOfMemory = -7,
    /// <summary>The algorithm is not one of cow-format §7.</summary>
    UnknownAlgorithm = -8,
}

/// <summary>
/// Decodes stored payloads into units. Each codec's context is made at its first use and kept. Nothing is allocated per unit, except by
/// brotli, which needs a new state for each unit. Not thread-safe: each worker has its own. After an error the unit's content is undefined,
/// but nothing outside it was written.
/// </summary>
public sealed class UnitDecoder : IDisposable
{
    private Zlib? _zlib;
    private Zstd? _zstd;

    /// <summary>
    /// Makes the context for the algorithm <paramref name="prepare"/> now, so that the first unit cannot fail for lack of memory. Exit code
    /// 71 if there is not enough memory.
    /// </summary>
    public UnitDecoder(CowCompression prepare = CowCompression.None)
    {
        int result = prepare switch
        {
            CowCompression.Gz => Zlib.Create(out _zlib),
            CowCompression.Zstd => Zstd.Create(out _zstd),
            _ => 0,
        };
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make a decoder for {prepare}: {ErrnoText.Of(result)}");
    }

    /// <summary>
    /// Decodes <paramref name="stored"/> into <paramref name="unit"/>. Returns 0 if the output has exactly the unit's length, all stored
    /// bytes were used and the stream ended cleanly; else a <see cref="UnitError"/> as a number. <see cref="CowCompression.None"/>
    /// copies.
    /// </summary>
    public int Decode(CowCompression algorithm, ReadOnlySpan<byte> stored, Span<byte> unit) => (int)(algorithm switch
    {
        CowCompression.None => DecodeRaw(stored, unit),
        CowCompression.Gz => DecodeGz(stored, unit),
        CowCompression.Brotli => DecodeBrotli(stored, unit),
        CowCompression.Lz4 => DecodeLz4(stored, unit),
        CowCompression.Zstd => DecodeZstd(stored, unit),
        _ => UnitError.UnknownAlgorithm,
    });

    /// <summary>Describes a result of <see cref="Decode"/> as a clause, which follows the name of the op in messages.</summary>
    public static string Describe(int error) => (UnitError)error switch
    {
        UnitError.None => "decodes",
        UnitError.Corrupt => "the compressed stream is corrupt",
        UnitError.Truncated => "the stored bytes do not end where the compressed stream does",
        UnitError.TooShort => "the payload decodes to fewer bytes than its unit has",
        UnitError.TooLong => "the payload decodes to more bytes than its unit has",
        UnitError.TrailingBytes => "bytes are left over after the end of the compressed stream",
        UnitError.RawLength => "the raw payload is not as long as its unit",
        UnitError.OutOfMemory => "the codec ran out of memory",
        UnitError.UnknownAlgorithm => "the compression algorithm is unknown",
        _ => $"decoding failed with {error}",
    };

    /// <summary>Frees the contexts.</summary>
    public void Dispose()
    {
        _zlib?.Dispose();
        _zstd?.Dispose();
    }

    private static UnitError DecodeRaw(ReadOnlySpan<byte> stored, Span<byte> unit)
    {
        if (stored.Length != unit.Length) return UnitError.RawLength;
        stored.CopyTo(unit);
        return UnitError.None;
    }

    private UnitError DecodeGz(ReadOnlySpan<byte> stored, Span<byte> unit)
    {
        if (_zlib == null && Zlib.Create(out _zlib) < 0) return UnitError.OutOfMemory;
        switch (_zlib!.Inflate(stored, unit, out int consumed, out int written))
        {
            case Zlib.Z_STREAM_END:
                return Ended(stored.Length - consumed, unit.Length - written);
            case Zlib.Z_OK:
            case Zlib.Z_BUF_ERROR:
                // Either the input or the output buffer is exhausted. If input remains, it is the output buffer.
                return consumed < stored.Length ? UnitError.TooLong : UnitError.Truncated;
            case Zlib.Z_MEM_ERROR:
                return UnitError.OutOfMemory;
            default:
                return UnitError.Corrupt;
        }
    }

    private static UnitError DecodeBrotli(ReadOnlySpan<byte> stored, Span<byte> unit)
    {
        int result = Brotli.Decompress(stored, unit, out int consumed, out int written);
        return result switch
        {
            Brotli.BROTLI_DECODER_RESULT_SUCCESS => Ended(stored.Length - consumed, unit.Length - written),
            Brotli.BROTLI_DECODER_RESULT_NEEDS_MORE_INPUT => UnitError.Truncated,
            Brotli.BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT => UnitError.TooLong,
            -Errno.ENOMEM => UnitError.OutOfMemory,
            _ => UnitError.Corrupt,
        };
    }

    private static UnitError DecodeLz4(ReadOnlySpan<byte> stored, Span<byte> unit)
    {
        // An lz4 block has no end marker. Whether it is truncated, has trailing bytes or overflows the unit, the result is the same.
        int written = stored.IsEmpty ? -1 : Lz4.Decompress(stored, unit);
        return written < 0 ? UnitError.Corrupt : Ended(0, unit.Length - written);
    }

    private UnitError DecodeZstd(ReadOnlySpan<byte> stored, Span<byte> unit)
    {
        if (_zstd == null && Zstd.Create(out _zstd) < 0) return UnitError.OutOfMemory;
        int written = _zstd!.Decompress(stored, unit);
        return written switch
        {
            >= 0 => Ended(0, unit.Length - written),
            Zstd.DestinationTooSmall => UnitError.TooLong,
            Zstd.SourceSizeWrong => UnitError.Truncated,
            _ => UnitError.Corrupt,
        };
    }

    private static UnitError Ended(int storedLeft, int unitLeft) =>
        unitLeft > 0 ? UnitError.TooShort : storedLeft > 0 ? UnitError.TrailingBytes : UnitError.None;
}
