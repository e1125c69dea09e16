using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The location of a source's bytes on the base.</summary>
public sealed class StorageMapTests
{
    [Fact]
    public void Every_byte_of_a_source_is_found_on_the_base_in_any_order_of_ranges()
    {
        for (int seed = 1; seed <= 300; seed++)
        {
            Random random = new(seed);
            SharedRange[] ranges =
            [
                .. Enumerable.Range(0, random.Next(6)).Select(_ => new SharedRange(random.Next(20) * 512L, random.Next(20) * 512L,
                    (1 + random.Next(8)) * (seed % 5 == 0 ? 500L : 512L))),
            ];
            StorageMap map = new(ranges);
            for (int tries = 0; tries < 30; tries++)
            {
                long from = random.Next(30 * 512), length = 1 + random.Next(4096), to = random.Next(30) * 512;
                SortedSet<(long Byte, long On)> due = [], found = [];
                foreach (SharedRange range in ranges)
                    for (long at = Math.Max(from, range.SourceOffset);
                        at < Math.Min(from + length, range.SourceOffset + range.Length); at++)
                        due.Add((at, at - range.SourceOffset + range.BaseOffset));
                for (int cursor = 0; map.Next(from, length, ref cursor, out SharedRange part);)
                    for (long i = 0; i < part.Length; i++) found.Add((part.SourceOffset + i, part.BaseOffset + i));
                Assert.True(due.SetEquals(found), $"seed {seed}: {string.Join(' ', ranges)}, bytes {from} to {from + length}");
                bool exact = due.Count == length && due.All(pair => pair.On - pair.Byte == to - from);
                Assert.Equal(exact, map.LiesExactlyAt(from, length, to));
            }
        }
    }

    [Fact]
    public void Block_across_two_contiguous_ranges_is_found_at_its_exact_place()
    {
        StorageMap map = new([new SharedRange(4608, 8704, 4096), new SharedRange(0, 4096, 4608)]);
        Assert.True(map.LiesExactlyAt(4096, 4096, 8192));
        Assert.False(map.LiesExactlyAt(4096, 4096, 4096));
        Assert.False(map.LiesExactlyAt(8192, 4096, 12288));
    }

    [Theory]
    [InlineData(0, 0, 0)]
    [InlineData(-512, 0, 512)]
    [InlineData(0, 512, long.MaxValue - 511)]
    public void A_range_that_is_empty_or_beyond_all_offsets_is_refused(long source, long target, long length) =>
        Assert.Throws<ArgumentException>(() => new StorageMap([new SharedRange(source, target, length)]));

    [Fact]
    public void Offsets_beyond_a_pebibyte_are_kept()
    {
        const long Far = (1L << 60) + 512;
        StorageMap map = new([new SharedRange(Far, 512, 8192), new SharedRange(512, Far, 8192)]);
        int cursor = 0;
        Assert.True(map.Next(Far + 100, 4096, ref cursor, out SharedRange part));
        Assert.Equal(new SharedRange(Far + 100, 612, 4096), part);
        Assert.True(map.LiesExactlyAt(512, 4096, Far));
    }

    [Fact]
    public void Range_with_invalid_offsets_is_refused_by_name_and_the_longest_is_accepted()
    {
        foreach (SharedRange range in (SharedRange[])[new(-1, 0, 512), new(0, -1, 512), new(0, 0, -1), new(512, 0, long.MaxValue - 511)])
        {
            ArgumentException refused = Assert.Throws<ArgumentException>(() => new StorageMap([range]));
            Assert.Equal("ranges", refused.ParamName);
            Assert.StartsWith($"{range} is not a range of bytes", refused.Message, StringComparison.Ordinal);
        }
        Assert.True(new StorageMap([new SharedRange(0, 512, long.MaxValue - 512)]).LiesExactlyAt(0, 512, 512));
        Assert.True(new StorageMap([new SharedRange(512, 0, long.MaxValue - 512)]).LiesExactlyAt(512, 512, 0));
        Assert.True(new StorageMap([new SharedRange(0, 0, 1)]).LiesExactlyAt(0, 1, 0));
    }

    /// <summary>All ranges that the map finds in the bytes [from, +length).</summary>
    private static List<SharedRange> Parts(StorageMap map, long from, long length)
    {
        List<SharedRange> parts = [];
        for (int cursor = 0; map.Next(from, length, ref cursor, out SharedRange part);) parts.Add(part);
        return parts;
    }

    [Fact]
    public void Single_bytes_at_both_ends_are_found_and_empty_parts_are_not()
    {
        // The second range lies inside the first, so the ends do not ascend.
        StorageMap map = new([new SharedRange(10, 100, 20), new SharedRange(12, 300, 3), new SharedRange(40, 500, 5)]);
        Assert.Equal([new SharedRange(10, 100, 1)], Parts(map, 5, 6));
        Assert.Empty(Parts(map, 5, 5));
        Assert.Equal([new SharedRange(29, 119, 1)], Parts(map, 29, 8));
        Assert.Empty(Parts(map, 30, 8));
        Assert.Equal([new SharedRange(14, 104, 6), new SharedRange(14, 302, 1)], Parts(map, 14, 6));
        Assert.Equal([new SharedRange(15, 105, 6)], Parts(map, 15, 6));
        Assert.Equal([new SharedRange(11, 101, 2), new SharedRange(12, 300, 1)], Parts(map, 11, 2));
        Assert.Equal([new SharedRange(44, 504, 1)], Parts(map, 44, 9));
        Assert.Empty(Parts(map, 45, 9));
        Assert.Equal([new SharedRange(29, 119, 1), new SharedRange(40, 500, 1)], Parts(map, 29, 12));
    }

    [Fact]
    public void Ranges_with_a_byte_between_them_stay_two()
    {
        Assert.Equal([new SharedRange(0, 100, 10), new SharedRange(11, 111, 10)],
            Parts(new([new SharedRange(11, 111, 10), new SharedRange(0, 100, 10)]), 0, 50));
        Assert.Equal([new SharedRange(0, 100, 20)], Parts(new([new SharedRange(10, 110, 10), new SharedRange(0, 100, 10)]), 0, 50));
        // One range inside the other.
        Assert.Equal([new SharedRange(0, 100, 20)], Parts(new([new SharedRange(5, 105, 2), new SharedRange(0, 100, 20)]), 0, 50));
    }
}
