using System;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Decoding valid and invalid payloads (cow-format §7).</summary>
public sealed class UnitDecoderTests
{
    public static TheoryData<CowCompression> Streams => [CowCompression.Gz, CowCompression.Brotli, CowCompression.Lz4, CowCompression.Zstd];

    private static byte[] Text(int length) =>
        Enumerable.Range(0, length).Select(i => (byte)("some text that repeats, "[i % 24] + (i / 3000))).ToArray();

    private static UnitError Decode(UnitDecoder decoder, CowCompression algorithm, ReadOnlySpan<byte> stored, int unit) =>
        (UnitError)decoder.Decode(algorithm, stored, new byte[unit]);

    [Theory]
    [InlineData(CowCompression.Gz, 4096,
        "78daedc2510900200c4041a32c80712c3071e040f163627ecd21efb8d23de48d354d9a6ecd526db81d13df090000000000fce002f8ca0a48")]
    [InlineData(CowCompression.Brotli, 4096, "1bff0fe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd7900d000")]
    [InlineData(CowCompression.Brotli, 65536, "1bffffe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd790fd000")]
    [InlineData(CowCompression.Lz4, 4096,
        "ff0f5468697320697320736f6d6520646174612c2062656c69657665206974000100ffffffffffffffffffffffffffffffd9500000000000")]
    [InlineData(CowCompression.Zstd, 4096,
        "28b52ffd60000f2d0100f05468697320697320736f6d6520646174612c2062656c696576652069740001007edf074e")]
    [InlineData(CowCompression.Zstd, 65536,
        "28b52ffd6000ff350100f05468697320697320736f6d6520646174612c2062656c696576652069740001007eff75e004")]
    public void Androids_streams_decode_to_the_text(CowCompression algorithm, int unitBytes, string hex)
    {
        using var decoder = new UnitDecoder();
        byte[] unit = new byte[unitBytes];
        unit.AsSpan().Fill(0xaa);
        Assert.Equal(0, decoder.Decode(algorithm, Convert.FromHexString(hex), unit));
        byte[] expected = new byte[unitBytes];
        AndroidFiles.T.CopyTo(expected, 0);
        Assert.Equal(expected, unit);
    }

    [Theory]
    [InlineData(1, 10)]
    [InlineData(5, 16)]
    [InlineData(9, 24)]
    [InlineData(11, 24)]
    public void Largest_unit_decodes_from_brotli_with_any_window_size(int quality, int window)
    {
        // Alternating text, numbers and noise give many block types and trees, for which the decoder needs memory in addition to the
        // window.
        byte[] plain = Text(256 * 1024), stored = new byte[plain.Length + 4096], unit = new byte[plain.Length];
        var random = new Random(quality);
        for (int at = 0; at < plain.Length; at += 8192)
            if (at % 3 == 0) random.NextBytes(plain.AsSpan(at, 8192));
            else if (at % 3 == 1) for (int i = 0; i < 8192; i++) plain[at + i] = (byte)(random.Next(1 + (at / 2048)) + (i % 4));
        Assert.True(System.IO.Compression.BrotliEncoder.TryCompress(plain, stored, out int length, quality, window));
        using var decoder = new UnitDecoder();
        Assert.Equal(0, decoder.Decode(CowCompression.Brotli, stored.AsSpan(0, length), unit));
        Assert.Equal(plain, unit);
    }

    [Theory]
    [MemberData(nameof(Streams))]
    public void Decoder_can_be_used_after_every_error(CowCompression algorithm)
    {
        using var decoder = new UnitDecoder(algorithm);
        byte[] plain = Text(16384), unit = new byte[16384];
        byte[] stored = Compressors.Compress(algorithm, plain, 16384, algorithm == CowCompression.Brotli ? 5 : null);
        for (int i = 0; i < 20; i++)
        {
            Assert.NotEqual(0, decoder.Decode(algorithm, stored.AsSpan(0, stored.Length * i / 20), unit));
            Assert.Equal(0, decoder.Decode(algorithm, stored, unit));
            Assert.Equal(plain, unit);
        }
    }

