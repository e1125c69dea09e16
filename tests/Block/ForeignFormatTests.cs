using System;
using System.IO;
using System.Runtime.CompilerServices;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The recognised format of a file that is neither a COW nor a raw image.</summary>
public sealed class ForeignFormatTests
{
    public static TheoryData<string> Names => [.. ForeignFiles.Names];

    [Theory]
    [MemberData(nameof(Names))]
    public void Format_is_recognized_in_a_whole_file_and_by_its_magic_alone(string name)
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
    public void Truncated_or_moved_magic_is_not_recognized(string name)
    {
        if (name == "text") return;
        byte[] magic = ForeignFiles.Magic(name);
        // A truncated magic of letters counts as text.
        Assert.DoesNotContain(ForeignFiles.Words(name).What, ForeignFormat.Describe(magic.AsSpan(..^1)) ?? "", StringComparison.Ordinal);
        Assert.DoesNotContain(ForeignFiles.Words(name).What, ForeignFormat.Describe([0, .. magic, 0, 0, 0, 0]) ?? "",
            StringComparison.Ordinal);
    }

    [Fact]
    public void Zeros_noise_and_an_empty_file_are_not_recognized()
    {
        Assert.Null(ForeignFormat.Describe([]));
        Assert.Null(ForeignFormat.Describe("a"u8));
        Assert.Null(ForeignFormat.Describe(new byte[ForeignFormat.PrefixBytes]));
        byte[] noise = new byte[ForeignFormat.PrefixBytes];
        new Random(3).NextBytes(noise);
        Assert.Null(ForeignFormat.Describe(noise));
    }

    [Fact]
    public void Text_is_recognized_by_its_first_bytes_even_if_cut_inside_a_character()
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
    public void Raw_image_is_refused_only_for_the_sparse_magic(string start, bool isSparse)
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

    [Fact]
    public void Messages_are_complete()
    {
        const string Create = "make the COW from the old and the new image: snapuserd create --source OLD --target NEW";
        const string Payload =
            "AOSP's cow_converter makes COWs from it and the target images; or unpack the images with a payload dumper, and " + Create;
        Check("sparse", $"an Android sparse image, not an update; {Create} (both may be sparse)");
        Check("payload", $"an Android OTA payload (payload.bin): {Payload}");
        Check("zip", $"a zip archive: if it is an OTA package, unpack its payload.bin (unzip FILE payload.bin); {Payload}");
        Check("boot", $"an Android boot image, not an update; {Create}");
        Check("vbmeta", $"an Android vbmeta image, not an update; {Create}");
        Check("ext4", $"an image of ext4, not an update; {Create}");
        Check("bzip2", "a file compressed with bzip2: unpack it (bzip2 -d) and give the COW that is in it");
        Check("elf", "an ELF program or library");

        static void Check(string name, string sentence) =>
            Assert.Equal(sentence, ForeignFormat.Describe(ForeignFiles.Whole(name, ForeignFormat.PrefixBytes)));
    }

    [Theory]
    [InlineData("BZh", null)]
    [InlineData("BZh0\0", null)]
    [InlineData("BZh1\0", "bzip2")]
    [InlineData("BZh9\0", "bzip2")]
    [InlineData("BZh:\0", null)]
    public void Bzip2_has_a_digit_for_its_blocks(string start, string? format) =>
        Assert.Equal(format != null,
            ForeignFormat.Describe(Encoding.ASCII.GetBytes(start))?.Contains("bzip2", StringComparison.Ordinal) == true);

    [Fact]
    public void Text_has_at_least_two_bytes_and_no_control_characters_except_those_of_lines()
    {
        Assert.Null(ForeignFormat.Describe("a"u8));
        Assert.StartsWith("text", ForeignFormat.Describe("ab"u8));
        Assert.StartsWith("text", ForeignFormat.Describe("a\n\r\t\f\u001b"u8));
        foreach (byte control in (byte[])[1, 8, 0xb, 0x1a, 0x1c, 0x7f])
            Assert.Null(ForeignFormat.Describe([(byte)'a', control, (byte)'b']));
        // Byte 512 is the first that is not examined.
        byte[] text = new byte[600];
        Array.Fill(text, (byte)'a');
        text[512] = 0;
        Assert.StartsWith("text", ForeignFormat.Describe(text));
        text[511] = 0;
        Assert.Null(ForeignFormat.Describe(text));
    }

    [Fact]
    public void Interrupted_read_of_the_beginning_continues_and_an_unreadable_device_counts_as_raw()
    {
        using var folder = new TempFolder();
        File.WriteAllBytes(folder["image"], ForeignFiles.Magic("sparse"));
        using BlockDevice device = BlockDevice.Open(folder["image"], DeviceAccess.Read);
        foreach ((long first, bool isSparse) in ((long, bool)[])[(-Errno.EINTR, true), (-Errno.EIO, false), (-Errno.EPERM, false),
            (0, false), (1, true), (3, true)])
        {
            int asked = 0;
            bool found = !isSparse;
            OwnThread.Answering([OwnThread.SYS_pread64], call =>
            {
                if (call[0] != device.Fd || asked++ > 0) return null;
                for (int i = 0; i < first; i++) Unsafe.Add(ref call.At<byte>(1), i) = ForeignFiles.Magic("sparse")[i];
                return first;
            }, () => found = ForeignFormat.IsSparse(device));
            Assert.Equal((isSparse, first is -Errno.EINTR or > 0 ? 2 : 1), (found, asked));
        }
        ForeignFormat.RefuseSparse(null);
        Assert.Equal(
            $"{folder["image"]} holds an Android sparse image, not a raw one: unpack it first (simg2img SPARSE RAW), and use the raw image",
            Assert.Throws<SnapuserdException>(() => ForeignFormat.RefuseSparse(device)).Message);
    }
}
