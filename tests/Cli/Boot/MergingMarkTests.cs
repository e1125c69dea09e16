using System;
using System.IO;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli.Boot;

/// <summary>The mark beside a COW: what is one, and that nothing else is touched.</summary>
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
        // Made again by the next boot, it says what it said.
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Maybe, new string('6', 64))));
        Assert.Equal(Begun(0x12ab), MergingMark.Look(Cow));
        MergingMark.Remove(Cow);
        Assert.False(File.Exists(Mark));
        Assert.False(MergingMark.IsDurable(Cow));
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
    // An old mark that was rewritten.
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
