using System;
using System.IO;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>In which folders a missing COW proves that there is no update.</summary>
public sealed class CowFolderTests
{
    /// <summary>File system types that a test machine may have, and whether their files survive a reboot.</summary>
    [Theory]
    [InlineData(0xef53, true)] // ext4
    [InlineData(0x58465342, true)] // XFS
    [InlineData(0x9123683e, true)] // btrfs
    [InlineData(0xf2f52010, true)] // F2FS
    [InlineData(0x24051905, true)] // UBIFS
    [InlineData(0x4d44, true)] // FAT
    [InlineData(Libc.TMPFS_MAGIC, false)]
    [InlineData(Libc.RAMFS_MAGIC, false)]
    [InlineData(Libc.OVERLAYFS_SUPER_MAGIC, false)]
    [InlineData(Libc.SQUASHFS_MAGIC, false)]
    [InlineData(Libc.EROFS_SUPER_MAGIC_V1, false)]
    [InlineData(Libc.AUTOFS_SUPER_MAGIC, false)]
    public void A_missing_cow_means_no_update_only_on_a_file_system_that_can_keep_one(long type, bool believed) =>
        Assert.Equal(believed, CowFolder.TypeOf(type) == null);

    [Fact]
    public void A_missing_folder_is_doubtful() => Assert.Contains("cannot be looked at", CowFolder.Doubt("/snapuserd-no-such-folder"));

    [Fact]
    public void The_root_itself_is_mounted_and_has_files()
    {
        string? doubt = CowFolder.Doubt("/");
        Assert.True(doubt == null || !doubt.Contains("empty", StringComparison.Ordinal), doubt);
    }

    [RootFact]
    public void A_folder_in_memory_is_doubtful_with_files_as_well()
    {
        using TmpFs memory = new(1 << 20);
        File.WriteAllText(memory["file"], "");
        Assert.StartsWith("its folder lies in memory", CowFolder.Doubt(Path.GetDirectoryName(memory["file"])!), StringComparison.Ordinal);
    }
}
