using System;
using System.Numerics;

namespace Snapuserd.Cow;

/// <summary>
/// Sorts keys whose upper 32 bits are block numbers. First distributes the keys in place into buckets by the leading bits of their blocks.
/// Then sorts each bucket, which has a few hundred keys, by comparison. A comparison sort of all keys took half the time of opening a COW
/// of a million ops.
/// </summary>
public static class BlockSort
{
    /// <summary>2048 buckets: their counts fit the first-level cache, and a million keys give buckets of 500.</summary>
    private const int BucketBits = 11;
    private const int Buckets = 1 << BucketBits;

    /// <summary>Below this number, sorting all keys is faster than counting the buckets.</summary>
    private const int FewKeys = 1024;

    /// <summary>Sorts by the whole key, ascending.</summary>
    public static void Sort(Span<ulong> keys)
    {
        if (IsSorted(keys, out ulong most)) return;
        if (keys.Length < FewKeys)
        {
            keys.Sort();
            return;
        }

        int shift = Math.Max(0, 64 - BitOperations.LeadingZeroCount(most) - BucketBits);
        Span<int> ends = stackalloc int[Buckets];
        CountKeys(keys, shift, ends);
        Span<int> next = stackalloc int[Buckets];
        int start = 0;
        for (int bucket = 0; bucket < Buckets; bucket++)
        {
            next[bucket] = start;
            start = ends[bucket] += start;
        }
        Distribute(keys, shift, next, ends);
        start = 0;
        for (int bucket = 0; bucket < Buckets; bucket++)
        {
            keys[start..ends[bucket]].Sort();
            start = ends[bucket];
        }
    }

    private static bool IsSorted(ReadOnlySpan<ulong> keys, out ulong most)
    {
        most = 0;
        bool sorted = true;
        for (int i = 0; i < keys.Length; i++)
        {
            sorted &= i == 0 || keys[i - 1] <= keys[i];
            most = Math.Max(most, keys[i]);
        }
        return sorted;
    }

    private static void CountKeys(ReadOnlySpan<ulong> keys, int shift, Span<int> counts)
    {
        counts.Clear();
        foreach (ulong key in keys) counts[(int)(key >> shift)]++;
    }

    /// <summary>
    /// Moves every key into its bucket. For each bucket, <paramref name="next"/> has the index of its next free place, and
    /// <paramref name="ends"/> the index after its last place.
    /// </summary>
    private static void Distribute(Span<ulong> keys, int shift, Span<int> next, ReadOnlySpan<int> ends)
    {
        for (int bucket = 0; bucket < Buckets; bucket++)
        {
            // Every swap puts one key into its final bucket.
            while (next[bucket] < ends[bucket])
            {
                ref ulong here = ref keys[next[bucket]];
                int own = (int)(here >> shift);
                int to = next[own]++;
                if (own != bucket) (here, keys[to]) = (keys[to], here);
            }
        }
    }
}
