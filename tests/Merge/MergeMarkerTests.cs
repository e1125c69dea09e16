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

/// <summary>The marker next to a COW: what counts as one, and that no other file is changed.</summary>
public sealed class MergeMarkerTests : IDisposable
{
    private readonly TempFolder _folder = new();

    private string Cow => _folder["cow"];

    private string Marker => Cow + ".merging";

    public void Dispose() => _folder.Dispose();

    private static readonly string s_digest = new('5', 64);

    private static MarkerState Begun(ulong count = 0) => new(MarkerKind.Begun, s_digest, count);

    [Fact]
    public void A_marker_is_made_empty_gains_content_never_loses_it_and_is_removed()
    {
        Assert.Equal(MarkerKind.None, MergeMarker.Look(Cow).Kind);
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        Assert.Equal((new MarkerState(MarkerKind.Empty), "", true),
            (MergeMarker.Look(Cow), File.ReadAllText(Marker), MergeMarker.IsDurable(Cow)));
        Assert.Equal(0, MergeMarker.Make(Cow, Begun() with { Kind = MarkerKind.Maybe }));
        Assert.Equal(($"maybe {s_digest} 0000000000000000\n", Begun() with { Kind = MarkerKind.Maybe }),
            (File.ReadAllText(Marker), MergeMarker.Look(Cow)));
        Assert.Equal(0, MergeMarker.Make(Cow, Begun(0x12ab)));
        Assert.Equal(($"begun {s_digest} 00000000000012ab\n", Begun(0x12ab)), (File.ReadAllText(Marker), MergeMarker.Look(Cow)));
        // When the next boot makes the marker again, its content stays the same.
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
        Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Maybe, new string('6', 64))));
        Assert.Equal(Begun(0x12ab), MergeMarker.Look(Cow));
        MergeMarker.Remove(Cow);
        Assert.False(File.Exists(Marker));
        Assert.False(MergeMarker.IsDurable(Cow));
    }

    [Theory]
    [InlineData("v3-lz4-64k-xor", false)]
    [InlineData("v3-zstd-nocopy", true)]
    [InlineData("v2-zstd-noscratch", true)]
    public void A_cow_whose_merge_may_have_begun_fits_a_marker_that_says_maybe(string name, bool maybe)
    {
        File.WriteAllBytes(Cow, Golden.Cow(name));
        using CowInput input = new(Cow);
        using CowFile file = CowFile.Read(input.Source);
        MergeMarker mark = new(Cow);
        mark.Check(file);
        MarkerState says = new(MarkerKind.Maybe, CowDigest.Of(input.Source, file), 0);
        Assert.Equal(0, MergeMarker.Make(Cow, says));
        if (maybe) mark.Check(file);
        else
            Assert.EndsWith("nothing of it is merged, so it is a copy from before; bring that one back, or write an image to the base and "
                + "remove the marker",
                Assert.Throws<SnapuserdException>(() => mark.Check(file)).Message, StringComparison.Ordinal);
        // Only a COW without scratch can have begun here without a trace.
        Assert.Equal(0, MergeMarker.Make(Cow, says with { Kind = MarkerKind.Begun }));
        if (name == "v2-zstd-noscratch") mark.Check(file);
        else Assert.Equal(ExitCode.CowCorrupt, Assert.Throws<SnapuserdException>(() => mark.Check(file)).Code);
    }

    /// <summary>
    /// A power cut after the name and before the content would leave an empty marker, which says that the base is the old image.
    /// </summary>
    [Fact]
    public void A_new_marker_gets_its_name_after_its_content_is_durable()
    {
        List<string> flushed = [];
        FileFlush.Before = _ =>
        {
            flushed.Add($"{File.Exists(Marker)} {File.Exists(Marker + ".new")}");
            return 0;
        };
        // A leftover of an earlier process, for another COW.
        File.WriteAllText(Marker + ".new", $"maybe {new string('6', 64)} 0000000000000000\n");
        try
        {
            Assert.Equal(0, MergeMarker.Make(Cow, Begun() with { Kind = MarkerKind.Maybe }));
        }
        finally
        {
            FileFlush.Before = null;
        }
        Assert.Equal("False True", flushed[0]);
        Assert.Equal((Begun() with { Kind = MarkerKind.Maybe }, false), (MergeMarker.Look(Cow), File.Exists(Marker + ".new")));
    }

    [Fact]
    public void A_marker_of_an_older_version_gets_a_digest()
    {
        File.WriteAllText(Marker, "begun\n");
        Assert.Equal(new MarkerState(MarkerKind.Begun), MergeMarker.Look(Cow));
        Assert.Equal(0, MergeMarker.Make(Cow, Begun(3)));
        Assert.Equal(Begun(3), MergeMarker.Look(Cow));
    }

    [Theory]
    [InlineData("be", MarkerKind.Begun)]
    [InlineData("begun\n", MarkerKind.Begun)]
    [InlineData("\0\0\0\0\0\0", MarkerKind.Begun)]
    [InlineData("ZEROS", MarkerKind.Begun)]
    [InlineData("begun DIGEST 00000000\0\0\0\0\0\0\0\0\0", MarkerKind.Begun)]
    [InlineData("begun DIGES", MarkerKind.Begun)]
    // An old marker that was rewritten.
    [InlineData("begun\n\0\0\0\0", MarkerKind.Begun)]
    [InlineData("begun\n\0\0a\0", MarkerKind.Unknown)]
    [InlineData("begun\nbegun\n", MarkerKind.Unknown)]
    [InlineData("notes", MarkerKind.Unknown)]
    [InlineData("begin\n", MarkerKind.Unknown)]
    [InlineData("maybe\n", MarkerKind.Unknown)]
    [InlineData("begun DIGEST 000000000000000G\n", MarkerKind.Unknown)]
    [InlineData("begun DIGEST 0000000000000001\n\n", MarkerKind.Unknown)]
    [InlineData("begun DIGEST-0000000000000001\n", MarkerKind.Unknown)]
    public void A_file_that_a_power_cut_can_leave_is_a_marker_and_a_foreign_file_is_not(string form, MarkerKind kind)
    {
        string text = form.Replace("DIGEST", s_digest, StringComparison.Ordinal).Replace("DIGES", s_digest[..5], StringComparison.Ordinal)
            .Replace("ZEROS", new string('\0', MergeMarker.Bytes), StringComparison.Ordinal);
        File.WriteAllText(Marker, text);
        Assert.Equal(new MarkerState(kind), MergeMarker.Look(Cow));
        if (kind != MarkerKind.Unknown)
        {
            Assert.Equal(0, MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty)));
            MergeMarker.Remove(Cow);
            Assert.False(File.Exists(Marker));
            return;
        }
        Assert.Equal(-Errno.EEXIST, MergeMarker.Make(Cow, Begun()));
        MergeMarker.Remove(Cow);
        Assert.Equal(text, File.ReadAllText(Marker));
    }

    [Theory]
    [InlineData(MarkerKind.Empty, false, 0, null)]
    [InlineData(MarkerKind.Begun, false, 5, null)]
    [InlineData(MarkerKind.Begun, false, 6, null)]
    [InlineData(MarkerKind.Begun, false, 4, "an older copy: 4 ops")]
    [InlineData(MarkerKind.Begun, true, 9, "another update")]
    [InlineData(MarkerKind.Maybe, true, 9, "another update")]
    public void A_marker_contradicts_other_cows_and_older_copies(MarkerKind kind, bool other, int count, string? why)
    {
        MarkerState mark = kind == MarkerKind.Empty ? new MarkerState(kind) : new MarkerState(kind, s_digest, 5);
        string? said = mark.Contradicts(other ? new string('6', 64) : s_digest, (ulong)count);
        if (why == null) Assert.Null(said);
        else Assert.Contains(why, said);
    }

    [Theory]
    [InlineData("folder")]
    [InlineData("link")]
    [InlineData("link to nothing")]
    [InlineData("pipe")]
    public void Something_that_is_not_a_file_is_not_a_marker_and_stays(string what)
    {
        File.WriteAllText(_folder["other"], "");
        if (what == "folder") Directory.CreateDirectory(Marker);
        if (what == "link") File.CreateSymbolicLink(Marker, _folder["other"]);
        if (what == "link to nothing") File.CreateSymbolicLink(Marker, _folder["nothing"]);
        if (what == "pipe") Assert.Equal(0, Binary.RunProgram("mkfifo", [Marker]).ExitCode);
        Assert.Equal(MarkerKind.Unknown, MergeMarker.Look(Cow).Kind);
        Assert.Equal(-Errno.EEXIST, MergeMarker.Make(Cow, Begun()));
        MergeMarker.Remove(Cow);
        Assert.Equal(MarkerKind.Unknown, MergeMarker.Look(Cow).Kind);
        Assert.Equal("", File.ReadAllText(_folder["other"]));
        Assert.False(File.Exists(_folder["nothing"]));
    }
}
