using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The brotli decoder. It has no reset, so each stream makes a state and frees it: some 5 KiB and what the stream's window needs, at most
/// 16 MiB, because the large-window extension stays off.
/// </summary>
[LibraryHeader("brotli/decode.h")]
public static unsafe class Brotli
{
    public const int BROTLI_DECODER_RESULT_ERROR = 0;
    public const int BROTLI_DECODER_RESULT_SUCCESS = 1;
    public const int BROTLI_DECODER_RESULT_NEEDS_MORE_INPUT = 2;
    public const int BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT = 3;
    private const int BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES = -21;
    private const int BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES = -30;

    /// <summary>
    /// Decodes one whole stream. Returns the decoder's own answer (a BROTLI_DECODER_RESULT), or -ENOMEM.
    /// </summary>
    public static int Decompress(ReadOnlySpan<byte> input, Span<byte> output, out int consumed, out int written)
    {
        consumed = written = 0;
        void* state = BrotliDecoderCreateInstance(null, null, null);
        if (state == null) return -Errno.ENOMEM;
        int result;
        fixed (byte* from = input)
        fixed (byte* to = output)
        {
            nuint availableIn = (nuint)input.Length, availableOut = (nuint)output.Length;
            byte* nextIn = from, nextOut = to;
            result = BrotliDecoderDecompressStream(state, &availableIn, &nextIn, &availableOut, &nextOut, null);
            consumed = input.Length - (int)availableIn;
            written = output.Length - (int)availableOut;
        }
        // The codes of failed allocations are consecutive.
        if (result == BROTLI_DECODER_RESULT_ERROR
            && BrotliDecoderGetErrorCode(state) is <= BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES and >= BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES)
            result = -Errno.ENOMEM;
        BrotliDecoderDestroyInstance(state);
        return result;
    }

    [DllImport("libbrotlidec")]
    private static extern void* BrotliDecoderCreateInstance(void* alloc_func, void* free_func, void* opaque);

    [DllImport("libbrotlidec")]
    private static extern int BrotliDecoderDecompressStream(
        void* state, nuint* available_in, byte** next_in, nuint* available_out, byte** next_out, nuint* total_out);

    [DllImport("libbrotlidec")]
    private static extern int BrotliDecoderGetErrorCode(void* state);

    [DllImport("libbrotlidec")]
    private static extern void BrotliDecoderDestroyInstance(void* state);
}
