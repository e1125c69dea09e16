using System;
using System.IO;
using Snapuserd.Cli.Boot;
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

    [Fact]
    public void A_mark_is_made_empty_says_begun_once_and_goes()
    {
        Assert.Equal(0, MergingMark.Make(Cow));
        Assert.Equal((true, false, ""), (MergingMark.IsThere(Cow), MergingMark.SaysBegun(Cow), File.ReadAllText(Mark)));
        for (int i = 0; i < 3; i++) MergingMark.SayBegun(Cow);
        Assert.Equal((true, "begun\n"), (MergingMark.SaysBegun(Cow), File.ReadAllText(Mark)));
        // Made again by the next boot, it says what it said.
        Assert.Equal(0, MergingMark.Make(Cow));
        Assert.Equal("begun\n", File.ReadAllText(Mark));
        MergingMark.Remove(Cow);
        Assert.False(MergingMark.IsThere(Cow));
        MergingMark.SayBegun(Cow);
        Assert.False(MergingMark.IsThere(Cow));
    }

    [Theory]
    [InlineData("be", true)]
    [InlineData("\0\0\0\0\0\0", true)]
    [InlineData("begun\nbegun\n", false)]
    [InlineData("notes", false)]
    [InlineData("begin\n", false)]
    public void What_a_power_cut_can_leave_is_a_mark_and_a_file_of_somebody_else_is_not(string text, bool isMark)
    {
        File.WriteAllText(Mark, text);
        Assert.Equal(isMark, MergingMark.SaysBegun(Cow));
        if (isMark)
        {
            Assert.Equal(0, MergingMark.Make(Cow));
            MergingMark.Remove(Cow);
            Assert.False(File.Exists(Mark));
            return;
        }
        Assert.Equal(-Errno.EEXIST, MergingMark.Make(Cow));
        MergingMark.SayBegun(Cow);
        MergingMark.Remove(Cow);
        Assert.Equal(text, File.ReadAllText(Mark));
        Assert.True(MergingMark.IsThere(Cow));
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
        Assert.False(MergingMark.SaysBegun(Cow));
        Assert.Equal(-Errno.EEXIST, MergingMark.Make(Cow));
        MergingMark.SayBegun(Cow);
        MergingMark.Remove(Cow);
        Assert.True(MergingMark.IsThere(Cow));
        Assert.Equal("", File.ReadAllText(_folder["other"]));
        Assert.False(File.Exists(_folder["nothing"]));
    }
}
