using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Boot;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>The kernel's command line: split as the kernel splits it, and understood or refused.</summary>
public sealed class KernelCommandLineTests
{
    [Theory]
    [InlineData("", "")]
    [InlineData("  a  b=c\n", "a|b=c")]
    [InlineData("a=\"b c\" d", "a=b c|d")]
    [InlineData("\"a=b c\" d", "a=b c|d")]
    [InlineData("a=b\"c d\"e", "a=b\"c d\"e")]
    [InlineData("a=\"b\"c\"", "a=b\"c")]
    [InlineData("a=b=c", "a=b=c")]
    [InlineData("=a", "=a")]
    [InlineData("a= b", "a=|b")]
    [InlineData("a=\"\" b", "a=|b")]
    [InlineData("a=\"b c", "a=b c")]
    [InlineData("\"a b\"", "a b")]
    [InlineData("a -- b=c", "a")]
    public void A_command_line_is_split_into_parameters(string line, string words) =>
        Assert.Equal(words,
            string.Join('|', KernelCommandLine.Split(line).Select(word => word.Value == null ? word.Key : $"{word.Key}={word.Value}")));

    [Fact]
    public void Every_short_line_is_split_as_by_the_kernel()
    {
        const string alphabet = "a=\" -";
        int lines = 0;
        for (int length = 0; length <= 7; length++)
        {
            int[] digits = new int[length];
            while (true)
            {
                string line = string.Concat(digits.Select(digit => alphabet[digit]));
                Assert.True(AsTheKernelDoes(line).SequenceEqual(KernelCommandLine.Split(line)), $"[{line}]");
                lines++;
                int at = 0;
                while (at < length && ++digits[at] == alphabet.Length) digits[at++] = 0;
                if (at == length) break;
            }
        }
        Assert.Equal(97_656, lines);
    }

    /// <summary>next_arg and parse_args of the kernel, including the zeros at the ends of strings.</summary>
    private static IEnumerable<(string, string?)> AsTheKernelDoes(string line)
    {
        char[] s = [.. line, '\0', '\0'];
        string Text(int from)
        {
            int end = Array.IndexOf(s, '\0', from);
            return new string(s, from, end - from);
        }
        int args = 0;
        while (s[args] == ' ') args++;
        while (s[args] != '\0')
        {
            int i, equals = 0;
            bool inQuote = false, quoted = false;
            if (s[args] == '"') (args, inQuote, quoted) = (args + 1, true, true);
            for (i = 0; s[args + i] != '\0'; i++)
            {
                if (s[args + i] == ' ' && !inQuote) break;
                if (equals == 0 && s[args + i] == '=') equals = i;
                if (s[args + i] == '"') inQuote = !inQuote;
            }
            int param = args, val = -1;
            if (equals != 0)
            {
                s[args + equals] = '\0';
                val = args + equals + 1;
                if (s[val] == '"')
                {
                    val++;
                    if (s[args + i - 1] == '"') s[args + i - 1] = '\0';
                }
            }
            if (quoted && i > 0 && s[args + i - 1] == '"') s[args + i - 1] = '\0';
            if (s[args + i] != '\0')
            {
                s[args + i] = '\0';
                args += i + 1;
            }
            else
            {
                args += i;
            }
            while (s[args] == ' ') args++;
            if (val < 0 && Text(param) == "--") yield break;
            yield return (Text(param), val < 0 ? null : Text(val));
        }
    }

    [Fact]
    public void Our_parameters_are_parsed_and_the_last_one_counts()
    {
        KernelCommandLine line = KernelCommandLine.Parse(
            "quiet root=/dev/mapper/r snapuserd.merge=before snapuserd.merge=manual snapuserd.device=nbd snapuserd.wait=7 "
            + "snapuserd.table=/t snapuserd.verify=off "
            + "snapuserd.row=a,/a.cow,/dev/a \"snapuserd.row=b,/b c.cow,/dev/b,,2\" snapuserd.row=c,/c.cow,/dev/c,/dev/s");
        Assert.Equal((false, MergePolicy.Manual, "nbd", 7, "/t", false),
            (line.Off, line.Merge, line.Device, line.Wait, line.Table, line.Verify));
        Assert.Equal(["a /a.cow /dev/a  1", "b /b c.cow /dev/b  2", "c /c.cow /dev/c /dev/s 1"],
            line.Rows.Select(row => $"{row.Name} {row.Cow} {row.Base} {row.Source} {row.Phase}"));
        Assert.Empty(line.Warnings);
    }

    [Fact]
    public void Without_our_parameters_a_boot_merges_in_the_background()
    {
        KernelCommandLine line = KernelCommandLine.Parse("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro");
        Assert.Equal((false, MergePolicy.Background, "auto", -1, null, true),
            (line.Off, line.Merge, line.Device, line.Wait, line.Table, line.Verify));
        Assert.True(KernelCommandLine.Parse("snapuserd=off").Off);
        Assert.False(KernelCommandLine.Parse("snapuserd=off snapuserd=on").Off);
        Assert.Equal("the kernel's command line: unknown word 'snapuserd.tabel'; did you mean snapuserd.table?",
            Assert.Single(KernelCommandLine.Parse("snapuserd.tabel=/x").Warnings));
        // It may be a misspelt rollback, which is impossible after a merge.
        Assert.Equal(MergePolicy.Manual, KernelCommandLine.Parse("snapuserd.mrege=rollback").Merge);
        Assert.Equal(MergePolicy.Background, KernelCommandLine.Parse("snapuserd.mrege=rollback snapuserd.merge=background").Merge);
    }

    [Theory]
    [InlineData("snapuserd", "the kernel's command line: snapuserd has no value, must be one of on, off")]
    [InlineData("snapuserd=of", "the kernel's command line: snapuserd is 'of', must be one of on, off")]
    [InlineData("snapuserd.merge=roll-back",
        "the kernel's command line: snapuserd.merge is 'roll-back', must be one of background, manual, before, rollback")]
    [InlineData("snapuserd.device=dm-user", "the kernel's command line: snapuserd.device is 'dm-user', must be one of auto, ublk, nbd")]
    [InlineData("snapuserd.wait=-1", "the kernel's command line: snapuserd.wait is '-1', must be a number of seconds, at most 3600")]
    [InlineData("snapuserd.wait=3601", "the kernel's command line: snapuserd.wait is '3601', must be a number of seconds, at most 3600")]
    [InlineData("snapuserd.wait", "the kernel's command line: snapuserd.wait has no value, must be a number of seconds, at most 3600")]
    [InlineData("snapuserd.table=t", "the kernel's command line: snapuserd.table is 't', must be an absolute path")]
    [InlineData("snapuserd.row=", "the kernel's command line: snapuserd.row is '', must be name,cow,base[,source[,phase]]")]
    [InlineData("snapuserd.row=a,/b", "snapuserd.row=a,/b: a row has at least three fields, name cow base, and this one has 2")]
    [InlineData("snapuserd.row=a,/b,/c snapuserd.row=a,/d,/e",
        "snapuserd.row=a,/d,/e: the name a is already used in snapuserd.row=a,/b,/c")]
    public void A_value_that_makes_no_sense_is_refused(string line, string sentence)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => KernelCommandLine.Parse(line));
        Assert.Equal((ExitCode.Usage, sentence), (e.Code, e.Message));
    }
}
