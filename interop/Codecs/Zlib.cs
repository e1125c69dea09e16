using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// One inflate stream of zlib 1.2 or later, made once and reset for each unit. The C structure is in unmanaged memory because zlib keeps
/// a pointer back to it. Not thread-safe.
/// </summary>
[LibraryHeader("zlib.h")]
public sealed unsafe class Zlib : IDisposable
{
    public const int Z_OK = 0;
    public const int Z_STREAM_END = 1;
    public const int Z_NEED_DICT = 2;
    public const int Z_DATA_ERROR = -3;
    public const int Z_MEM_ERROR = -4;
    public const int Z_BUF_ERROR = -5;
    private const int Z_FINISH = 4;

    private ZStream* _stream;

    /// <summary>z_stream of zlib.h on a 64-bit machine; <see cref="Create"/> passes its size, which zlib checks.</summary>
    [CType("z_stream")]
    [LibraryHeader("zlib.h")]
    [StructLayout(LayoutKind.Sequential)]
    internal struct ZStream
    {
        public byte* next_in;
        public uint avail_in;
        public nuint total_in;
        public byte* next_out;
        public uint avail_out;
        public nuint total_out;
        public byte* msg;
        public void* state;
        public void* zalloc;
        public void* zfree;
        public void* opaque;
        public int data_type;
        public nuint adler;
        public nuint reserved;
    }

    private Zlib(ZStream* stream) => _stream = stream;

    /// <summary>
    /// Makes an inflate stream for the zlib framing. Returns 0, -ENOMEM, or -EINVAL for an incompatible zlib. After an error,
    /// <paramref name="zlib"/> is null.
    /// </summary>
    public static int Create(out Zlib? zlib)
    {
        zlib = null;
        ZStream* stream = (ZStream*)NativeMemory.AllocZeroed((nuint)sizeof(ZStream));
        // zlib compares only the first character of the version, and the size of the structure.
        byte* version = stackalloc byte[] { (byte)'1', 0 };
        int result = inflateInit_(stream, version, sizeof(ZStream));
        if (result != Z_OK)
        {
            NativeMemory.Free(stream);
            return result == Z_MEM_ERROR ? -Errno.ENOMEM : -Errno.EINVAL;
        }
        zlib = new Zlib(stream);
        return 0;
    }

    /// <summary>
    /// Inflates one whole stream. Returns zlib's own result: <see cref="Z_STREAM_END"/> when the stream ended and its checksum is right,
    /// <see cref="Z_BUF_ERROR"/> when the input or the output buffer was exhausted first, or another error.
    /// </summary>
    public int Inflate(ReadOnlySpan<byte> input, Span<byte> output, out int consumed, out int written)
    {
        ObjectDisposedException.ThrowIf(_stream == null, this);
        int result = inflateReset(_stream);
        if (result == Z_OK)
        {
            fixed (byte* from = input)
            fixed (byte* to = output)
            {
                _stream->next_in = from;
                _stream->avail_in = (uint)input.Length;
                _stream->next_out = to;
                _stream->avail_out = (uint)output.Length;
                result = inflate(_stream, Z_FINISH);
            }
        }
        consumed = input.Length - (int)_stream->avail_in;
        written = output.Length - (int)_stream->avail_out;
        return result;
    }

    /// <summary>
    /// Continues a CRC-32 (IEEE 802.3): <paramref name="crc"/> is that of the bytes before <paramref name="bytes"/>, 0 if there are none.
    /// Returns the CRC of all of them.
    /// </summary>
    public static uint Crc32(uint crc, ReadOnlySpan<byte> bytes)
    {
        // A null pointer would request the initial value, which is 0.
        if (bytes.IsEmpty) return crc;
        fixed (byte* start = bytes) return (uint)crc32(crc, start, (uint)bytes.Length);
    }

    /// <summary>Frees the stream.</summary>
    public void Dispose()
    {
        if (_stream == null) return;
        _ = inflateEnd(_stream);
        NativeMemory.Free(_stream);
        _stream = null;
        GC.SuppressFinalize(this);
    }

    /// <summary>Finalizer, for a stream that was never disposed.</summary>
    ~Zlib() => Dispose();

    [DllImport("libz")]
    private static extern nuint crc32(nuint crc, byte* buf, uint len);

    [DllImport("libz")]
    private static extern int inflateInit_(ZStream* strm, byte* version, int stream_size);

    [DllImport("libz")]
    private static extern int inflateReset(ZStream* strm);

    [DllImport("libz")]
    private static extern int inflate(ZStream* strm, int flush);

    [DllImport("libz")]
    private static extern int inflateEnd(ZStream* strm);
}
