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

/// <summary>Making a name durable: by flushing its folder, or its file system where a folder cannot be flushed.</summary>
public sealed class FolderFlushTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Flushes the folder of a file while the test answers the calls. Returns the calls in order, such as "fsync folder" and "syncfs file".
    /// </summary>
    private (int Result, int Unsupported, List<string> Calls) Flush(Func<int, long> folder, long syncfs = 0, long file = 0,
        long magic = Libc.EXT4_SUPER_MAGIC,
        long? open = null)
    {
        File.WriteAllText(_folder["file"], "");
        int fd = Libc.OpenAt(Libc.AT_FDCWD, _folder["file"], Libc.O_RDWR | Libc.O_CLOEXEC), before = Descriptors();
        List<string> calls = [];
        int result = 0, unsupported = 0, asked = 0;
        Answering([SYS_openat, SYS_fsync, SYS_syncfs, SYS_fstatfs], call =>
        {
            switch (call.Number)
            {
                case SYS_openat: return call.Text(1) == _folder.Path ? open : null;
                case SYS_fsync:
                    calls.Add(call[0] == fd ? "fsync file" : $"fsync {Path.GetFileName(DescriptorPath.Of(call[0]))}");
                    return call[0] == fd ? file : folder(asked++);
                case SYS_syncfs:
                    calls.Add(call[0] == fd ? "syncfs file" : "syncfs of something else");
                    return syncfs;
                default:
                    if (magic < 0) return magic;
                    call.At<StatFsData>(1) = new StatFsData { Type = magic };
                    return 0;
            }
        }, () => result = FolderFlush.Of(_folder["file"], fd, out unsupported));
        Assert.Equal(before, Descriptors());
        _ = Libc.Close(fd);
        string name = Path.GetFileName(_folder.Path);
        return (result, unsupported, [.. calls.Select(call => call == $"fsync {name}" ? "fsync folder" : call)]);
    }

    private int Descriptors() => Directory.EnumerateFileSystemEntries("/proc/self/fd")
        .Count(fd => new FileInfo(fd).LinkTarget?.StartsWith(_folder.Path, StringComparison.Ordinal) == true);

    [Fact]
    public void Flush_of_the_folder_alone_determines_the_result_where_it_is_supported()
    {
        (int result, int unsupported, List<string> calls) = Flush(_ => 0);
        Assert.Equal((0, 0), (result, unsupported));
        Assert.Equal(["fsync folder"], calls);
        foreach (int errno in (int[])[Errno.EIO, Errno.ENOSPC, Errno.EDQUOT])
        {
            (result, unsupported, calls) = Flush(_ => -errno);
            Assert.Equal((-errno, 0), (result, unsupported));
            Assert.Equal(["fsync folder"], calls);
        }
        (result, unsupported, calls) = Flush(_ => 0, open: -Errno.ENOENT);
        Assert.Equal((-Errno.ENOENT, 0), (result, unsupported));
        Assert.Empty(calls);
    }

    [Fact]
    public void Interrupted_flush_of_a_folder_is_repeated_a_bounded_number_of_times()
    {
        (int result, _, List<string> calls) = Flush(asked => asked < Retry.AttemptsBeforeSync ? -Errno.EINTR : 0);
        Assert.Equal((0, Retry.AttemptsBeforeSync + 1), (result, calls.Count));
        (result, _, calls) = Flush(_ => -Errno.EINTR);
        Assert.Equal((-Errno.EINTR, Retry.AttemptsBeforeSync + 1), (result, calls.Count));
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.EBADF)]
    [InlineData(Errno.ENOSYS)]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EROFS)]
    public void Whole_file_system_is_flushed_if_the_folder_cannot_be(int errno)
    {
        foreach (long magic in (long[])[Libc.EXT4_SUPER_MAGIC, Libc.XFS_SUPER_MAGIC, Libc.BTRFS_SUPER_MAGIC, Libc.F2FS_SUPER_MAGIC,
            Libc.TMPFS_MAGIC,
            Libc.RAMFS_MAGIC, Libc.MSDOS_SUPER_MAGIC, Libc.EXFAT_SUPER_MAGIC])
            Check(Flush(_ => -errno, magic: magic), 0, 0, "fsync folder", "syncfs file");
        // On these file systems a successful syncfs does not prove that the name is durable.
        foreach (long magic in (long[])[Libc.FUSE_SUPER_MAGIC, Libc.NFS_SUPER_MAGIC, Libc.OVERLAYFS_SUPER_MAGIC, -Errno.ENOSYS])
            Check(Flush(_ => -errno, magic: magic), 0, -errno, "fsync folder", "syncfs file");
        Check(Flush(_ => -errno, syncfs: -Errno.EIO), -Errno.EIO, 0, "fsync folder", "syncfs file");
        Check(Flush(_ => -errno, syncfs: -Errno.EPERM), 0, -errno, "fsync folder", "syncfs file", "fsync file");
        Check(Flush(_ => -errno, syncfs: -Errno.ENOSYS), 0, -errno, "fsync folder", "syncfs file", "fsync file");
        Check(Flush(_ => -errno, syncfs: -Errno.ENOSYS, file: -Errno.EIO), -Errno.EIO, 0, "fsync folder", "syncfs file", "fsync file");
        Check(Flush(_ => -errno, syncfs: -Errno.ENOSYS, file: -Errno.EINVAL), 0, -errno, "fsync folder", "syncfs file", "fsync file");
        Check(Flush(_ => 0, open: -Errno.EACCES), 0, 0, "syncfs file");
        Check(Flush(_ => 0, open: -Errno.EACCES, magic: Libc.V9FS_MAGIC), 0, -Errno.EACCES, "syncfs file");

        static void Check((int Result, int Unsupported, List<string> Calls) got, int result, int unsupported, params string[] calls)
        {
            Assert.Equal((result, unsupported), (got.Result, got.Unsupported));
            Assert.Equal(calls, got.Calls);
        }
    }

    [Theory]
    [InlineData("name", ".")]
    [InlineData("/name", "/")]
    [InlineData("/a/name", "/a")]
    [InlineData("a/b/name", "a/b")]
    [InlineData("a/b/", "a/b")]
    public void Folder_is_the_part_before_the_last_slash(string path, string folder)
    {
        List<string> opened = [];
        Answering([SYS_openat], call =>
        {
            if (call[0] != Libc.AT_FDCWD || (call[2] & Libc.O_DIRECTORY) == 0) return null;
            opened.Add(call.Text(1));
            return opened.Count < 3 ? -Errno.EINTR : -Errno.ENOTDIR;
        }, () => Assert.Equal(-Errno.ENOTDIR, FolderFlush.Of(path, -1, out _)));
        Assert.Equal([folder, folder, folder], opened);
    }

    [Fact]
    public void Warning_names_the_remedy() => Assert.Equal(
        $"/a/file is written and in place, but its folder cannot be flushed: {ErrnoText.Of(-Errno.EINVAL)}; "
        + "a power cut soon after this may undo the new name: run sync, or write to another file system",
        FolderFlush.Warning("/a/file", -Errno.EINVAL));

    [Fact]
    public void Folder_that_cannot_be_opened_is_reported_and_descriptor_0_is_flushed()
    {
        (int result, int unsupported, List<string> calls) = Flush(_ => 0, open: -Errno.EPERM, magic: Libc.V9FS_MAGIC);
        Assert.Equal((0, -Errno.EPERM), (result, unsupported));
        Assert.Equal(["syncfs file"], calls);
        List<uint> asked = [];
        Answering([SYS_openat, SYS_fsync, SYS_close], call =>
        {
            if (call.Number == SYS_openat) return call.Text(1) == _folder.Path ? 0 : null;
            if (call[0] != 0) return null;
            asked.Add(call.Number);
            return 0;
        }, () => Assert.Equal(0, FolderFlush.Of(_folder["file"], -1, out _)));
        Assert.Equal([SYS_fsync, SYS_close], asked);
    }
}
