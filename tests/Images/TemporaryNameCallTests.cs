using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Images;

/// <summary>The two names of a file, and a COW under its temporary name, on file systems that refuse calls.</summary>
public sealed class TemporaryNameCallTests : IDisposable
{
    private const uint SYS_rename = 82, SYS_renameat2 = 316;

    private readonly TempFolder _folder = new();
    private readonly List<string> _warnings = [];

    // Opened once per process, before the rules of any test apply.
    public TemporaryNameCallTests() => _ = KernelTree.Dev.Folder;

    private string Target => _folder["target"];

    private string Part => Target + ".part";

    private IEnumerable<string?> Descriptors => Directory.EnumerateFileSystemEntries("/proc/self/fd")
        .Select(fd => new FileInfo(fd).LinkTarget).Where(path => path?.StartsWith(Target, StringComparison.Ordinal) == true);

    public void Dispose()
    {
        string?[] left = [.. Descriptors];
        _folder.Dispose();
        Assert.Empty(left);
    }

    [Theory]
    [InlineData("target")]
    [InlineData("target.part")]
    public void Without_locks_a_cow_is_written_only_with_no_lock(string first)
    {
        File.WriteAllText(_folder[first], "old");
        string path = _folder[first];
        string refusal = $"cannot lock {path}: {FileSystemName.Of(path)} has no locks (flock: {ErrnoText.Of(Errno.ENOLCK)}); "
            + "use --no-lock if no other program uses the file";
        Refusing(SYS_flock, Errno.ENOLCK, () =>
        {
            Refused(ExitCode.Unavailable, refusal);
            Write(withoutLock: true);
        });
        Assert.Equal("new", File.ReadAllText(Target));
    }

    [Theory]
    [InlineData("link")]
    [InlineData("begun")]
    public void A_cow_that_cannot_be_created_unlocks_the_file_that_it_would_replace(string part)
    {
        File.WriteAllText(Target, "old");
        if (part == "link") File.CreateSymbolicLink(Part, _folder["other"]);
        else File.WriteAllBytes(Part, Golden.HalfCow("half-v3-lz4-64k-xor-F1sync"));
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => AtomicFile.Create(Target, withoutLock: false));
        Assert.Equal(part == "link" ? ExitCode.CannotCreate : ExitCode.CowCorrupt, refusal.Code);
        Assert.Empty(Descriptors);
        File.Delete(Part);
        Write();
        Assert.Equal("new", File.ReadAllText(Target));
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EIO)]
    public void A_cow_that_cannot_be_renamed_is_73_and_leaves_the_existing_file(int errno)
    {
        File.WriteAllText(Target, "old");
        Refusing(SYS_rename, errno, () =>
        {
            SnapuserdException failure = Assert.Throws<SnapuserdException>(() => Write());
            Assert.Equal(ExitCode.CannotCreate, failure.Code);
            Assert.Equal($"{Target}: renaming it into place failed: {ErrnoText.Of(errno)}", failure.Message);
        });
        Assert.Equal("old", File.ReadAllText(Target));
        Assert.False(File.Exists(Part));
    }

    [Fact]
    public void A_part_of_a_single_byte_that_was_not_written_to_stays()
    {
        foreach (string left in (string[])["1", ""])
        {
            File.WriteAllText(Part, left);
            AtomicFile.Create(Target, withoutLock: false).Dispose();
            Assert.Equal(left.Length > 0, File.Exists(Part));
        }
    }

    [Theory]
    [InlineData(Errno.EACCES)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EROFS)]
    public void The_replaced_file_need_not_be_writable(int errno)
    {
        File.WriteAllText(Target, "old");
        Answering([SYS_openat], call => Writes(call) ? -errno : null, () =>
        {
            using TemporaryName name = new(Target);
            name.Claim(_ => false, withoutLock: false);
            Assert.Equal([Target], Descriptors);
        });
        Assert.Empty(Descriptors);
    }

    [Theory]
    [InlineData(Errno.EIO, ExitCode.InputOutput)]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    public void The_replaced_file_is_not_opened_again_after_another_error(int errno, ExitCode code)
    {
        File.WriteAllText(Target, "old");
        Answering([SYS_openat], call => Writes(call) ? -errno : null,
            () => Refused(code, $"cannot open {Target} for writing: {ErrnoText.Of(errno)}"));
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENOSYS)]
    [InlineData(Errno.EPERM)]
    public void Without_a_rename_that_spares_a_new_name_a_plain_rename_is_used(int errno)
    {
        Refusing(SYS_renameat2, errno, () => Write());
        Assert.Equal("new", File.ReadAllText(Target));
        Assert.False(File.Exists(Part));
    }

    [Theory]
    [InlineData(SYS_rename, true, Errno.EPERM)]
    [InlineData(SYS_rename, true, Errno.EIO)]
    [InlineData(SYS_renameat2, false, Errno.EIO)]
    [InlineData(SYS_renameat2, false, Errno.EACCES)]
    public void The_error_of_a_failed_rename_is_returned(uint call, bool replaces, int errno)
    {
        if (replaces) File.WriteAllText(Target, "old");
        File.WriteAllText(Part, "new");
        Refusing(call, errno, () => Assert.Equal((-errno, "renaming it into place"), Publish()));
        Assert.Equal("new", File.ReadAllText(Part));
        Assert.Equal(replaces, File.Exists(Target));
        Assert.Empty(_warnings);
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EACCES)]
    [InlineData(Errno.EINVAL)]
    public void A_folder_that_cannot_be_flushed_is_a_warning(int errno)
    {
        File.WriteAllText(Part, "new");
        Answering([SYS_openat, SYS_syncfs],
            call => call.Number == SYS_syncfs ? -Errno.ENOSYS : call.Text(1) == _folder.Path ? -errno : null,
            () => Assert.Equal((0, "flushing its folder"), Publish()));
        Assert.Equal([FolderFlush.Warning(Target, -errno)], _warnings);
        Assert.Equal("new", File.ReadAllText(Target));
    }

    private bool Writes(SystemCall call) => call.Text(1) == Target && (call[2] & Libc.O_ACCMODE) == Libc.O_RDWR;

    private (int Result, string Doing) Publish()
    {
        using TemporaryName name = new(Target);
        name.Claim(_ => false, withoutLock: false);
        using SafeFileHandle part = File.OpenHandle(Part, share: FileShare.ReadWrite | FileShare.Delete);
        int result = name.Publish((int)part.DangerousGetHandle(), _warnings.Add, out string doing);
        return (result, doing);
    }

    private void Write(bool withoutLock = false)
    {
        using (AtomicFile part = AtomicFile.Create(Target, withoutLock))
        {
            part.Output.Truncate(0);
            part.Output.Write(0, "new"u8);
            part.Finish(_warnings.Add);
        }
        Assert.Empty(Descriptors);
        Assert.Empty(_warnings);
    }

    private void Refused(ExitCode code, string message)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => AtomicFile.Create(Target, withoutLock: false).Dispose());
        Assert.Equal((code, message), (refusal.Code, refusal.Message));
        Assert.Empty(Descriptors);
    }
}
