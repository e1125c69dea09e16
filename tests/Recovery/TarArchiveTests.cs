using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Recovery;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Recovery;

/// <summary>Archives that tar reads, and those that it writes.</summary>
public sealed class TarArchiveTests
{
    private static readonly (string Name, byte[] Content)[] s_files =
    [
        ("empty", []), ("metadata/ota/state", [1, 2, 3]), ("block", new byte[512]),
        ("large", [.. Enumerable.Range(0, 5000).Select(i => (byte)i)]),
    ];

    [Fact]
    public void Archive_is_read_by_tar_and_as_it_was_written()
    {
        using TempFolder folder = new();
        byte[] archive = Written();
        File.WriteAllBytes(folder["a.tar"], archive);
        Directory.CreateDirectory(folder["out"]);
        Assert.Equal(0, Binary.RunProgram("tar", ["-C", folder["out"], "-xf", folder["a.tar"]]).ExitCode);
        Dictionary<string, byte[]>? read = TarArchive.Read(archive);
        foreach ((string name, byte[] content) in s_files)
        {
            Assert.Equal(content, File.ReadAllBytes(folder["out/" + name]));
            Assert.Equal(content, read![name]);
        }
        Assert.Equal(s_files.Length, read!.Count);
    }

    [Fact]
    public void Archive_of_tar_is_read()
    {
        using TempFolder folder = new();
        File.WriteAllText(folder["x"], "content");
        Assert.Equal(0, Binary.RunProgram("tar", ["-C", folder.Path, "--format=ustar", "-cf", folder["b.tar"], "x"]).ExitCode);
        Assert.Equal("content"u8.ToArray(), TarArchive.Read(File.ReadAllBytes(folder["b.tar"]))!["x"]);
    }

    [Fact]
    public void Archive_that_is_cut_off_or_changed_in_a_header_is_none()
    {
        byte[] archive = Written();
        for (int length = 0; length < archive.Length - 1024; length += 100) Assert.Null(TarArchive.Read(archive.AsSpan(0, length)));
        for (int at = 0; at < 512; at++)
        {
            byte[] changed = [.. archive];
            changed[at] ^= 1;
            // Blanks around the sum have no meaning.
            if (at is < 148 or >= 156) Assert.Null(TarArchive.Read(changed));
        }
    }

    private static byte[] Written()
    {
        using MemoryStream archive = new();
        foreach ((string name, byte[] content) in s_files) TarArchive.Add(archive, name, content);
        TarArchive.End(archive);
        return archive.ToArray();
    }
}
