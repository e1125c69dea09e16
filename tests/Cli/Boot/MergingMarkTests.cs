using System;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli.Boot;

/// <summary>The marker next to a COW: what counts as one, and that no other file is changed.</summary>
public sealed class MergingMarkTests : IDisposable
{
    private readonly TempFolder _folder = new();

    private string Cow => _folder["cow"];

    private string Mark => Cow + ".merging";

    public void Dispose() => _folder.Dispose();

    private static readonly string s_digest = new('5', 64);

    private static MarkState Begun(ulong count = 0) => new(MarkKind.Begun, s_digest, count);

    [Fact]
    public void A_mark_is_made_empty_says_more_and_never_less_and_goes()
    {
        Assert.Equal(MarkKind.None, MergingMark.Look(Cow).Kind);
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        Assert.Equal((new MarkState(MarkKind.Empty), "", true), (MergingMark.Look(Cow), File.ReadAllText(Mark), MergingMark.IsDurable(Cow)));
        Assert.Equal(0, MergingMark.Make(Cow, Begun() with { Kind = MarkKind.Maybe }));
        Assert.Equal(($"maybe {s_digest} 0000000000000000\n", Begun() with { Kind = MarkKind.Maybe }), (File.ReadAllText(Mark), MergingMark.Look(Cow)));
        Assert.Equal(0, MergingMark.Make(Cow, Begun(0x12ab)));
        Assert.Equal(($"begun {s_digest} 00000000000012ab\n", Begun(0x12ab)), (File.ReadAllText(Mark), MergingMark.Look(Cow)));
        // When the next boot makes the marker again, its content stays the same.
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Maybe, new string('6', 64))));
        Assert.Equal(Begun(0x12ab), MergingMark.Look(Cow));
        MergingMark.Remove(Cow);
        Assert.False(File.Exists(Mark));
        Assert.False(MergingMark.IsDurable(Cow));
    }

    [Theory]
    [InlineData("v3-lz4-64k-xor", false)]
    [InlineData("v3-zstd-nocopy", true)]
    [InlineData("v2-zstd-noscratch", true)]
    public void A_cow_that_may_have_begun_goes_with_a_mark_that_says_maybe(string name, bool maybe)
    {
        File.WriteAllBytes(Cow, Golden.Cow(name));
        using CowInput input = new(Cow);
        using CowFile file = CowFile.Read(input.Source);
        MergingMark mark = new(Cow);
        mark.Check(file);
        MarkState says = new(MarkKind.Maybe, CowDigest.Of(input.Source, file), 0);
        Assert.Equal(0, MergingMark.Make(Cow, says));
        if (maybe) mark.Check(file);
        else Assert.EndsWith("nothing of it is merged, so it is a copy from before; bring that one back, or write an image to the base and remove the mark",
            Assert.Throws<SnapuserdException>(() => mark.Check(file)).Message, StringComparison.Ordinal);
        // Only a COW without scratch can have begun here without a trace.
        Assert.Equal(0, MergingMark.Make(Cow, says with { Kind = MarkKind.Begun }));
        if (name == "v2-zstd-noscratch") mark.Check(file);
        else Assert.Equal(ExitCode.CowCorrupt, Assert.Throws<SnapuserdException>(() => mark.Check(file)).Code);
    }

    /// <summary>
    /// A power cut after the name and before the content would leave an empty marker, which says that the base is the old image.
    /// </summary>
    [Fact]
    public void A_new_mark_has_its_name_when_its_content_is_durable()
    {
        List<string> flushed = [];
        FileFlush.Before = _ =>
        {
            flushed.Add($"{File.Exists(Mark)} {File.Exists(Mark + ".new")}");
            return 0;
        };
        // A leftover of an earlier process, for another COW.
        File.WriteAllText(Mark + ".new", $"maybe {new string('6', 64)} 0000000000000000\n");
        try
        {
            Assert.Equal(0, MergingMark.Make(Cow, Begun() with { Kind = MarkKind.Maybe }));
        }
        finally
        {
            FileFlush.Before = null;
        }
        Assert.Equal("False True", flushed[0]);
        Assert.Equal((Begun() with { Kind = MarkKind.Maybe }, false), (MergingMark.Look(Cow), File.Exists(Mark + ".new")));
    }

    [Fact]
    public void A_mark_from_before_there_were_digests_gets_one()
    {
        File.WriteAllText(Mark, "begun\n");
        Assert.Equal(new MarkState(MarkKind.Begun), MergingMark.Look(Cow));
        Assert.Equal(0, MergingMark.Make(Cow, Begun(3)));
        Assert.Equal(Begun(3), MergingMark.Look(Cow));
    }

    [Theory]
    [InlineData("be", MarkKind.Begun)]
    [InlineData("begun\n", MarkKind.Begun)]
    [InlineData("\0\0\0\0\0\0", MarkKind.Begun)]
    [InlineData("ZEROS", MarkKind.Begun)]
    [InlineData("begun DIGEST 00000000\0\0\0\0\0\0\0\0\0", MarkKind.Begun)]
    [InlineData("begun DIGES", MarkKind.Begun)]
    // An old marker that was rewritten.
    [InlineData("begun\n\0\0\0\0", MarkKind.Begun)]
    [InlineData("begun\n\0\0a\0", MarkKind.Unknown)]
    [InlineData("begun\nbegun\n", MarkKind.Unknown)]
    [InlineData("notes", MarkKind.Unknown)]
    [InlineData("begin\n", MarkKind.Unknown)]
    [InlineData("maybe\n", MarkKind.Unknown)]
    [InlineData("begun DIGEST 000000000000000G\n", MarkKind.Unknown)]
    [InlineData("begun DIGEST 0000000000000001\n\n", MarkKind.Unknown)]
    [InlineData("begun DIGEST-0000000000000001\n", MarkKind.Unknown)]
    public void What_a_power_cut_can_leave_is_a_mark_and_a_file_of_someone_else_is_not(string form, MarkKind kind)
    {
        string text = form.Replace("DIGEST", s_digest, StringComparison.Ordinal).Replace("DIGES", s_digest[..5], StringComparison.Ordinal).Replace("ZEROS", new string('\0', MergingMark.Bytes), StringComparison.Ordinal);
        File.WriteAllText(Mark, text);
        Assert.Equal(new MarkState(kind), MergingMark.Look(Cow));
        if (kind != MarkKind.Unknown)
        {
            Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
            MergingMark.Remove(Cow);
            Assert.False(File.Exists(Mark));
            return;
        }
        Assert.Equal(-Errno.EEXIST, MergingMark.Make(Cow, Begun()));
        MergingMark.Remove(Cow);
        Assert.Equal(text, File.ReadAllText(Mark));
    }

    [Theory]
    [InlineData(MarkKind.Empty, false, 0, null)]
    [InlineData(MarkKind.Begun, false, 5, null)]
    [InlineData(MarkKind.Begun, false, 6, null)]
    [InlineData(MarkKind.Begun, false, 4, "an older copy: 4 ops")]
    [InlineData(MarkKind.Begun, true, 9, "another update")]
    [InlineData(MarkKind.Maybe, true, 9, "another update")]
    public void A_mark_contradicts_other_cows_and_older_copies(MarkKind kind, bool other, int count, string? why)
    {
        MarkState mark = kind == MarkKind.Empty ? new MarkState(kind) : new MarkState(kind, s_digest, 5);
        string? said = mark.Contradicts(other ? new string('6', 64) : s_digest, (ulong)count);
        if (why == null) Assert.Null(said);
        else Assert.Contains(why, said);
    }

    [Theory]
    [InlineData("folder")]
    [InlineData("link")]
    [InlineData("link to nothing")]
    [InlineData("pipe")]
    public void What_is_no_file_is_no_mark_and_stays(string what)
    {
        File.WriteAllText(_folder["other"], "");
        if (what == "folder") Directory.CreateDirectory(Mark);
        if (what == "link") File.CreateSymbolicLink(Mark, _folder["other"]);
        if (what == "link to nothing") File.CreateSymbolicLink(Mark, _folder["nothing"]);
        if (what == "pipe") Assert.Equal(0, Binary.RunProgram("mkfifo", [Mark]).ExitCode);
        Assert.Equal(MarkKind.Unknown, MergingMark.Look(Cow).Kind);
        Assert.Equal(-Errno.EEXIST, MergingMark.Make(Cow, Begun()));
        MergingMark.Remove(Cow);
        Assert.Equal(MarkKind.Unknown, MergingMark.Look(Cow).Kind);
        Assert.Equal("", File.ReadAllText(_folder["other"]));
        Assert.False(File.Exists(_folder["nothing"]));
    }
}
