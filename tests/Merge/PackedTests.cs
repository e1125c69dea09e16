using System;
using System.Linq;
using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>Values that are packed into fewer bits than their type has: the largest value is kept, and the next one is refused.</summary>
public sealed class PackedTests
{
    private const long FurthestSource = (1L << 60) - 4096, FurthestPayload = (1L << 48) - 1;
    private const int LastIndex = 4095;

    [Fact]
    public void Pieces_sort_by_kind_and_place_whatever_the_offset()
    {
        (Batch.PieceKind Kind, long Offset)[] places =
        [
            .. new long[] { 0, 4096, (1L << 50) - 4096, 1L << 50, (1L << 50) + 4096, 1L << 52, 1L << 59, FurthestSource, (1L << 60) - 1 }
                .Select(at => (Batch.PieceKind.Source, at)),
            .. new long[] { 0, 1, 4096, 1L << 47, FurthestPayload - 1, FurthestPayload }.Select(at => (Batch.PieceKind.Payload, at)),
        ];
        ulong[] keys = places.Select(place => Batch.PieceKey(place.Kind, place.Offset, LastIndex)).ToArray();
        Assert.Equal(keys.Order().ToArray(), keys);
        Assert.Equal(keys.Length, keys.Distinct().Count());
        // Every index and offset pair keeps its values, and the kind remains distinguishable.
        foreach ((Batch.PieceKind kind, long offset) in places)
        {
            foreach (int index in (int[])[0, 1, LastIndex])
            {
                ulong key = Batch.PieceKey(kind, offset, index);
                Assert.Equal((ulong)index, key & LastIndex);
                Assert.Equal((ulong)kind, key >> 62);
            }
        }
    }

    [Theory]
    [InlineData(0, 1L << 60, 0)]
    [InlineData(0, -1L, 0)]
    [InlineData(1, 1L << 50, 0)]
    [InlineData(1, -1L, 0)]
    [InlineData(0, 0L, LastIndex + 1)]
    [InlineData(1, 0L, -1)]
    public void Piece_that_does_not_fit_into_its_key_is_refused(int kind, long offset, int index) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => Batch.PieceKey((Batch.PieceKind)kind, offset, index));

    [Fact]
    public void A_batch_has_no_more_ops_than_a_key_can_number() => Assert.InRange(Batch.MostOps, 1, LastIndex + 1);

    [Theory]
    [InlineData(0, 0)]
    [InlineData(int.MaxValue, 0)]
    [InlineData(int.MaxValue - 510, 510)]
    [InlineData(int.MaxValue, int.MaxValue)]
    [InlineData(0, int.MaxValue)]
    public void Published_locations_keep_both_values(int counted, int window)
    {
        ReaderGate gate = new();
        gate.Publish(new OpLocations(counted, window));
        Assert.Equal(new OpLocations(counted, window), gate.Locations);
    }
}
