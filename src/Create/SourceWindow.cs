using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Reads blocks of the old image at any byte offset. Within a run it reads ahead. Otherwise it reads only the requested block, because 1
/// MiB per block would be too much for blocks in scattered order.
/// </summary>
internal struct SourceWindow(IImageReader image)
{
    private long _start;
    private long _end;

    /// <summary>
    /// 4096 bytes at <paramref name="offset"/>, which must lie inside the image. They are in <paramref name="buffer"/> until the next call.
    /// </summary>
    public ReadOnlySpan<byte> Read(Span<byte> buffer, long offset)
    {
        if (offset < _start || offset + CowOp.BlockSize > _end)
        {
            bool continues = offset >= _start && offset <= _end;
            // At most the buffer's length. Doubles with each read of a run, so that a short run costs little.
            long length = continues ? Math.Clamp((_end - _start) * 2, 4 * CowOp.BlockSize, buffer.Length) : CowOp.BlockSize;
            length = Math.Min(length, image.Length - offset);
            _start = _end = 0;
            image.Read(offset, buffer[..(int)length]);
            (_start, _end) = (offset, offset + length);
        }
        return buffer.Slice((int)(offset - _start), CowOp.BlockSize);
    }
}
