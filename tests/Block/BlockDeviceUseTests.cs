using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

public sealed class BlockDeviceUseTests
{
    private const int PatienceMilliseconds = 10_000;

    [RootFact]
    public void Device_is_in_use_while_it_is_open_or_held()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["disk"], new byte[1 << 20]);
        using LoopDevice loop = new(folder["disk"]);
        // udev opens a new device, and opens it again after a close.
        Assert.True(SpinWait.SpinUntil(() => BlockDeviceUse.Of(loop.Path) == null, PatienceMilliseconds));
        int open = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        Assert.Equal($"process {Environment.ProcessId} has it open", BlockDeviceUse.Of(loop.Path));
        Assert.False(BlockDeviceUse.IsHeld(loop.Path));
        _ = Libc.Close(open);

        int held = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_CLOEXEC);
        Assert.True(BlockDeviceUse.IsHeld(loop.Path));
        // Without /proc the answer has no process.
        Assert.Equal("it is mounted or held by another device", BlockDeviceUse.Of(loop.Path, folder["no-proc"]));
        _ = Libc.Close(held);
        Assert.False(BlockDeviceUse.IsHeld(loop.Path));
        Assert.True(SpinWait.SpinUntil(() => BlockDeviceUse.Of(loop.Path) == null, PatienceMilliseconds));
    }

    [Fact]
    public void File_that_is_not_a_block_device_is_not_in_use()
    {
        Assert.Null(BlockDeviceUse.Of("/dev/null"));
        Assert.Null(BlockDeviceUse.Of("/dev/no-such-device"));
        Assert.False(BlockDeviceUse.IsHeld("/dev/no-such-device"));
    }

    private static void Links(string folder, params (string Name, string Target)[] descriptors)
    {
        Directory.CreateDirectory(folder);
        foreach ((string name, string target) in descriptors) File.CreateSymbolicLink(Path.Combine(folder, name), target);
    }

    [Fact]
    public void Waiting_requests_are_reported_before_a_process_with_a_descriptor_and_that_before_a_mount()
    {
        using TempFolder processes = new();
        using FakeDevices devices = new();
        string disk = devices.Add("sda", 8, 16, 100, files: ("inflight", "       0        0\n"));
        devices.Add("sdb", 8, 32, 100);
        Dictionary<string, int> alone = [];
        devices.RefusedAlone = name => alone.GetValueOrDefault(name);
        devices.Answers["/dev/sda"] = devices.Answers["/dev/sdb"] = 0;
        // None of these counts as a process that has the disk open: a folder whose name is not a number, a link to another device, a file
        // in place of a link, and a file in place of the folder of links.
        Links(processes["self/fd"], ("3", "/dev/sda"));
        Links(processes["+5/fd"], ("3", "/dev/sda"));
        Links(processes["11/fd"], ("0", "/dev/xsda"), ("1", "/dev/sda1"), ("2", "pipe:[5]"));
        File.WriteAllText(processes["11/fd/3"], "/dev/sda");
        Directory.CreateDirectory(processes["12"]);
        File.WriteAllText(processes["12/fd"], "");
        Assert.Null(Of("/dev/sda"));
        Assert.Null(Of("/dev/sdb"));
        alone["sda"] = -Errno.EBUSY;
        Assert.Equal("it is mounted or held by another device", Of("/dev/sda"));
        alone["sda"] = -Errno.EPERM;
        Assert.Null(Of("/dev/sda"));
        // The node's name below any root folder.
        Links(processes["123/fd"], ("0", "/dev/null"), ("17", "/sda"));
        alone["sda"] = -Errno.EBUSY;
        Assert.Equal("process 123 has it open", Of("/dev/sda"));
        foreach (string inflight in (string[])["1 0", "0 9", "0 10"])
        {
            File.WriteAllText($"{disk}/inflight", $" {inflight}\n");
            Assert.Equal("requests are waiting", Of("/dev/sda"));
        }
        // A file that is not a block device is not in use, whatever its name.
        devices.Status["sda"] = new StatxData { Mode = Libc.S_IFCHR, RdevMajor = 8, RdevMinor = 16 };
        Assert.Null(Of("/dev/sda"));

        string? Of(string path)
        {
            string? use = null;
            devices.Run(() => use = BlockDeviceUse.Of(path, processes.Path));
            Assert.Empty(devices.StillOpen);
            Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/proc/self/fd"),
                fd => new FileInfo(fd).LinkTarget?.StartsWith(processes.Path, StringComparison.Ordinal) == true);
            return use;
        }
    }

    [Fact]
    public void Device_is_opened_without_waiting_and_closed_even_as_descriptor_0()
    {
        using FakeDevices devices = new() { Zero = "/dev/sda" };
        devices.Add("sda", 8, 16, 100);
        devices.Answers["/dev/sda"] = 0;
        devices.Run(() => Assert.False(BlockDeviceUse.IsHeld("/dev/sda")));
        Assert.Equal([("/dev/sda", Libc.O_EXCL | Libc.O_NONBLOCK)], devices.Opened);
        Assert.Empty(devices.StillOpen);
    }
}
