using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Raw LZ4 blocks.</summary>
public static unsafe class Lz4
{
    /// <summary>
    /// Decodes one block, all of <paramref name="input"/>. Returns the bytes written, or a negative number if the block is malformed or
    /// does not fit.
    /// </summary>
    public static int Decompress(ReadOnlySpan<byte> input, Span<byte> output)
    {
        fixed (byte* from = input)
        fixed (byte* to = output)
            return LZ4_decompress_safe(from, to, input.Length, output.Length);
    }

    /// <summary>Encodes one block with the fast compressor. Returns the bytes written, or 0 if they do not fit.</summary>
    public static int Compress(ReadOnlySpan<byte> input, Span<byte> output)
    {
        fixed (byte* from = input)
        fixed (byte* to = output)
            return LZ4_compress_default(from, to, input.Length, output.Length);
    }

    [DllImport("liblz4")]
    private static extern int LZ4_compress_default(byte* src, byte* dst, int srcSize, int dstCapacity);

    [DllImport("liblz4")]
    private static extern int LZ4_decompress_safe(byte* src, byte* dst, int compressedSize, int dstCapacity);
}
