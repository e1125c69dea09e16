using System;
using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// One zstd decompression context, about 160 KiB, reused for each unit. Whole-buffer decompression writes directly into the output and
/// keeps no window of its own, so a frame that declares a huge window costs no memory. Not thread-safe.
/// </summary>
[LibraryHeader("zstd.h")]
[LibraryHeader("zstd_errors.h")]
public sealed unsafe class Zstd : IDisposable
{
    /// <summary>ZSTD_error_prefix_unknown of zstd_errors.h, negated: the input is not a frame, or is a frame of zstd before 0.8.</summary>
    [CName("-(int)ZSTD_error_prefix_unknown")]
    public const int PrefixUnknown = -10;
    /// <summary>ZSTD_error_dstSize_tooSmall, negated.</summary>
    [CName("-(int)ZSTD_error_dstSize_tooSmall")]
    public const int DestinationTooSmall = -70;
    /// <summary>ZSTD_error_srcSize_wrong, negated: the input ends early, or data follows the frame.</summary>
    [CName("-(int)ZSTD_error_srcSize_wrong")]
    public const int SourceSizeWrong = -72;

    /// <summary>Magics of zstd 0.2 to 0.7 (zstd_v02.h to zstd_v07.h), just below the current one.</summary>
    private const uint FirstLegacyMagic = 0xFD2FB522, LastLegacyMagic = 0xFD2FB527;

    private void* _context;

    private Zstd(void* context) => _context = context;

    /// <summary>Makes a context. Returns 0, or -ENOMEM with <paramref name="zstd"/> null.</summary>
    public static int Create(out Zstd? zstd)
    {
        void* context = ZSTD_createDCtx();
        zstd = context == null ? null : new Zstd(context);
        return context == null ? -Errno.ENOMEM : 0;
    }

    /// <summary>
    /// Decodes whole frames, all of <paramref name="input"/>. Returns the number of bytes written, or zstd's negative error code. Needs no
    /// memory besides the context. Frames of zstd before 0.8 are rejected, even if the linked library supports them.
    /// </summary>
    public int Decompress(ReadOnlySpan<byte> input, Span<byte> output)
    {
        ObjectDisposedException.ThrowIf(_context == null, this);
        if (input.Length >= 4 && BinaryPrimitives.ReadUInt32LittleEndian(input) is >= FirstLegacyMagic and <= LastLegacyMagic)
            return PrefixUnknown;
        fixed (byte* from = input)
        fixed (byte* to = output)
        {
            // An error is the negated code in a size_t, so the cast restores it; sizes are below 2^31 because spans are.
            nuint result = ZSTD_decompressDCtx(_context, to, (nuint)output.Length, from, (nuint)input.Length);
            return (int)(nint)result;
        }
    }

    /// <summary>Frees the context.</summary>
    public void Dispose()
    {
        if (_context == null) return;
        _ = ZSTD_freeDCtx(_context);
        _context = null;
        GC.SuppressFinalize(this);
    }

    /// <summary>Finalizer, for a context that was never disposed.</summary>
    ~Zstd() => Dispose();

    [DllImport("libzstd")]
    private static extern void* ZSTD_createDCtx();

    [DllImport("libzstd")]
    private static extern nuint ZSTD_decompressDCtx(void* dctx, byte* dst, nuint dstCapacity, byte* src, nuint srcSize);

    [DllImport("libzstd")]
    private static extern nuint ZSTD_freeDCtx(void* dctx);
}
