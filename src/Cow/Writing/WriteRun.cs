using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>Collects consecutive writes, so that many small ones reach the output as few large ones, in order.</summary>
internal sealed class WriteRun(ICowOutput output, Arena arena, Slice buffer)
{
    private long _start;
    private int _count;

    /// <summary>
    /// Adds <paramref name="bytes"/> at <paramref name="offset"/>. If they do not follow the collected bytes, those are written first.
    /// </summary>
    public void Add(long offset, ReadOnlySpan<byte> bytes)
    {
        if (offset != _start + _count) Send();
        while (bytes.Length > 0)
        {
            if (_count == 0) _start = offset;
            int take = Math.Min(buffer.Length - _count, bytes.Length);
            bytes[..take].CopyTo(arena[buffer.Part(_count, take)]);
            _count += take;
            offset += take;
            bytes = bytes[take..];
            if (_count == buffer.Length) Send();
        }
    }

    /// <summary>Adds zeros.</summary>
    public void AddZeros(long offset, long count)
    {
        ReadOnlySpan<byte> zeros = stackalloc byte[CowOp.BlockSize];
        for (; count > 0; count -= Math.Min(count, CowOp.BlockSize), offset += CowOp.BlockSize)
            Add(offset, zeros[..(int)Math.Min(count, CowOp.BlockSize)]);
    }

    /// <summary>Writes the collected bytes.</summary>
    public void Send()
    {
        int count = _count;
        // Cleared first: after a failure no byte may be written a second time.
        _count = 0;
        if (count > 0) output.Write(_start, arena[buffer.Part(0, count)]);
    }
}
