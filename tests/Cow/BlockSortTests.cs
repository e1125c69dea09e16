using System;
using System.Linq;
using Snapuserd.Cow;
using Xunit;

namespace Snapuserd.Tests.Cow;

public sealed class BlockSortTests
{
    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 7)]
    [InlineData(1023, 1 << 20)]
    [InlineData(1024, 1 << 20)]
    [InlineData(70_000, 1 << 17)]
    [InlineData(70_000, 40)]
    [InlineData(50_000, 1)]
    [InlineData(2, 1)]
    [InlineData(1023, 1)]
    [InlineData(50_000, int.MaxValue)]
    public void Keys_with_any_blocks_are_sorted_ascending(int count, int blocks)
    {
        foreach (int seed in new[] { 1, 2, 3 })
        {
            Random random = new(seed);
            ulong[] keys = new ulong[count];
            for (int i = 0; i < count; i++) keys[i] = ((ulong)(uint)(random.Next(blocks) * 2L) << 32) | (uint)i;
            ulong[] expected = [.. keys.Order()];
            BlockSort.Sort(keys);
            Assert.Equal(expected, keys);
            BlockSort.Sort(keys);
            Assert.Equal(expected, keys);
            // Swaps two consecutive keys.
            for (int i = 1; i < count; i++)
            {
                if (expected[i] != expected[i - 1] + 1) continue;
                (keys[i - 1], keys[i]) = (keys[i], keys[i - 1]);
                break;
            }
            BlockSort.Sort(keys);
            Assert.Equal(expected, keys);
            Array.Reverse(keys);
            BlockSort.Sort(keys);
            Assert.Equal(expected, keys);
        }
    }
}
