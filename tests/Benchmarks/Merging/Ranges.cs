using System;
using System.Collections.Generic;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>Byte ranges of a device.</summary>
internal static class Ranges
{
    /// <summary>The same bytes in ascending order, each once: neighbours and overlaps become one range.</summary>
    internal static List<(long Offset, long Length)> Joined(List<(long Offset, long Length)> ranges)
    {
        ranges.Sort();
        List<(long Offset, long Length)> joined = [];
        foreach ((long offset, long length) in ranges)
        {
            if (joined.Count > 0 && offset <= joined[^1].Offset + joined[^1].Length)
            {
                (long start, long before) = joined[^1];
                joined[^1] = (start, Math.Max(before, offset + length - start));
            }
            else joined.Add((offset, length));
        }
        return joined;
    }

    /// <summary>The total number of bytes.</summary>
    internal static long Sum(List<(long Offset, long Length)> ranges)
    {
        long sum = 0;
        foreach ((long _, long length) in ranges) sum += length;
        return sum;
    }
}
