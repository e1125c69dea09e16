using System;
using System.Buffers.Binary;
using System.IO;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Host;

/// <summary>How often a merge was resumed, as recorded in its COW.</summary>
public sealed class ResumeCountTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(0UL, 0)]
    [InlineData(1UL, 1)]
    [InlineData(2UL, 1)]
    [InlineData(ulong.MaxValue, 1)]
    public void A_cow_with_a_count_was_begun_once(ulong count, int times)
    {
        byte[] cow = Golden.Cow("v3-lz4-descending");
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), count);
        File.WriteAllBytes(_folder["cow"], cow);
        Assert.Equal(times, ResumeCount.Before(_folder["cow"]));
    }

    [Fact]
    public void A_cow_that_cannot_be_read_counts_as_not_begun()
    {
        Assert.Equal(0, ResumeCount.Before(_folder["none"]));
        File.WriteAllText(_folder["cow"], "no COW");
        Assert.Equal(0, ResumeCount.Before(_folder["cow"]));
    }

    [Fact]
    public void Without_a_supervisor_a_resumed_merge_was_resumed_once()
    {
        Assert.Null(ResumeCount.Counted);
        Assert.Equal(0, ResumeCount.Times(new MergeResult { OpsTotal = 5 }));
        Assert.Equal(1, ResumeCount.Times(new MergeResult { OpsTotal = 5, ResumedFrom = 1 }));
        Assert.Equal(1, ResumeCount.Times(new MergeResult { OpsTotal = 5, Replayed = 1 }));
        Assert.Equal(0, ResumeCount.Times(new MergeResult { OpsTotal = 5, ResumedFrom = 5 }));
    }
}
