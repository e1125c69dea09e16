using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>When an earlier run counts as the one that finished a merge, and that this is durable before it is said.</summary>
public sealed class FinishedMergeTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";

    private readonly TempFolder _folder = new();
    private readonly List<string> _flushed = [];
    private string? _refused;

    public FinishedMergeTests() => FileFlush.Before = fd =>
    {
        string path = DescriptorPath.Of(fd);
        string name = path == _folder.Path ? "folder" : Path.GetFileName(path);
        // A flush covers what exists at that time.
        _flushed.Add(name == "folder" && File.Exists(Marker) ? "folder with mark" : name);
        return name == _refused ? -Errno.EIO : 0;
    };

    private string Cow => _folder["cow"];

    private string Marker => Cow + ".merging";

    public void Dispose()
    {
        FileFlush.Before = null;
        _folder.Dispose();
    }

    [Fact]
    public void An_earlier_merge_is_reported_as_finished_only_after_base_and_cow_are_flushed()
    {
        Marked();
        MergeResult? result = FinishedBefore();
        Assert.True(result is { AlreadyMerged: true });
        // The marker is removed after these flushes.
        Assert.Equal(["base", "cow"], _flushed.Take(2).Order(StringComparer.Ordinal));
        Assert.Equal("folder", _flushed[2]);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void An_earlier_merge_is_not_reported_as_finished_if_it_cannot_be_flushed(string refused)
    {
        Marked();
        _refused = refused;
        Assert.Null(FinishedBefore());
        Assert.True(File.Exists(Marker));
    }

    [Theory]
    [InlineData("v2-lz4-xor", 0, true)]
    [InlineData("v2-lz4-xor", -1, false)]
    [InlineData("v3-lz4-descending", 0, true)]
    [InlineData("v3-lz4-descending", -1, false)]
    [InlineData("v3-lz4-descending", -1000, false)]
    public void A_cow_whose_count_is_full_is_finished(string vector, int missing, bool finished)
    {
        int ops = Golden.Row(vector).MergeOps;
        Merged(vector, Math.Max(ops + missing, 0));
        Assert.Equal(finished ? new MergeResult { OpsTotal = ops, ResumedFrom = ops } : null, FinishedBefore());
    }

    [Fact]
    public void A_cow_of_version_1_is_never_finished_because_none_is_merged()
    {
        Merged();
        byte[] cow = new CowBuilder { Version = 1 }.Zero(1).Build();
        foreach (ulong count in new[] { 0UL, 1UL })
        {
            BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), count);
            File.WriteAllBytes(Cow, cow);
            Assert.Null(FinishedBefore());
        }
    }

    [Fact]
    public void A_finished_merge_removes_its_own_marker_and_no_other()
    {
        Merged();
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Begun, new string('5', 64), 1)));
        Assert.Null(FinishedBefore());
        Assert.True(File.Exists(Marker));
        MergeMarker.Remove(Cow);
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        Assert.NotNull(FinishedBefore());
        Assert.False(File.Exists(Marker));
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void A_merge_that_cannot_be_flushed_is_not_finished(string refused)
    {
        Merged();
        FileFlush.Before = fd => Path.GetFileName(DescriptorPath.Of(fd)) == refused ? -Errno.EPERM : 0;
        Assert.Null(FinishedBefore());
    }

    [Fact]
    public void A_sparse_image_a_missing_base_and_a_missing_cow_are_not_finished()
    {
        Merged();
        File.WriteAllBytes(_folder["base"], ForeignFiles.Whole("sparse", 8192));
        Assert.Null(FinishedBefore());
        File.Delete(_folder["base"]);
        Assert.Null(FinishedBefore());
        File.WriteAllBytes(_folder["base"], Golden.New);
        Assert.NotNull(FinishedBefore());
        File.Delete(Cow);
        Assert.Null(FinishedBefore());
    }

    private MergeResult? FinishedBefore() => FinishedMerge.Confirm(Cow, _folder["base"]);

    /// <summary>Makes a COW whose count is complete, its base, and a marker.</summary>
    private void Marked()
    {
        Merged();
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        _flushed.Clear();
    }

    private void Merged(string vector = Vector, int count = -1)
    {
        byte[] cow = Golden.Cow(vector);
        ulong all = (ulong)(count < 0 ? Golden.Row(vector).MergeOps : count);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), all);
        File.WriteAllBytes(Cow, cow);
        File.WriteAllBytes(_folder["base"], Golden.New);
    }
}
