using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>
/// The ranges that a merge reserves before its first write. Every simulated run checks that the merge writes nothing else
/// (<see cref="SimStorage"/>).
/// </summary>
public sealed class ReservationTests
{
    private static readonly MergeOptions s_plain = new() { VerifyFirst = false };

    private static MergeCase Case(CowBuilder cow, byte[] old, Func<SimStorage> storage) =>
        new("case", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
        {
            Options = s_plain,
            Storage = storage,
        };

    private static MergeResult Run(MergeCase merge, SimDisk[] disks, StopFlag? stop = null)
    {
        using Arena arena = new(merge.ArenaBytes);
        return SimMerge.Run(merge, disks, arena, 1, () => { }, null, stop);
    }

    /// <summary>Ops of all kinds in no particular order of blocks, a window of 2, and a unit of several blocks.</summary>
    private static CowBuilder Mixed()
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), MaxUnitBytes = 8192 };
        cow.Copy(20, 21);
        cow.Copy(21, 22);
        cow.Copy(7, 7);
        cow.Zero(3);
        cow.Replace(10, SmallCases.Random(2, 2));
        cow.Zero(2);
        cow.Zero(12);
        return cow;
    }

    [Fact]
    public void Reserved_ranges_ascend_are_joined_and_cover_only_blocks_that_ops_write()
    {
        SimStorage storage = new();
        MergeCase merge = Case(Mixed(), SmallCases.Random(1, 30), () => storage);
        Run(merge, merge.Disks());
        const int block = CowOp.BlockSize;
        Assert.Equal([new(2 * block, 2 * block), new(7 * block, block), new(10 * block, 3 * block), new(20 * block, 2 * block)],
            storage.Reserved(1));
        // The page with header and list, and the two slots of a window, which begin directly after the list.
        Assert.Equal(new ByteRange(0, 3 * block), Assert.Single(storage.Reserved(0)));
    }

    [Fact]
    public void Without_space_nothing_is_written_and_with_space_the_same_merge_reaches_the_target()
    {
        long space = 0;
        MergeCase merge = Case(Mixed(), SmallCases.Random(1, 30), () => new SimStorage(space));
        SimDisk[] disks = merge.Disks();
        long enough = 0;
        for (space = 0; ; space += CowOp.BlockSize)
        {
            SnapuserdException? refused = Record.Exception(() => Run(merge, disks)) as SnapuserdException;
            if (refused == null)
            {
                enough = space;
                break;
            }
            Assert.Equal(ExitCode.InputOutput, refused.Code);
            Assert.Equal(-1, disks[0].Cache.FirstDifference(merge.Cow));
            Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Base));
        }
        Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Target));
        Assert.True(enough > 8 * CowOp.BlockSize, $"{enough} bytes were enough");
    }

    [Fact]
    public void A_resumed_merge_reserves_only_the_remaining_ranges()
    {
        CowBuilder cow = new() { MaxUnitBytes = 4096, ScratchBytes = 0 };
        for (uint i = 0; i < 64; i++) cow.Zero(i);
        SimStorage storage = new();
        MergeCase merge = Case(cow, SmallCases.Random(1, 64), () => storage = new SimStorage()) with
        {
            Options = s_plain with { CheckpointBytes = 8 * CowOp.BlockSize },
        };
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        int flushes = 0;
        Assert.Throws<SnapuserdException>(() => SimMerge.Run(merge, disks, arena, 1, () => { },
            (_, request) => request.Verb == BlockVerb.Flush && ++flushes > 6 ? new Fault(-Snapuserd.Interop.Errno.EIO) : null));
        int count = SimMerge.DurableCount(disks[0]);
        Assert.InRange(count, 1, 63);
        SimDisk[] rest = [new SimDisk(disks[0].Durable), new SimDisk(disks[1].Durable)];
        Run(merge, rest);
        Assert.Equal(new ByteRange((long)count * CowOp.BlockSize, (64L - count) * CowOp.BlockSize), Assert.Single(storage.Reserved(1)));
        Run(merge, rest);
        Assert.Empty(storage.Reserved(1));
    }
}
