using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>Reads small records of a source through a buffer, so that a million of them take a few hundred reads.</summary>
internal sealed class ByteWindow(IByteSource source)
{
    /// <summary>
    /// Bytes per read. A larger buffer is not measurably faster: a million ops are 16 MiB, which take 256 reads. A smaller one needs more
    /// system calls.
    /// </summary>
    private const int Size = 64 * 1024;

    private readonly byte[] _buffer = new byte[Size];
    private long _start;
    private int _valid;

    /// <summary>
    /// Returns <paramref name="length"/> bytes at <paramref name="offset"/>. The range must lie inside the file. If it is not in the
    /// buffer, reads up to <paramref name="ahead"/> bytes from <paramref name="offset"/> on. The span is valid until the next call.
    /// </summary>
    public ReadOnlySpan<byte> At(long offset, int length, long ahead = Size)
    {
        if (offset < _start || offset + length > _start + _valid)
        {
            _valid = 0;
            _start = offset;
            int count = (int)Math.Min(Math.Min(Size, Math.Max(ahead, length)), source.Length - offset);
            source.Read(offset, _buffer.AsSpan(0, count));
            _valid = count;
        }
        return _buffer.AsSpan((int)(offset - _start), length);
    }
}
