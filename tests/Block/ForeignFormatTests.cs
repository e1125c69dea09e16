using System;
using System.IO;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>What a file is that is no COW and no raw image.</summary>
public sealed class ForeignFormatTests
{
    public static TheoryData<string> Names => [.. ForeignFiles.Names];

    [Theory]
    [MemberData(nameof(Names))]
    public void Format_is_recognized_whole_and_by_its_magic_alone(string name)
    {
        (string what, string remedy) = ForeignFiles.Words(name);
        foreach (byte[] file in (byte[][])[ForeignFiles.Magic(name), ForeignFiles.Whole(name, 100_000)])
        {
            string? said = ForeignFormat.Describe(file.AsSpan(0, Math.Min(file.Length, ForeignFormat.PrefixBytes)));
            Assert.Contains(what, said, StringComparison.Ordinal);
            Assert.Contains(remedy, said, StringComparison.Ordinal);
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Magic_that_is_cut_off_or_elsewhere_is_none(string name)
    {
        if (name == "text") return;
        byte[] magic = ForeignFiles.Magic(name);
        // A magic of letters, cut off, is text.
        Assert.DoesNotContain(ForeignFiles.Words(name).What, ForeignFormat.Describe(magic.AsSpan(..^1)) ?? "", StringComparison.Ordinal);
        Assert.DoesNotContain(ForeignFiles.Words(name).What, ForeignFormat.Describe([0, .. magic, 0, 0, 0, 0]) ?? "", StringComparison.Ordinal);
    }

    [Fact]
    public void Zeros_noise_and_nothing_are_not_recognized()
    {
        Assert.Null(ForeignFormat.Describe([]));
        Assert.Null(ForeignFormat.Describe("a"u8));
        Assert.Null(ForeignFormat.Describe(new byte[ForeignFormat.PrefixBytes]));
        byte[] noise = new byte[ForeignFormat.PrefixBytes];
        new Random(3).NextBytes(noise);
        Assert.Null(ForeignFormat.Describe(noise));
    }

    [Fact]
    public void Text_is_told_by_its_first_bytes_and_may_be_cut_inside_a_character()
    {
        byte[] text = Encoding.UTF8.GetBytes(new string('a', 511) + "\u00e4" + new string('b', 600));
        Assert.StartsWith("text", ForeignFormat.Describe(text));
        Assert.Null(ForeignFormat.Describe([.. text.AsSpan(0, 300), 0, .. text.AsSpan(300)]));
        Assert.Null(ForeignFormat.Describe([.. text.AsSpan(0, 300), 0xff, .. text.AsSpan(300)]));
    }

    [Theory]
    [InlineData("", false)]
    [InlineData("3aff26", false)]
    [InlineData("3aff26ed", true)]
    [InlineData("3aff26ed01000000", true)]
    [InlineData("3aff26ee01000000", false)]
    [InlineData("ed26ff3a01000000", false)]
    [InlineData("1f8b08000000000000", false)]
    [InlineData("504b030400000000", false)]
    [InlineData("6873717300000000", false)]
    public void Raw_image_is_refused_for_nothing_but_the_sparse_magic(string start, bool isSparse)
    {
        using var folder = new TempFolder();
        File.WriteAllBytes(folder["image"], Convert.FromHexString(start));
        using BlockDevice device = BlockDevice.Open(folder["image"], DeviceAccess.Read);
        Assert.Equal(isSparse, ForeignFormat.IsSparse(device));
        if (!isSparse)
        {
            ForeignFormat.RefuseSparse(device);
            return;
        }
        SnapuserdException error = Assert.Throws<SnapuserdException>(() => ForeignFormat.RefuseSparse(device));
        Assert.Equal(ExitCode.CowCorrupt, error.Code);
        Assert.StartsWith($"{folder["image"]} holds an Android sparse image", error.Message, StringComparison.Ordinal);
        Assert.Contains("simg2img", error.Message, StringComparison.Ordinal);
    }
}
