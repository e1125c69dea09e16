using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>Reads the required part of a window of the new image.</summary>
internal static class PendingWindow
{
    /// <summary>
    /// Reads the blocks from the first to the last pending one of <paramref name="changes"/>, which begin at block
    /// <paramref name="start"/>, each to its place in <paramref name="buffer"/>. The rest of the buffer is unchanged.
    /// </summary>
    public static Span<byte> Read(IImageReader image, long start, ReadOnlySpan<PackedChange> changes, Span<byte> buffer)
    {
        int first = 0, end = changes.Length;
        while (first < end && !changes[first].IsPending) first++;
        while (end > first && !changes[end - 1].IsPending) end--;
        if (end > first) image.Read((start + first) * CowOp.BlockSize, buffer[(first * CowOp.BlockSize)..(end * CowOp.BlockSize)]);
        return buffer;
    }
}
