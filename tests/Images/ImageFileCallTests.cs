using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Images;

/// <summary>An image on file systems that refuse calls, and next to other programs that use its names.</summary>
public sealed class ImageFileCallTests : IDisposable
{
    private const uint SYS_fchown = 93;

    private readonly TempFolder _folder = new();
    private readonly List<string> _warnings = [];
    private readonly WakeUp _wakeUp = new();
    private readonly DeviceSet _devices;

    public ImageFileCallTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        DeviceOptions options = new() { Cow = _folder["cow"], Base = _folder["base"], Io = IoChoice.Sync, ArenaBytes = 1 << 20 };
        _devices = new DeviceSet(options with { Threads = 1 }, new StopFlag(), _wakeUp);
    }

    private string Image => _folder["image"];

    private string Part => Image + ".part";

    /// <summary>Targets of the descriptors of the image, of its temporary file, or of a file that was one of them.</summary>
    private IEnumerable<string?> Descriptors => Directory.EnumerateFileSystemEntries("/proc/self/fd")
        .Select(fd => new FileInfo(fd).LinkTarget).Where(path => path?.StartsWith(Image, StringComparison.Ordinal) == true);

    public void Dispose()
    {
        string?[] left = [.. Descriptors];
        _devices.Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
        Assert.Empty(left);
    }

    [Theory]
    [InlineData(Errno.ELOOP, ExitCode.CannotCreate, "there is a symbolic link or a pipe of that name (ELOOP)")]
    [InlineData(Errno.ENXIO, ExitCode.CannotCreate, "there is a symbolic link or a pipe of that name (ENXIO)")]
    [InlineData(Errno.EPERM, ExitCode.CannotCreate, null)]
    [InlineData(Errno.ENOSPC, ExitCode.CannotCreate, null)]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources, null)]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources, null)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources, null)]
    public void A_part_that_cannot_be_created_is_refused_with_the_reason(int errno, ExitCode code, string? why)
    {
        File.WriteAllText(Part, "left");
        int asked = 0;
        Answering([SYS_openat], call => !Creates(call) ? null : asked++ == 0 ? -Errno.EINTR : -errno,
            () => Refused(code, $"cannot create {Part}: {why ?? ErrnoText.Of(errno)}"));
        Assert.Equal(2, asked);
        Assert.Equal("left", File.ReadAllText(Part));
    }

    [Fact]
    public void A_part_is_created_as_descriptor_0_too()
    {
        int real = -1;
        Answering([SYS_openat, SYS_close], call =>
        {
            if (call.Number == SYS_openat)
            {
                if (!Creates(call)) return null;
                real = Libc.OpenAt(Libc.AT_FDCWD, Part, call[2], (uint)call[3]);
                return 0;
            }
            if (call[0] != 0) return null;
            int closed = Libc.Close(real);
            real = -1;
            return closed;
        }, () => Write("new"u8.ToArray()));
        Assert.Equal(-1, real);
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Theory]
    [InlineData("image")]
    [InlineData("image.part")]
    public void Without_locks_an_image_is_written_only_with_no_lock(string first)
    {
        if (first == "image") File.WriteAllText(Image, "old");
        string path = _folder[first];
        string refusal = $"cannot lock {path}: {FileSystemName.Of(_folder["cow"])} has no locks (flock: {ErrnoText.Of(Errno.ENOLCK)}); "
            + "use --no-lock if no other program uses the file";
        Refusing(SYS_flock, Errno.ENOLCK, () =>
        {
            Refused(ExitCode.Unavailable, refusal);
            Write("new"u8.ToArray(), withoutLock: true);
        });
        Assert.Equal("new", Text(Image));
    }

    [Theory]
    [InlineData(new byte[] { 7 })]
    [InlineData(new byte[] { 0 })]
    public void A_single_byte_is_written_over_the_file_of_a_killed_run(byte[] bytes)
    {
        File.WriteAllBytes(Part, [9]);
        Write(bytes);
        Assert.Equal(bytes, File.ReadAllBytes(Image));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    public void A_single_byte_after_whole_blocks_is_a_byte_of_the_image(byte last)
    {
        foreach (byte first in (byte[])[0, 5])
        {
            byte[] bytes = new byte[4097];
            bytes.AsSpan(0, 4096).Fill(first);
            bytes[4096] = last;
            Write(bytes);
            Assert.Equal(bytes, File.ReadAllBytes(Image));
        }
    }

    [Fact]
    public void Zeros_between_data_take_no_space()
    {
        byte[] bytes = new byte[16 << 20];
        (bytes[0], bytes[^1]) = (1, 2);
        Write(bytes);
        Assert.Equal(bytes, File.ReadAllBytes(Image));
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, Image, 0, Libc.STATX_BASIC_STATS, out StatxData status));
        Assert.True(status.Blocks * 512 < 1 << 20, $"{status.Blocks} blocks");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Disposed_again_it_leaves_the_part_of_the_next_run(bool finished)
    {
        ImageFile file = New();
        file.Append("new"u8);
        if (finished) file.Finish(new StopFlag(), _warnings.Add);
        else file.Dispose();
        File.WriteAllText(Part, "next");
        file.Dispose();
        Assert.Equal("next", File.ReadAllText(Part));
        Assert.Equal(finished, File.Exists(Image));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_part_that_got_its_final_name_meanwhile_is_not_emptied(bool another)
    {
        File.WriteAllText(Part, "finished");
        bool moved = false;
        Answering([SYS_statx], call =>
        {
            if (moved || call.Text(1) != Part || call[2] != Libc.AT_SYMLINK_NOFOLLOW) return null;
            moved = true;
            File.Move(Part, Image + "-finished");
            if (another) File.WriteAllText(Part, "another");
            return null;
        }, () => Write("new"u8.ToArray()));
        Assert.True(moved);
        Assert.Equal("finished", File.ReadAllText(Image + "-finished"));
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Fact]
    public void A_part_that_is_gone_before_it_is_opened_is_created_again()
    {
        bool removed = false;
        int created = 0;
        Answering([SYS_openat, SYS_statx], call =>
        {
            if (call.Number == SYS_openat) created += Creates(call) ? 1 : 0;
            else if (created > 0 && !removed && call.Text(1) == Part)
            {
                File.Delete(Part);
                removed = true;
            }
            return null;
        }, () => Write("new"u8.ToArray()));
        Assert.Equal(2, created);
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Theory]
    [InlineData(Libc.O_RDWR, Errno.EACCES, ExitCode.CannotCreate, "cannot create {0}: cannot open {0} for writing: ")]
    [InlineData(Libc.O_RDWR, Errno.EIO, ExitCode.InputOutput, "cannot open {0} for writing: ")]
    [InlineData(Libc.O_RDONLY, Errno.EACCES, ExitCode.CannotCreate, "cannot create {0}: cannot open {0}: ")]
    [InlineData(Libc.O_RDONLY, Errno.EIO, ExitCode.InputOutput, "cannot open {0}: ")]
    public void A_part_that_cannot_be_opened_again_is_an_error(int access, int errno, ExitCode code, string words)
    {
        int asked = 0;
        bool Opens(SystemCall call) => call.Text(1) == Part && !Creates(call) && (call[2] & Libc.O_ACCMODE) == access;
        Answering([SYS_openat], call => Opens(call) && asked++ == 0 ? -errno : null,
            () => Refused(code, words.Replace("{0}", Part, StringComparison.Ordinal) + ErrnoText.Of(errno)));
        Assert.Equal(1, asked);
        Assert.Empty(Descriptors);
        Write("new"u8.ToArray());
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Theory]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.ENOSYS)]
    public void If_the_part_cannot_be_truncated_a_new_file_replaces_it(int errno)
    {
        File.WriteAllText(Part, "killed");
        LoopDevice.Call("ln", Part, _folder["killed"]);
        Refusing(SYS_ftruncate, errno, () => Write("new"u8.ToArray()));
        Assert.Equal("new", File.ReadAllText(Image));
        Assert.Equal("killed", File.ReadAllText(_folder["killed"]));
        Assert.False(File.Exists(Part));
    }

    [Theory]
    [InlineData(Errno.EIO)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EOPNOTSUPP)]
    public void A_part_that_can_be_neither_emptied_nor_removed_is_74(int errno)
    {
        File.WriteAllText(Part, "killed");
        Answering([SYS_ftruncate, SYS_unlink], call => call.Number == SYS_ftruncate ? -errno : call.Text(0) == Part ? -Errno.EROFS : null,
            () => Refused(ExitCode.InputOutput, $"{Image}: emptying it failed: {ErrnoText.Of(errno)}"));
        Assert.Equal("killed", File.ReadAllText(Part));
        Assert.Empty(Descriptors);
        Write("new"u8.ToArray());
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(5000)]
    public void If_the_length_cannot_be_set_zeros_at_the_end_are_written(int zeros)
    {
        byte[] bytes = new byte[4096 + zeros];
        bytes.AsSpan(0, 4096).Fill(1);
        Refusing(SYS_ftruncate, Errno.EOPNOTSUPP, () => Write(bytes));
        Assert.Equal(bytes, File.ReadAllBytes(Image));
    }

    [Theory]
    [InlineData(Errno.ENOSPC)]
    [InlineData(Errno.EPERM)]
    public void A_length_that_cannot_be_set_is_74(int errno)
    {
        Refusing(SYS_ftruncate, errno, () => Fails($"setting its length failed: {ErrnoText.Of(errno)}", () => Write(new byte[5000])));
        Assert.False(File.Exists(Image));
        Assert.False(File.Exists(Part));
    }

    [Fact]
    public void Bytes_that_another_program_appends_are_cut_off_or_are_an_error()
    {
        string refusal = $"setting its length failed: {ErrnoText.Of(Errno.EOPNOTSUPP)}";
        foreach (bool cuts in (bool[])[true, false])
        {
            using ImageFile file = New();
            file.Append("new"u8);
            int fd = Libc.OpenAt(Libc.AT_FDCWD, Part, Libc.O_WRONLY | Libc.O_CLOEXEC);
            Assert.Equal(5, Libc.PWrite(fd, "other"u8, 3));
            _ = Libc.Close(fd);
            if (cuts) Finish(file);
            else Refusing(SYS_ftruncate, Errno.EOPNOTSUPP, () => Fails(refusal, () => Finish(file)));
        }
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [Theory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.ENOSYS)]
    public void A_mode_that_the_file_system_lacks_is_a_warning(int errno)
    {
        File.WriteAllText(Image, "old");
        Refusing(SYS_fchmod, errno, () => Write("new"u8.ToArray()));
        Assert.Equal([$"{Image} does not get the mode of the file it replaces: {ErrnoText.Of(errno)}"], _warnings);
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [RootTheory]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.EOPNOTSUPP)]
    [InlineData(Errno.ENOSYS)]
    public void An_owner_that_the_file_system_lacks_is_a_warning(int errno)
    {
        OwnedByAnother();
        Refusing(SYS_fchown, errno, () => Write("new"u8.ToArray()));
        Assert.Equal([$"{Image} does not get the owner of the file it replaces: {ErrnoText.Of(errno)}"], _warnings);
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [RootFact]
    public void An_attribute_that_cannot_be_set_is_74()
    {
        OwnedByAnother();
        Refusing(SYS_fchown, Errno.EIO,
            () => Fails($"setting its owner failed: {ErrnoText.Of(Errno.EIO)}", () => Write("new"u8.ToArray())));
        Refusing(SYS_fchmod, Errno.EIO, () => Fails($"setting its mode failed: {ErrnoText.Of(Errno.EIO)}", () => Write("new"u8.ToArray())));
        Assert.Equal("old", File.ReadAllText(Image));
        Assert.Empty(_warnings);
    }

    [Fact]
    public void An_owner_that_is_the_same_is_not_set()
    {
        File.WriteAllText(Image, "old");
        Refusing(SYS_fchown, Errno.EPERM, () => Write("new"u8.ToArray()));
        Assert.Empty(_warnings);
        Assert.Equal("new", File.ReadAllText(Image));
    }

    [RootFact]
    public void A_user_who_is_not_root_does_not_set_an_owner()
    {
        OwnedByAnother();
        Answering([SYS_geteuid], _ => 1234, () => Write("new"u8.ToArray()));
        Assert.Empty(_warnings);
        Assert.Equal("0 0", LoopDevice.Call("stat", "-c", "%u %g", Image).Trim());
    }

    [Fact]
    public void A_short_write_is_continued_whatever_interrupts()
    {
        byte[] bytes = new byte[10_000];
        new Random(1).NextBytes(bytes);
        int asked = 0;
        Answering([SYS_pwrite64], call => asked++ switch
        {
            0 => -Errno.EINTR,
            1 or 3 => Libc.PWrite(call[0], (nint)call.Long(1), 1234, call.Long(3)),
            2 => -Errno.EAGAIN,
            _ => null,
        }, () => Write(bytes));
        Assert.Equal(bytes, File.ReadAllBytes(Image));
    }

    [Theory]
    [InlineData(0, Errno.EIO)]
    [InlineData(-Errno.ENOSPC, Errno.ENOSPC)]
    [InlineData(-Errno.EPERM, Errno.EPERM)]
    public void A_failed_write_is_74_with_its_offset_and_its_reason(int answer, int errno)
    {
        byte[] bytes = new byte[3 * 4096];
        bytes.AsSpan(4096).Fill(1);
        int asked = 0;
        Answering([SYS_pwrite64], call => asked++ switch
        {
            0 => Libc.PWrite(call[0], (nint)call.Long(1), 1000, call.Long(3)),
            1 => answer,
            _ => null,
        }, () => Fails($"writing at 5096 failed: {ErrnoText.Of(errno)}", () => Write(bytes)));
        Assert.False(File.Exists(Image));
        Assert.False(File.Exists(Part));
    }

    private bool Creates(SystemCall call) => (call[2] & Libc.O_CREAT) != 0 && call.Text(1) == Part;

    private void OwnedByAnother()
    {
        File.WriteAllText(Image, "old");
        LoopDevice.Call("chown", "1234:1235", Image);
    }

    private ImageFile New(bool withoutLock = false)
    {
        ImageFile file = new(Image);
        try
        {
            file.Create(_devices, withoutLock);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private void Finish(ImageFile file) => file.Finish(new StopFlag(), _warnings.Add);

    private void Write(byte[] bytes, bool withoutLock = false)
    {
        using ImageFile file = New(withoutLock);
        file.Append(bytes);
        Assert.Equal(bytes.Length, file.Length);
        Finish(file);
    }

    private void Refused(ExitCode code, string message)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => New().Dispose());
        Assert.Equal((code, message), (refusal.Code, refusal.Message));
    }

    private void Fails(string words, Action action)
    {
        SnapuserdException failure = Assert.Throws<SnapuserdException>(action);
        Assert.Equal((ExitCode.InputOutput, $"{Image}: {words}"), (failure.Code, failure.Message));
    }

    private static string Text(string path) => System.Text.Encoding.ASCII.GetString(Unlocked.Read(path, (int)new FileInfo(path).Length));
}
