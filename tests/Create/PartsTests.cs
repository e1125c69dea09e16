using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Create;
using Xunit;

namespace Snapuserd.Tests.Create;

/// <summary>The components of a comparison.</summary>
public sealed class PartsTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(15)]
    [InlineData(16)]
    [InlineData(4096)]
    [InlineData(4099)]
    [InlineData(70000)]
    public void Differing_bytes_are_counted_at_any_position_and_length(int length)
    {
        var random = new Random(length);
        byte[] a = new byte[length], b;
        random.NextBytes(a);
        b = (byte[])a.Clone();
        Assert.Equal(0, DifferenceKernel.Count(a, b));
        for (int i = 0; i < length; i++)
            if (random.Next(3) == 0) b[i] = (byte)random.Next(256);
        Assert.Equal(a.Zip(b).Count(pair => pair.First != pair.Second), DifferenceKernel.Count(a, b));
        Assert.Equal(length, DifferenceKernel.Count(a, a.Select(value => (byte)~value).ToArray()));
    }

    [Fact]
    public void Block_hash_changes_with_every_changed_byte_and_every_swap_of_words()
    {
        byte[] block = new byte[4096];
        new Random(1).NextBytes(block);
        var seen = new HashSet<ulong> { BlockHash.Of(block) };
        for (int i = 0; i < block.Length; i++)
        {
            block[i] ^= 0x80;
            Assert.True(seen.Add(BlockHash.Of(block)), $"the hash does not depend on byte {i}");
            block[i] ^= 0x80;
        }
        for (int i = 0; i + 40 <= block.Length; i += 8)
        {
            byte[] swapped = (byte[])block.Clone();
            block.AsSpan(i, 8).CopyTo(swapped.AsSpan(i + 32));
            block.AsSpan(i + 32, 8).CopyTo(swapped.AsSpan(i));
            Assert.True(seen.Add(BlockHash.Of(swapped)), $"the hash does not change when the words at {i} and {i + 32} are swapped");
        }
        Assert.NotEqual(0ul, BlockHash.Of(new byte[4096]));
    }

    [Fact]
    public void Rolling_hash_depends_on_its_window_and_on_nothing_before()
    {
        byte[] bytes = new byte[1000];
        new Random(2).NextBytes(bytes);
        ulong Hash(int from, int to)
        {
            ulong hash = 0;
            for (int i = from; i < to; i++) hash = GearHash.Roll(GearHash.Words, hash, bytes[i]);
            return hash;
        }
        Assert.Equal(Hash(0, 1000), Hash(1000 - GearHash.Window, 1000));
        Assert.NotEqual(Hash(0, 1000), Hash(1000 - GearHash.Window + 1, 1000) & Hash(0, 999));
        Assert.Equal(256, GearHash.Words.ToArray().Distinct().Count());
    }

    [Fact]
    public void Index_returns_blocks_of_equal_hash_from_the_nearest_to_the_farthest()
    {
        var tally = new NativeTally();
        var random = new Random(3);
        ulong[] values =
            Enumerable.Range(0, 5000).Select(_ => random.Next(4) == 0 ? 0 : BlockHash.Mix((ulong)random.Next(1, 300)) | 1).ToArray();
        using var hashes = new NativeArray<ulong>(tally, values.Length, "test");
        values.CopyTo(hashes.Slice(0, values.Length));
        using (var index = new SourceIndex(tally, hashes))
        {
            for (int i = 0; i < 300; i++)
            {
                ulong hash = BlockHash.Mix((ulong)random.Next(1, 320)) | 1;
                long near = random.Next(6000);
                long[] expected = Enumerable.Range(0, values.Length).Where(block => values[block] == hash)
                    .OrderBy(block => Math.Abs(block - near)).ThenBy(block => block).Select(block => (long)block).Append(-1).ToArray();
                Assert.Equal(expected, Enumerable.Range(0, expected.Length).Select(rank => index.Nearest(hash, near, rank)));
            }
            Assert.InRange(tally.Peak, 1, values.Length * (8 + 12 + 1) + 8);
        }
    }

    [Fact]
    public void Entropy_distinguishes_an_edit_from_noise()
    {
        using var estimator = new EntropyEstimator();
        byte[] block = new byte[4096];
        int zeros = estimator.Cost(block);
        block[7] = 1;
        int edit = estimator.Cost(block);
        for (int i = 0; i < block.Length; i++) block[i] = (byte)"etaoin shrdlu"[i * 7 % 13];
        int text = estimator.Cost(block);
        new Random(4).NextBytes(block);
        int noise = estimator.Cost(block);
        Assert.True(zeros < edit && edit < 64 && edit < text && text < 2200 && text < noise && noise > 4000 && noise <= 4096,
            $"{zeros} {edit} {text} {noise}");
    }
}
