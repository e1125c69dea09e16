using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Block;

/// <summary>
/// Holds that a process keeps for its children, and storage that it claims for them while no device is open. Every device of the process
/// sees the environment that these tests set, so no other test runs meanwhile.
/// </summary>
[Collection(nameof(InheritedHoldsTests))]
[CollectionDefinition(nameof(InheritedHoldsTests), DisableParallelization = true)]
public sealed class InheritedHoldsTests : IDisposable
{
    private const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    private static readonly string s_locks = $"/proc/self/fd/{KernelTree.Dev.Folder}/.snapuserd";

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string Write(string name)
    {
        File.WriteAllBytes(_folder[name], new byte[4096]);
        return _folder[name];
    }

    private static StatxData Status(int fd)
    {
        Assert.Equal(0, Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status));
        return status;
    }

    private static int Open(string path) => Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CLOEXEC);

    private static int Count(string path) =>
        Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == path);

    [Fact]
    public void Hold_is_found_by_its_file_and_left_open_for_children()
    {
        int fd = Open(Write("one")), other = Open(Write("other"));
        StatxData status = Status(fd);
        InheritedHolds.Add(fd);
        Assert.Equal(0, Libc.Fcntl(fd, Libc.F_GETFD, 0));
        Assert.Equal(fd, InheritedHolds.Find(status));
        Assert.Equal(-1, InheritedHolds.Find(Status(other)));
        Assert.Equal(-1, InheritedHolds.Find(status with { DevMinor = status.DevMinor + 1 }));
        // A device is identified by its number, whatever file it is opened through. A regular file has no such number.
        Assert.Equal(-1, InheritedHolds.Find(status with { Mode = Libc.S_IFBLK }));
        Assert.True(InheritedHolds.IsOwn(fd));
        Assert.False(InheritedHolds.IsOwn(other));
        string[] numbers = InheritedHolds.ForChild([7001, 7002]).Split(',');
        Assert.Contains(fd.ToString(CultureInfo.InvariantCulture), numbers);
        Assert.Equal(["7001", "7002"], numbers[^2..]);
        InheritedHolds.Add(7003);
        Assert.DoesNotContain("7003", InheritedHolds.ForChild([]).Split(','));
        Assert.False(InheritedHolds.IsOwn(7003));
        InheritedHolds.Remove(fd);
        Assert.Equal(-1, InheritedHolds.Find(status));
        Assert.False(InheritedHolds.IsOwn(fd));
        Assert.True(Libc.Fcntl(fd, Libc.F_GETFD, 0) >= 0);
        _ = Libc.Close(fd);
        _ = Libc.Close(other);
    }

    [Fact]
    public void Inherited_descriptors_are_those_of_the_list_that_are_open()
    {
        int fd = Open(Write("one")), other = Open(Write("other"));
        List<(int Fd, StatxData Status)> all = InheritedHolds.Read($"{fd},x,,-1,7003, 3,{other}");
        Assert.Equal([fd, other], all.Select(one => one.Fd));
        Assert.Equal([Status(fd).Ino, Status(other).Ino], all.Select(one => one.Status.Ino));
        Assert.Empty(InheritedHolds.Read(null));
        _ = Libc.Close(fd);
        _ = Libc.Close(other);
    }

    [RootFact]
    public void Device_held_for_this_process_is_opened_beside_the_hold_and_given_up_together_with_it()
    {
        Write("image");
        using LoopDevice loop = new(_folder["image"]);
        int hold = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDWR | Libc.O_EXCL | Libc.O_CLOEXEC);
        StatxData status = Status(hold);
        InheritedHolds.Add(hold);
        Assert.Equal(hold,
            InheritedHolds.Find(new StatxData { Mode = Libc.S_IFBLK, RdevMajor = status.RdevMajor, RdevMinor = status.RdevMinor }));
        Assert.Equal(-1, InheritedHolds.Find(status with { RdevMinor = status.RdevMinor + 1 }));
        using (BlockDevice device = BlockDevice.Open(loop.Path, Alone))
        {
            Assert.Contains(device.Fd, device.Holds);
            // The device locks the node through its own open file, so a lock through the inherited descriptor conflicts.
            Assert.Equal(-Errno.EAGAIN, Libc.LockRange(hold, new FileLock { Type = Libc.F_RDLCK }));
            device.GiveUpHold();
            Assert.Equal(-1, InheritedHolds.Find(status));
            int next = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_CLOEXEC);
            Assert.True(next >= 0, Errno.Name(next));
            _ = Libc.Close(next);
            device.GiveUpHold();
        }
        InheritedHolds.Remove(hold);
    }

    [Fact]
    public void Hold_that_is_given_up_here_is_also_given_up_by_the_process_that_passed_it_on()
    {
        string path = _folder["socket"];
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified),
            client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        client.Connect(new UnixDomainSocketEndPoint(path));
        using Socket holder = listener.Accept();
        Environment.SetEnvironmentVariable(InheritedHolds.ReleaseVariable, client.Handle.ToString(CultureInfo.InvariantCulture));
        try
        {
            InheritedHolds.GiveUp(7003);
            Assert.Equal(0, holder.Available);

            int fd = Added();
            int heard = 0;
            Thread answer = new(() =>
            {
                byte[] one = new byte[2];
                heard = holder.Receive(one);
                holder.Send(one, 1, SocketFlags.None);
            });
            answer.Start();
            GiveUp(fd);
            answer.Join();
            Assert.Equal((1, 0), (heard, Count(_folder["one"])));
            Assert.Equal(0, client.Available);

            // An interrupted wait is continued. If the holder does not reply within the limit, it keeps the base.
            fd = Added();
            int asked = 0;
            SnapuserdException refused = Assert.Throws<SnapuserdException>(() => Answering([SYS_poll],
                call => call.At<PollFd>(0).Fd == (int)client.Handle && call[2] == 10_000 ? asked++ == 0 ? -Errno.EINTR : 0 : null,
                () => GiveUp(fd)));
            Assert.Equal((ExitCode.InUse, 2), (refused.Code, asked));
            Assert.Equal(0, Count(_folder["one"]));

            // A holder that has ended holds nothing.
            fd = Added();
            holder.Dispose();
            GiveUp(fd);
            Assert.Equal(0, Count(_folder["one"]));
        }
        finally
        {
            Environment.SetEnvironmentVariable(InheritedHolds.ReleaseVariable, null);
        }
        GiveUp(Added());
        Assert.Equal(0, Count(_folder["one"]));

        static void GiveUp(int fd)
        {
            try
            {
                InheritedHolds.GiveUp(fd);
            }
            finally
            {
                InheritedHolds.Remove(fd);
            }
        }

        int Added()
        {
            int fd = Open(Write("one"));
            InheritedHolds.Add(fd);
            return fd;
        }
    }

    /// <summary>Whether a write lock, and a read lock, on the file's storage is refused to another open file.</summary>
    private (bool Write, bool Read) Locked(string name)
    {
        int file = Open(_folder[name]);
        string? locks = Directory.GetFiles(s_locks, $"file-*-{Status(file).Ino}").SingleOrDefault();
        _ = Libc.Close(file);
        if (locks == null) return (false, false);
        int fd = Open(locks);
        (bool, bool) locked = (Libc.IsRangeLocked(fd, new FileLock { Type = Libc.F_WRLCK }) == 1,
            Libc.IsRangeLocked(fd, new FileLock { Type = Libc.F_RDLCK }) == 1);
        _ = Libc.Close(fd);
        return locked;
    }

    private void RemoveLocks(string name)
    {
        int file = Open(_folder[name]);
        foreach (string path in Directory.GetFiles(s_locks, $"file-*-{Status(file).Ino}")) File.Delete(path);
        _ = Libc.Close(file);
    }

    [RootFact]
    public void Claimed_storage_is_locked_exclusively_and_this_process_may_use_it()
    {
        Write("one");
        Write("other");
        StorageClaim claim = StorageClaim.Take(_folder["one"], _folder["missing"], _folder["other"]);
        foreach (string name in (string[])["one", "other"])
        {
            Assert.Equal((true, true), Locked(name));
            // The claim keeps the file open, so that no other file gets its number.
            Assert.Equal(1, Count(_folder[name]));
            using (BlockDevice shared = BlockDevice.Open(_folder[name], DeviceAccess.Shared)) Assert.Equal((true, true), Locked(name));
            Assert.Equal((true, true), Locked(name));
            BlockDevice.Open(_folder[name], Alone).Dispose();
            Assert.Equal((true, true), Locked(name));
        }
        string children = InheritedHolds.ForChild([]);
        claim.Dispose();
        Assert.NotEqual(children, InheritedHolds.ForChild([]));
        foreach (string name in (string[])["one", "other"])
        {
            Assert.Equal((false, false), Locked(name));
            Assert.Equal(0, Count(_folder[name]));
            RemoveLocks(name);
        }
        claim.Dispose();

        // If one path cannot be claimed, the claim fails and locks nothing.
        Assert.Equal(ExitCode.Usage, Assert.Throws<SnapuserdException>(() => StorageClaim.Take(_folder["one"], _folder.Path)).Code);
        Assert.Equal((false, false), Locked("one"));
        Assert.Equal(0, Count(_folder["one"]));
        RemoveLocks("one");
    }

    [Fact]
    public void Descriptor_that_cannot_be_inherited_by_children_is_not_held()
    {
        int fd = Open(Write("one"));
        foreach (int errno in (int[])[Errno.EPERM, Errno.EBADF])
        {
            Answering([SYS_fcntl], call => call[0] == fd && call[1] == Libc.F_SETFD ? -errno : null, () => InheritedHolds.Add(fd));
            Assert.Equal(-1, InheritedHolds.Find(Status(fd)));
            Assert.False(InheritedHolds.IsOwn(fd));
        }
        _ = Libc.Close(fd);
    }
}
