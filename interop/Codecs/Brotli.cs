using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The brotli decoder. Its state cannot be reset, so each stream makes one and frees it. A state consists of some 5 KiB, Huffman tables,
/// and a ring buffer of the size that the stream declares. A stream of twenty bytes can declare 16 MiB, and the decoder fills all of it
/// before the first byte of output. So the allocator here refuses more than <see cref="MostAtOnce"/> bytes at once.
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
    /// The largest single allocation of a state. A stream of 256 KiB, the largest unit, needs a ring buffer of less than 514 KiB. The
    /// largest table, 256 trees of distance codes, takes 1.6 MiB. Too small a limit rejects valid streams. The limit is also what each
    /// worker may need in addition to the arena.
    /// </summary>
    private const int MostAtOnce = 2 << 20;

    /// <summary>
    /// Decodes one whole stream. Returns the decoder's own result (a BROTLI_DECODER_RESULT), or -ENOMEM. If a stream requires too large a
    /// ring buffer, it has more content than any unit, so the result is BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT.
    /// </summary>
    public static int Decompress(ReadOnlySpan<byte> input, Span<byte> output, out int consumed, out int written)
    {
        consumed = written = 0;
        bool refused = false;
        void* state = BrotliDecoderCreateInstance(&Allocate, &Free, &refused);
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
            && BrotliDecoderGetErrorCode(state) is <= BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES
                and >= BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES)
            result = refused ? BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT : -Errno.ENOMEM;
        BrotliDecoderDestroyInstance(state);
        return result;
    }

    [UnmanagedCallersOnly]
    private static void* Allocate(void* refused, nuint size)
    {
        if (size > MostAtOnce)
        {
            *(bool*)refused = true;
            return null;
        }
        try
        {
            return NativeMemory.Alloc(size);
        }
        catch (OutOfMemoryException)
        {
            // No exception may propagate into C.
            return null;
        }
    }

    [UnmanagedCallersOnly]
    private static void Free(void* refused, void* address) => NativeMemory.Free(address);

    [DllImport("libbrotlidec")]
    private static extern void* BrotliDecoderCreateInstance(
        delegate* unmanaged<void*, nuint, void*> alloc_func, delegate* unmanaged<void*, void*, void> free_func, void* opaque);

    [DllImport("libbrotlidec")]
    private static extern int BrotliDecoderDecompressStream(
        void* state, nuint* available_in, byte** next_in, nuint* available_out, byte** next_out, nuint* total_out);

    [DllImport("libbrotlidec")]
    private static extern int BrotliDecoderGetErrorCode(void* state);

    [DllImport("libbrotlidec")]
    private static extern void BrotliDecoderDestroyInstance(void* state);
}
