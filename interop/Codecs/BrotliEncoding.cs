using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The brotli encoder. A state of brotli cannot be reset, so each call creates and frees its own. Android's writer also compresses a whole
/// buffer with one call. Input passed in pieces, to the streaming calls, can give other bytes at low qualities.
/// </summary>
[LibraryHeader("brotli/encode.h")]
public static unsafe class BrotliEncoding
{
    private const int BROTLI_MODE_GENERIC = 0;

    /// <summary>
    /// Compresses <paramref name="input"/> to one stream, with a quality from 0 to 11 and a window of 2^<paramref name="windowBits"/>
    /// bytes. Returns the length of the stream, or -ENOSPC if it does not fit or memory ran out, which brotli does not distinguish.
    /// </summary>
    public static int Compress(int quality, int windowBits, ReadOnlySpan<byte> input, Span<byte> output)
    {
        nuint length = (nuint)output.Length;
        fixed (byte* from = input)
        fixed (byte* to = output)
            return BrotliEncoderCompress(quality, windowBits, BROTLI_MODE_GENERIC, (nuint)input.Length, from, &length, to) != 0
                ? (int)length : -Errno.ENOSPC;
    }

    [DllImport("libbrotlienc")]
    private static extern int BrotliEncoderCompress(
        int quality, int lgwin, int mode, nuint input_size, byte* input_buffer, nuint* encoded_size, byte* encoded_buffer);
}
