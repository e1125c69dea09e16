using System;
using System.IO;
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
        // udev looks at a new device, and again when one was closed.
        Assert.True(SpinWait.SpinUntil(() => BlockDeviceUse.Of(loop.Path) == null, PatienceMilliseconds));
        int open = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        Assert.Equal($"process {Environment.ProcessId} has it open", BlockDeviceUse.Of(loop.Path));
        Assert.False(BlockDeviceUse.IsHeld(loop.Path));
        _ = Libc.Close(open);

        int held = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_CLOEXEC);
        Assert.True(BlockDeviceUse.IsHeld(loop.Path));
        // Without /proc as well.
        Assert.Equal("it is mounted or held by another device", BlockDeviceUse.Of(loop.Path, folder["no-proc"]));
        _ = Libc.Close(held);
        Assert.False(BlockDeviceUse.IsHeld(loop.Path));
        Assert.True(SpinWait.SpinUntil(() => BlockDeviceUse.Of(loop.Path) == null, PatienceMilliseconds));
    }

    [Fact]
    public void What_is_no_block_device_is_not_in_use()
    {
        Assert.Null(BlockDeviceUse.Of("/dev/null"));
        Assert.Null(BlockDeviceUse.Of("/dev/no-such-device"));
        Assert.False(BlockDeviceUse.IsHeld("/dev/no-such-device"));
    }
}
