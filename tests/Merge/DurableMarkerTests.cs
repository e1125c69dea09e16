using System;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>What of a marker is flushed before other processes can rely on it, in which order, and what happens when that fails.</summary>
public sealed class DurableMarkerTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";

    private readonly TempFolder _folder = new();
    private readonly List<string> _flushed = [];
    private string? _refused;

    public DurableMarkerTests() => FileFlush.Before = fd =>
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
    public void A_marker_is_made_only_after_it_and_its_folder_are_flushed()
    {
        // The second time the marker exists: the process that made it may have been killed before the flush.
        for (int time = 0; time < 2; time++)
        {
            _flushed.Clear();
            Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
            Assert.Equal(["cow.merging", "folder with mark"], _flushed);
        }
    }

    [Theory]
    [InlineData("cow.merging")]
    [InlineData("folder")]
    public void A_marker_that_cannot_be_flushed_is_not_made(string refused)
    {
        _refused = refused;
        Assert.Equal(-Errno.EIO, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        if (refused == "folder") Assert.False(MergeMarker.IsDurable(Cow));
    }

    [Fact]
    public void The_folder_is_flushed_after_a_marker_is_removed()
    {
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        _flushed.Clear();
        MergeMarker.Remove(Cow);
        Assert.Equal(["folder"], _flushed);
    }

    [Fact]
    public void A_marker_says_that_the_merge_has_begun_only_after_it_is_flushed()
    {
        File.WriteAllBytes(Cow, Golden.Cow(Vector));
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        _flushed.Clear();
        using CowInput input = new(Cow);
        using CowFile cow = CowFile.Read(input.Source);
        MergeMarker mark = new(Cow);
        mark.Begin(cow, 0);
        Assert.Equal(["cow.merging"], _flushed);
        _refused = "cow.merging";
        Assert.Equal(ExitCode.InputOutput, Assert.Throws<SnapuserdException>(() => mark.Begin(cow, 0)).Code);
    }
}
