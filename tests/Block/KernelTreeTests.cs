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

/// <summary>Finding file systems at their mount points, or mounting them for this process alone.</summary>
public sealed class KernelTreeTests
{
    private static readonly uint[] s_calls = [SYS_openat, SYS_close, SYS_statfs, SYS_fsopen, SYS_fsconfig, SYS_fsmount];

    /// <summary>Descriptors that the test's answers returned and that are not closed.</summary>
    private readonly HashSet<int> _open = [];

    private readonly List<uint> _asked = [];

    private static KernelTree Sys() => new("sysfs", "/sys", Libc.SYSFS_MAGIC);

    private static KernelTree Dev() => new("devtmpfs", "/dev", 0);

    /// <summary>
    /// Looks for the tree while the test answers the calls. 0 stands for a new descriptor, null for the kernel's own answer.
    /// </summary>
    private int Find(KernelTree tree, long magic, int? fsopen = 0, int? fsconfig = 0, int? fsmount = 0,
        Func<SystemCall, int>? openat = null, uint? zero = null)
    {
        int folder = 0;
        Answering(s_calls, call =>
        {
            if (call.Number == SYS_close)
            {
                // Records an attempt to close an invalid descriptor, which is an error.
                if (call[0] < 0) _asked.Add(SYS_close);
                // Descriptor 0 is the test's own and stays open.
                return _open.Remove(call[0]) && call[0] == 0 ? 0 : null;
            }
            if (call.Number == SYS_openat && call.Text(1) is not ("/sys" or "/dev" or ".")) return null;
            _asked.Add(call.Number);
            switch (call.Number)
            {
                case SYS_statfs:
                    if (magic < 0) return magic;
                    call.At<StatFsData>(1) = new StatFsData { Type = magic };
                    return 0;
                case SYS_fsopen: return Descriptor(fsopen, call.Number);
                case SYS_fsconfig: return fsconfig;
                case SYS_fsmount: return Descriptor(fsmount, call.Number);
                default: return Descriptor(openat?.Invoke(call) ?? 0, call.Number);
            }
        }, () => folder = tree.Folder);
        return folder;

        long? Descriptor(int? answer, uint call)
        {
            if (answer != 0) return answer;
            int fd = call == zero ? 0 : Libc.EventFd(0, Libc.EFD_CLOEXEC);
            _ = _open.Add(fd);
            return fd;
        }
    }

    private void Check(KernelTree tree, int folder, int expected, bool genuine, params uint[] asked)
    {
        Assert.Equal(expected, Math.Min(folder, 0));
        Assert.Equal(genuine, tree.IsGenuine);
        Assert.Equal(asked, _asked);
        Assert.Equal(folder >= 0 ? [folder] : [], _open);
        Assert.Equal(folder, tree.Folder);
        foreach (int fd in _open.Where(fd => fd > 0)) _ = Libc.Close(fd);
        _open.Clear();
        _asked.Clear();
    }

    [Fact]
    public void Tree_at_its_usual_mount_point_is_opened_there()
    {
        KernelTree tree = Sys();
        Check(tree, Find(tree, Libc.SYSFS_MAGIC), 0, true, SYS_statfs, SYS_openat);
        tree = Sys();
        Check(tree, Find(tree, Libc.SYSFS_MAGIC, openat: _ => -Errno.EACCES), -Errno.EACCES, false, SYS_statfs, SYS_openat);
    }

    [Fact]
    public void Tree_that_is_not_mounted_is_mounted_for_this_process()
    {
        foreach (long magic in (long[])[Libc.TMPFS_MAGIC, -Errno.ENOENT])
        {
            KernelTree tree = Sys();
            Check(tree, Find(tree, magic), 0, true, SYS_statfs, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_openat);
            tree = Sys();
            Check(tree, Find(tree, magic, fsopen: -Errno.ENOSYS), -Errno.ENOSYS, false, SYS_statfs, SYS_fsopen);
            tree = Sys();
            Check(tree, Find(tree, magic, fsopen: -Errno.EPERM), -Errno.EPERM, false, SYS_statfs, SYS_fsopen);
            tree = Sys();
            Check(tree, Find(tree, magic, fsconfig: -Errno.EPERM), -Errno.EPERM, false, SYS_statfs, SYS_fsopen, SYS_fsconfig);
            tree = Sys();
            Check(tree, Find(tree, magic, fsmount: -Errno.EPERM), -Errno.EPERM, false, SYS_statfs, SYS_fsopen, SYS_fsconfig, SYS_fsmount);
            tree = Sys();
            Check(tree, Find(tree, magic, openat: _ => -Errno.EACCES), -Errno.EACCES, false, SYS_statfs, SYS_fsopen, SYS_fsconfig,
                SYS_fsmount, SYS_openat);
        }
    }

    [Fact]
    public void Unverifiable_tree_is_trusted_only_if_this_process_mounted_it()
    {
        KernelTree tree = Dev();
        Check(tree, Find(tree, 0), 0, true, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_openat);
        tree = Dev();
        Check(tree, Find(tree, 0, fsopen: -Errno.ENODEV), 0, false, SYS_fsopen, SYS_openat);
        tree = Dev();
        Check(tree, Find(tree, 0, openat: call => call.Text(1) == "." ? -Errno.EACCES : 0), 0, false, SYS_fsopen, SYS_fsconfig, SYS_fsmount,
            SYS_openat, SYS_openat);
        tree = Dev();
        Check(tree, Find(tree, 0, fsopen: -Errno.ENOSYS, openat: _ => -Errno.ENOENT), -Errno.ENOENT, false, SYS_fsopen, SYS_openat);
    }

