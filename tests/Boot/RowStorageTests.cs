using System;
using System.Diagnostics;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>Rows with different paths to the same files.</summary>
public sealed class RowStorageTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string NewFile(string name, int bytes = 8192)
    {
        File.WriteAllBytes(_folder[name], new byte[bytes]);
        return _folder[name];
    }

    private string Link(string name, string target, bool hard)
    {
        using Process process = Process.Start("ln", [hard ? "-f" : "-sf", target, _folder[name]]);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return _folder[name];
    }

    private static SnapuserdException? Check(params BootRow[] rows)
    {
        try
        {
            RowStorage.Check([.. rows]);
            return null;
        }
        catch (SnapuserdException e)
        {
            return e;
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Two_names_of_one_file_count_as_one_file(bool hard)
    {
        string a = NewFile("a"), b = NewFile("b"), c = NewFile("c"), d = NewFile("d"), source = NewFile("s");
        string a2 = Link("a2", a, hard), b2 = Link("b2", b, hard), s2 = Link("s2", source, hard);
        BootRow one = new("one", a, b, source, 1, "table:1");
        Assert.Null(Check(one, new BootRow("two", c, d, s2, 1, "table:2")));
        Assert.Null(Check(new BootRow("one", a, b, b2, 1, "table:1")));
        foreach ((BootRow two, string sentence) in new[]
        {
            (new BootRow("two", a2, d, null, 2, "table:2"), $"table:2: the COW {a2} is the COW {a} of table:1, under another name"),
            (new BootRow("two", c, b2, null, 2, "table:2"), $"table:2: the base {b2} is the base {b} of table:1, under another name"),
            (new BootRow("two", b2, d, null, 2, "table:2"), $"table:2: the COW {b2} is the base {b} of table:1, under another name"),
            (new BootRow("two", c, a2, null, 2, "table:2"), $"table:2: the base {a2} is the COW {a} of table:1, under another name"),
            (new BootRow("two", c, d, b2, 2, "table:2"), $"table:2: the source {b2} is the base {b} of table:1, under another name"),
            (new BootRow("two", c, d, a2, 2, "table:2"), $"table:2: the source {a2} is the COW {a} of table:1, under another name"),
            (new BootRow("two", s2, d, null, 2, "table:2"), $"table:2: the COW {s2} is the source {source} of table:1, under another name"),
            (new BootRow("two", c, s2, null, 2, "table:2"),
                $"table:2: the base {s2} is the source {source} of table:1, under another name"),
        })
        {
            SnapuserdException? refusal = Check(one, two);
            Assert.Equal((ExitCode.Usage, sentence), (refusal?.Code, refusal?.Message));
        }
        Assert.Equal($"table:3: the COW {a2} is the base {a} of the same row, under another name",
            Check(new BootRow("one", a2, a, null, 1, "table:3"))?.Message);
        Assert.Equal($"table:3: the source {a2} is the COW {a} of the same row, under another name",
            Check(new BootRow("one", a, b, a2, 1, "table:3"))?.Message);
    }

    [Fact]
    public void Missing_files_are_left_out() =>
        Assert.Null(Check(new BootRow("one", _folder["no"], _folder["nothing"], null, 1, "table:1"),
            new BootRow("two", _folder["no"], NewFile("b"), null, 1, "table:2")));

    [RootFact]
    public void A_loop_device_is_its_file_and_overlaps_another_one_over_a_part_of_it()
    {
        string disk = NewFile("disk", 1 << 20), cow = NewFile("cow"), other = NewFile("other");
        using LoopDevice loop = new(disk), again = new(disk);
        BootRow one = new("one", cow, disk, null, 1, "table:1");
        Assert.Equal($"table:2: the base {loop.Path} is the base {disk} of table:1, under another name",
            Check(one, new BootRow("two", other, loop.Path, null, 1, "table:2"))?.Message);
        Assert.Equal($"table:2: the base {again.Path} is the base {loop.Path} of table:1, under another name",
            Check(one with { Base = loop.Path }, new BootRow("two", other, again.Path, null, 1, "table:2"))?.Message);
        string part = LoopDevice.Call("losetup", "--show", "-f", "-o", "4096", disk).Trim();
        try
        {
            Assert.Equal($"table:2: the base {part} and the base {disk} of table:1 have bytes in common",
                Check(one, new BootRow("two", other, part, null, 1, "table:2"))?.Message);
        }
        finally
        {
            LoopDevice.Call("losetup", "-d", part);
        }
    }
}
