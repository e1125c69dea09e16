using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>Parsing of the boot table: the rows of valid lines, and the error messages of invalid ones.</summary>
public sealed class BootTableTests
{
    private static List<BootRow> Parse(string text) => BootTable.Parse("table", Encoding.UTF8.GetBytes(text));

    private static string ErrorOf(ReadOnlySpan<byte> bytes)
    {
        byte[] table = bytes.ToArray();
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => BootTable.Parse("/etc/t", table));
        Assert.Equal(ExitCode.Usage, e.Code);
        return e.Message;
    }

    [Theory]
    [InlineData("root /data/a.cow /dev/sda2", "root", "/data/a.cow", "/dev/sda2", null, 1)]
    [InlineData("\troot \t /data/a.cow\t/dev/sda2  ", "root", "/data/a.cow", "/dev/sda2", null, 1)]
    [InlineData("root /data/a.cow /dev/sda2\r", "root", "/data/a.cow", "/dev/sda2", null, 1)]
    [InlineData("root /data/a.cow /dev/sda2 # the rest", "root", "/data/a.cow", "/dev/sda2", null, 1)]
    [InlineData("root /data/a#b.cow /dev/sda2", "root", "/data/a#b.cow", "/dev/sda2", null, 1)]
    [InlineData("root /data/a.cow /dev/sda2 /dev/sda3", "root", "/data/a.cow", "/dev/sda2", "/dev/sda3", 1)]
    [InlineData("root /data/a.cow /dev/sda2 - 2", "root", "/data/a.cow", "/dev/sda2", null, 2)]
    [InlineData("root /data/a.cow /dev/sda2 /dev/sda3 99", "root", "/data/a.cow", "/dev/sda2", "/dev/sda3", 99)]
    [InlineData("root \"/my data/a \\\"b\\\" \\\\ #c.cow\" \"/dev/sda2\"", "root", "/my data/a \"b\" \\ #c.cow", "/dev/sda2", null, 1)]
    [InlineData("root PARTLABEL=cow UUID=1234-ab LABEL=src", "root", "/dev/disk/by-partlabel/cow", "/dev/disk/by-uuid/1234-ab",
        "/dev/disk/by-label/src", 1)]
    [InlineData("root \"PARTLABEL=my cow\" \"PARTLABEL=my root\" LABEL=/boot", "root", "/dev/disk/by-partlabel/my\\x20cow",
        "/dev/disk/by-partlabel/my\\x20root", "/dev/disk/by-label/\\x2fboot", 1)]
    [InlineData("root PARTLABEL=my\\x20cow LABEL=../../sda LABEL=ä#+-.:=@_,~", "root", "/dev/disk/by-partlabel/my\\x20cow",
        "/dev/disk/by-label/..\\x2f..\\x2fsda", "/dev/disk/by-label/ä#+-.:=@_\\x2c\\x7e", 1)]
    [InlineData("root /data/ä.cow PARTUUID=77", "root", "/data/ä.cow", "/dev/disk/by-partuuid/77", null, 1)]
    public void Valid_line_is_parsed_into_a_row(string line, string name, string cow, string basePath, string? source, int phase)
    {
        BootRow row = Assert.Single(Parse($"# comment\n\n   # another\n{line}\n"));
        Assert.Equal(new BootRow(name, cow, basePath, source, phase, "table:4"), row);
        Assert.Equal(row, Assert.Single(Parse($"# comment\n\n   # another\n{line}")));
    }

    [Theory]
    [InlineData("root", "a row has at least three fields, name cow base, and this one has 1")]
    [InlineData("root /a", "a row has at least three fields, name cow base, and this one has 2")]
    [InlineData("root /a /b - 1 more",
        "a row has at most five fields, name cow base source phase, and 'more' is a sixth; a field with blanks in it needs quotes")]
    [InlineData("\"\" /a /b", "\"\" cannot be the name of a mapped device: it is empty")]
    [InlineData("ro/ot /a /b", "\"ro/ot\" cannot be the name of a mapped device: only letters, digits and #+-.:=@_ are allowed")]
    [InlineData("control /a /b", "\"control\" cannot be the name of a mapped device: the name is reserved")]
    [InlineData(".hidden /a /b", "name is '.hidden', must not begin with '.'")]
    [InlineData("root a.cow /b", "cow is 'a.cow', must be an absolute path, or UUID=, LABEL=, PARTUUID= or PARTLABEL= and a value")]
    [InlineData("root PARTLABLE=cow /b", "cow is 'PARTLABLE=cow': unknown tag 'PARTLABLE='; did you mean PARTLABEL=?")]
    [InlineData("root /a partlabel=x",
        "base is 'partlabel=x', must be an absolute path, or UUID=, LABEL=, PARTUUID= or PARTLABEL= and a value")]
    [InlineData("root /a /b UIUD=x", "source is 'UIUD=x': unknown tag 'UIUD='; did you mean UUID=?")]
    [InlineData("root /a NAME=x",
        "base is 'NAME=x', must be an absolute path, or UUID=, LABEL=, PARTUUID= or PARTLABEL= and a value")]
    [InlineData("root \"\" /b", "cow is empty")]
    [InlineData("root /a/ /b", "cow is '/a/': a path must not have '.', '..' or empty parts")]
    [InlineData("root / /b", "cow is '/': a path must not have '.', '..' or empty parts")]
    [InlineData("root /x/../a /b", "cow is '/x/../a': a path must not have '.', '..' or empty parts")]
    [InlineData("root /x/a /b/.", "base is '/b/.': a path must not have '.', '..' or empty parts")]
    [InlineData("root /x//a /b", "cow is '/x//a': a path must not have '.', '..' or empty parts")]
    [InlineData("root /a UUID=", "base is 'UUID=': the value after '=' must not be empty, '.' or '..'")]
    [InlineData("root /a LABEL=..", "base is 'LABEL=..': the value after '=' must not be empty, '.' or '..'")]
    [InlineData("root /a /b 2", "source is '2'; if that is the phase, put - before it, for no source")]
    [InlineData("root /a /b - 0", "phase is '0', must be a number from 1 to 99")]
    [InlineData("root /a /b - 100", "phase is '100', must be a number from 1 to 99")]
    [InlineData("root /a /b - -1", "phase is '-1', must be a number from 1 to 99")]
    [InlineData("root /a /b - two", "phase is 'two', must be a number from 1 to 99")]
    [InlineData("root /a /a", "/a is the COW and the base")]
    [InlineData("root /a /b /a", "/a is the COW and the source")]
    [InlineData("root \"/a /b", "the quote before '/a /b' has no closing quote")]
    [InlineData("root \"/a\"x /b", "'x' follows the quote that ends '/a': a blank is missing")]
    [InlineData("root /a\"b /c", "a quote in the middle of '/a\"…': quotes must enclose the whole field")]
    [InlineData("root \"/a\\n\" /c", "in quotes, a backslash must be followed by a quote or another backslash")]
    [InlineData("root \"/a\\", "in quotes, a backslash must be followed by a quote or another backslash")]
    [InlineData("root /a\u0001 /b", "cow has a control character in it")]
    [InlineData("root /a\0 /b", "byte 8 of the line is zero: the table must be text")]
    [InlineData("one /a /b\none /c /d", "the name one is already used in /etc/t:2")]
    [InlineData("one /a /b\ntwo /a /d", "the COW /a is already used in /etc/t:2")]
    [InlineData("one /a /b\ntwo /c /b", "the base /b is already used in /etc/t:2")]
    [InlineData("one /a /b\ntwo /b /d", "/b is the COW here and the base of /etc/t:2")]
    [InlineData("one /a /b\ntwo /c /a", "/a is the base here and the COW of /etc/t:2")]
    [InlineData("one /a /b\ntwo /c /d /b 2", "/b is the source here and the base of /etc/t:2")]
    [InlineData("one /a /b /d\ntwo /c /d", "/d is the base here and the source of /etc/t:2")]
    [InlineData("one /a /b\ntwo /c /d /a", "/a is the source here and the COW of /etc/t:2")]
    [InlineData("one /a /b /c\ntwo /c /d", "/c is the COW here and the source of /etc/t:2")]
    public void Invalid_line_is_refused_with_its_line_number_and_the_reason(string lines, string reason)
    {
        int line = 2 + lines.Count(c => c == '\n');
        Assert.Equal($"/etc/t:{line}: {reason}", ErrorOf(Encoding.UTF8.GetBytes($"\n{lines}\n")));
    }

    [Fact]
    public void Two_rows_may_share_a_source_and_a_row_may_use_its_base_as_source() =>
        Assert.Equal(3, Parse("one /a /b /s\ntwo /c /d /s 2\nthree /e /f /f").Count);

    [Fact]
    public void Path_of_bytes_that_are_not_utf_8_is_kept_unchanged_in_the_row()
    {
        byte[] table = Encoding.Latin1.GetBytes("root \"/data/\u00ff\u00c3 \u00ed\u00b2\u0080.cow\" /dev/\u0080 LABEL=\u00e9\n");
        BootRow row = Assert.Single(BootTable.Parse("table", table));
        Assert.Equal("/data/\u00ff\u00c3 \u00ed\u00b2\u0080.cow", Encoding.Latin1.GetString(ByteText.Encode(row.Cow)));
        Assert.Equal("/dev/\u0080", Encoding.Latin1.GetString(ByteText.Encode(row.Base)));
        Assert.Equal("/dev/disk/by-label/\\xe9", row.Source);
    }

    [Fact]
    public void Table_with_too_many_bytes_or_rows_or_too_long_a_path_is_refused()
    {
        Assert.Equal("/etc/t: more than 65536 bytes: too large for a table", ErrorOf(new byte[65537]));
        Assert.Equal($"/etc/t:65: there are more than 64 rows",
            ErrorOf(Encoding.UTF8.GetBytes(string.Concat(Enumerable.Range(0, 65).Select(i => $"n{i} /a{i} /b{i}\n")))));
        Assert.Contains("more than 4095 bytes", ErrorOf(Encoding.UTF8.GetBytes($"root /{new string('a', 4095)} /b")));
    }

    [Fact]
    public void Random_table_gives_rows_or_an_error_that_names_the_file()
    {
        const string alphabet = "root /a b\"\"\\\\#\n\n\t-12UUID=.\r\0\u00e4";
        Random random = new(7);
        int rows = 0, refused = 0;
        for (int i = 0; i < 20_000; i++)
        {
            byte[] table = Encoding.UTF8.GetBytes(string.Concat(Enumerable.Range(0, random.Next(40))
                .Select(_ => alphabet[random.Next(alphabet.Length)])) + (i % 2 == 0 ? " /c /d" : ""));
            try
            {
                rows += BootTable.Parse("t", table).Count;
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.Usage && e.Message.StartsWith("t:", StringComparison.Ordinal))
            {
                refused++;
            }
        }
        Assert.True(rows > 20 && refused > 1000, $"{rows} rows, {refused} refused");
    }
}
