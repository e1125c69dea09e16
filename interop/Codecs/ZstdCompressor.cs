using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// One zstd compression context, reused for each unit. By the library's defaults, a frame contains its content size, and neither a checksum
/// nor a reference to a dictionary. Not thread-safe.
/// </summary>
[LibraryHeader("zstd.h")]
public sealed unsafe class ZstdCompressor : IDisposable
{
    [CName("ZSTD_c_compressionLevel")]
    private const int CompressionLevel = 100;
    [CName("ZSTD_c_windowLog")]
    private const int WindowLog = 101;

    private void* _context;

    private ZstdCompressor(void* context) => _context = context;

    /// <summary>The lowest level, far below 0; lower levels are faster.</summary>
    public static int MinLevel => ZSTD_minCLevel();

    /// <summary>The highest level.</summary>
    public static int MaxLevel => ZSTD_maxCLevel();

    /// <summary>
    /// Makes a context for <paramref name="level"/> and a window of 2^<paramref name="windowLog"/> bytes. Returns 0, -ENOMEM, or -EINVAL
    /// for a parameter that zstd rejects.
    /// </summary>
    public static int Create(int level, int windowLog, out ZstdCompressor? zstd)
    {
        zstd = null;
        void* context = ZSTD_createCCtx();
        if (context == null) return -Errno.ENOMEM;
        if (ZSTD_isError(ZSTD_CCtx_setParameter(context, CompressionLevel, level)) != 0
            || ZSTD_isError(ZSTD_CCtx_setParameter(context, WindowLog, windowLog)) != 0)
        {
            _ = ZSTD_freeCCtx(context);
            return -Errno.EINVAL;
        }
        zstd = new ZstdCompressor(context);
        return 0;
    }

    /// <summary>Compresses <paramref name="input"/> to one frame. Returns the length of the frame, or zstd's negative error code.</summary>
    public int Compress(ReadOnlySpan<byte> input, Span<byte> output)
    {
        ObjectDisposedException.ThrowIf(_context == null, this);
        fixed (byte* from = input)
        fixed (byte* to = output)
        {
            // An error is the negated code in a size_t, so the cast restores it; sizes are below 2^31 because spans are.
            return (int)(nint)ZSTD_compress2(_context, to, (nuint)output.Length, from, (nuint)input.Length);
        }
    }

    /// <summary>Frees the context.</summary>
    public void Dispose()
    {
        if (_context == null) return;
        _ = ZSTD_freeCCtx(_context);
        _context = null;
        GC.SuppressFinalize(this);
    }

    /// <summary>Finalizer, for a context that was never disposed.</summary>
    ~ZstdCompressor() => Dispose();

    [DllImport("libzstd")]
    private static extern void* ZSTD_createCCtx();

    [DllImport("libzstd")]
    private static extern nuint ZSTD_CCtx_setParameter(void* cctx, int param, int value);

    [DllImport("libzstd")]
    private static extern nuint ZSTD_compress2(void* cctx, byte* dst, nuint dstCapacity, byte* src, nuint srcSize);

    [DllImport("libzstd")]
    private static extern uint ZSTD_isError(nuint code);

    [DllImport("libzstd")]
    private static extern nuint ZSTD_freeCCtx(void* cctx);

    [DllImport("libzstd")]
    private static extern int ZSTD_minCLevel();

    [DllImport("libzstd")]
    private static extern int ZSTD_maxCLevel();
}
