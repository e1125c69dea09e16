using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Recovery;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Recovery;

/// <summary>The devices of a merge as the engine sees them: which they are, and what source and base share.</summary>
public sealed class MergeLayoutTests
{
    private static readonly DevicePiece[] s_cow = [new("super", 800, 80), new("userdata", 8, 160)];

    private static PlannedMerge Merge(DevicePiece[] target, DevicePiece[] source) =>
        new("vendor_b", new SnapshotRecord(), target, source, s_cow);

    private static MergeSetup Setup(MergeLayout layout)
    {
        using Arena arena = new(1 << 20);
        return layout.Setup(null!, arena, null!, new MonotonicClock(), new StopFlag());
    }

    [Fact]
    public void Equal_source_is_the_base_itself()
    {
        // The same sectors, cut into other pieces.
        MergeLayout layout = MergeLayout.Of(Merge([new("super", 80, 16), new("super", 96, 16)], [new("super", 80, 32)]));
        MergeSetup setup = Setup(layout);
        Assert.Equal(2, layout.Maps.Length);
        Assert.Null(setup.Overlap);
        Assert.True(setup.SourceIsBase);
        Assert.Equal(["super", "userdata"], layout.Devices);
        Assert.Equal((0, 1, 1), (setup.Cow.Number, setup.Base.Number, setup.Source.Number));
        Assert.Equal(((80 + 160) * 512L, 32 * 512L), (setup.Cow.Length, setup.Base.Length));
    }

    [Fact]
    public void Source_of_another_length_shares_what_lies_in_the_same_sectors()
    {
        MergeLayout layout = MergeLayout.Of(Merge([new("super", 80, 16), new("super", 400, 8)], [new("super", 80, 48)]));
        MergeSetup setup = Setup(layout);
        Assert.Equal([new SharedRange(0, 0, 16 * 512)], setup.Overlap!.Value.ToArray());
        Assert.Equal((2, 48 * 512L), (setup.Source.Number, setup.Source.Length));
        Assert.False(setup.SourceIsBase);
    }

    [Fact]
    public void Pieces_lie_where_the_tables_say()
    {
        MergeLayout layout = MergeLayout.Of(Merge([new("super", 80, 16)], [new("super", 80, 16), new("", 0, 8)]));
        Assert.Equal(new MappedPiece(0, 800 * 512, 80 * 512), layout.Maps[0].Locate(0, 1 << 20));
        Assert.Equal(new MappedPiece(1, 8 * 512, 160 * 512), layout.Maps[0].Locate(80 * 512, 1 << 20));
        Assert.Equal(new MappedPiece(MappedPiece.Zeros, 0, 8 * 512), layout.Maps[2].Locate(16 * 512, 1 << 20));
    }

    [Fact]
    public void Cow_alone_stands_for_all_devices()
    {
        MergeLayout layout = MergeLayout.OfCow("vendor_b", s_cow);
        MergeSetup setup = Setup(layout);
        Assert.Equal((setup.Cow, setup.Cow), (setup.Base, setup.Source));
        Assert.Single(layout.Maps);
    }
}
