using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Interop;

/// <summary>Conversion of names of arbitrary bytes to strings and back.</summary>
public sealed class ByteTextTests
{
    [Fact]
    public void Every_sequence_of_one_two_and_three_bytes_survives_the_round_trip()
    {
        byte[] back = new byte[16];
        for (int length = 1; length <= 3; length++)
        {
            byte[] bytes = new byte[length];
            for (int all = 0; all < 1 << (8 * length); all++)
            {
                for (int i = 0; i < length; i++) bytes[i] = (byte)(all >> (8 * i));
                string text = ByteText.Decode(bytes);
                int count = ByteText.Encode(text, back);
                if (count != length || !back.AsSpan(0, count).SequenceEqual(bytes) || ByteText.GetByteCount(text) != length)
                    Assert.Fail($"{Convert.ToHexString(bytes)} came back as {Convert.ToHexString(back.AsSpan(0, Math.Max(count, 0)))}");
            }
        }
    }

    [Fact]
    public void Long_sequences_of_critical_bytes_survive_the_round_trip()
    {
        byte[] alphabet = [0x00, 0x0a, 0x1b, 0x41, 0x5c, 0x7f, 0x80, 0x9f, 0xa0, 0xb2, 0xbf, 0xc0, 0xc3, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4,
            0xf5, 0xfe, 0xff];
        const int seed = 20261127;
        Random random = new(seed);
        for (int i = 0; i < 200_000; i++)
        {
            byte[] bytes = [.. Enumerable.Range(0, random.Next(20)).Select(_ => alphabet[random.Next(alphabet.Length)])];
            byte[] back = ByteText.Encode(ByteText.Decode(bytes));
            if (!back.AsSpan().SequenceEqual(bytes))
                Assert.Fail($"seed {seed}, trial {i}: {Convert.ToHexString(bytes)} came back as {Convert.ToHexString(back)}");
        }
    }

    [Fact]
    public void Valid_utf8_is_decoded_and_any_other_byte_becomes_a_lone_surrogate()
    {
        // The cases are not in attributes, because attributes store strings as UTF-8, which has no lone surrogates.
        (string Hex, string Text)[] cases =
        [
            ("", ""),
            ("61C3A4E282ACF09D849E", "a\u00e4\u20ac\U0001d11e"),
            ("FF", "\udcff"),
            ("FE80", "\udcfe\udc80"),
            // An encoded surrogate, an overlong slash, a character truncated before another one, and one truncated at the end.
            ("EDB280", "\udced\udcb2\udc80"),
            ("C0AF", "\udcc0\udcaf"),
            ("E28241", "\udce2\udc82A"),
            ("F09D84", "\udcf0\udc9d\udc84"),
            // A code point above U+10FFFF.
            ("F4908080", "\udcf4\udc90\udc80\udc80"),
        ];
        foreach ((string hex, string text) in cases)
        {
            Assert.Equal(text, ByteText.Decode(Convert.FromHexString(hex)));
            Assert.Equal(hex, Convert.ToHexString(ByteText.Encode(text)));
        }
    }

    [Fact]
    public void Text_that_does_not_fit_is_reported_and_not_truncated()
    {
        byte[] target = new byte[3];
        Assert.Equal(3, ByteText.Encode("\udcff\u00e4", target));
        Assert.Equal(-1, ByteText.Encode("\udcff\u20ac", target));
        Assert.Equal(-1, ByteText.Encode("abcd", target));
    }

    [Fact]
    public void Surrogates_that_represent_no_byte_become_the_replacement_character() =>
        Assert.Equal("EFBFBD78EFBFBDEFBFBD", Convert.ToHexString(ByteText.Encode("\ud83dx\ude00\udc7f")));

    [Fact]
    public void Child_gets_arguments_and_environment_of_any_bytes()
    {
        using Support.TempFolder folder = new();
        string argument = ByteText.Decode(Convert.FromHexString("FFC3A4EDB2800AC0AF")),
            variable = ByteText.Decode(Convert.FromHexString("FE80E28220"));
        int shell = Libc.OpenAt(Libc.AT_FDCWD, "/bin/sh", Libc.O_RDONLY | Libc.O_CLOEXEC);
        int output = Libc.OpenAt(Libc.AT_FDCWD, folder["output"], Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC, 0x180);
        int child = Libc.ForkExec(shell, ["sh", "-c", "printf '%s|%s' \"$1\" \"$V\"", "sh", argument], ["V=" + variable], ownSession: false,
            -1, output, -1);
        Assert.True(child > 0);
        Assert.Equal(0, Libc.WaitPid(child, out int code, out int signal));
        Assert.Equal((0, 0), (code, signal));
        _ = Libc.Close(shell);
        _ = Libc.Close(output);
        Assert.Equal("FFC3A4EDB2800AC0AF7CFE80E28220", Convert.ToHexString(System.IO.File.ReadAllBytes(folder["output"])));
    }

    [Fact]
    public void File_of_any_name_can_be_made_listed_linked_and_removed()
    {
        using Support.TempFolder folder = new();
        List<string> made = [];
        foreach (string hex in (string[])["FF", "C3", "EDB280", "0A", "1B5B324A", "80909FA0", "F09D849E", "5C784646", "FFFEC0AF", "2D",
            string.Concat(Enumerable.Repeat("E9", 255))])
        {
            string name = ByteText.Decode(Convert.FromHexString(hex));
            int fd = Libc.OpenAt(Libc.AT_FDCWD, folder[name], Libc.O_RDWR | Libc.O_CREAT | Libc.O_EXCL, 0x180);
            Assert.True(fd >= 0, hex);
            _ = Libc.Close(fd);
            made.Add(name);
        }
        int opened = Libc.OpenAt(Libc.AT_FDCWD, folder.Path, Libc.O_RDONLY | Libc.O_DIRECTORY);
        List<string> names = [];
        Assert.Equal(0, Libc.NamesIn(opened, names));
        _ = Libc.Close(opened);
        Assert.Equal(made.Order(StringComparer.Ordinal), names.Order(StringComparer.Ordinal));
        Assert.Equal(0, Libc.SymLink(made[2], folder["link"]));
        Assert.Equal(0, Libc.ReadLink(folder["link"], out string target));
        Assert.Equal(made[2], target);
        foreach (string name in made) Assert.Equal(0, Libc.Unlink(folder[name]));
    }
}