    [Theory]
    [InlineData(Errno.EMFILE)]
    [InlineData(Errno.ENFILE)]
    [InlineData(Errno.ENOMEM)]
    public void Lack_of_descriptors_or_memory_is_not_remembered(int errno)
    {
        KernelTree tree = Dev();
        Assert.Equal(ExitCode.OutOfResources, Assert.Throws<SnapuserdException>(() => Find(tree, 0, fsopen: -errno)).Code);
        _asked.Clear();
        Check(tree, Find(tree, 0), 0, true, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_openat);
    }

    [Fact]
    public void Later_thread_uses_the_tree_that_another_thread_has_found_meanwhile()
    {
        KernelTree tree = Sys();
        int first = -1;
        int folder = Find(tree, Libc.SYSFS_MAGIC, openat: _ =>
        {
            // The listener's thread calls Folder first and finds the folder.
            first = tree.Folder;
            return 0;
        });
        Assert.True(first >= 0);
        Assert.Equal(first, folder);
        Assert.Empty(_open);
        _ = Libc.Close(first);
    }

    [RootFact]
    public void Tree_is_read_by_names_and_texts()
    {
        KernelTree tree = Sys();
        Assert.True(tree.IsGenuine);
        Assert.Contains("block", tree.Names("dev")!);
        Assert.Null(tree.Names("dev/missing"));
        Assert.Null(tree.ReadText("missing"));
        Assert.Null(tree.ReadText("dev"));
        Assert.Equal(-Errno.ENOENT, tree.Open("missing", Libc.O_RDONLY));
        int asked = 0;
        Answering([SYS_openat], call => call.Text(1) == "dev" && asked++ < 3 ? -Errno.EINTR : null,
            () => Assert.NotNull(tree.Names("dev")));
        Assert.Equal(4, asked);
        _ = Libc.Close(tree.Folder);
    }

    [Fact]
    public void Tree_that_cannot_be_mounted_is_read_at_its_usual_place_even_through_a_symbolic_link()
    {
        using TempFolder folder = new();
        Directory.CreateDirectory(folder["dev"]);
        File.WriteAllText(folder["dev/name"], "");
        File.CreateSymbolicLink(folder["link"], "dev");
        foreach (string place in (string[])["dev", "link"])
        {
            KernelTree tree = new("devtmpfs", folder[place], 0);
            Refusing(SYS_fsopen, Errno.ENODEV, () => Assert.Equal(["name"], tree.Names(".")));
            Assert.False(tree.IsGenuine);
            _ = Libc.Close(tree.Folder);
        }
    }

    [Fact]
    public void Without_permission_to_open_the_tree_everything_in_it_is_refused()
    {
        KernelTree tree = Sys();
        Check(tree, Find(tree, Libc.SYSFS_MAGIC, openat: _ => -Errno.EPERM), -Errno.EPERM, false, SYS_statfs, SYS_openat);
        Assert.Equal(-Errno.EPERM, tree.Open("dev", Libc.O_RDONLY));
        Assert.Null(tree.Names("dev"));
        Assert.Null(tree.ReadText("dev"));
        tree = Dev();
        Check(tree, Find(tree, 0, openat: call => call.Text(1) == "." ? -Errno.EPERM : 0), 0, false,
            SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_openat, SYS_openat);
        tree = Dev();
        Check(tree, Find(tree, 0, fsopen: -Errno.EPERM), 0, false, SYS_fsopen, SYS_openat);
        tree = Dev();
        Check(tree, Find(tree, 0, fsconfig: -Errno.EPERM), 0, false, SYS_fsopen, SYS_fsconfig, SYS_openat);
    }

    [Theory]
    [InlineData(SYS_fsopen)]
    [InlineData(SYS_fsmount)]
    [InlineData(SYS_openat)]
    public void Descriptor_0_is_valid(uint call)
    {
        KernelTree tree = Dev();
        Check(tree, Find(tree, 0, zero: call), 0, true, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_openat);
        if (call != SYS_openat) return;
        Answering([SYS_openat, SYS_close],
            asked => asked[0] != 0 || (asked.Number == SYS_openat && asked.Text(1) != "name") ? null : -Errno.ENXIO,
            () => Assert.Equal(-Errno.ENXIO, tree.Open("name", Libc.O_RDONLY)));
        // A thread that finds the folder too late closes its descriptor.
        tree = Sys();
        int first = -1;
        int folder = Find(tree, Libc.SYSFS_MAGIC, zero: call, openat: _ =>
        {
            first = tree.Folder;
            return 0;
        });
        Assert.Equal(first, folder);
        Assert.Empty(_open);
        _ = Libc.Close(first);
    }

    [Fact]
    public void Late_refusal_does_not_replace_a_folder_that_was_found()
    {
        KernelTree tree = Sys();
        int first = -1;
        int folder = Find(tree, Libc.SYSFS_MAGIC, openat: _ =>
        {
            first = tree.Folder;
            return -Errno.EPERM;
        });
        Assert.True(first >= 0);
        Assert.Equal((first, first), (folder, tree.Folder));
        Assert.Equal([SYS_statfs, SYS_openat], _asked);
        _ = Libc.Close(first);
    }
}
