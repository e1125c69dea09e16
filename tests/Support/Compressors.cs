using System;
using System.IO.Compression;
using System.Runtime.InteropServices;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>The compressors with the settings of Android's writer (cow-format §7), for making test files.</summary>
public static unsafe class Compressors
{
    private const int ZstdWindowLog = 101;
    private const int ZstdLevel = 100;

    /// <summary>
    /// Compresses <paramref name="plain"/> as one unit. <paramref name="windowBytes"/> is the zstd window: the block size in v2,
    /// max_compression_size in v3. Always returns the compressed form, even if it is longer.
    /// </summary>
    public static byte[] Compress(CowCompression algorithm, ReadOnlySpan<byte> plain, int windowBytes, int? level = null)
    {
        byte[] room = new byte[(plain.Length * 2) + 1024];
        nuint length = (nuint)room.Length;
        fixed (byte* to = room)
        fixed (byte* from = plain)
        {
            switch (algorithm)
            {
                case CowCompression.None:
                    return plain.ToArray();
                case CowCompression.Gz:
                    if (compress2(to, &length, from, (nuint)plain.Length, level ?? 9) != 0)
                        throw new InvalidOperationException("compress2 failed");
                    break;
                case CowCompression.Brotli:
                    if (!BrotliEncoder.TryCompress(plain, room, out int written, level ?? 11, 22))
                        throw new InvalidOperationException("brotli failed");
                    length = (nuint)written;
                    break;
                case CowCompression.Lz4:
                    int packed = LZ4_compress_default(from, to, plain.Length, room.Length);
                    if (packed <= 0) throw new InvalidOperationException("LZ4_compress_default failed");
                    length = (nuint)packed;
                    break;
                case CowCompression.Zstd:
                    return Zstd(plain, (ZstdLevel, level ?? 3), (ZstdWindowLog, int.Log2(windowBytes)));
                default:
                    throw new ArgumentOutOfRangeException(nameof(algorithm));
            }
        }
        return room.AsSpan(0, (int)length).ToArray();
    }

    /// <summary>Compresses <paramref name="plain"/> as one frame with these parameters (ZSTD_cParameter).</summary>
    public static byte[] Zstd(ReadOnlySpan<byte> plain, params ReadOnlySpan<(int Parameter, int Value)> settings)
    {
        byte[] room = new byte[(plain.Length * 2) + 1024];
        nint context = ZSTD_createCCtx();
        foreach ((int parameter, int value) in settings) _ = ZSTD_CCtx_setParameter(context, parameter, value);
        nuint length;
        fixed (byte* to = room)
        fixed (byte* from = plain)
            length = ZSTD_compress2(context, to, (nuint)room.Length, from, (nuint)plain.Length);
        _ = ZSTD_freeCCtx(context);
        return ZSTD_isError(length) == 0
            ? room.AsSpan(0, (int)length).ToArray()
            : throw new InvalidOperationException("ZSTD_compress2 failed");
    }

    [DllImport("z")]
    private static extern int compress2(byte* dest, nuint* destLen, byte* source, nuint sourceLen, int level);

    [DllImport("lz4")]
    private static extern int LZ4_compress_default(byte* source, byte* dest, int sourceSize, int destCapacity);

    [DllImport("zstd")]
    private static extern nint ZSTD_createCCtx();

    [DllImport("zstd")]
    private static extern nuint ZSTD_CCtx_setParameter(nint context, int parameter, int value);

    [DllImport("zstd")]
    private static extern nuint ZSTD_compress2(nint context, byte* dest, nuint destCapacity, byte* source, nuint sourceSize);

    [DllImport("zstd")]
    private static extern uint ZSTD_isError(nuint code);

    [DllImport("zstd")]
    private static extern nuint ZSTD_freeCCtx(nint context);
}
