using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Locks follow the storage: all names of one storage conflict, and storages without a common byte do not.</summary>
public sealed class StorageLocksTests
{
    private const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    /// <summary>The folder of lock files in the kernel's devtmpfs, even if another file system is mounted on /dev.</summary>
    private static readonly string s_folder = $"/proc/self/fd/{KernelTree.Dev.Folder}/.snapuserd";

    /// <summary>The name of a file's lock file. Files on other devices can have the same inode number.</summary>
    private static string NameOf(string path)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        StorageBottom bottom = Assert.Single(device.Storage.Pieces).Bottom;
        return $"{s_folder}/file-{bottom.Major}:{bottom.Minor}-{bottom.Inode}";
    }

    private static void Refused(string path, DeviceAccess access)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(path, access).Dispose());
        Assert.Equal(ExitCode.InUse, refusal.Code);
        Assert.Contains(path, refusal.Message, System.StringComparison.Ordinal);
    }

    [RootFact]
    public void Reader_and_writer_conflict_through_earlier_and_later_loop_devices_and_another_node()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice before = new(folder["image"]);
        string[] number = LoopDevice.Call("stat", "-c", "%Hr %Lr", before.Path).Trim().Split(' ');
        LoopDevice.Call("mknod", folder["node"], "b", number[0], number[1]);
        foreach ((DeviceAccess first, DeviceAccess second) in new[] { (DeviceAccess.Shared, Alone), (Alone, DeviceAccess.Shared) })
        {
            using BlockDevice holder = BlockDevice.Open(folder["image"], first);
            using LoopDevice later = new(folder["image"]);
            Refused(before.Path, second);
            Refused(later.Path, second);
            Refused(folder["node"], second);
        }
        using BlockDevice reader = BlockDevice.Open(before.Path, DeviceAccess.Shared),
            another = BlockDevice.Open(folder["image"], DeviceAccess.Shared);
        Refused(folder["node"], Alone);
    }

    [RootFact]
    public void Disjoint_ranges_of_one_file_are_used_at_the_same_time()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice first = new(folder["image"], "--sizelimit", "524288"), second = new(folder["image"], "--offset", "524288"),
            across = new(folder["image"], "--offset", "520192", "--sizelimit", "8192");
        using BlockDevice one = BlockDevice.Open(first.Path, Alone);
        using BlockDevice other = BlockDevice.Open(second.Path, Alone);
        Refused(across.Path, Alone);
        Refused(across.Path, DeviceAccess.Shared);
        Refused(folder["image"], DeviceAccess.Shared);
    }

    [RootFact]
    public void A_file_deleted_below_two_loop_devices_is_locked_through_both()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice one = new(folder["image"]), other = new(folder["image"]);
        File.Delete(folder["image"]);
        using BlockDevice holder = BlockDevice.Open(one.Path, DeviceAccess.Shared);
        Refused(other.Path, Alone);
        using BlockDevice reader = BlockDevice.Open(other.Path, DeviceAccess.Shared);
    }

    [RootFact]
    public void Own_locks_do_not_prevent_the_use_of_a_source_that_shares_the_storage()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice first = new(folder["image"], "--sizelimit", "524288"), shifted = new(folder["image"], "--offset", "4096");
        using BlockDevice target = BlockDevice.Open(first.Path, Alone);
        using (BlockDevice source = BlockDevice.Open(shifted.Path, DeviceAccess.Shared, target))
        {
            // The source has locked its part beyond the base.
            using LoopDevice end = new(folder["image"], "--offset", "1044480");
            Refused(end.Path, Alone);
        }
        Refused(first.Path, DeviceAccess.Shared);
        using BlockDevice whole = BlockDevice.Open(folder["image"], DeviceAccess.Read);
    }

    [RootFact]
    public void Lock_files_are_removed_with_their_last_user()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[4096]);
        string name = NameOf(folder["image"]);
        using (BlockDevice one = BlockDevice.Open(folder["image"], DeviceAccess.Shared))
        {
            Assert.True(File.Exists(name));
            BlockDevice.Open(folder["image"], DeviceAccess.Shared).Dispose();
            Assert.True(File.Exists(name));
        }
        Assert.False(File.Exists(name));
    }

    [RootFact]
    public void A_lock_file_that_another_process_has_made_meanwhile_keeps_its_name()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[4096]);
        string name = NameOf(folder["image"]);
        using (BlockDevice.Open(folder["image"], DeviceAccess.Shared))
        {
            Assert.True(File.Exists(name));
            File.Delete(name);
            File.WriteAllText(name, "");
        }
        Assert.True(File.Exists(name), "the lock file of the next holder was removed");
        File.Delete(name);
    }

    /// <summary>
    /// A random major number, because all processes share the lock files and a parallel test run must not use the same number.
    /// </summary>
    private static readonly uint s_major = (uint)RandomNumberGenerator.GetInt32(4096, int.MaxValue);

    private static readonly StorageBottom s_disk = StorageBottom.OfDevice(s_major, 1), s_other = StorageBottom.OfDevice(s_major, 2),
        s_crypt = StorageBottom.OfDevice(s_major, 3),
        s_file = StorageBottom.OfFile(s_major, 4, 5);

    private static StorageLocks? Take(bool alone, bool whole, StorageLocks? besides,
        params (StorageBottom Bottom, long Offset, long Length)[] pieces)
    {
        Dictionary<StorageBottom, StorageLayer> layers =
            new() { [s_crypt] = new StorageLayer("crypt", [new StoragePiece(s_disk, 500, 1000)]) };
        return StorageLocks.TryTake(
            new StorageIdentity([.. pieces.Select(piece => new StoragePiece(piece.Bottom, piece.Offset, piece.Length))], layers),
            alone, whole, besides);
    }

    /// <summary>The lock on bytes of a bottom as another open file sees it: "" for unlocked, "shared" or "alone".</summary>
    private static string Locked(string name, long start, long length)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, $"{s_folder}/{name}", Libc.O_RDWR | Libc.O_CLOEXEC);
        if (fd < 0) return "";
        bool write = Libc.IsRangeLocked(fd, new FileLock { Type = Libc.F_WRLCK, Start = start, Length = length }) == 1;
        bool read = Libc.IsRangeLocked(fd, new FileLock { Type = Libc.F_RDLCK, Start = start, Length = length }) == 1;
        _ = Libc.Close(fd);
        return read ? "alone" : write ? "shared" : "";
    }

    private static void CheckLocked(string name, long from, long to, string kind, string before = "")
    {
        Assert.Equal((kind, kind), (Locked(name, from, 1), Locked(name, to - 1, 1)));
        Assert.Equal((before, ""), (Locked(name, from - 1, 1), to == long.MaxValue ? "" : Locked(name, to, 1)));
    }

    [RootFact]
    public void Exactly_the_bytes_of_the_storage_are_locked_and_a_file_beyond_its_end()
    {
        foreach (bool alone in new[] { true, false })
        {
            using StorageLocks locks = Take(alone, whole: false, null, (s_other, 100, 50), (s_file, 7, 3))!;
            string kind = alone ? "alone" : "shared";
            CheckLocked($"disk-{s_major}:2", 100, 150, kind);
            CheckLocked($"file-{s_major}:4-5", 7, 10, kind);
            Assert.Equal(2, locks.Descriptors.Count());
        }
        using (Take(alone: true, whole: true, null, (s_other, 100, 50), (s_file, 7, 3)))
        {
            CheckLocked($"disk-{s_major}:2", 100, 150, "alone");
            CheckLocked($"file-{s_major}:4-5", 7, long.MaxValue, "alone");
        }
        Assert.Empty(Directory.GetFiles(s_folder, $"*-{s_major}:*"));
    }

    [RootFact]
    public void Range_locked_by_another_device_of_this_process_is_left_to_that_device()
    {
        StorageLocks first = Take(alone: true, whole: false, null, (s_other, 100, 50))!;
        foreach ((long offset, long length, (long From, long To)[] own) in new (long, long, (long, long)[])[]
        {
            (50, 200, [(50, 100), (150, 250)]), (100, 51, [(150, 151)]), (99, 51, [(99, 100)]), (110, 10, []), (100, 50, []),
            (151, 10, [(151, 161)]), (80, 10, [(80, 90)]),
        })
        {
            using StorageLocks second = Take(alone: false, whole: false, first, (s_other, offset, length))!;
            for (long at = offset - 2; at < offset + length + 2; at++)
                Assert.Equal((at, at is >= 100 and < 150 ? "alone" : own.Any(part => at >= part.From && at < part.To) ? "shared" : ""),
                    (at, Locked($"disk-{s_major}:2", at, 1)));
        }
        Assert.Null(Take(alone: false, whole: false, null, (s_disk, 0, 10), (s_other, 149, 5)));
        Assert.Equal(("", ""), (Locked($"disk-{s_major}:1", 0, 10), Locked($"disk-{s_major}:2", 150, 10)));
        first.Dispose();
        Assert.Empty(Directory.GetFiles(s_folder, $"*-{s_major}:*"));
    }

    [RootFact]
    public void Ranges_are_locked_in_one_order_and_exclusive_ones_last()
    {
        List<string> opened = [];
        StorageLocks? locks = null;
        OwnThread.Answering([OwnThread.SYS_openat], call =>
        {
            if (call.Text(1).Contains($"-{s_major}:", System.StringComparison.Ordinal)) opened.Add(call.Text(1));
            return null;
        }, () => locks = Take(alone: true, whole: false, null, (s_file, 0, 1), (s_crypt, 0, 10), (s_other, 0, 1), (s_disk, 0, 1000)));
        Assert.Equal([$"disk-{s_major}:1", $"disk-{s_major}:2", $"disk-{s_major}:3", $"file-{s_major}:4-5"], opened);
        // The device below the layer is locked shared. Only the range that is used directly is locked alone.
        CheckLocked($"disk-{s_major}:1", 1000, 1500, "shared", before: "alone");
        Assert.Equal(("alone", "alone"), (Locked($"disk-{s_major}:1", 0, 1), Locked($"disk-{s_major}:1", 999, 1)));
        locks!.Dispose();
        Assert.Empty(Directory.GetFiles(s_folder, $"*-{s_major}:*"));
    }

    [RootFact]
    public void Device_that_is_only_another_name_is_noted_until_the_note_is_closed()
    {
        Assert.False(StorageLocks.IsNoted(s_major, 1));
        int note = StorageLocks.NoteName(s_major, 1), second = StorageLocks.NoteName(s_major, 1);
        Assert.True(note >= 0 && second >= 0);
        Assert.True(StorageLocks.IsNoted(s_major, 1));
        Assert.False(StorageLocks.IsNoted(1, s_major));
        _ = Libc.Close(note);
        Assert.True(StorageLocks.IsNoted(s_major, 1));
        _ = Libc.Close(second);
        Assert.False(StorageLocks.IsNoted(s_major, 1));
        foreach (string name in new[] { $"name-{s_major}:1", $"name-1:{s_major}" })
        {
            Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
                fd => new FileInfo(fd).LinkTarget?.EndsWith("/" + name, System.StringComparison.Ordinal) == true);
            File.Delete($"{s_folder}/{name}");
        }
    }

    private static string Disk(int minor) => $"disk-{s_major}:{minor}";

    private static string Broken(string why) =>
        $"storage cannot be locked: /dev/.snapuserd: {why}; make it a folder that belongs to root and has mode 0700, "
        + "or remove it";

    private static void CheckEmpty()
    {
        Assert.Equal(("", ""), (Locked(Disk(1), 0, 10), Locked(Disk(2), 0, 10)));
        foreach (string file in Directory.GetFiles(s_folder, $"*-{s_major}:*")) File.Delete(file);
    }

    [RootFact]
    public void Locks_are_acquired_and_released_in_a_fixed_order_of_calls()
    {
        LockCalls calls = new();
        calls.Run(() =>
        {
            StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 20, 5), (s_disk, 0, 10))!;
            Assert.Equal(KernelTree.Dev.IsGenuine, locks.IsEverywhere);
            Assert.Single(locks.Descriptors);
            Assert.Equal(
                ["mkdir", "open .snapuserd", "status .snapuserd", $"open {Disk(1)}", $"status {Disk(1)}", $"lock {Disk(1)} alone 0+10",
                    $"status {Disk(1)}", $"named {Disk(1)}",
                    $"lock {Disk(1)} alone 20+5", $"status {Disk(1)}", $"named {Disk(1)}", "close .snapuserd"], calls.Asked);
            calls.Asked.Clear();
            locks.Dispose();
            Assert.Equal(
                ["mkdir", "open .snapuserd", "status .snapuserd", $"lock {Disk(1)} alone 0+0", $"status {Disk(1)}", $"named {Disk(1)}",
                    $"remove {Disk(1)}", $"lock {Disk(1)} not 0+0",
                    $"close {Disk(1)}", "close .snapuserd"], calls.Asked);
            calls.Asked.Clear();
            locks.Dispose();
            locks.Leave();
        });
        Assert.Empty(calls.Asked);
        Assert.Equal(["file 600", "folder 700"], calls.Modes.Order());
        Assert.Empty(Directory.GetFiles(s_folder, $"*-{s_major}:*"));
    }

    [RootFact]
    public void Unavailable_lock_folder_is_tolerated()
    {
        foreach ((string call, int errno) in new[] { ("mkdir", Errno.EPERM), ("mkdir", Errno.EROFS), ("mkdir", Errno.ENOSPC),
            ("open .snapuserd", Errno.EACCES),
            ("open .snapuserd", Errno.ENOENT), ("open .snapuserd", Errno.EPERM) })
        {
            LockCalls calls = new() { Answer = asked => asked == call ? -errno : null };
            calls.Run(() =>
            {
                StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
                Assert.False(locks.IsEverywhere);
                Assert.Empty(locks.Descriptors);
                locks.Dispose();
            });
            Assert.Equal(call == "mkdir" ? ["mkdir"] : ["mkdir", "open .snapuserd"], calls.Asked);
        }
        // This process has just created the folder.
        LockCalls made = new() { Answer = asked => asked == "mkdir" ? 0 : null };
        made.Run(() =>
        {
            using StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
            Assert.Equal("alone", Locked(Disk(1), 0, 10));
        });
        CheckEmpty();
    }

    [RootFact]
    public void Lock_folder_of_another_type_or_open_to_others_is_refused()
    {
        foreach ((int errno, ExitCode code) in new[]
        {
            (Errno.ENOTDIR, ExitCode.Permission), (Errno.ELOOP, ExitCode.Permission), (Errno.EIO, ExitCode.Permission),
        })
        {
            LockCalls calls = new() { Answer = asked => asked == "open .snapuserd" ? -errno : null };
            SnapuserdException refused =
                Assert.Throws<SnapuserdException>(() => calls.Run(() => Take(alone: true, whole: false, null, (s_disk, 0, 10))));
            Assert.Equal((code, Broken(ErrnoText.Of(errno))), (refused.Code, refused.Message));
        }
        foreach ((uint user, int mode) in new[] { (1u, 0x41c0), (0u, 0x41e0), (0u, 0x41c1), (1u, 0x41c1) })
        {
            LockCalls calls = new() { FolderStatus = new StatxData { Uid = user, Mode = (ushort)mode } };
            SnapuserdException refused =
                Assert.Throws<SnapuserdException>(() => calls.Run(() => Take(alone: true, whole: false, null, (s_disk, 0, 10))));
            Assert.Equal((ExitCode.Permission, Broken("it belongs to another user, or others may use it")),
                (refused.Code, refused.Message));
            Assert.Empty(calls.StillOpen);
            // A process without root's rights accepts the folder in any state.
            calls.Run(() => OwnThread.Unprivileged(() =>
            {
                using StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
                Assert.Equal([Disk(1)], calls.StillOpen);
            }));
        }
        // A folder whose status cannot be read is accepted.
        LockCalls silent = new() { Answer = asked => asked == "status .snapuserd" ? -Errno.EIO : null };
        silent.Run(() => Take(alone: true, whole: false, null, (s_disk, 0, 10))!.Dispose());
        Assert.Contains($"lock {Disk(1)} alone 0+10", silent.Asked);
        Assert.Empty(silent.StillOpen);
        CheckEmpty();
    }

    public static TheoryData<int> Unavailable =>
        [Errno.EPERM, Errno.EACCES, Errno.ENOSYS, Errno.ENOENT, Errno.EROFS, Errno.EINVAL, Errno.EOPNOTSUPP, Errno.ENODEV];

    [RootTheory]
    [MemberData(nameof(Unavailable))]
    public void Unavailable_lock_file_or_lock_is_skipped_and_the_others_are_locked(int errno)
    {
        foreach (string call in new[] { $"open {Disk(1)}", $"lock {Disk(1)} alone 0+10" })
        {
            // For a lock that conflicts, the kernel returns EACCES or EAGAIN.
            if (errno == Errno.EACCES && call.StartsWith("lock", System.StringComparison.Ordinal)) continue;
            LockCalls calls = new() { Answer = asked => asked == call ? -errno : null };
            calls.Run(() =>
            {
                using StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10), (s_other, 0, 10))!;
                Assert.False(locks.IsEverywhere);
                Assert.Equal(call.StartsWith("open", System.StringComparison.Ordinal) ? [Disk(2)] : [Disk(1), Disk(2)], calls.StillOpen);
                Assert.Equal(calls.StillOpen.Length, locks.Descriptors.Count());
                Assert.Equal(("", "alone"), (Locked(Disk(1), 0, 10), Locked(Disk(2), 0, 10)));
            });
            Assert.Empty(calls.StillOpen);
            CheckEmpty();
        }
    }

    [RootTheory]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOSPC, ExitCode.OutOfResources)]
    [InlineData(Errno.ENOLCK, ExitCode.OutOfResources)]
    [InlineData(Errno.EIO, ExitCode.Permission)]
    [InlineData(Errno.EISDIR, ExitCode.Permission)]
    [InlineData(Errno.EBADF, ExitCode.Permission)]
    public void Shortage_or_failure_ends_the_locking_and_leaves_nothing_locked(int errno, ExitCode code)
    {
        foreach (string call in new[] { $"open {Disk(2)}", $"lock {Disk(2)} alone 0+10" })
        {
            LockCalls calls = new() { Answer = asked => asked == call ? -errno : null };
            SnapuserdException refused =
                Assert.Throws<SnapuserdException>(
                    () => calls.Run(() => Take(alone: true, whole: false, null, (s_disk, 0, 10), (s_other, 0, 10))));
            string message = code == ExitCode.Permission
                ? Broken(ErrnoText.Of(errno))
                : $"storage cannot be locked in /dev/.snapuserd: {ErrnoText.Of(errno)}";
            Assert.Equal((code, message), (refused.Code, refused.Message));
            Assert.Contains($"lock {Disk(1)} alone 0+10", calls.Asked);
            Assert.Empty(calls.StillOpen);
            CheckEmpty();
        }
    }

    [RootFact]
    public void Interrupted_calls_are_repeated_and_a_conflicting_lock_ends_the_locking()
    {
        int opens = 0, locked = 0;
        LockCalls calls = new()
        {
            Answer = asked => (asked == $"open {Disk(1)}" && opens++ < 2) || (asked == $"lock {Disk(1)} alone 0+10" && locked++ < 3)
                ? -Errno.EINTR : null,
        };
        calls.Run(() =>
        {
            using StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
            Assert.Equal("alone", Locked(Disk(1), 0, 10));
        });
        Assert.Equal((3, 4), (opens, locked));
        foreach (int errno in new[] { Errno.EAGAIN, Errno.EACCES })
        {
            calls = new() { Answer = asked => asked == $"lock {Disk(2)} alone 0+10" ? -errno : null };
            calls.Run(() => Assert.Null(Take(alone: true, whole: false, null, (s_disk, 0, 10), (s_other, 0, 10))));
            Assert.Empty(calls.StillOpen);
            CheckEmpty();
        }
    }

    [RootFact]
    public void File_that_loses_its_name_while_it_is_locked_is_replaced()
    {
        foreach (bool inherited in new[] { false, true })
        {
            bool removed = false;
            int own = -1;
            LockCalls calls = new();
            calls.Run(() =>
            {
                StorageLocks? first = inherited ? Take(alone: true, whole: false, null, (s_disk, 0, 10)) : null;
                foreach (int fd in first?.Descriptors ?? []) InheritedHolds.Add(own = fd);
                calls.Asked.Clear();
                calls.Answer = asked =>
                {
                    if (removed || asked != $"lock {Disk(1)} alone 0+10") return null;
                    File.Delete($"{s_folder}/{Disk(1)}");
                    removed = true;
                    return null;
                };
                StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
                Assert.True(removed);
                Assert.Equal(2, calls.Asked.Count(asked => asked == $"open {Disk(1)}"));
                Assert.Equal("alone", Locked(Disk(1), 0, 10));
                // The inherited descriptor stays open beside the new one.
                Assert.Equal(inherited ? [Disk(1), Disk(1)] : [Disk(1)], calls.StillOpen);
                Assert.DoesNotContain(own, locks.Descriptors);
                locks.Dispose();
                Assert.Equal(inherited ? [Disk(1)] : [], calls.StillOpen);
                InheritedHolds.Remove(own);
                first?.Dispose();
            });
            Assert.Empty(calls.StillOpen);
            CheckEmpty();
        }
    }

    [RootFact]
    public void Inherited_file_is_used_in_place_of_another_and_stays_open()
    {
        LockCalls calls = new();
        calls.Run(() =>
        {
            StorageLocks first = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
            int own = first.Descriptors.Single();
            InheritedHolds.Add(own);
            try
            {
                foreach (bool alone in new[] { true, false })
                {
                    StorageLocks second = Take(alone, whole: false, null, (s_disk, 0, 10))!;
                    Assert.Equal([own], second.Descriptors);
                    Assert.Equal([Disk(1)], calls.StillOpen);
                    Assert.Equal("alone", Locked(Disk(1), 0, 10));
                    if (alone) second.Dispose();
                    else second.Leave();
                    Assert.Equal("alone", Locked(Disk(1), 0, 10));
                    Assert.Equal([Disk(1)], calls.StillOpen);
                }
            }
            finally
            {
                InheritedHolds.Remove(own);
            }
            first.Dispose();
        });
        Assert.Empty(calls.StillOpen);
        CheckEmpty();
    }

    [RootTheory]
    [InlineData("status", Errno.EIO, 1)]
    [InlineData("status", Errno.EPERM, 1)]
    [InlineData("named", Errno.EACCES, 1)]
    [InlineData("named", Errno.EPERM, 1)]
    [InlineData("named", Errno.ENOENT, 2)]
    public void Lock_file_whose_name_cannot_be_checked_counts_as_named(string call, int errno, int opens)
    {
        // Two calls each time: after a refused statx the code calls fstatat.
        int asked = 0, most = call == "status" ? 4 : errno == Errno.EPERM ? 2 : 1;
        LockCalls calls = new() { Answer = made => made == $"{call} {Disk(1)}" && asked++ < most ? -errno : null };
        calls.Run(() =>
        {
            using StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
            Assert.Equal("alone", Locked(Disk(1), 0, 10));
            Assert.Equal(opens, calls.Asked.Count(made => made == $"open {Disk(1)}"));
            Assert.Equal([Disk(1)], calls.StillOpen);
        });
        Assert.Empty(calls.StillOpen);
        CheckEmpty();
    }

    [RootFact]
    public void Lock_ends_with_its_user_even_if_a_child_has_the_file_open_unless_the_child_inherits_it()
    {
        foreach (bool leave in new[] { true, false })
        {
            LockCalls calls = new();
            int child = -1;
            calls.Run(() =>
            {
                StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
                child = Libc.Fcntl(locks.Descriptors.Single(), 1030, 0);
                Assert.True(child >= 0, "F_DUPFD_CLOEXEC");
                // Without a free descriptor the lock file stays.
                calls.Answer = asked => asked == "open .snapuserd" ? -Errno.EMFILE : null;
                if (leave) locks.Leave();
                locks.Dispose();
                locks.Dispose();
            });
            Assert.Empty(calls.StillOpen);
            Assert.True(File.Exists($"{s_folder}/{Disk(1)}"));
            Assert.Equal(leave ? "alone" : "", Locked(Disk(1), 0, 10));
            Assert.Equal(leave ? 0 : 1, calls.Asked.Count(asked => asked == $"lock {Disk(1)} not 0+0"));
            _ = Libc.Close(child);
            CheckEmpty();
        }
    }

    [RootFact]
    public void Note_that_cannot_be_made_is_absent()
    {
        string name = $"name-{s_major}:7";
        foreach (string call in new[] { "mkdir", "open .snapuserd", $"open {name}" })
        {
            LockCalls calls = new() { Answer = asked => asked == call ? -Errno.EPERM : null };
            calls.Run(() =>
            {
                Assert.Equal(-Errno.EPERM, StorageLocks.NoteName(s_major, 7));
                Assert.False(StorageLocks.IsNoted(s_major, 7));
            });
            Assert.Empty(calls.StillOpen);
            Assert.Equal(2, calls.Asked.Count(asked => asked == call));
            Assert.Equal(call, calls.Asked.Last(asked => !asked.StartsWith("close", System.StringComparison.Ordinal)));
        }
        LockCalls made = new();
        made.Run(() =>
        {
            int note = StorageLocks.NoteName(s_major, 7);
            Assert.Equal([name], made.StillOpen);
            Assert.True(StorageLocks.IsNoted(s_major, 7));
            Assert.Equal([name], made.StillOpen);
            _ = Libc.Close(note);
        });
        File.Delete($"{s_folder}/{name}");
    }

    [RootFact]
    public void Descriptor_0_is_valid()
    {
        string name = $"name-{s_major}:7";
        foreach (string zero in new[] { ".snapuserd", Disk(1), name })
        {
            LockCalls calls = new() { Zero = zero };
            calls.Run(() =>
            {
                StorageLocks locks = Take(alone: true, whole: false, null, (s_disk, 0, 10))!;
                Assert.Equal(KernelTree.Dev.IsGenuine, locks.IsEverywhere);
                Assert.Equal("alone", Locked(Disk(1), 0, 10));
                locks.Dispose();
                int note = StorageLocks.NoteName(s_major, 7);
                Assert.Equal(zero == name, note == 0);
                Assert.Equal([name], calls.StillOpen);
                calls.Zero = zero == name ? null : zero;
                Assert.True(StorageLocks.IsNoted(s_major, 7));
                _ = Libc.Close(note);
                calls.Zero = zero;
                Assert.False(StorageLocks.IsNoted(s_major, 7));
                Assert.Empty(calls.StillOpen);
                // The process that asks can hold the note as well.
                int other = StorageLocks.NoteName(s_major, 8);
                calls.Zero = $"name-{s_major}:8";
                Assert.True(StorageLocks.IsNoted(s_major, 8));
                _ = Libc.Close(other);
            });
            Assert.Empty(calls.StillOpen);
            Assert.False(File.Exists($"{s_folder}/{Disk(1)}"));
            CheckEmpty();
        }
    }
}
