using System;
using System.Collections.Generic;
using System.Numerics;
using System.Runtime.InteropServices;
using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>
/// The blocks of the old image by hash: sorted by hash and then by block, so that a binary search finds the nearest of a million equal
/// blocks. Divided into buckets by the hash's highest bits. Takes 12 bytes per block that is not zero, and at most 1 for the buckets.
/// </summary>
internal sealed class SourceIndex : IDisposable
{
    [StructLayout(LayoutKind.Sequential, Pack = 4)]
    private readonly record struct Entry(ulong Hash, uint Block);

    private readonly struct ByHashThenBlock : IComparer<Entry>
    {
        public int Compare(Entry a, Entry b) => a.Hash != b.Hash ? a.Hash.CompareTo(b.Hash) : a.Block.CompareTo(b.Block);
    }

    private readonly NativeArray<Entry> _entries;
    private readonly NativeArray<uint> _starts;
    private readonly int _shift;

    /// <summary>Builds the index from the hash of every block; blocks with hash 0 are left out.</summary>
    public SourceIndex(NativeTally tally, NativeArray<ulong> hashes)
    {
        long count = 0;
        for (long i = 0; i < hashes.Length; i++)
            if (hashes[i] != 0) count++;
        // Entries are counted in 32 bits. An image of 16 TiB without a block of zeros has one entry too many.
        if (count > uint.MaxValue)
            throw new SnapuserdException(ExitCode.OutOfResources, $"{count} blocks of the old image are more than can be looked up");
        // Four to eight entries per bucket: a binary search in a bucket touches one or two cache lines, and the buckets take at most 1 byte
        // per block.
        int bits = count < 16 ? 2 : BitOperations.Log2((ulong)count) - 2;
        _shift = 64 - bits;
        _entries = new NativeArray<Entry>(tally, count, "the index of the old image");
        _starts = new NativeArray<uint>(tally, (1L << bits) + 1, "the index of the old image");
        Fill(hashes);
        SortBuckets();
    }

    /// <summary>
    /// The block with this hash that is nearest to <paramref name="near"/>, or the lower of two at the same distance; -1 if there is none.
    /// A <paramref name="rank"/> of 1 gives the second nearest, and so on, so that a caller can continue after a collision.
    /// </summary>
    public long Nearest(ulong hash, long near, int rank)
    {
        long bucket = (long)(hash >> _shift);
        long first = LowerBound(_starts[bucket], _starts[bucket + 1], hash, 0);
        long end = _starts[bucket + 1];
        if (first == end || _entries[first].Hash != hash) return -1;
        long above = LowerBound(first, end, hash, near), below = above - 1;
        while (true)
        {
            bool hasAbove = above < end && _entries[above].Hash == hash, hasBelow = below >= first;
            if (!hasAbove && !hasBelow) return -1;
            bool takeBelow = hasBelow && (!hasAbove || near - _entries[below].Block <= _entries[above].Block - near);
            long found = takeBelow ? _entries[below--].Block : _entries[above++].Block;
            if (rank-- == 0) return found;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _entries.Dispose();
        _starts.Dispose();
    }

    private void Fill(NativeArray<ulong> hashes)
    {
        // A counting sort by bucket. First counts bucket b in _starts[b + 2]. After the summation, _starts[b + 1] is the start of b. When
        // all entries are stored, it is the end of b.
        for (long i = 0; i < hashes.Length; i++)
            if (hashes[i] != 0 && (hashes[i] >> _shift) + 2 < (ulong)_starts.Length) _starts[(long)(hashes[i] >> _shift) + 2]++;
        for (long b = 2; b < _starts.Length; b++) _starts[b] += _starts[b - 1];
        for (long i = 0; i < hashes.Length; i++)
            if (hashes[i] != 0) _entries[_starts[(long)(hashes[i] >> _shift) + 1]++] = new Entry(hashes[i], (uint)i);
    }

    private void SortBuckets()
    {
        for (long b = 0; b + 1 < _starts.Length; b++)
        {
            long count = _starts[b + 1] - _starts[b];
            if (count > int.MaxValue)
                throw new SnapuserdException(ExitCode.OutOfResources,
                    $"{count} blocks of the old image have hashes that are too much alike");
            if (count > 1) _entries.Slice(_starts[b], (int)count).Sort(default(ByHashThenBlock));
        }
    }

    /// <summary>The first entry in the range that is not below the hash and block.</summary>
    private long LowerBound(long low, long high, ulong hash, long block)
    {
        while (low < high)
        {
            long middle = (low + high) >>> 1;
            Entry entry = _entries[middle];
            if (entry.Hash < hash || (entry.Hash == hash && entry.Block < block)) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}
