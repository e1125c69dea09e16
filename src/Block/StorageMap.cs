using System;

namespace Snapuserd.Block;

/// <summary>
/// Maps the bytes of a source to a base that shares storage with it. Ranges may come in any order and with any shift, and several source
/// ranges may lie on one base range. Immutable.
/// </summary>
public sealed class StorageMap
{
    // Ascending by source offset; adjacent ranges with one shift are merged.
    private readonly SharedRange[] _ranges;

    // The highest source end of all ranges up to this one: ranges may overlap on the source.
    private readonly long[] _ends;

    /// <summary>
    /// A map of <paramref name="ranges"/>. Throws an argument exception for a range that is empty or exceeds the largest offset.
    /// </summary>
    public StorageMap(ReadOnlySpan<SharedRange> ranges)
    {
        SharedRange[] sorted = ranges.ToArray();
        foreach (SharedRange range in sorted)
        {
            bool fits = range is { SourceOffset: >= 0, BaseOffset: >= 0, Length: > 0 }
                && range.Length <= long.MaxValue - Math.Max(range.SourceOffset, range.BaseOffset);
            if (!fits) throw new ArgumentException($"{range} is not a range of bytes", nameof(ranges));
        }
        Array.Sort(sorted, (a, b) => a.Shift != b.Shift ? a.Shift.CompareTo(b.Shift) : a.SourceOffset.CompareTo(b.SourceOffset));
        int count = 0;
        foreach (SharedRange range in sorted)
        {
            if (count > 0 && sorted[count - 1] is var last && last.Shift == range.Shift && range.SourceOffset <= last.SourceEnd)
                sorted[count - 1] = last with { Length = Math.Max(last.SourceEnd, range.SourceEnd) - last.SourceOffset };
            else
                sorted[count++] = range;
        }
        _ranges = sorted[..count];
        Array.Sort(_ranges, (a, b) => a.SourceOffset.CompareTo(b.SourceOffset));
        _ends = new long[count];
        long end = 0;
        for (int i = 0; i < count; i++) _ends[i] = end = Math.Max(end, _ranges[i].SourceEnd);
    }

    /// <summary>
    /// The next part of the source bytes [<paramref name="from"/>, +<paramref name="length"/>) that lies on the base.
    /// <paramref name="cursor"/> must be 0 in the first call. False when there are no more parts.
    /// </summary>
    public bool Next(long from, long length, ref int cursor, out SharedRange part)
    {
        // The cursor is one more than the index of the range that the last call returned.
        int at = cursor > 0 ? cursor : FirstThatEndsAfter(from);
        for (; at < _ranges.Length && _ranges[at].SourceOffset < from + length; at++)
        {
            SharedRange range = _ranges[at];
            long start = Math.Max(from, range.SourceOffset), end = Math.Min(from + length, range.SourceEnd);
            if (start >= end) continue;
            part = new SharedRange(start, start + range.Shift, end - start);
            cursor = at + 1;
            return true;
        }
        part = default;
        return false;
    }

    /// <summary>
    /// All of the source bytes [<paramref name="from"/>, +<paramref name="length"/>) lie on the base from <paramref name="to"/> on, and
    /// nowhere else.
    /// </summary>
    public bool LiesExactlyAt(long from, long length, long to)
    {
        int cursor = 0;
        return Next(from, length, ref cursor, out SharedRange part)
            && part == new SharedRange(from, to, length)
            && !Next(from, length, ref cursor, out _);
    }

    private int FirstThatEndsAfter(long offset)
    {
        int low = 0, high = _ends.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (_ends[middle] <= offset) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}
