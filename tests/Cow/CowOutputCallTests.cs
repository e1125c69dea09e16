using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Cow;

/// <summary>Writing a COW to a file on simulated kernels whose answers differ from this machine's.</summary>
public sealed class CowOutputCallTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly string _path;

    public CowOutputCallTests() => _path = _folder["f.cow"];

    public void Dispose()
    {
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"), fd => new FileInfo(fd).LinkTarget == _path);
        _folder.Dispose();
    }

    private static void AssertFails(ExitCode code, string message, Action action)
    {
        SnapuserdException failed = Assert.Throws<SnapuserdException>(action);
        Assert.Equal((code, message), (failed.Code, failed.Message));
    }

    [Theory]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources)]
    [InlineData(Errno.EACCES, ExitCode.CannotCreate)]
    [InlineData(Errno.ENOSPC, ExitCode.CannotCreate)]
    [InlineData(Errno.EPERM, ExitCode.CannotCreate)]
    public void File_that_cannot_be_created_is_reported_with_the_reason(int errno, ExitCode code)
    {
        int asked = 0;
        AssertFails(code, $"{_path}: cannot be created: {ErrnoText.Of(-errno)}", () => Answering([SYS_openat],
            call => call.Text(1) == _path && (call[2] & Libc.O_CREAT) != 0 ? asked++ < 2 ? -Errno.EINTR : -errno : null,
            () => FileCowOutput.Create(_path).Dispose()));
        Assert.Equal(3, asked);
        Assert.False(File.Exists(_path));
    }

    [Fact]
    public void File_that_statx_does_not_find_is_created()
    {
        bool asked = false;
        Answering([SYS_statx], call =>
        {
            if (asked || call.Text(1) != _path) return null;
            asked = true;
            return -Errno.EPERM;
        }, () => FileCowOutput.Create(_path).Dispose());
        Assert.True(asked && File.Exists(_path));
    }

    [Theory]
    [InlineData(Errno.EINTR, 40)]
    [InlineData(Errno.EAGAIN, Retry.AttemptsBeforeSync)]
    public void Interrupted_calls_are_repeated(int errno, int times)
    {
        using FileCowOutput output = FileCowOutput.Create(_path);
        byte[] written = [1, 2, 3, 4, 5], read = new byte[5];
        int left = 0;
        long? Answer(SystemCall call) => call[0] == output.Fd && left-- > 0 ? -errno : null;
        Answering([SYS_pread64, SYS_pwrite64], Answer, () =>
        {
            left = times;
            output.Write(7, written);
            Assert.Equal(-1, left);
            left = times;
            output.Read(7, read);
            Assert.Equal(-1, left);
        });
        Assert.Equal(written, read);
        if (errno == Errno.EINTR) return;
        // One more refusal makes the call fail.
        Answering([SYS_pread64, SYS_pwrite64], Answer, () =>
        {
            left = times + 1;
            AssertFails(ExitCode.InputOutput, $"{_path}: writing 5 bytes at 7 failed: {ErrnoText.Of(-errno)}",
                () => output.Write(7, written));
            left = times + 1;
            AssertFails(ExitCode.InputOutput, $"{_path}: reading 5 bytes at 7 failed: {ErrnoText.Of(-errno)}", () => output.Read(7, read));
        });
    }

    [Theory]
    [InlineData(0, Errno.EIO)]
    [InlineData(-Errno.EPERM, Errno.EPERM)]
    [InlineData(-Errno.EIO, Errno.EIO)]
    public void Calls_that_move_nothing_fail(int answer, int errno)
    {
        using FileCowOutput output = FileCowOutput.Create(_path);
        output.Write(0, new byte[10]);
        // Only the first write and the first read get the answer.
        int asked = 0;
        Answering([SYS_pread64, SYS_pwrite64], call => call[0] == output.Fd && asked++ is 0 or 1 ? answer : null, () =>
        {
            AssertFails(ExitCode.InputOutput, $"{_path}: writing 3 bytes at 2 failed: {ErrnoText.Of(-errno)}",
                () => output.Write(2, [1, 2, 3]));
            AssertFails(ExitCode.InputOutput, $"{_path}: reading 3 bytes at 2 failed: {ErrnoText.Of(-errno)}",
                () => output.Read(2, new byte[3]));
        });
        Assert.Equal((10, 2), (output.Length, asked));
    }

    [Fact]
    public void Setting_the_length_is_repeated_after_an_interruption_and_fails_otherwise()
    {
        using FileCowOutput output = FileCowOutput.Create(_path);
        int asked = 0;
        Answering([SYS_ftruncate], call => call[0] == output.Fd && asked++ < 2 ? -Errno.EINTR : null, () => output.Truncate(30));
        Assert.Equal((3, 30, 30), (asked, output.Length, new FileInfo(_path).Length));
        Answering([SYS_ftruncate], call => call[0] == output.Fd ? -Errno.EPERM : null,
            () => AssertFails(ExitCode.InputOutput, $"{_path}: setting the length to 20 failed: {ErrnoText.Of(-Errno.EPERM)}",
                () => output.Truncate(20)));
        Assert.Equal((30, 30), (output.Length, new FileInfo(_path).Length));
    }

    [Fact]
    public void Flush_that_is_not_permitted_fails()
    {
        using FileCowOutput output = FileCowOutput.Create(_path);
        try
        {
            FileFlush.Before = _ => -Errno.EPERM;
            AssertFails(ExitCode.InputOutput, $"{_path}: flushing failed: {ErrnoText.Of(-Errno.EPERM)}", output.Flush);
        }
        finally
        {
            FileFlush.Before = null;
        }
    }
}