    [Theory]
    [MemberData(nameof(Streams))]
    public void Every_truncation_is_an_error(CowCompression algorithm)
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(algorithm, Text(4096), 4096);
        for (int length = 0; length < stored.Length; length++)
        {
            UnitError error = Decode(decoder, algorithm, stored.AsSpan(0, length), 4096);
            Assert.True(error < 0, $"{length} of {stored.Length} bytes");
            if (algorithm is CowCompression.Gz or CowCompression.Brotli) Assert.Equal(UnitError.Truncated, error);
        }
    }

    [Theory]
    [MemberData(nameof(Streams))]
    public void Stream_shorter_than_its_unit_is_an_error(CowCompression algorithm)
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(algorithm, Text(4095), 4096);
        Assert.Equal(UnitError.TooShort, Decode(decoder, algorithm, stored, 4096));
        Assert.Equal(UnitError.None, Decode(decoder, algorithm, stored, 4095));
    }

    [Theory]
    [InlineData(CowCompression.Gz, UnitError.TooLong)]
    [InlineData(CowCompression.Brotli, UnitError.TooLong)]
    [InlineData(CowCompression.Lz4, UnitError.Corrupt)]
    [InlineData(CowCompression.Zstd, UnitError.TooLong)]
    public void Bomb_is_stopped_at_the_end_of_its_unit(CowCompression algorithm, UnitError expected)
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(algorithm, new byte[16 * 1024 * 1024], 1 << 20, algorithm == CowCompression.Brotli ? 3 : null);
        byte[] around = new byte[4096 + 8192];
        around.AsSpan().Fill(0x5a);
        Assert.Equal(expected, (UnitError)decoder.Decode(algorithm, stored, around.AsSpan(4096, 4096)));
        Assert.All(around[..4096].Concat(around[8192..]), b => Assert.Equal(0x5a, b));
        Assert.Equal(expected, Decode(decoder, algorithm, Compressors.Compress(algorithm, Text(4097), 8192), 4096));
    }

    [Theory]
    [InlineData(CowCompression.Gz, UnitError.TrailingBytes)]
    [InlineData(CowCompression.Brotli, UnitError.TrailingBytes)]
    [InlineData(CowCompression.Lz4, UnitError.Corrupt)]
    [InlineData(CowCompression.Zstd, UnitError.Truncated)]
    public void Bytes_after_the_stream_are_an_error(CowCompression algorithm, UnitError expected)
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(algorithm, Text(4096), 4096);
        foreach (int extra in new[] { 1, 5, 100 })
            Assert.Equal(expected, Decode(decoder, algorithm, [.. stored, .. Enumerable.Repeat((byte)0xee, extra)], 4096));
    }

    [Fact]
    public void Lz4_payload_without_bytes_is_corrupt_and_a_block_without_bytes_is_too_short()
    {
        using var decoder = new UnitDecoder();
        Assert.Equal(UnitError.Corrupt, Decode(decoder, CowCompression.Lz4, [], 4096));
        // One token without literals, and no match after it.
        Assert.Equal(UnitError.TooShort, Decode(decoder, CowCompression.Lz4, [0], 4096));
    }

    [Fact]
    public void Zlib_checksum_is_checked()
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(CowCompression.Gz, Text(4096), 4096);
        stored[^1] ^= 1;
        Assert.Equal(UnitError.Corrupt, Decode(decoder, CowCompression.Gz, stored, 4096));
    }

    [Fact]
    public void Zlib_dictionary_and_gzip_framing_are_refused()
    {
        using var decoder = new UnitDecoder();
        Assert.Equal(UnitError.Corrupt, Decode(decoder, CowCompression.Gz, [0x78, 0xbb, 0, 0, 0, 1, 3, 0], 4096));
        Assert.Equal(UnitError.Corrupt, Decode(decoder, CowCompression.Gz, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0], 4096));
    }

    [Theory]
    [MemberData(nameof(Streams))]
    public void Damaged_stream_never_writes_outside_the_unit(CowCompression algorithm)
    {
        using var decoder = new UnitDecoder();
        byte[] stored = Compressors.Compress(algorithm, Text(16384), 16384);
        byte[] around = new byte[4096 + 16384 + 4096];
        for (int seed = 0; seed < 2000; seed++)
        {
            var random = new Random(seed);
            byte[] broken = (byte[])stored.Clone();
            if (seed % 4 == 0) random.NextBytes(broken);
            else for (int i = 0; i <= seed % 4; i++) broken[random.Next(broken.Length)] ^= (byte)(1 << random.Next(8));
            around.AsSpan().Fill(0x5a);
            Assert.True(decoder.Decode(algorithm, broken, around.AsSpan(4096, 16384)) <= 0);
            Assert.False(around.AsSpan(0, 4096).ContainsAnyExcept((byte)0x5a) || around.AsSpan(4096 + 16384).ContainsAnyExcept((byte)0x5a),
                $"seed {seed}");
        }
    }

    [Fact]
    public void Zstd_frame_that_claims_a_huge_window_needs_no_memory_for_it()
    {
        // Magic, descriptor without single segment, window descriptor 0xf0 (2^40), one raw last block of 1 byte: refused, or decoded in
        // place.
        using var decoder = new UnitDecoder();
        byte[] frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf0, 0x09, 0x00, 0x00, 0x41];
        Assert.True(Decode(decoder, CowCompression.Zstd, frame, 1) <= UnitError.Corrupt);
        frame[5] = 0x88; // 2^27, the largest window that zstd accepts for a stream
        Assert.Equal(UnitError.None, Decode(decoder, CowCompression.Zstd, frame, 1));
    }

    [Fact]
    public void Zstd_frame_of_a_version_before_0_8_is_refused()
    {
        // Format version 0.7, one segment of 1 byte: a raw block of 1 byte and the end. A libzstd.so with legacy support accepts it.
        using var decoder = new UnitDecoder();
        Assert.Equal(UnitError.Corrupt,
            Decode(decoder, CowCompression.Zstd, [0x27, 0xb5, 0x2f, 0xfd, 0x20, 0x01, 0x40, 0x00, 0x01, 0x41, 0xc0, 0x00, 0x00], 1));
    }

    [Theory]
    [InlineData(4095)]
    [InlineData(4097)]
    [InlineData(0)]
    public void Raw_payload_of_another_length_is_an_error(int length)
    {
        using var decoder = new UnitDecoder();
        Assert.Equal(UnitError.RawLength, Decode(decoder, CowCompression.None, new byte[length], 4096));
    }

    [Fact]
    public void Unknown_algorithm_is_an_error()
    {
        using var decoder = new UnitDecoder();
        Assert.Equal(UnitError.UnknownAlgorithm, Decode(decoder, (CowCompression)9, new byte[10], 4096));
    }

    [Fact]
    public void Every_error_has_its_own_description()
    {
        string[] descriptions = Enum.GetValues<UnitError>().Select(error => UnitDecoder.Describe((int)error)).ToArray();
        Assert.Equal(descriptions.Length, descriptions.Distinct().Count());
        Assert.Contains("-99", UnitDecoder.Describe(-99), StringComparison.Ordinal);
    }

    [Fact]
    public void Units_are_decoded_without_managed_allocation()
    {
        byte[] unit = new byte[65536];
        foreach (CowCompression algorithm in Enum.GetValues<CowCompression>())
        {
            using var decoder = new UnitDecoder(algorithm);
            byte[] stored = Compressors.Compress(algorithm, Text(65536), 65536, algorithm == CowCompression.Brotli ? 3 : null);
            Assert.Equal(0, Allocations.Least(() =>
            {
                for (int i = 0; i < 100; i++) decoder.Decode(algorithm, stored, unit);
            }));
        }
    }
}
