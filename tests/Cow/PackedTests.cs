using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Values that are packed into fewer bits than their type has: the largest value is kept, and the next one is refused.</summary>
public sealed class PackedTests
{
    private const ulong Max48 = (1UL << 48) - 1;

    [Theory]
    [InlineData(CowOpType.Copy, uint.MaxValue, 0, Max48, 0ul, 0u)]
    [InlineData(CowOpType.Xor, uint.MaxValue, 0, Max48, Max48, 4096u)]
    [InlineData(CowOpType.Replace, uint.MaxValue, 7, 0ul, Max48, (1u << 20) - 1)]
    [InlineData(CowOpType.Zero, 0u, 0, 0ul, 0ul, 0u)]
    [InlineData(CowOpType.Sequence, uint.MaxValue, 7, Max48, Max48, (1u << 20) - 1)]
    public void Packed_op_keeps_the_largest_value_of_every_field(
        CowOpType type, uint newBlock, int factor, ulong source, ulong dataOffset, uint dataLength)
    {
        PackedOp packed = new(type, newBlock, factor, source, dataOffset, dataLength);
        foreach (bool listed in (bool[])[true, false])
        {
            packed.Listed = listed;
            Assert.Equal(listed, packed.Listed);
            Assert.Equal(new CowOp(type, newBlock, 1 << factor, (long)source, (long)dataOffset, (int)dataLength), packed.Unpack());
            Assert.Equal((ulong)newBlock + (1ul << factor), packed.EndBlock);
        }
    }

    [Theory]
    [InlineData(CowOpType.Copy, 0, Max48 + 1, 0ul, 0u)]
    [InlineData(CowOpType.Xor, 0, ulong.MaxValue, 0ul, 0u)]
    [InlineData(CowOpType.Xor, 0, 0ul, Max48 + 1, 0u)]
    [InlineData(CowOpType.Replace, 0, 0ul, 0ul, 1u << 20)]
    [InlineData(CowOpType.Replace, 8, 0ul, 0ul, 0u)]
    [InlineData(CowOpType.Replace, -1, 0ul, 0ul, 0u)]
    [InlineData(CowOpType.Footer, 0, 0ul, 0ul, 0u)]
    public void Packed_op_refuses_values_that_do_not_fit(CowOpType type, int factor, ulong source, ulong dataOffset, uint dataLength) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedOp(type, 1, factor, source, dataOffset, dataLength));

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Ops_of_a_file_with_the_largest_values_are_read_as_they_were_written(int version)
    {
        byte[] payload = new byte[4096];
        payload[5] = 1;
        byte[] file = new CowBuilder { Version = version, ScratchBytes = 0 }
            .Copy(uint.MaxValue, Max48).Xor(uint.MaxValue - 1, Max48, payload).Zero(0).Replace(uint.MaxValue - 2, payload).Build();
        using CowFile cow = CowFile.Read(new MemorySource(file));
        CowOp[] ops = Enumerable.Range(0, cow.OpCount).Select(i => cow[i]).ToArray();
        Assert.Equal((uint.MaxValue, (long)Max48, (long)Max48 * 4096), (ops[0].NewBlock, ops[0].Source, ops[0].SourceByte));
        Assert.Equal((uint.MaxValue - 1, (long)Max48, 2), (ops[1].NewBlock, ops[1].Source, ops[1].SourceBlocks));
        Assert.Equal((1L << 44, 1L << 60), (cow.BaseBytes, cow.SourceBytes));
        // The search finds no writer for a block that no op writes, even if the number of the block is very large.
        foreach (long block in (long[])[1, 1L << 32, (1L << 32) + 1, (1L << 48) - 1, 1L << 48, 1L << 51, long.MaxValue])
            Assert.Equal(-1, cow.Order.PositionWriting(block));
        foreach (CowOp op in ops) Assert.Equal(op, cow[cow.Order.OpIndex(cow.Order.PositionWriting(op.NewBlock))]);
        Assert.Equal(uint.MaxValue - 2, cow.Order.NextWritten(1));
        Assert.Equal(long.MaxValue, cow.Order.NextWritten(1L << 32));
        int[] limits = new int[cow.Order.Count];
        cow.Order.Check(sharedDevices: true, limits);
        Assert.All(limits, limit => Assert.Equal(0, limit));
        cow.CheckDevices(1L << 44, 1L << 60);
        Assert.Equal(ExitCode.CowCorrupt, Assert.ThrowsAny<SnapuserdException>(() => cow.CheckDevices((1L << 44) - 1, 1L << 60)).Code);
        Assert.Equal(ExitCode.CowCorrupt, Assert.ThrowsAny<SnapuserdException>(() => cow.CheckDevices(1L << 44, (1L << 60) - 1)).Code);
    }

    [Fact]
    public void Keys_with_the_largest_blocks_are_sorted_ascending()
    {
        foreach (int count in (int[])[3, 5000])
        {
            Random random = new(count);
            ulong[] keys = Enumerable.Range(0, count).Select(i => (i % 3) switch
            {
                0 => ulong.MaxValue - (ulong)i,
                1 => (ulong)uint.MaxValue << 32 | (uint)i,
                _ => (ulong)random.NextInt64(),
            }).ToArray();
            ulong[] sorted = keys.Order().ToArray();
            BlockSort.Sort(keys);
            Assert.Equal(sorted, keys);
        }
    }
}
