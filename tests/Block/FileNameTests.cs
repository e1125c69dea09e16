using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Names of single files, and names of file systems.</summary>
public sealed class FileNameTests
{
    [Theory]
    [InlineData("", "it is empty")]
    [InlineData(".", "'.' and '..' are reserved")]
    [InlineData("..", "'.' and '..' are reserved")]
    [InlineData("...", null)]
    [InlineData("a", null)]
    [InlineData("/", "it has a slash in it")]
    [InlineData("a/b", "it has a slash in it")]
    [InlineData("a\0b", "it has a zero byte in it")]
    [InlineData("a b\n", null)]
    public void Name_is_a_single_path_component(string name, string? fault)
    {
        Assert.Equal(fault, FileName.Fault(name));
        if (fault == null)
        {
            FileName.Check(name, "a server");
            return;
        }
        SnapuserdException refused = Assert.Throws<SnapuserdException>(() => FileName.Check(name, "a server"));
        Assert.Equal((ExitCode.Usage, $"'{name}' cannot name a server: {fault}"), (refused.Code, refused.Message));
    }

    [Fact]
    public void Name_has_at_most_255_bytes()
    {
        Assert.Null(FileName.Fault(new string('x', 255)));
        Assert.Equal("it has more than 255 bytes", FileName.Fault(new string('x', 256)));
        Assert.Null(FileName.Fault(new string('x', 253) + "\u00e4"));
        Assert.Equal("it has more than 255 bytes", FileName.Fault(new string('x', 254) + "\u00e4"));
    }

    [Theory]
    [InlineData(Libc.NFS_SUPER_MAGIC, "nfs")]
    [InlineData(Libc.EXT4_SUPER_MAGIC, "ext4")]
    [InlineData(0x1234abcdL, "its file system (of type 0x1234abcd)")]
    [InlineData((long)-Errno.EPERM, "its file system")]
    [InlineData((long)-Errno.ENOENT, "its file system")]
    public void File_system_is_described_by_its_name_or_number(long magic, string name)
    {
        using TempFolder folder = new();
        OwnThread.Answering([OwnThread.SYS_statfs], call =>
        {
            if (call.Text(0) != folder.Path) return null;
            if (magic < 0) return magic;
            call.At<StatFsData>(1) = new StatFsData { Type = magic };
            return 0;
        }, () => Assert.Equal(name, FileSystemName.Of(folder.Path)));
    }
}
