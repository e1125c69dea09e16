using System;
using System.Collections.Generic;
using System.IO;
using System.IO.Compression;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Stored bytes that a writer would not produce for a unit of 4096 bytes. <paramref name="Decodes"/> is true if they still decode to such a
/// unit.
/// </summary>
public sealed record HostilePayload(string Name, CowCompression Algorithm, byte[] Stored, bool Decodes = false);

/// <summary>
/// Decompression bombs, streams that end early or late, and frames with missing or excess fields, for a unit of one block.
/// </summary>
public static class HostilePayloads
{
    private static readonly byte[] s_block = [.. Enumerable.Range(0, 4096).Select(i => (byte)(i / 300))];

    public static IReadOnlyList<HostilePayload> All { get; } = Make();

    private static List<HostilePayload> Make()
    {
        List<HostilePayload> all = [];
        void Add(string name, CowCompression algorithm, byte[] stored, bool decodes = false) =>
            all.Add(new HostilePayload($"{algorithm}: {name}", algorithm, stored, decodes));

        foreach (CowCompression algorithm in new[] { CowCompression.Gz, CowCompression.Brotli, CowCompression.Lz4, CowCompression.Zstd })
        {
            byte[] right = Compressors.Compress(algorithm, s_block, 4096, algorithm == CowCompression.Brotli ? 5 : null);
            byte[] half = Compressors.Compress(algorithm, s_block.AsSpan(0, 2048), 4096),
                one = Compressors.Compress(algorithm, s_block.AsSpan(0, 1), 4096);
            Add("what a writer makes", algorithm, right, true);
            Add("half a unit", algorithm, half);
            Add("one byte", algorithm, one);
            Add("a byte more than the unit", algorithm, Compressors.Compress(algorithm, (byte[])[.. s_block, 7], 4096));
            Add("two halves, one after the other", algorithm, [.. half, .. Compressors.Compress(algorithm, s_block.AsSpan(2048), 4096)],
                algorithm == CowCompression.Zstd);
            Add("the unit twice", algorithm, [.. right, .. right]);
            Add("a byte past the end", algorithm, [.. right, 0]);
            Add("cut by one byte", algorithm, right[..^1]);
            Add("cut in the middle", algorithm, right[..(right.Length / 2)]);
            Add("the first byte alone", algorithm, right[..1]);
            Add("zeros", algorithm, new byte[40]);
            Add("ones", algorithm, [.. Enumerable.Repeat((byte)255, 40)]);
            Add("a bomb of 1 MiB", algorithm, Compressors.Compress(algorithm, new byte[1 << 20], 4096));
        }
        byte[] sixteen = new byte[16 << 20];
        Add("a bomb of 16 MiB, window 24", CowCompression.Brotli, Brotli(sixteen, 11, 24));
        Add("a bomb of 16 MiB", CowCompression.Zstd, Compressors.Zstd(sixteen, (100, 19)));
        Add("window 24, one block", CowCompression.Brotli, Brotli(s_block, 5, 24), true);
        Add("window 10, one block", CowCompression.Brotli, Brotli(s_block, 5, 10), true);
        Add("no content size", CowCompression.Zstd, Compressors.Zstd(s_block, (200, 0)), true);
        Add("no content size, a bomb of 1 MiB", CowCompression.Zstd, Compressors.Zstd(new byte[1 << 20], (200, 0)));
        byte[] summed = Compressors.Zstd(s_block, (201, 1));
        Add("a checksum", CowCompression.Zstd, summed, true);
        summed = (byte[])summed.Clone();
        summed[^1] ^= 1;
        Add("a wrong checksum", CowCompression.Zstd, summed);
        byte[] skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4],
            frame = Compressors.Compress(CowCompression.Zstd, s_block, 4096);
        Add("a skippable frame alone", CowCompression.Zstd, skippable);
        Add("a skippable frame in front", CowCompression.Zstd, [.. skippable, .. frame], true);
        Add("a skippable frame at the end", CowCompression.Zstd, [.. frame, .. skippable], true);
        Add("a skippable frame of 4 GiB", CowCompression.Zstd, [.. frame, 0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255]);
        // Magic, then a descriptor with a window byte and an 8-byte content size: a window of 2 TiB, and a content size that exceeds any
        // memory.
        Add("a window of 2 TiB", CowCompression.Zstd, [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0]);
        Add("a content size of 2^64 - 1", CowCompression.Zstd,
            [0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0]);
        Add("a content size of 4096 and no blocks", CowCompression.Zstd, [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 1, 0, 0]);
        // One RLE block: header (4096 << 3 | 1 << 1 | last), byte.
        Add("a run of one byte", CowCompression.Zstd, [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 3, 0x80, 0, 9], true);
        Add("a run longer than its content size", CowCompression.Zstd, [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 11, 0x80, 0, 9]);
        Add("a dictionary is wanted", CowCompression.Gz, [0x78, 0xbb, 1, 2, 3, 4, 3, 0]);
        Add("a window of 64 KiB", CowCompression.Gz, [0x88, 0x1c, 3, 0, 0, 0, 0, 1]);
        byte[] gz = Compressors.Compress(CowCompression.Gz, s_block, 4096);
        byte[] wrong = (byte[])gz.Clone();
        wrong[^1] ^= 1;
        Add("a wrong checksum", CowCompression.Gz, wrong);
        Add("no checksum", CowCompression.Gz, gz[..^4]);
        Add("a gzip header", CowCompression.Gz, Gzip(s_block));
        Add("stored blocks", CowCompression.Gz, Compressors.Compress(CowCompression.Gz, s_block, 4096, 0), true);
        // A token with 15 + n literals or match bytes whose length continues over many bytes.
        Add("a literal of a mebibyte", CowCompression.Lz4, [0xf0, .. Enumerable.Repeat((byte)255, 4112), 0]);
        Add("a match in front of the beginning", CowCompression.Lz4,
            [0x1f, 65, 2, 0, .. Enumerable.Repeat((byte)255, 15), 200, 0x50, 1, 2, 3, 4, 5]);
        return all;
    }

    private static byte[] Brotli(byte[] plain, int quality, int window)
    {
        byte[] room = new byte[plain.Length + 1024];
        return BrotliEncoder.TryCompress(plain, room, out int written, quality, window)
            ? room[..written] : throw new InvalidOperationException();
    }

    private static byte[] Gzip(byte[] plain)
    {
        using MemoryStream stored = new();
        using (GZipStream gzip = new(stored, CompressionLevel.Fastest)) gzip.Write(plain);
        return stored.ToArray();
    }
}
