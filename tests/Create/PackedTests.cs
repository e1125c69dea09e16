using System;
using Snapuserd.Cow;
using Snapuserd.Create;
using Xunit;

namespace Snapuserd.Tests.Create;

/// <summary>Values that are packed into fewer bits than their type has: the largest value is kept, and the next one is refused.</summary>
public sealed class PackedTests
{
    private const long Max48 = (1L << 48) - 1;

    [Fact]
    public void Packed_change_keeps_the_largest_value_of_every_field()
    {
        PackedChange copy = PackedChange.Copy(Max48), xor = PackedChange.Xor(Max48, PackedChange.UnknownCost);
        Assert.Equal((CowOpType.Copy, Max48, PackedChange.UnknownCost), (copy.Type, copy.Source, copy.ExtraCost));
        Assert.Equal((CowOpType.Xor, Max48, PackedChange.UnknownCost), (xor.Type, xor.Source, xor.ExtraCost));
        Assert.Equal((Max48 * 4096, Max48, Max48), (copy.SourceByte, copy.FirstRead, copy.LastRead));
        Assert.Equal((Max48, Max48 / 4096, (Max48 / 4096) + 1), (xor.SourceByte, xor.FirstRead, xor.LastRead));
        foreach (int cost in (int[])[0, 4096, PackedChange.UnknownCost])
        {
            PackedChange changed = xor.WithExtraCost(cost);
            Assert.Equal((CowOpType.Xor, Max48, cost), (changed.Type, changed.Source, changed.ExtraCost));
            Assert.True(PackedChange.Pending.WithExtraCost(cost).IsPending);
        }
    }

    [Theory]
    [InlineData(Max48 + 1, 0)]
    [InlineData(-1L, 0)]
    [InlineData(0L, PackedChange.UnknownCost + 1)]
    [InlineData(0L, -1)]
    public void Packed_change_refuses_values_that_do_not_fit(long source, int cost)
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => PackedChange.Xor(source, cost));
        if (cost == 0) Assert.Throws<ArgumentOutOfRangeException>(() => PackedChange.Copy(source));
        else Assert.Throws<ArgumentOutOfRangeException>(() => PackedChange.Replace.WithExtraCost(cost));
    }

    [Theory]
    [InlineData(CowOpType.Copy)]
    [InlineData(CowOpType.Xor)]
    [InlineData(CowOpType.Replace)]
    public void Packed_run_keeps_the_largest_values_and_refuses_larger_ones(CowOpType type)
    {
        DiffRun largest = new(type, uint.MaxValue, Max48, int.MaxValue);
        Assert.Equal(largest, new PackedRun(type, uint.MaxValue, Max48, int.MaxValue).Unpack());
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedRun(type, 0, Max48 + 1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedRun(type, 0, -1, 1));
    }
}
