using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// One deflate stream of zlib 1.2 or later (zlib framing, window 15, memLevel 8, as compress2 uses), made once and reset for each unit.
/// The C structure is in unmanaged memory because zlib keeps a pointer back to it. Not thread-safe.
/// </summary>
[LibraryHeader("zlib.h")]
public sealed unsafe class ZlibDeflate : IDisposable
{
    private const int Z_OK = 0;
    private const int Z_STREAM_END = 1;
    private const int Z_MEM_ERROR = -4;
    private const int Z_FINISH = 4;

    private Zlib.ZStream* _stream;

    private ZlibDeflate(Zlib.ZStream* stream) => _stream = stream;

    /// <summary>
    /// Makes a stream of <paramref name="level"/> 0 to 9. Returns 0, -ENOMEM, or -EINVAL for an invalid level or an incompatible zlib.
    /// After an error, <paramref name="deflate"/> is null.
    /// </summary>
    public static int Create(int level, out ZlibDeflate? deflate)
    {
        deflate = null;
        Zlib.ZStream* stream = (Zlib.ZStream*)NativeMemory.AllocZeroed((nuint)sizeof(Zlib.ZStream));
        // zlib compares only the first character of the version, and the size of the structure.
        byte* version = stackalloc byte[] { (byte)'1', 0 };
        int result = deflateInit_(stream, level, version, sizeof(Zlib.ZStream));
        if (result != Z_OK)
        {
            NativeMemory.Free(stream);
            return result == Z_MEM_ERROR ? -Errno.ENOMEM : -Errno.EINVAL;
        }
        deflate = new ZlibDeflate(stream);
        return 0;
    }

    /// <summary>
    /// Compresses <paramref name="input"/> to one whole stream. Returns the length of the stream, -ENOSPC if it does not fit, or -EIO if
    /// zlib fails.
    /// </summary>
    public int Compress(ReadOnlySpan<byte> input, Span<byte> output)
    {
        ObjectDisposedException.ThrowIf(_stream == null, this);
        if (deflateReset(_stream) != Z_OK) return -Errno.EIO;
        fixed (byte* from = input)
        fixed (byte* to = output)
        {
            _stream->next_in = from;
            _stream->avail_in = (uint)input.Length;
            _stream->next_out = to;
            _stream->avail_out = (uint)output.Length;
            int result = deflate(_stream, Z_FINISH);
            if (result == Z_STREAM_END) return output.Length - (int)_stream->avail_out;
            return _stream->avail_out == 0 ? -Errno.ENOSPC : -Errno.EIO;
        }
    }

    /// <summary>Frees the stream.</summary>
    public void Dispose()
    {
        if (_stream == null) return;
        _ = deflateEnd(_stream);
        NativeMemory.Free(_stream);
        _stream = null;
        GC.SuppressFinalize(this);
    }

    /// <summary>Finalizer, for a stream that was never disposed.</summary>
    ~ZlibDeflate() => Dispose();

    [DllImport("libz")]
    private static extern int deflateInit_(Zlib.ZStream* strm, int level, byte* version, int stream_size);

    [DllImport("libz")]
    private static extern int deflateReset(Zlib.ZStream* strm);

    [DllImport("libz")]
    private static extern int deflate(Zlib.ZStream* strm, int flush);

    [DllImport("libz")]
    private static extern int deflateEnd(Zlib.ZStream* strm);
}
