using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>Identity of files on an overlayfs, which are files of its upper layer; and reading small files of the kernel.</summary>
public sealed class FileIdentityTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string Write(string name, int length = 7)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_folder[name])!);
        File.WriteAllBytes(_folder[name], new byte[length]);
        return _folder[name];
    }

    private static StatxData Status(string path)
    {
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status));
        return status;
    }

    /// <summary>The file's identity if its file system is number 0:77 and the mount table has <paramref name="lines"/>.</summary>
    private static StorageBottom Of(string file, string lines, uint major = 0, long magic = Libc.OVERLAYFS_SUPER_MAGIC)
    {
        string table = Path.GetTempFileName();
        File.WriteAllText(table, lines);
        int fd = Libc.OpenAt(Libc.AT_FDCWD, file, Libc.O_RDONLY | Libc.O_CLOEXEC);
        StatxData status = Status(file);
        (status.DevMajor, status.DevMinor, status.Ino) = (major, 77, 5);
        StorageBottom bottom = default;
        Answering([SYS_openat, SYS_statfs], call =>
        {
            if (call.Number == SYS_openat)
                return call.Text(1) == "/proc/self/mountinfo" ? Libc.OpenAt(Libc.AT_FDCWD, table, call[2]) : null;
            if (call.Text(0) != file) return null;
            if (magic < 0) return magic;
            call.At<StatFsData>(1) = new StatFsData { Type = magic };
            return 0;
        }, () => bottom = FileIdentity.Of(fd, status));
        _ = Libc.Close(fd);
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"), entry => new FileInfo(entry).LinkTarget == table);
        File.Delete(table);
        return bottom;
    }

    [Theory]
    [InlineData("merged", "merged", "sub/file", true)]
    [InlineData("a b", "a\\040b", "file", true)]
    [InlineData("blank ", "blank\\040", "file", true)]
    [InlineData("\\ \t", "\\134\\040\\011", "file", true)]
    [InlineData("x\\04", "x\\04", "file", true)]
    [InlineData("x\\", "x\\", "file", true)]
    [InlineData("x\\400y", "x\\400y", "file", true)]
    [InlineData("x\\080y", "x\\080y", "file", true)]
    [InlineData("x\\008y", "x\\008y", "file", true)]
    [InlineData("x\\00/y", "x\\00/y", "file", true)]
    [InlineData("x\\/00y", "x\\/00y", "file", true)]
    [InlineData("x7777", "x7777", "file", true)]
    [InlineData("mergedtoo", "merged", "file", false)]
    [InlineData("merged", "other", "file", false)]
    public void File_of_an_overlay_is_searched_below_its_mount_point(string mounted, string field, string file, bool found)
    {
        string merged = Write($"{mounted}/{file}");
        StorageBottom upper = StorageBottom.OfFile(Status(Write($"upper/{file}")).DevMajor, Status(_folder[$"upper/{file}"]).DevMinor,
            Status(_folder[$"upper/{file}"]).Ino);
        string line = $"36 35 0:77 / {_folder.Path}/{field} rw - overlay overlay rw,lowerdir=/x,upperdir={_folder.Path}/upper,workdir=/y";
        Assert.Equal(found ? upper : StorageBottom.OfFile(0, 77, 5), Of(merged, $"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{line}\n"));
    }

    [Fact]
    public void Line_of_another_mount_and_a_truncated_line_are_ignored()
    {
        string merged = Write("merged/file"), options = $"rw,lowerdir=/x,upperdir={_folder.Path}/upper", mount = $"{_folder.Path}/merged";
        StatxData there = Status(Write("upper/file"));
        StorageBottom upper = StorageBottom.OfFile(there.DevMajor, there.DevMinor, there.Ino), own = StorageBottom.OfFile(0, 77, 5);
        string good = $"36 35 0:77 / {mount} rw - overlay overlay {options}";
        Assert.Equal(upper, Of(merged, good));
        Assert.Equal(upper, Of(merged, good.Replace(" rw -", " rw shared:1 master:2 -")));
        Assert.Equal(own, Of(merged, ""));
        Assert.Equal(own, Of(merged, good.Replace("0:77", "77:0")));
        Assert.Equal(own, Of(merged, good.Replace(" overlay overlay", " tmpfs overlay")));
        Assert.Equal(own, Of(merged, good.Replace(" rw -", " -")));
        Assert.Equal(own, Of(merged, good.Replace(" -", "")));
        Assert.Equal(own, Of(merged, $"36 35 0:77 / {mount} rw - overlay overlay"));
        Assert.Equal(own, Of(merged, $"- overlay 0:77 {options}"));
        Assert.Equal(own, Of(merged, good.Replace("upperdir", "upper")));
        Assert.Equal(own, Of(merged, good.Replace("/upper", "/missing")));
        // The search continues after a line that does not fit.
        Assert.Equal(upper, Of(merged, good.Replace("/upper", "/missing") + "\n" + good));
        // A file system of another type, or one with a device, is not treated as an overlay.
        Assert.Equal(own, Of(merged, good, magic: Libc.TMPFS_MAGIC));
        Assert.Equal(own, Of(merged, good, magic: -Errno.ENOSYS));
        Assert.Equal(StorageBottom.OfFile(8, 77, 5), Of(merged, good, major: 8));
    }

    [Fact]
    public void File_in_the_upper_layer_must_match_the_open_file()
    {
        string merged = Write("merged/file"), options = $"upperdir={_folder.Path}/upper";
        StorageBottom own = StorageBottom.OfFile(0, 77, 5);
        string line = $"36 35 0:77 / {_folder.Path}/merged rw - overlay overlay {options}";
        Write("upper/file", 8);
        Assert.Equal(own, Of(merged, line));
        Write("upper/file");
        File.SetUnixFileMode(_folder["upper/file"], UnixFileMode.UserRead);
        Assert.Equal(own, Of(merged, line));
        File.SetUnixFileMode(_folder["upper/file"], File.GetUnixFileMode(merged));
        Assert.NotEqual(own, Of(merged, line));
        File.Delete(_folder["upper/file"]);
        File.CreateSymbolicLink(_folder["upper/file"], merged);
        Assert.Equal(own, Of(merged, line));
    }

    [Fact]
    public void Root_of_the_mount_is_a_part_of_the_path_in_the_upper_layer()
    {
        string merged = Write("merged/file");
        StatxData below = Status(Write("upper/part/file")), whole = Status(Write("top" + merged));
        string line = $"36 35 0:77 /part {_folder.Path}/merged rw - overlay overlay upperdir={_folder.Path}/upper";
        Assert.Equal(StorageBottom.OfFile(below.DevMajor, below.DevMinor, below.Ino), Of(merged, line));
        // The overlay is the root file system, as in a container. Then a file is itself a mount point.
        Assert.Equal(StorageBottom.OfFile(whole.DevMajor, whole.DevMinor, whole.Ino),
            Of(merged, $"36 35 0:77 / / rw - overlay overlay upperdir={_folder.Path}/top"));
        StatxData bound = Status(Write("upper/bound"));
        Assert.Equal(StorageBottom.OfFile(bound.DevMajor, bound.DevMinor, bound.Ino),
            Of(merged, $"36 35 0:77 /bound {merged} rw - overlay overlay upperdir={_folder.Path}/upper"));
    }

    [Fact]
    public void Small_file_of_any_length_is_read_whole_and_closed()
    {
        foreach (int length in (int[])[0, 1, Sizes.SystemPage - 1, Sizes.SystemPage, Sizes.SystemPage + 1, 3 * Sizes.SystemPage,
            (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 5 << 20])
        {
            string text = string.Concat(Enumerable.Range(0, (length / 8) + 1).Select(i => $"{i:D7} "))[..length];
            File.WriteAllText(_folder["text"], text);
            int fd = Libc.OpenAt(Libc.AT_FDCWD, _folder["text"], Libc.O_RDONLY | Libc.O_CLOEXEC);
            Assert.True(text[..Math.Min(length, 4 << 20)] == SmallText.Read(fd), $"{length} bytes");
            Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
                entry => new FileInfo(entry).LinkTarget == _folder["text"]);
        }
        Assert.Null(SmallText.Read(-Errno.ENOENT));
        Assert.Equal("", SmallText.Read(_folder["missing"]));
    }

    [Fact]
    public void Read_of_a_small_file_continues_after_an_interruption_but_not_after_a_failure()
    {
        File.WriteAllText(_folder["text"], "some text");
        foreach ((int errno, string? expected) in ((int, string?)[])[(Errno.EINTR, "some text"), (Errno.EIO, null), (Errno.EPERM, null)])
        {
            int fd = Libc.OpenAt(Libc.AT_FDCWD, _folder["text"], Libc.O_RDONLY | Libc.O_CLOEXEC), asked = 0;
            string? text = "";
            Answering([SYS_read], call => call[0] == fd && asked++ % 2 == 0 ? -errno : null, () => text = SmallText.Read(fd));
            Assert.Equal(expected, text);
            Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
                entry => new FileInfo(entry).LinkTarget == _folder["text"]);
        }
    }

    [Fact]
    public void Small_file_may_be_descriptor_0()
    {
        int reads = 0, closed = 0;
        Answering([SYS_read, SYS_close], call =>
        {
            if (call[0] != 0) return null;
            if (call.Number == SYS_close)
            {
                closed++;
                return 0;
            }
            call.At<byte>(1) = (byte)'x';
            return reads++ < 2 ? 1 : 0;
        }, () => Assert.Equal("xx", SmallText.Read(0)));
        Assert.Equal((3, 1), (reads, closed));
    }
}
