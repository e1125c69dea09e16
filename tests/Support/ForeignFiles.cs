using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;

namespace Snapuserd.Tests.Support;

/// <summary>The beginnings of files that users pass instead of a COW, and words that the error message for each contains.</summary>
public static class ForeignFiles
{
    private static readonly (string Name, int Offset, string Magic, string What, string Remedy)[] s_all =
    [
        ("sparse", 0, "3aff26ed", "an Android sparse image", "snapuserd create --source OLD --target NEW"),
        ("payload", 0, "43724155", "an Android OTA payload (payload.bin)", "cow_converter"),
        ("zip", 0, "504b0304", "a zip archive", "unzip FILE payload.bin"),
        ("empty zip", 0, "504b0506", "a zip archive", "cow_converter"),
        ("squashfs", 0, "68737173", "an image of squashfs", "snapuserd create"),
        ("ext4", 1080, "53ef", "an image of ext4", "snapuserd create"),
        ("erofs", 1024, "e2e1f5e0", "an image of erofs", "snapuserd create"),
        ("f2fs", 1024, "1020f5f2", "an image of f2fs", "snapuserd create"),
        ("gzip", 0, "1f8b", "compressed with gzip:", "(gzip -d)"),
        ("zstd", 0, "28b52ffd", "compressed with zstd:", "(zstd -d)"),
        ("xz", 0, "fd377a585a00", "compressed with xz:", "(xz -d)"),
        ("bzip2", 0, "425a6839", "compressed with bzip2:", "(bzip2 -d)"),
        ("lz4", 0, "04224d18", "compressed with lz4:", "(lz4 -d)"),
        ("old lz4", 0, "02214c18", "compressed with lz4:", "(lz4 -d)"),
        ("7z", 0, "377abcaf271c", "compressed with 7-Zip:", "(7z x)"),
        ("tar", 257, "7573746172", "a tar archive", "tar -x"),
        ("boot", 0, "414e44524f494421", "an Android boot image", "snapuserd create"),
        ("vendor_boot", 0, "564e4452424f4f54", "an Android boot image", "snapuserd create"),
        ("vbmeta", 0, "41564230", "an Android vbmeta image", "snapuserd create"),
        ("elf", 0, "7f454c46", "an ELF program", ""),
        ("text", 0, Convert.ToHexString(Encoding.UTF8.GetBytes("<!DOCTYPE html>\r\n<title>404 – n\u00e4mlich nicht gefunden</title>\n")),
            "text", "downloaded"),
    ];

    public static IEnumerable<string> Names => s_all.Select(file => file.Name);

    /// <summary>Words of the error message.</summary>
    public static (string What, string Remedy) Words(string name) =>
        s_all.Where(file => file.Name == name).Select(file => (file.What, file.Remedy)).Single();

    /// <summary>Only the magic, as in a download that was cut off immediately.</summary>
    public static byte[] Magic(string name)
    {
        (_, int offset, string magic, _, _) = s_all.Single(file => file.Name == name);
        return [.. new byte[offset], .. Convert.FromHexString(magic)];
    }

    /// <summary>The magic followed by noise, and preceded by zeros where it is not at offset 0.</summary>
    public static byte[] Whole(string name, int length)
    {
        byte[] file = new byte[length], magic = Magic(name);
        if (name == "text") Array.Fill(file, (byte)'a');
        else new Random(1).NextBytes(file);
        magic.CopyTo(file, 0);
        return file;
    }
}
